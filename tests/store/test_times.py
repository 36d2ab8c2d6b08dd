"""Times on disk: monotonic seconds within a boot, Unix seconds for an agent from before those and across a reboot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.durable.envelope import seal, unseal
from nodeagent.durable.formats import FORMATS
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import Gpu
from nodeagent.model.moment import Moment
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.store import StateDir

DAY = 86_400.0
NOW = 10_000.0
UNIX = 1.79e9
GPU = Gpu("GPU-0", 0, "NVIDIA H100", 80)
ILL = Applied({"GPU-0": AppliedGpu(GPU, xids={79: 9_000.0, 94: 500.5})})
DRAINING = Holds(draining={"GPU-0": 9_500.25})


class Machine:
    """A machine whose clocks are moved by hand, and one agent after the other on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.monotonic, self.wall, self.boot = NOW, UNIX, "boot-1"
        self.agent = self._starts()

    def _starts(self) -> StateDir:
        found = StateDir(self.path, identity="a", boot_id=self.boot, clock=lambda: Moment(self.monotonic, self.wall))
        assert found.acquire()
        return found

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.monotonic += seconds
        self.wall += seconds

    def restarts(self) -> StateDir:
        """Another agent follows."""
        self.agent.release()
        self.agent = self._starts()
        return self.agent

    def reboots(self) -> None:
        """The next agent finds itself twenty seconds after the boot."""
        self.boot, self.monotonic = "boot-2", 20.0

    def applied(self) -> dict[int, float]:
        """What the next agent finds to stand against the GPU; it writes it again where it owes that."""
        agent = self.restarts()
        found = agent.load_applied(self.monotonic)
        assert found is not None
        if agent.owes_times:
            agent.save_applied(found)
        return dict(found.gpus["GPU-0"].xids)

    def draining(self) -> float:
        """Since when the GPU drains, as the next agent finds it; likewise."""
        agent = self.restarts()
        found = agent.load_holds(self.monotonic)
        assert found is not None
        if agent.owes_times:
            agent.save_holds(found)
        return found.draining["GPU-0"]

    def body(self, kind: str) -> Any:  # noqa: ANN401 - JSON
        """What is in a file."""
        return json.loads(unseal(getattr(FORMATS, kind), (self.path / f"{kind}.json").read_bytes())[1])

    def of_an_older_agent(self) -> None:
        """Leave the files as an agent writes them that knows of no monotonic times."""
        applied, holds = self.body("applied"), self.body("holds")
        for gpu in applied["gpus"]:
            del gpu["xidsAt"]
        del holds["drainingAt"]
        for kind, body in {"applied": applied, "holds": holds}.items():
            (self.path / f"{kind}.json").write_bytes(
                seal(getattr(FORMATS, kind), {"bootId": self.boot}, json.dumps(body).encode())
            )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Yield a machine whose agent has written both files."""
    found = Machine(tmp_path / "state")
    found.agent.save_applied(ILL)
    found.agent.save_holds(DRAINING)
    yield found
    found.agent.release()


@pytest.mark.parametrize("step", [0.0, DAY, -DAY, -UNIX, 1e-3], ids=str)
def test_within_a_boot_the_wall_clock_says_nothing(machine: Machine, step: float) -> None:
    """However it was set while no agent ran."""
    machine.passes(60.0)
    machine.wall += step
    assert machine.applied() == {79: 9_000.0, 94: 500.5}
    assert machine.draining() == 9_500.25


def test_an_older_agent_reads_unix_seconds(machine: Machine) -> None:
    """Where it has read them always, as floats, by the clock of when they were written."""
    assert machine.body("applied")["gpus"][0]["xids"] == {"79": UNIX - 1_000.0, "94": UNIX - 9_499.5}
    assert machine.body("holds")["draining"] == {"GPU-0": UNIX - 499.75}


def test_what_an_older_agent_has_written_is_read(machine: Machine) -> None:
    """Where the clock was right, its times are the same; they are owed to the disk, and made from the clock once."""
    machine.of_an_older_agent()
    machine.passes(60.0)
    assert machine.applied() == pytest.approx({79: 9_000.0, 94: 500.5})
    assert machine.draining() == pytest.approx(9_500.25)
    for _ in range(2):
        machine.wall += DAY
        assert machine.applied() == pytest.approx({79: 9_000.0, 94: 500.5})
        assert machine.draining() == pytest.approx(9_500.25)


@pytest.mark.parametrize(("wall", "at"), [(0.0, NOW), (UNIX - DAY, NOW), (UNIX + DAY, 0.0), (4 * UNIX, 0.0)], ids=str)
def test_what_an_older_agent_has_written_by_another_clock(machine: Machine, wall: float, at: float) -> None:
    """It was not before the boot, and is not to come: nothing is infinitely old, and nothing lasts for ever."""
    machine.of_an_older_agent()
    machine.wall = wall
    assert machine.applied() == {79: at, 94: at}
    assert machine.draining() == at


@pytest.mark.parametrize("step", [0.0, DAY, -DAY, 30 * DAY, -UNIX], ids=str)
def test_across_a_reboot_a_drain_is_no_older_than_the_boot(machine: Machine, step: float) -> None:
    """Monotonic times of another boot mean nothing; and it does not become older when the clock is set afterwards."""
    machine.wall += step
    machine.reboots()
    since = machine.draining()
    assert 0.0 <= since <= machine.monotonic
    machine.wall = UNIX + DAY
    machine.passes(5.0)
    assert machine.draining() == since


def test_an_applied_contract_of_before_a_reboot_goes_on_saying_so(machine: Machine) -> None:
    """Reading it does not make it one of this boot: who reads it next must know, too, that every GPU was reset."""
    machine.reboots()
    for _ in range(2):
        machine.applied()
        assert not machine.agent.same_boot


def test_an_older_agent_in_between(machine: Machine) -> None:
    """It drops what it does not know: then its Unix seconds count again."""
    machine.of_an_older_agent()
    holds = machine.body("holds")
    holds["draining"] = {"GPU-0": UNIX - 10.0}
    (machine.path / "holds.json").write_bytes(seal(FORMATS.holds, {"bootId": "boot-1"}, json.dumps(holds).encode()))
    assert machine.draining() == pytest.approx(NOW - 10.0)


def test_reading_writes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, or hangs in a write, is no reason not to start: what is owed is the keeper's to write."""

    def full(*_: object, **__: object) -> None:
        raise AssertionError

    agent = machine.restarts()
    monkeypatch.setattr("nodeagent.durable.atomic.write", full)
    assert agent.load_applied(NOW) is not None
    assert agent.load_holds(NOW) is not None
    assert agent.owes_times


@pytest.mark.parametrize("told", [{"GPU-0": "soon"}, {"GPU-0": None}, [], 7], ids=str)
def test_monotonic_times_that_are_none_are_not_trusted(machine: Machine, told: object) -> None:
    """As everything else in a file that no agent can have written."""
    body = {**machine.body("holds"), "drainingAt": told}
    (machine.path / "holds.json").write_bytes(seal(FORMATS.holds, {"bootId": "boot-1"}, json.dumps(body).encode()))
    assert machine.restarts().load_holds(NOW) is None
    assert (machine.path / "holds.json.corrupt-1").exists()
