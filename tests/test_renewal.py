"""The agent ends itself for a driver that only a new container can use: once for a trouble, then ever more seldom."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.inventory import DriverChange, Inventory, InventoryReason, RenewalNote
from nodeagent.renewal import Renewal
from nodeagent.state.renewal import AGAIN_AFTER, AGAIN_AT_MOST, PATIENCE, Step, again_after, decide
from nodeagent.store.state_dir import StateDir

WELL = Inventory(reason=InventoryReason.FOUND, message="", complete=True)
REPLACED = Inventory(
    reason=InventoryReason.DRIVER_ERROR, message="replaced", change=DriverChange.REPLACED, kernel_version="570.86.15"
)
TAKEN = Inventory(reason=InventoryReason.DRIVER_ERROR, message="taken away", change=DriverChange.TAKEN_AWAY)
GONE = Inventory(reason=InventoryReason.DRIVER_MISSING, message="not loaded")
NEVER = Inventory(reason=InventoryReason.DRIVER_ERROR, message="has never answered")
HELPED, IN_VAIN = "after which the driver was well for a while", "which did not help"


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
    while_saving: Callable[[], None] = lambda: None
    load: Callable[[], RenewalNote | None] = field(init=False)
    store: StateDir = field(init=False)
    renewal: Renewal = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new process."""
        self.store = StateDir(self.path, identity="x", boot_id=self.boot)
        assert self.store.acquire()
        self.load = self.store.load_renewal
        self.renewal = Renewal(
            wanted=self.wanted,
            inventory=lambda: self.inventory,
            load=lambda: self.load(),  # noqa: PLW0108  # a test may set another one
            save=self._save,
            end=self._end,
            wake=lambda: None,
            clock=lambda: self.now,
        )

    def _save(self, note: RenewalNote) -> None:
        if self.disk_problem is not None:
            raise self.disk_problem
        self.store.save_renewal(note)
        self.while_saving()

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
    remark = await node.finds(trouble, AGAIN_AFTER / 2)
    assert node.ends == 1
    tried = "the agent has ended itself once for it on this boot, which did not help"
    assert remark == f"{tried}; it does so again at the earliest 10 min after the last time"


async def test_what_a_new_process_finds_when_it_begins(node: Agents) -> None:
    """It does not end for that, however long it lasts, and says that the end did not help."""
    await node.finds(TAKEN, PATIENCE * 2)
    assert (
        await node.finds(NEVER, 30 * 86400) == "the agent has ended itself once for it on this boot, which did not help"
    )
    assert node.ends == 1


async def test_one_that_lasts_ends_ever_more_seldom(node: Agents) -> None:
    """Where each new process meets it anew, up to once a day."""
    await node.finds(TAKEN, AGAIN_AFTER * 0.9)
    assert node.ends == 1
    await node.finds(TAKEN, AGAIN_AFTER)
    assert node.ends == 2
    await node.finds(TAKEN, AGAIN_AT_MOST)
    for _ in range(5):
        before = node.ends
        await node.finds(TAKEN, 2 * AGAIN_AT_MOST)
        assert 1 <= node.ends - before <= 2


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


async def test_a_trouble_that_comes_back(node: Agents) -> None:
    """A daemon-reload every half an hour is met less and less often, but never the last time, and nobody says that an
    end did not help which did; one every day is met each time.
    """
    for reload in range(96):
        before, remark = node.ends, await node.finds(TAKEN, PATIENCE * 1.1)
        assert node.ends == before + 1 or HELPED in remark
        assert node.ends > before or reload > 1
        assert await node.finds(WELL, 1800) == ""
    assert 5 <= node.ends <= 7
    for _ in range(10):
        await node.finds(WELL, AGAIN_AT_MOST)
        before = node.ends
        await node.finds(TAKEN, PATIENCE * 2)
        assert node.ends == before + 1


async def test_what_came_of_it_is_remembered(node: Agents) -> None:
    """Across processes: the third finds that the end of the first has helped, and of the second that it has not."""
    await node.finds(TAKEN, PATIENCE * 2)
    assert IN_VAIN in await node.finds(TAKEN, 1)
    await node.finds(WELL, 60)
    node.store.release()
    node.begin()
    assert HELPED in await node.finds(TAKEN, 1)
    await node.finds(TAKEN, AGAIN_AFTER)
    assert node.ends == 2
    remark = await node.finds(TAKEN, 1)
    assert "2 times" in remark
    assert IN_VAIN in remark


@pytest.mark.parametrize("other", [WELL, GONE, NEVER, REPLACED])
async def test_what_is_over_while_it_is_noted_down(node: Agents, other: Inventory) -> None:
    """A slow disk: nobody ends for what is no longer so, and it counts as not tried."""

    def change() -> None:
        node.inventory = other

    node.while_saving = change
    await node.finds(TAKEN, PATIENCE * 1.05)
    assert (node.ends, node.inventory) == (0, other)
    node.while_saving = lambda: None
    assert node.store.load_renewal() == RenewalNote()
    await node.finds(TAKEN, PATIENCE * 2)
    assert node.ends == 1


async def test_a_look_at_the_disk_is_no_look_at_the_driver(node: Agents) -> None:
    """Where reading the note takes a minute the trouble has not lasted for one: it was seen once."""
    load = node.store.load_renewal

    def slowly() -> RenewalNote | None:
        node.now += 60
        return load()

    node.load = slowly
    node.inventory = TAKEN
    await node.renewal.look()
    assert node.ends == 0


async def test_it_ends_and_looks_no_more(node: Agents) -> None:
    """What the driver is like while the agent stops says nothing of whether the end has helped."""
    node.inventory = TAKEN
    await node.renewal.look()
    node.now += PATIENCE
    await node.renewal.look()
    assert node.ends == 1
    node.inventory = WELL
    await node.renewal.look()
    assert node.store.load_renewal() == RenewalNote(frozenset({"taken-away/unknown"}), 1, node.now)


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
    """It counts as none, and is written anew before the end, which is one more."""
    await node.finds(TAKEN, PATIENCE * 2)
    node.store.release()
    (node.path / "driver-change").write_bytes(b"damaged")
    node.begin()
    await node.finds(TAKEN, AGAIN_AFTER / 2)
    assert node.ends == 2
    assert list(node.path.glob("driver-change.corrupt-*"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([WELL, GONE, NEVER, TAKEN, REPLACED, replace(REPLACED, kernel_version="580.65.06")]),
            st.floats(0, 100_000),
        ),
        max_size=60,
    ),
    st.integers(0, 10_000),
)
def test_never_in_a_loop(steps: list[tuple[Inventory, float]], times: int) -> None:
    """Whatever a driver does, between two ends for the same trouble there are at least ten minutes, and four times as
    long with each further end, up to a day: never longer.
    """
    note = RenewalNote(times=times)
    now = 0.0
    ended: dict[tuple[DriverChange, str | None], float] = {}
    for inventory, lasted in steps:
        now += lasted
        decision = decide(note, inventory, lasted, now, wanted=True)
        key = inventory.change and (inventory.change, inventory.kernel_version)
        if decision.step is Step.END:
            assert key
            assert lasted >= PATIENCE
            assert key not in ended or now - note.ended >= again_after(note)
            assert decision.note == RenewalNote(decision.note.tried, note.times + 1, now)
            ended[key] = now
        elif key:
            assert lasted < PATIENCE or now - note.ended < again_after(note) <= AGAIN_AT_MOST
        assert decision.note.times >= note.times
        note = decision.note
