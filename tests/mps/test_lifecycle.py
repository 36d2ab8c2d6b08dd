"""What is to be done about one daemon follows from what is asked for, what is recorded and what runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.inventory import GpuProcess
from nodeagent.mps.control import Limits
from nodeagent.mps.files import Record
from nodeagent.mps.lifecycle import (
    Backoff,
    Found,
    Step,
    Timing,
    Wish,
    altered,
    daemon_limits,
    in_the_way,
    named,
    next_step,
    started_for,
)
from nodeagent.mps.process import MpsProcess, Process
from tests.mps.hosting import contract

THIS, THAT = contract(9216, 25), contract(4096, 25)
NOTHING_ASKED = Wish(given=False)
TIMING = Timing()
PYTHON = GpuProcess(1234, "python", mps=False)
CLIENT = GpuProcess(77, "trainer", mps=True)


class TestSteps:
    """One step at a time."""

    @pytest.mark.parametrize(
        ("wish", "record", "runs", "step"),
        [
            (Wish(THIS), None, False, Step.START),
            (Wish(THIS), Record(THIS), False, Step.START),
            (Wish(THIS), Record(THAT), False, Step.START),
            (Wish(THIS), Record(THIS), True, Step.CHECK),
            (Wish(THIS), Record(THAT), True, Step.STOP),
            (Wish(THIS), None, True, Step.RECOGNISE),
            (Wish(None), None, False, Step.LEAVE),
            (Wish(None), Record(THIS), False, Step.LEAVE),
            (Wish(None), Record(THIS), True, Step.STOP),
            (Wish(None), None, True, Step.STOP),
            (NOTHING_ASKED, None, False, Step.WAIT),
            (NOTHING_ASKED, None, True, Step.WAIT),
            (NOTHING_ASKED, Record(THIS), False, Step.START),
            (NOTHING_ASKED, Record(THIS), True, Step.CHECK),
        ],
        ids=str,
    )
    def test_what_is_next(self, wish: Wish, record: Record | None, runs: bool, step: Step) -> None:
        """A daemon runs for the contract that is asked for; while nobody has asked, for the one that is recorded."""
        assert next_step(wish, record, runs=runs) is step

    @given(
        st.sampled_from([Wish(THIS), Wish(THAT), Wish(None), NOTHING_ASKED]),
        st.sampled_from([None, Record(THIS), Record(THAT, verified=True)]),
        st.booleans(),
        st.booleans(),
    )
    def test_every_beginning_comes_to_rest(self, wish: Wish, record: Record | None, runs: bool, known: bool) -> None:
        """From whatever a killed host has left, a few steps lead to what is asked for, and then nothing changes."""
        for _ in range(4):
            match next_step(wish, record, runs=runs):
                case Step.STOP:
                    runs = False
                case Step.START:
                    target = wish.target(record)
                    assert target is not None
                    record, runs = replace(started_for(target, record), verified=True), True
                case Step.LEAVE:
                    record = None
                case Step.RECOGNISE if known:
                    assert wish.contract is not None
                    record = Record(wish.contract, verified=True)
                case Step.RECOGNISE:
                    runs = False
                case Step.CHECK | Step.WAIT:
                    pass
        if wish.given:
            assert runs is (wish.contract is not None)
            assert (record.contract if record else None) == wish.contract
        else:
            assert record is None or runs


class TestCounting:
    """Restarts are starts that nobody asked for."""

    def test_what_was_asked_for_is_no_restart(self) -> None:
        """The first start, another contract, and a start that never came to an end count nothing."""
        assert started_for(THIS, None) == Record(THIS)
        assert started_for(THIS, Record(THAT, verified=True, restarts=2)) == Record(THIS, restarts=2)
        assert started_for(THIS, Record(THIS, restarts=2, restored=3)) == Record(THIS, restarts=2, restored=3)

    def test_a_daemon_that_was_lost_is_counted(self) -> None:
        """A daemon that had been verified for this contract, and is gone, was started again."""
        before = Record(THIS, verified=True, restarts=2, restored=3)
        assert started_for(THIS, before) == Record(THIS, verified=False, restarts=3, restored=3)

    def test_pauses_double_up_to_a_bound(self) -> None:
        """At once after the first failure, then after 1 s, 2 s and so on, never more than 30 s."""
        backoff, pauses = Backoff(), []
        for _ in range(9):
            backoff = backoff.failed(100.0, TIMING)
            pauses.append(backoff.not_before - 100.0)
        assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]
        for _ in range(3000):
            backoff = backoff.failed(100.0, TIMING)
        assert backoff.not_before == 130.0

    def test_health_is_rewarded(self) -> None:
        """A daemon that was well for a minute is started again at once; one that was not has to wait."""
        many = Backoff(failures=8)
        assert many.failed(100.0, TIMING, well_for=60.0) == Backoff(1, 100.0)
        assert many.failed(100.0, TIMING, well_for=59.0) == Backoff(9, 130.0)


class TestLimits:
    """Limits are compared as a daemon tells them."""

    def test_a_daemon_allows_what_a_container_may_have(self) -> None:
        """The daemon's defaults are those of the most shares that one container may have, and never above a GPU."""
        assert daemon_limits(contract(1024, 25)) == (1024, 25)
        assert daemon_limits(contract(1024, 25, most=3)) == (3072, 75)
        assert daemon_limits(contract(1024, 40, most=3)) == (3072, 100)

    @pytest.mark.parametrize(
        ("found", "told"),
        [
            (Limits(25.0, 9216), ""),
            (Limits(25.0, None), "no memory limit and 25 % of threads"),
            (Limits(100.0, 9216), "9216 MiB and 100 % of threads"),
        ],
    )
    def test_alterations_are_told(self, found: Limits, told: str) -> None:
        """What somebody has made of the limits is said in words, nothing where they are right."""
        assert altered(found, contract(9216, 25)) == told


class TestOccupation:
    """Who keeps a daemon from being started."""

    def test_a_free_gpu(self) -> None:
        """Nothing on it, or nothing but a server that is left over from a daemon of ours."""
        assert in_the_way((), ()) == ""
        assert in_the_way([GpuProcess(5, "nvidia-cuda-mps-server", mps=True)], [Process(5, 1)]) == ""

    def test_processes_of_another_kind(self) -> None:
        """A process that uses the GPU directly is named, before clients are."""
        assert in_the_way([PYTHON, CLIENT], ()) == "held by process 1234 (python)"

    def test_clients_that_are_left(self) -> None:
        """Clients of a daemon that is gone are waited for, and so are those of somebody else's daemon."""
        server = GpuProcess(5, "nvidia-cuda-mps-server", mps=True)
        said = "held by clients of another MPS daemon, or of one that is gone: process 77 (trainer)"
        assert in_the_way([server, CLIENT], [Process(5, 1)]) == said
        assert "process 5 (nvidia-cuda-mps-server)" in in_the_way([server], ())

    def test_many_are_not_all_named(self) -> None:
        """A message stays short, and a process without a name is a number."""
        many = [GpuProcess(pid, "", mps=False) for pid in range(1, 6)]
        assert named(many[:2]) == "processes 1, 2"
        assert named(many) == "processes 1, 2, 3 and 2 more"


def test_only_the_processes_of_this_gpu_are_found() -> None:
    """Daemons and servers of this GPU, none of another's, and nobody who only types commands."""
    here = Path("/run/mps/GPU-0/pipe")
    processes = [
        MpsProcess(Process(1, 1), "daemon", here, "GPU-0"),
        MpsProcess(Process(2, 1), "server", here, "GPU-0"),
        MpsProcess(Process(3, 1), "client", here, "GPU-0"),
        MpsProcess(Process(4, 1), "daemon", Path("/run/mps/GPU-1/pipe"), "GPU-1"),
        MpsProcess(Process(5, 1), "daemon", Path("/run/mps/elsewhere"), None),
    ]
    assert Found.of("GPU-0", processes) == Found((Process(1, 1),), (Process(2, 1),))
