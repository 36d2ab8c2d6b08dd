"""What agent and host leave for each other is read back as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.envelope import seal
from nodeagent.durable.formats import FORMATS
from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.model.inventory import ComputeMode
from nodeagent.model.mps import DaemonState
from nodeagent.mps import files
from nodeagent.mps.files import Observed, ObservedDaemon, Record

UUID = "GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CONTRACT = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(9216, 25))
DAEMON = ObservedDaemon(CONTRACT, DaemonState.READY, pid=17, start_time=4711, restarts=2, restored=1, altered="10 %")

uuids = st.from_regex(r"(GPU|MIG)-[0-9a-f]{8}-[0-9a-f]{4}", fullmatch=True)
numbers = st.integers(0, 2**40)
texts = st.text(max_size=20)
contracts = st.builds(
    Contract,
    st.text(min_size=1, max_size=20),
    st.just(Mode.MPS),
    st.builds(MpsLimits, st.integers(1, 2**20), st.integers(1, 100), st.integers(1, 48)),
)
running = st.builds(
    ObservedDaemon,
    contracts,
    st.sampled_from(DaemonState),
    message=texts,
    pid=st.integers(1, 2**22),
    start_time=numbers,
    restarts=numbers,
    restored=numbers,
    altered=texts,
)
troubled = st.sampled_from(DaemonState).filter(lambda state: state is not DaemonState.READY)
absent = st.builds(ObservedDaemon, contracts | st.just(files.FORGOTTEN), troubled)


class TestRoundTrips:
    """Everything that can be written is read back as it was."""

    @given(st.dictionaries(uuids, contracts, max_size=4))
    def test_desired(self, daemons: dict[str, Contract]) -> None:
        """What the agent asks for is what the host reads."""
        assert files.decode_desired(files.encode_desired(daemons)) == daemons

    @given(
        st.builds(Observed, numbers.map(lambda n: n + 1), texts, texts, st.dictionaries(uuids, running | absent), texts)
    )
    def test_observed(self, observed: Observed) -> None:
        """What the host tells is what the agent reads."""
        assert files.decode_observed(files.encode_observed(observed)) == observed

    @given(st.builds(Record, contracts, st.booleans(), numbers, numbers))
    def test_record(self, record: Record) -> None:
        """What one host records is what the next reads."""
        assert files.decode_record(files.encode_record(record)) == record

    @given(st.dictionaries(uuids, st.sampled_from(ComputeMode), max_size=4))
    def test_compute_modes(self, modes: dict[str, ComputeMode]) -> None:
        """What one host remembers is what the next restores."""
        assert files.decode_compute_modes(files.encode_compute_modes(modes)) == modes

    def test_equal_values_are_equal_bytes(self) -> None:
        """The order in which daemons came to be makes no file differ."""
        one = Observed(1, "/dev/shm", daemons={"GPU-1": DAEMON, "GPU-0": DAEMON})
        other = Observed(1, "/dev/shm", daemons={"GPU-0": DAEMON, "GPU-1": DAEMON})
        assert files.encode_observed(one) == files.encode_observed(other)


def observed(**changes: object) -> bytes:
    """A sealed observed.json with one daemon, some members of which are other than the host writes them."""
    _, _, body = files.encode_observed(Observed(1, "/dev/shm", daemons={UUID: DAEMON})).partition(b"\n")
    value: dict[str, Any] = json.loads(body)
    value["daemons"][UUID].update(changes)
    return seal(FORMATS.observed, {}, json.dumps(value).encode())


def desired(**changes: object) -> bytes:
    """A sealed desired.json with one daemon, some members of which are other than the agent writes them."""
    _, _, body = files.encode_desired({UUID: CONTRACT}).partition(b"\n")
    value: dict[str, Any] = json.loads(body)
    value["daemons"][UUID].update(changes)
    return seal(FORMATS.desired, {}, json.dumps(value).encode())


class TestStrictness:
    """What we could not have written is not believed."""

    @pytest.mark.parametrize(
        "change",
        [
            {"state": "happy"},
            {"message": None},
            {"pid": 0},
            {"pid": True},
            {"pid": None},
            {"startTime": -1},
            {"startTime": None},
            {"pid": None, "startTime": None},
            {"restarts": -1},
            {"restored": 1.5},
            {"altered": 3},
            {"contract": None},  # of a daemon that is ready
            {"contract": {}},
            {"contract": {"mode": "exclusive", "resource": "nvidia.com/gpu"}},
        ],
        ids=str,
    )
    def test_a_daemon_that_cannot_be(self, change: dict[str, object]) -> None:
        """A daemon of an unknown state, an impossible process or count, or another mode than MPS is no daemon."""
        assert files.decode_observed(observed()).daemons[UUID] == DAEMON
        with pytest.raises(Untrusted):
            files.decode_observed(observed(**change))

    @pytest.mark.parametrize(
        "change",
        [
            {"mode": "time-sliced", "limits": None},
            {"limits": None},
            {"limits": {"memoryMiB": 0, "threadPercentage": 25, "most": 1}},
            {"limits": {"memoryMiB": 9216, "threadPercentage": 101, "most": 1}},
            {"resource": ""},
        ],
        ids=str,
    )
    def test_a_contract_that_cannot_be(self, change: dict[str, object]) -> None:
        """Nothing but MPS with possible limits is asked for."""
        assert files.decode_desired(desired()) == {UUID: CONTRACT}
        with pytest.raises(Untrusted):
            files.decode_desired(desired(**change))

    @pytest.mark.parametrize("uuid", ["", ".", "..", "shm", "lock", "GPU-", "GPU-/../..", "GPU-0\n", "GPU-é", "gpu-0"])
    def test_a_uuid_is_never_another_path(self, uuid: str) -> None:
        """A uuid names a directory under the root, and nothing else there or elsewhere."""
        for decode, data in (
            (files.decode_desired, files.encode_desired({uuid: CONTRACT})),
            (files.decode_observed, files.encode_observed(Observed(1, "", daemons={uuid: DAEMON}))),
            (files.decode_compute_modes, files.encode_compute_modes({uuid: ComputeMode.DEFAULT})),
        ):
            assert callable(decode)
            with pytest.raises(Untrusted, match="expected uuids of GPUs"):
                decode(data)

    @pytest.mark.parametrize(
        ("decode", "data"),
        [
            (files.decode_desired, files.encode_desired({UUID: CONTRACT})),
            (files.decode_observed, files.encode_observed(Observed(1, "/dev/shm", daemons={UUID: DAEMON}))),
            (files.decode_record, files.encode_record(Record(CONTRACT, True, 1, 2))),
            (files.decode_compute_modes, files.encode_compute_modes({UUID: ComputeMode.DEFAULT})),
        ],
        ids=["desired", "observed", "record", "compute-modes"],
    )
    def test_damage(self, decode: Callable[[bytes], object], data: bytes) -> None:
        """No file is read that was cut off, altered, or is of another kind."""
        decode(data)
        for damaged in (b"", data[:-1], data + b" ", data.replace(b"mps-", b"mpx-"), data[:-3] + b"0" + data[-2:]):
            with pytest.raises(Untrusted):
                decode(damaged)
