"""The agent ends itself for a driver that only a new container can use: once for each trouble, whatever comes."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.inventory import DriverChange, Inventory, InventoryReason, RenewalNote
from nodeagent.renewal import Renewal
from nodeagent.state.renewal import PATIENCE, PROVEN, Step, decide
from nodeagent.store.state_dir import StateDir

WELL = Inventory(reason=InventoryReason.FOUND, message="", complete=True)
REPLACED = Inventory(
    reason=InventoryReason.DRIVER_ERROR, message="replaced", change=DriverChange.REPLACED, kernel_version="570.86.15"
)
TAKEN = Inventory(reason=InventoryReason.DRIVER_ERROR, message="taken away", change=DriverChange.TAKEN_AWAY)
GONE = Inventory(reason=InventoryReason.DRIVER_MISSING, message="not loaded")


@dataclass
class Agents:
    """One agent after the other on one node, each with what the one before has left on disk."""

    path: Path
    boot: str = "boot-1"
    wanted: bool = True
    now: float = 1000.0
    inventory: Inventory = WELL
    ends: int = 0
    disk_problem: OSError | None = None
    store: StateDir = field(init=False)
    renewal: Renewal = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new process."""
        self.store = StateDir(self.path, identity="x", boot_id=self.boot)
        assert self.store.acquire()
        self.renewal = Renewal(
            wanted=self.wanted,
            inventory=lambda: self.inventory,
            load=self.store.load_renewal,
            save=self._save,
            end=self._end,
            wake=lambda: None,
            clock=lambda: self.now,
        )

    def _save(self, note: RenewalNote) -> None:
        if self.disk_problem is not None:
            raise self.disk_problem
        self.store.save_renewal(note)

    def _end(self) -> None:
        self.ends += 1

    async def finds(self, inventory: Inventory, seconds: float) -> str:
        """The driver is so for so long; what is said of it. An agent that ends is followed by the next."""
        self.inventory = inventory
        await self.renewal.look()
        for _ in range(10):
            before = self.ends
            self.now += seconds / 10
            await self.renewal.look()
            if self.ends != before:
                self.store.release()
                self.begin()
                await self.renewal.look()
        return self.renewal.remark


@pytest.fixture
def node(tmp_path: Path) -> Agents:
    """A node whose driver is well."""
    return Agents(tmp_path / "state")


@pytest.mark.parametrize("trouble", [REPLACED, TAKEN])
async def test_it_ends_once(node: Agents, trouble: Inventory) -> None:
    """After the trouble has lasted; the next agent, which finds the same, stays and says so, however long it lasts."""
    await node.finds(WELL, 60)
    assert await node.finds(trouble, PATIENCE - 1) == f"the agent ends itself once if it lasts for {PATIENCE:g} s"
    assert node.ends == 0
    remark = await node.finds(trouble, 3600)
    assert node.ends == 1
    assert remark == "the agent has ended itself once for it, which did not help"
    for _ in range(5):
        node.store.release()
        node.begin()
        await node.finds(trouble, 86400)
    assert node.ends == 1


async def test_what_passes_by_itself_ends_nobody(node: Agents) -> None:
    """An upgrade in which the driver is another one for a moment, again and again."""
    for _ in range(20):
        await node.finds(REPLACED, PATIENCE * 0.9)
        await node.finds(GONE, 5)
        assert await node.finds(WELL, 5) == ""
    assert node.ends == 0


@pytest.mark.parametrize("inventory", [WELL, GONE, Inventory()])
async def test_what_a_new_process_would_find_too(node: Agents, inventory: Inventory) -> None:
    """A driver that is well, or is not there, is no reason to end."""
    assert await node.finds(inventory, 86400) == ""
    assert node.ends == 0


async def test_it_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Then it is only said that it could be."""
    node = Agents(tmp_path / "state", wanted=False)
    remark = await node.finds(TAKEN, 3600)
    assert remark == "with --restart-on-driver-change the agent would end itself once for it"
    assert node.ends == 0


async def test_another_trouble_is_another_reason(node: Agents) -> None:
    """One version of the driver after the other, each once; and back to the first, for nothing."""
    for version, ends in (("570.86.15", 1), ("580.65.06", 2), ("570.86.15", 2), ("580.65.06", 2)):
        found = Inventory(
            reason=InventoryReason.DRIVER_ERROR, message="x", change=DriverChange.REPLACED, kernel_version=version
        )
        await node.finds(found, PATIENCE * 2)
        assert node.ends == ends


async def test_it_counts_anew_when_the_driver_has_been_well_for_long(node: Agents) -> None:
    """A daemon-reload every week is met each time; one that comes back at once is not, and ever more is asked for."""
    await node.finds(TAKEN, PATIENCE * 2)
    await node.finds(WELL, PROVEN * 0.9)
    await node.finds(TAKEN, PATIENCE * 2)
    assert node.ends == 1
    await node.finds(WELL, PROVEN * 1.5)
    await node.finds(TAKEN, PATIENCE * 2)
    assert node.ends == 2
    await node.finds(WELL, PROVEN * 1.5)
    await node.finds(TAKEN, PATIENCE * 2)
    assert node.ends == 2
    await node.finds(WELL, PROVEN * 6)
    await node.finds(TAKEN, PATIENCE * 2)
    assert node.ends == 3


async def test_a_reboot_counts_anew(node: Agents) -> None:
    """The driver of another boot is another one."""
    await node.finds(REPLACED, PATIENCE * 2)
    node.store.release()
    node.boot = "boot-2"
    node.begin()
    await node.finds(REPLACED, PATIENCE * 2)
    assert node.ends == 2


async def test_who_cannot_remember_stays(node: Agents) -> None:
    """On a disk that cannot be written there is no end: it would be one after the other."""
    node.disk_problem = OSError(errno.EROFS, "Read-only file system")
    remark = await node.finds(TAKEN, 3600)
    assert remark == "the agent cannot note down that it ends itself for it, and stays"
    assert node.ends == 0
    node.disk_problem = None
    await node.finds(TAKEN, 1)
    assert node.ends == 1


async def test_a_damaged_note_is_set_aside(node: Agents) -> None:
    """It counts as none, and is written anew before the end, which is one more and the last."""
    await node.finds(TAKEN, PATIENCE * 2)
    node.store.release()
    (node.path / "driver-change").write_bytes(b"damaged")
    node.begin()
    await node.finds(TAKEN, 3600)
    assert node.ends == 2
    assert list(node.path.glob("driver-change.corrupt-*"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "taken-away/unknown", "replaced/550", "replaced/570"]),
            st.floats(0, 100_000),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_never_in_a_loop(steps: list[tuple[str | None, float, bool]]) -> None:
    """Whatever a driver does, between two ends for the same trouble it was well for at least ten minutes, and for four
    times as long with each further end.
    """
    note = RenewalNote()
    ended: dict[str, int] = {}
    for found, lasted, well in steps:
        decision = decide(note, found, lasted, well=well, wanted=True)
        if decision.step is Step.FORGET:
            assert found is None
            assert well
            assert lasted >= PROVEN * 4 ** (note.times - 1)
            ended.clear()
        if decision.step is Step.END:
            assert found is not None
            assert lasted >= PATIENCE
            assert found not in ended
            ended[found] = decision.note.times
            assert found in decision.note.tried
        assert decision.note.times >= note.times
        note = decision.note
