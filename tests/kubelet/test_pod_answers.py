"""The kubelet's answers as bytes: large ones are read in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kubelet.pod_answers import parts
from nodeagent.kubelet.proto import podresources_pb2 as pb


@given(
    st.lists(st.tuples(st.sampled_from(["a/a", "b/b"]), st.lists(st.text(max_size=40), max_size=3)), max_size=30),
    st.lists(st.integers(0, 2**40), max_size=20),
    st.integers(1, 300),
)
def test_a_large_answer_is_read_in_parts(devices: list[tuple[str, list[str]]], cpus: list[int], size: int) -> None:
    """Whatever is in it, and whatever else than devices: the parts say what the whole says."""
    message = pb.AllocatableResourcesResponse(
        devices=[pb.ContainerDevices(resource_name=name, device_ids=ids) for name, ids in devices]
    )
    whole = message.SerializeToString()
    # cpu_ids, which we do not know, packed and not: field 2, of bytes and of numbers.
    packed = b"".join(_varint(cpu) for cpu in cpus)
    whole += b"\x12" + _varint(len(packed)) + packed + b"".join(b"\x10" + _varint(cpu) for cpu in cpus)
    found = list(parts(whole, size))
    assert b"".join(found) == whole
    ids = [(one.resource_name, list(one.device_ids)) for part in found for one in _devices(part)]
    assert ids == [(one.resource_name, list(one.device_ids)) for one in message.devices]


@pytest.mark.parametrize("garbage", [b"\xff" * 100_000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a", b"\x0b\x0b", b"\x0d1"])
def test_what_is_no_answer_is_not_divided(garbage: bytes) -> None:
    """It is for the parser to refuse."""
    assert b"".join(parts(garbage, 1)) == garbage


def _devices(part: bytes) -> list[pb.ContainerDevices]:
    return list(pb.AllocatableResourcesResponse.FromString(part).devices)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
