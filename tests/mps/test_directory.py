"""The directories of daemons are kept and emptied beside clients who may leave anything in them."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.mps import directory
from nodeagent.mps.files import Layout
from tests.mps.hosting import needs_mounts

UUID = "GPU-0"
NOBODY = 0xFFFFFFFF

ANYBODY = struct.pack("<I" + 5 * "HHI", 2, 1, 7, NOBODY, 2, 7, 1000, 4, 7, NOBODY, 16, 7, NOBODY, 32, 7, NOBODY)
"""Permissions for everybody, and for user 1000 by name, as the kernel has them in an attribute."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A root that is there."""
    layout = Layout(tmp_path / "mps")
    directory.make_root(layout.root)
    return layout


@pytest.fixture
def closed_umask() -> Iterator[None]:
    """A umask that would close everything to others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def identity(path: Path) -> tuple[int, int]:
    """Which directory this is."""
    found = path.stat()
    return found.st_dev, found.st_ino


def made(place: Path) -> None:
    """What a daemon makes, or some of it."""
    for name in ("control", "log"):
        (place / name).write_text(name)


def mode(path: Path) -> int:
    """Its permissions."""
    return stat.S_IMODE(path.lstat().st_mode)


class TestMaking:
    """What is there for a start."""

    @pytest.mark.usefixtures("closed_umask")
    def test_clients_of_any_user_get_through(self, tmp_path: Path) -> None:
        """Root and pipe directory are open to others whatever the umask, and whatever somebody made of them before."""
        layout = Layout(tmp_path / "run" / "mps")
        layout.root.mkdir(parents=True, mode=0o700)
        directory.make_root(layout.root)
        directory.prepare(layout, UUID, swap=False)
        for path in (layout.root, layout.directory(UUID), layout.pipe(UUID), layout.log(UUID)):
            assert mode(path) == 0o755, path

    def test_the_directory_stays_and_what_was_in_it_goes(self, layout: Layout) -> None:
        """Who has it mounted has that of the next daemon; a daemon starts in one that nobody has seen."""
        directory.prepare(layout, UUID, swap=False)
        (layout.pipe(UUID) / "control").write_text("")
        before = [identity(path) for path in (layout.pipe(UUID), layout.start(UUID))]
        held = os.open(layout.start(UUID), os.O_RDONLY)  # its number is not given to another one meanwhile
        directory.prepare(layout, UUID, swap=False)
        os.close(held)
        assert identity(layout.pipe(UUID)) == before[0]
        assert identity(layout.start(UUID)) != before[1]
        assert [list(path.iterdir()) for path in (layout.pipe(UUID), layout.start(UUID))] == [[], []]

    def test_what_somebody_made_of_the_directory_is_set_right(self, layout: Layout) -> None:
        """Owner, permissions, also those of a list: who is root in a container can change all of them."""
        directory.prepare(layout, UUID, swap=False)
        pipe = layout.pipe(UUID)
        before = identity(pipe)
        os.setxattr(pipe, "system.posix_acl_default", ANYBODY)
        os.setxattr(pipe, "system.posix_acl_access", ANYBODY)
        pipe.chmod(0o7777)
        if os.geteuid() == 0:
            os.chown(pipe, 65534, 65534)
        assert directory.clear(pipe)
        assert (identity(pipe), mode(pipe), pipe.stat().st_uid) == (before, 0o755, os.geteuid())
        assert not [name for name in os.listxattr(pipe) if "acl" in name]

    @pytest.mark.parametrize("where", [".", "below"])
    def test_what_somebody_has_mounted_there_is_refused(self, layout: Layout, tmp_path: Path, where: str) -> None:
        """Not even what is in it is touched."""
        needs_mounts()
        directory.prepare(layout, UUID, swap=False)
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "file").touch()
        (layout.pipe(UUID) / where).mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", tmp_path / "foreign", layout.pipe(UUID) / where], check=True)
        try:
            with pytest.raises(OSError, match="cannot make pipe directory: Device or resource busy"):
                directory.prepare(layout, UUID, swap=False)
            with pytest.raises(OSError, match="Device or resource busy"):
                directory.remove_pipe(layout, UUID)
            assert not directory.clear(layout.pipe(UUID))
            assert (tmp_path / "foreign" / "file").exists()
        finally:
            subprocess.run(["umount", layout.pipe(UUID) / where], check=True)

    def test_one_that_is_never_empty_is_replaced(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        """As when a container goes on filling it: it keeps what it has, and the next daemon has another one."""
        directory.prepare(layout, UUID, swap=False)
        held = os.open(layout.pipe(UUID), os.O_RDONLY)
        monkeypatch.setattr("nodeagent.mps.directory._SWEEPS", 0)  # it looks no more often
        directory.prepare(layout, UUID, swap=False)
        assert os.fstat(held).st_nlink == 0
        os.close(held)
        assert list(layout.pipe(UUID).iterdir()) == []

    def test_logs_are_kept(self, layout: Layout) -> None:
        """What the daemon before has logged outlives it."""
        directory.prepare(layout, UUID, swap=False)
        (layout.log(UUID) / "control.log").write_text("said")
        directory.prepare(layout, UUID, swap=False)
        assert (layout.log(UUID) / "control.log").read_text() == "said"

    def test_what_a_killed_host_left_half_done_does_not_matter(self, layout: Layout) -> None:
        """What is left of a start, and an old directory that was not removed yet, are replaced."""
        directory.prepare(layout, UUID, swap=False)
        for name in ("pipe.new", "pipe.old"):
            (layout.directory(UUID) / name / "below").mkdir(parents=True)
        directory.prepare(layout, UUID, swap=False)
        directory.publish(layout, UUID)
        assert sorted(path.name for path in layout.directory(UUID).iterdir()) == ["log", "pipe"]

    def test_an_unusable_root_is_told(self, tmp_path: Path) -> None:
        """A root that cannot be a directory is an error that says so, and names it."""
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot use MPS root") as caught:
            directory.make_root(tmp_path / "file" / "mps")
        assert caught.value.filename == str(tmp_path / "file" / "mps")


class TestStarting:
    """What a daemon has made where nobody sees it comes to its clients."""

    @pytest.mark.parametrize("swap", [True, False])
    def test_what_was_made_is_in_the_directory_of_clients(self, layout: Layout, swap: bool) -> None:
        """With `swap` the daemon finds the directory of its start under the path of the other."""
        directory.prepare(layout, UUID, swap=False)
        before = identity(layout.pipe(UUID))
        directory.prepare(layout, UUID, swap=swap)
        assert (identity(layout.pipe(UUID)) != before) is swap
        made(layout.pipe(UUID) if swap else layout.start(UUID))
        directory.publish(layout, UUID)
        assert identity(layout.pipe(UUID)) == before
        assert [path.name for path in sorted(layout.pipe(UUID).iterdir())] == ["control", "log"]
        assert sorted(path.name for path in layout.directory(UUID).iterdir()) == ["log", "pipe"]
        directory.publish(layout, UUID)
        assert [path.name for path in sorted(layout.pipe(UUID).iterdir())] == ["control", "log"]

    @pytest.mark.parametrize("done", ["first", "both"])
    def test_a_swap_that_was_cut_short_is_taken_back(self, layout: Layout, done: str) -> None:
        """A host can be killed between any two names; whatever comes next, clients have their directory."""
        for ends in (directory.publish, lambda *which: directory.prepare(*which, swap=False)):
            directory.prepare(layout, UUID, swap=False)
            pipe, start, kept = layout.pipe(UUID), layout.start(UUID), layout.directory(UUID) / "pipe.kept"
            before = identity(pipe)
            pipe.rename(kept)
            if done == "both":
                start.rename(pipe)
            ends(layout, UUID)
            assert identity(pipe) == before
            assert not kept.exists()

    @pytest.mark.parametrize("plant", ["file", "link", "directory"])
    def test_what_is_planted_meanwhile_is_replaced(self, layout: Layout, tmp_path: Path, plant: str) -> None:
        """Whatever it is, and nothing of it is followed."""
        directory.prepare(layout, UUID, swap=False)
        made(layout.start(UUID))
        target, place = tmp_path / "target", layout.pipe(UUID) / "control"
        target.write_text("precious")
        if plant == "file":
            place.write_text("planted")
        elif plant == "link":
            place.symlink_to(target)
        else:
            (place / "below").mkdir(parents=True)
        directory.publish(layout, UUID)
        assert place.read_text() == "control"
        assert not place.is_symlink()
        assert target.read_text() == "precious"

    def test_a_link_in_place_of_either_directory_is_not_followed(self, layout: Layout, tmp_path: Path) -> None:
        """It is an error, and the next start replaces it."""
        (tmp_path / "target").mkdir()
        made(tmp_path / "target")
        for name in (layout.pipe(UUID), layout.start(UUID)):
            directory.prepare(layout, UUID, swap=False)
            made(layout.start(UUID))
            directory.remove(name)
            name.symlink_to(tmp_path / "target")
            with pytest.raises(OSError, match="cannot fill pipe directory: Not a directory"):
                directory.publish(layout, UUID)
            assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["control", "log"]


PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "link-to-file": lambda pipe, target: (pipe / "control_lock").symlink_to(target / "file"),
    "link-to-directory": lambda pipe, target: (pipe / "control").symlink_to(target),
    "dangling-link": lambda pipe, target: (pipe / "control_lock").symlink_to(target / "new"),
    "hard-link": lambda pipe, target: os.link(target / "file", pipe / "control_lock"),
    "fifo": lambda pipe, _: os.mkfifo(pipe / "log"),
    "file": lambda pipe, _: os.mknod(pipe / "control", 0o600 | stat.S_IFREG),
    "locked-directory": lambda pipe, _: (pipe / "control").mkdir(mode=0),
    "odd-name": lambda pipe, _: Path(os.fsdecode(os.fsencode(pipe) + b"/\xff\n")).mkdir(),
}


class TestRemoving:
    """Whatever a client has left goes, and nothing else."""

    @pytest.mark.parametrize("depth", [0, 1, 3])
    @pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
    @pytest.mark.parametrize("again", [True, False], ids=["fresh", "removed"])
    def test_nothing_planted_is_followed(
        self, layout: Layout, tmp_path: Path, plant: Callable[[Path, Path], None], depth: int, again: bool
    ) -> None:
        """Links, files and fifos in a pipe directory, however deep, are removed; what links point to is not touched."""
        target = tmp_path / "target"
        target.mkdir()
        (target / "file").write_text("precious")
        directory.prepare(layout, UUID, swap=False)
        place = layout.pipe(UUID).joinpath(*["below"] * depth)
        place.mkdir(parents=True, exist_ok=True)
        plant(place, target)
        if again:
            directory.prepare(layout, UUID, swap=False)
            assert list(layout.pipe(UUID).iterdir()) == []
        else:
            directory.remove_pipe(layout, UUID)
            assert not layout.pipe(UUID).exists()
        assert [path.name for path in target.iterdir()] == ["file"]
        assert (target / "file").read_text() == "precious"

    @pytest.mark.parametrize("name", ["pipe", "pipe.old", "pipe.new"])
    def test_a_link_in_place_of_the_directory_is_replaced(self, layout: Layout, tmp_path: Path, name: str) -> None:
        """A link where a directory of ours should be is removed as a link."""
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "file").write_text("precious")
        layout.directory(UUID).mkdir()
        (layout.directory(UUID) / name).symlink_to(tmp_path / "target")
        directory.prepare(layout, UUID, swap=False)
        assert not layout.pipe(UUID).is_symlink()
        assert (tmp_path / "target" / "file").read_text() == "precious"

    def test_depth_costs_nothing(self, layout: Layout) -> None:
        """Directories nested deeper than Python's stack, than our descriptors and than a path can be are removed."""
        directory.prepare(layout, UUID, swap=False)
        here = os.open(layout.pipe(UUID), os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("below", dir_fd=here)
            there = os.open("below", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = there
        os.close(here)
        directory.remove_pipe(layout, UUID)
        assert sorted(path.name for path in layout.directory(UUID).iterdir()) == ["log"]

    def test_nothing_is_an_answer(self, layout: Layout) -> None:
        """Removing what is not there is no error, also where a daemon never was."""
        directory.remove_pipe(layout, "GPU-1")
        directory.remove(layout.root / "gone")
        assert list(layout.root.iterdir()) == []
