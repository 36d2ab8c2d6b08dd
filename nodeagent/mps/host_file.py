"""What an MPS host says of itself in `host.json`, before any daemon is asked for: what it is, and what it can do.

By this the agent decides whether a GPU may leave what it is in order to come under MPS. A host removes the file of the
one before it when it begins, and writes its own once it has tried everything; `life` says which host that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.durable.envelope import expect, member, optional, seal, unseal
from nodeagent.durable.formats import FORMATS
from nodeagent.model.mps import GpuMeans
from nodeagent.mps.files import as_object, at_least, by_uuid, dump


@dataclass(frozen=True, slots=True)
class HostWord:
    """One host: `life` as in its observed.json, its `version`, the path of its control program (empty: there is none)
    and the version of the driver, whose program that is. `bounded` is whether what pods can write to has file systems
    of its own.
    """

    life: str
    version: str
    program: str = ""
    driver_version: str = ""
    bounded: bool = False
    gpus: Mapping[str, GpuMeans] = field(default_factory=dict)


def encode_host(word: HostWord) -> bytes:
    """Everything, GPUs in order of uuid: equal values are equal bytes."""
    body = {
        "life": word.life,
        "version": word.version,
        "program": word.program,
        "driverVersion": word.driver_version,
        "bounded": word.bounded,
        "gpus": {
            uuid: {"obstacle": means.obstacle, "memoryMiB": means.memory, "clients": means.clients}
            for uuid, means in sorted(word.gpus.items())
        },
    }
    return seal(FORMATS.host, {}, dump(body))


def decode_host(data: bytes) -> HostWord:
    """What `encode_host` was given. Raises Untrusted."""
    _, body = unseal(FORMATS.host, data)
    value = as_object(body)
    return HostWord(
        life=member(value, "life", str),
        version=member(value, "version", str),
        program=member(value, "program", str),
        driver_version=member(value, "driverVersion", str),
        bounded=member(value, "bounded", bool),
        gpus={uuid: _means(expect(item, uuid, dict)) for uuid, item in by_uuid(value, "gpus").items()},
    )


def _means(item: Mapping[str, object]) -> GpuMeans:
    memory = optional(item, "memoryMiB", int)
    return GpuMeans(
        obstacle=member(item, "obstacle", str),
        memory=None if memory is None else at_least(0, memory),
        clients=at_least(0, member(item, "clients", int)),
    )
