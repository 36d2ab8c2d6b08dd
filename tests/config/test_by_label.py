"""From the Node's labels to the document that is read, and what an agent leaves of it to the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.config.by_label import ByLabel
from nodeagent.config.source import ConfigSource
from nodeagent.model.config import Document, Loaded
from nodeagent.model.node import Selection, SelectionNote
from tests.config.support import TIME_SLICED
from tests.waiting import eventually

OURS, NVIDIAS = "nodeagent.io/config", "nvidia.com/device-plugin.config"
POOL, OTHER = "a/sharing.yaml", "b/sharing.yaml"


@dataclass
class Disk:
    """What was written, and how often; it can be full for a while."""

    writes: list[Selection] = field(default_factory=list)
    full: int = 0

    def save(self, selection: Selection) -> None:
        """Keep it, unless the disk is full."""
        if self.full:
            self.full -= 1
            raise OSError("cannot write file: no space left on device")
        self.writes.append(selection)


@dataclass
class Agent:
    """The part of an agent that is about this."""

    labels: ByLabel
    source: ConfigSource
    disk: Disk

    async def reads(self, name: str) -> None:
        """Wait until this file is what is read."""

        def read() -> bool:
            newest = self.source.newest
            return (
                newest is not None and isinstance(newest.loaded, Loaded) and newest.loaded.document.path.endswith(name)
            )

        await eventually(read)


@asynccontextmanager
async def agent(
    directory: Path,
    *,
    kept: Selection | SelectionNote | None = None,
    accepted: str | None = None,
    full: int = 0,
    patience: float = 60.0,
) -> AsyncIterator[Agent]:
    """One that runs, on what the one before it has kept: a selection alone was made for the very same agent."""

    def subscribe(_path: Path, _wake: Callable[[], None]) -> None:
        """Nothing but labels changes here."""

    source = ConfigSource(directory, subscribe=subscribe, wake=lambda: None, selects=True, patience=patience)
    disk = Disk(full=full)
    labels = ByLabel((OURS, NVIDIAS), source=source, save=disk.save, again=0.05)
    note = SelectionNote(kept, POOL, (OURS, NVIDIAS)) if isinstance(kept, Selection) else kept
    labels.recall(note, identity=POOL, accepted=accepted)
    tasks = [asyncio.create_task(source.run()), asyncio.create_task(labels.run())]
    try:
        yield Agent(labels, source, disk)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three documents."""
    for name in ("sharing", "a", "b"):
        (tmp_path / f"{name}.yaml").write_text(TIME_SLICED)
    return tmp_path


async def test_the_labels_select_and_are_kept(directory: Path) -> None:
    """Each change of what the labels select is read, and written once; other changes of the Node are neither."""
    async with agent(directory) as one:
        one.labels.take({OURS: "a"})
        await one.reads("a.yaml")
        one.labels.take({OURS: "a", "zone": "x"})
        one.labels.take({NVIDIAS: "b"})
        await one.reads("b.yaml")
        one.labels.take({"zone": "x"})
        await one.reads("sharing.yaml")
        await eventually(lambda: one.disk.writes[-1:] == [Selection()])
        assert one.disk.writes.count(Selection()) == 1
        assert len(one.disk.writes) <= 3


async def test_the_next_agent_goes_on_with_what_was_kept(directory: Path) -> None:
    """When the labels do not become known the last selection is read, and not written again."""
    async with agent(directory, kept=Selection(OURS, "b"), patience=0.05) as one:
        await one.reads("b.yaml")
        one.labels.take({OURS: "b"})
        one.labels.take({OURS: "a"})
        await one.reads("a.yaml")
        await eventually(lambda: one.disk.writes == [Selection(OURS, "a")])


@pytest.mark.parametrize(
    ("note", "accepted"),
    [
        (SelectionNote(Selection(OURS, "b"), OTHER, (OURS, NVIDIAS)), "/config/b.yaml"),
        (SelectionNote(Selection(), OTHER, (OURS, NVIDIAS)), "/config/sharing.yaml"),
        (SelectionNote(Selection(OURS, "b"), POOL, (OURS,)), "/config/b.yaml"),
        (SelectionNote(Selection(OURS, "b"), POOL, (NVIDIAS, OURS)), "/config/b.yaml"),
        (SelectionNote(Selection("example.com/gpus", "b"), POOL, ("example.com/gpus",)), "/config/b.yaml"),
        (SelectionNote(Selection("example.com/gpus", "b")), "/config/b.yaml"),
        (SelectionNote(Selection(OURS, "b")), None),
        (SelectionNote(Selection(OURS, "b")), "/config/a.yaml"),
        (SelectionNote(Selection()), "/config/a.yaml"),
        (SelectionNote(Selection(OURS, "../b")), "/config/b.yaml"),
    ],
    ids=[
        "another pool",
        "another pool, no label",
        "fewer labels",
        "another precedence",
        "other labels",
        "0.1.0: a label that does not select",
        "0.1.0: nothing accepted",
        "0.1.0: another document accepted",
        "0.1.0: another document accepted, no label",
        "0.1.0: no file",
    ],
)
async def test_what_was_selected_for_another_agent_is_no_guess(
    directory: Path, note: SelectionNote, accepted: str | None
) -> None:
    """What was kept in another pool, or by another `--config-label`, says nothing of this node, whatever of 0.1.0's
    making is not borne out by the last known good either; the first word of the labels ends that.
    """
    async with agent(directory, kept=note, accepted=accepted, patience=0.05) as one:
        await eventually(lambda: one.source.newest)
        assert one.source.newest is not None
        assert not isinstance(one.source.newest.loaded, Loaded)
        assert not one.source.concerns(Document("/config/b.yaml", b""))
        one.labels.take({OURS: "a"})
        await one.reads("a.yaml")
        assert one.source.concerns(Document("/config/a.yaml", b""))
        assert not one.source.concerns(Document("/config/b.yaml", b""))


@pytest.mark.parametrize(
    ("selection", "accepted"), [(Selection(OURS, "b"), "/config/b.yaml"), (Selection(), "/config/sharing.yaml")]
)
async def test_what_0_1_0_has_kept_counts_where_the_last_known_good_bears_it_out(
    directory: Path, selection: Selection, accepted: str
) -> None:
    """That is of this pool and of the file that is selected. It is kept anew as soon as the labels are known, so that
    the next agent need not guess.
    """
    async with agent(directory, kept=SelectionNote(selection), accepted=accepted, patience=0.05) as one:
        await one.reads(accepted.rpartition("/")[2])
        one.labels.take({OURS: selection.value} if selection.value is not None else {})
        await eventually(lambda: one.disk.writes == [selection])


async def test_a_full_disk_holds_up_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be kept is read all the same, told, and kept later."""
    async with agent(directory, full=2) as one:
        one.labels.take({OURS: "a"})
        await one.reads("a.yaml")
        await eventually(lambda: one.disk.writes == [Selection(OURS, "a")])
    assert "cannot remember which config is this node's: cannot write file: no space left" in caplog.text


async def test_what_is_lost_is_kept_again(directory: Path) -> None:
    """When the state directory has gone the selection is written again, also the one that was only remembered."""
    async with agent(directory, kept=Selection(OURS, "b"), patience=0.05) as one:
        await one.reads("b.yaml")
        one.labels.rewrite()
        await eventually(lambda: one.disk.writes == [Selection(OURS, "b")])
        one.labels.take({OURS: "a"})
        await eventually(lambda: one.disk.writes[-1] == Selection(OURS, "a"))
        one.disk.full = 1
        one.labels.rewrite()
        await eventually(lambda: len(one.disk.writes) == 3)
        assert one.disk.writes[-1] == Selection(OURS, "a")
