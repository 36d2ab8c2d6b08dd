"""A version per kind of file: who writes what for whom, and that one kind's is no other's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.envelope import OtherVersion, seal, unseal, version_of
from nodeagent.durable.formats import FORMATS, UNDECLARED, Format
from nodeagent.model.config import Document
from nodeagent.model.node import Selection
from nodeagent.store import StateDir
from tests.store.test_state_dir import APPLIED, HOLDS

DOCUMENT = Document("/config/sharing.yaml", b"a: 1")


@pytest.mark.parametrize(
    ("writes", "declared", "version"),
    [
        ((1,), UNDECLARED, 1),
        ((1,), (1, 2), 1),
        ((1, 2), UNDECLARED, 1),
        ((1, 2), (1, 2), 1),
        ((1, 2), (2, 3), 2),
        ((2, 3), (1, 3), 3),
        ((2, 3), UNDECLARED, 2),
        ((2,), (), 2),
        ((1, 2), (-1, 0, 99), 1),
    ],
)
def test_what_is_written_for_whom(writes: tuple[int, ...], declared: tuple[int, ...], version: int) -> None:
    """The oldest version that its reader reads, so that this one can be rolled back too; else the oldest that there
    is.
    """
    form = Format("kind", writes, writes)
    assert form.written_for(declared) == version
    assert version_of(seal(form, {}, b"", declared)) == version


def test_what_is_written_the_release_before_reads() -> None:
    """Every kind is written, where nobody has declared anything, in a version that this release and 0.1.0 read."""
    kinds = [getattr(FORMATS, one.name) for one in fields(FORMATS)]
    assert len({form.kind for form in kinds}) == len(kinds)
    for form in kinds:
        assert form.written_for() in form.reads
        assert form.written_for() == 1


def test_a_version_that_is_not_read() -> None:
    """The reason names both, and is told from damage; of another kind the version says nothing."""
    newer = Format("kind", (2, 3), (2,))
    with pytest.raises(OtherVersion, match=r"^its version is 2, this agent reads 1$"):
        unseal(Format("kind"), seal(newer, {}, b""))
    with pytest.raises(OtherVersion, match=r"^its version is 1, this agent reads 2 and 3$"):
        unseal(newer, seal(Format("kind"), {}, b""))
    with pytest.raises(Untrusted, match="its kind is 'kind', expected 'other'") as caught:
        unseal(Format("other"), seal(newer, {}, b""))
    assert not isinstance(caught.value, OtherVersion)
    assert unseal(Format("kind", (1, 2)), seal(newer, {"a": 1}, b"x"))[1] == b"x"


SAVES: dict[str, Callable[[StateDir], object]] = {
    "applied": lambda state: state.save_applied(APPLIED),
    "holds": lambda state: state.save_holds(HOLDS),
    "last_known_good": lambda state: state.save_last_known_good(DOCUMENT),
    "selection": lambda state: state.save_selection(Selection("a", "b"), ("a",)),
}
LOADS: dict[str, Callable[[StateDir], object]] = {
    "applied": lambda state: state.load_applied(100.0),
    "holds": lambda state: state.load_holds(100.0),
    "last_known_good": lambda state: state.load_last_known_good(),
    "selection": lambda state: state.load_selection(),
}


@pytest.mark.parametrize("raised", SAVES)
def test_one_kind_has_another_version(raised: str, tmp_path: Path) -> None:
    """An agent that finds one file of a newer version sets that aside, says which versions, and reads all others; an
    agent that reads both finds everything.
    """
    path = tmp_path / "state"
    newer = replace(FORMATS, **{raised: Format(getattr(FORMATS, raised).kind, reads=(1, 2), writes=(2,))})
    writer = StateDir(path, identity="a", boot_id="b", formats=newer)
    assert writer.acquire()
    for save in SAVES.values():
        save(writer)
    expected = {name: load(writer) for name, load in LOADS.items()}
    assert None not in expected.values()
    assert writer.notices == []

    reader = StateDir(path, identity="a", boot_id="b")
    assert {name: load(reader) for name, load in LOADS.items()} == {**expected, raised: None}
    [notice] = reader.notices
    assert ": its version is 2, this agent reads 1; it was set aside as " in notice
    writer.release()

    assert reader.acquire()
    SAVES[raised](reader)
    assert LOADS[raised](writer) == expected[raised], "what the older one writes is read by the newer one"
    reader.release()
