"""What the kubelet's answers about pods mean, and what it means that it does not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from nodeagent.kubelet.proto import podresources_pb2 as pb
from nodeagent.model.kubelet import Holder, PodName, PodResourcesReason

T = TypeVar("T")

OK: Final = "ok"
NOT_FOUND: Final = "not_found"
NOT_SERVED: Final = "not_served"
LIMITED: Final = "limited"
FAILED: Final = "failed"
_VARINT, _BYTES = 0, 2
"""Types of fields on the wire that the kubelet's answers have."""

RESULTS: Final = (OK, NOT_FOUND, NOT_SERVED, LIMITED, FAILED)
"""How a call ended (metric label `result`)."""


class Failed(Exception):
    """A look that came to nothing. `passing`: trying again at once will probably do."""

    def __init__(self, reason: PodResourcesReason, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing


def unforeseen(error: Exception) -> Failed:
    """A fault that nobody thought of."""
    return Failed(PodResourcesReason.UNAVAILABLE, f"cannot read PodResources: {error!r}")


def failure(error: grpc.aio.AioRpcError, deadline: float) -> Failed:
    """A call that failed, as a look that did; `deadline` in seconds."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        message = f"the kubelet limits the rate of PodResources: {error.details()}"
        return Failed(PodResourcesReason.UNAVAILABLE, message, passing=True)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failed(PodResourcesReason.TIMEOUT, f"PodResources did not answer within {deadline:g} s")
    message = f"cannot read PodResources: {error.code().name}: {error.details()}"
    return Failed(PodResourcesReason.UNAVAILABLE, message)


def result(error: grpc.aio.AioRpcError) -> str:
    """How a call ended that has failed. The kubelet gives no code to what `Get` cannot answer, only a text: a pod that
    it does not know is "not found"; before 1.34 the method is "disabled", and before 1.27 unknown.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LIMITED
    if code is grpc.StatusCode.NOT_FOUND or (code is grpc.StatusCode.UNKNOWN and "not found" in details):
        return NOT_FOUND
    if code in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN}:
        return NOT_SERVED
    return FAILED


def pod_request(pod: PodName) -> bytes:
    """What to send with `Get`."""
    namespace, name = pod
    return pb.GetPodResourcesRequest(pod_namespace=namespace, pod_name=name).SerializeToString()


def pods_of(listed: bytes) -> dict[PodName, tuple[Holder, ...]]:
    """The answer of `List`: pods with devices, in a stable order. Raises Failed."""
    found: dict[PodName, tuple[Holder, ...]] = {}
    for part in parts(listed):
        for pod in _parsed(pb.ListPodResourcesResponse, part).pod_resources:
            if holders := _holders(pod):
                found[pod.namespace, pod.name] = holders
    return dict(sorted(found.items()))


def pod_of(answer: bytes) -> tuple[Holder, ...]:
    """The answer of `Get`. Raises Failed."""
    return _holders(_parsed(pb.GetPodResourcesResponse, answer).pod_resources)


def allocatable_of(answer: bytes) -> dict[str, frozenset[str]]:
    """The ids of each resource; the kubelet sends an entry per device. Raises Failed."""
    ids: dict[str, list[str]] = {}
    for part in parts(answer):
        for devices in _parsed(pb.AllocatableResourcesResponse, part).devices:
            ids.setdefault(devices.resource_name, []).extend(devices.device_ids)
    return {resource: frozenset(ids[resource]) for resource in sorted(ids)}


def parts(message: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    """A message as several of about this size, which say the same one after the other: each is made of whole fields.
    Read as one, an answer that takes megabytes on the wire takes ten times as much. What is no message is not divided.
    """
    begun = at = 0
    while at < len(message):
        at = _end_of_field(message, at)
        if at - begun >= size:
            yield message[begun:at]
            begun = at
    if begun < len(message):
        yield message[begun:]


def _end_of_field(message: bytes, at: int) -> int:
    """Where the field that begins there ends; the end of the message where that cannot be said."""
    try:
        tag, at = _varint(message, at)
        if tag & 7 == _BYTES:
            length, at = _varint(message, at)
            return at + length
        return _varint(message, at)[1] if tag & 7 == _VARINT else len(message)
    except IndexError:
        return len(message)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends. Raises IndexError where there is none."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError


class Remembered(Generic[T]):
    """What the last bytes meant that came: most looks find what the one before found. Of the bytes, which may be
    megabytes, only a digest is kept.
    """

    def __init__(self, parse: Callable[[bytes], T]) -> None:
        self._parse = parse
        self._known: tuple[bytes, T] | None = None

    def knows(self, data: bytes) -> bool:
        """Whether this is what came last."""
        return self._known is not None and self._known[0] == _digest(data)

    def meaning(self, data: bytes) -> T:
        """What the bytes mean. Raises what the parser raises."""
        digest = _digest(data)
        if self._known is None or self._known[0] != digest:
            self._known = digest, self._parse(data)
        return self._known[1]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _holders(pod: pb.PodResources) -> tuple[Holder, ...]:
    """A pod's devices, one entry for each container and resource, in a stable order."""
    ids: dict[tuple[str, str], list[str]] = {}
    for container in pod.containers:
        for devices in _with_ids(container.devices):
            ids.setdefault((container.name, devices.resource_name), []).extend(devices.device_ids)
    return tuple(Holder(pod.namespace, pod.name, *key, tuple(sorted(ids[key]))) for key in sorted(ids))


def _with_ids(devices: Iterable[pb.ContainerDevices]) -> Iterable[pb.ContainerDevices]:
    return (entry for entry in devices if entry.device_ids)


def _parsed(message: type[Any], data: bytes) -> Any:  # noqa: ANN401 - whichever message it is
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise Failed(PodResourcesReason.UNAVAILABLE, f"cannot understand PodResources: {error}") from None
