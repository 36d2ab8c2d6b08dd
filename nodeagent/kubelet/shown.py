"""Which ids of a resource the kubelet shows: what tells another plugin from a stream that merely ended.

One GetAllocatableResources, on a connection of its own: it changes nothing in the kubelet, and waits for nobody's look
at the pods. Whoever gets no answer in time has learned nothing, and that is all there is to say about why.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import podresources_pb2 as pb
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, identity, target

logger = logging.getLogger(__name__)

_OPTIONS: Final = (*LOCAL_CHANNEL, ("grpc.max_receive_message_length", names.MAX_POD_RESOURCES_BYTES))


class ShownIds:
    """Asks the kubelet behind a PodResources socket. An answer takes `deadline` seconds at most."""

    def __init__(self, socket: Path, *, deadline: float = 1.0) -> None:
        self._socket = socket
        self._deadline = deadline

    async def __call__(self, resource: str) -> frozenset[str] | None:
        """The ids that the kubelet would hand out now, whoever advertised them; None where it does not say."""
        if identity(self._socket) is None:
            return None
        try:
            async with (
                asyncio.timeout(self._deadline),
                grpc.aio.insecure_channel(target(self._socket), options=_OPTIONS) as channel,
            ):
                ask = channel.unary_unary(names.GET_ALLOCATABLE, request_serializer=bytes, response_deserializer=bytes)
                answer = await ask(b"", timeout=self._deadline)
                # In a thread, since there may be megabytes.
                return await asyncio.to_thread(_ids, answer, resource)
        except grpc.aio.AioRpcError as error:
            logger.debug("cannot ask which ids of %s are shown: %s: %s", resource, error.code().name, error.details())
        except (TimeoutError, DecodeError) as error:
            logger.debug("cannot ask which ids of %s are shown: %r", resource, error)
        return None


def _ids(answer: bytes, resource: str) -> frozenset[str]:
    """The kubelet sends an entry per device."""
    devices = pb.AllocatableResourcesResponse.FromString(answer).devices
    return frozenset(id_ for entry in devices if entry.resource_name == resource for id_ in entry.device_ids)
