"""The directories of daemons are made anew beside clients who may have left anything in the old ones."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.mps import directory
from nodeagent.mps.files import Layout

UUID = "GPU-0"


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
        directory.fresh_pipe(layout, UUID)
        for path in (layout.root, layout.directory(UUID), layout.pipe(UUID), layout.log(UUID)):
            assert mode(path) == 0o755, path

    def test_each_start_has_a_directory_that_nobody_has_seen(self, layout: Layout) -> None:
        """The path stays, the directory is another one, and who still has the old one open does not reach it."""
        directory.fresh_pipe(layout, UUID)
        old = os.open(layout.pipe(UUID), os.O_RDONLY)
        try:
            (layout.pipe(UUID) / "control").write_text("")
            directory.fresh_pipe(layout, UUID)
            assert os.fstat(old).st_ino != layout.pipe(UUID).stat().st_ino
            assert list(layout.pipe(UUID).iterdir()) == []
            with pytest.raises(FileNotFoundError):
                os.symlink("/etc/passwd", "control_lock", dir_fd=old)
        finally:
            os.close(old)

    def test_logs_are_kept(self, layout: Layout) -> None:
        """What the daemon before has logged outlives it."""
        directory.fresh_pipe(layout, UUID)
        (layout.log(UUID) / "control.log").write_text("said")
        directory.fresh_pipe(layout, UUID)
        assert (layout.log(UUID) / "control.log").read_text() == "said"

    def test_what_a_killed_host_left_half_done_does_not_matter(self, layout: Layout) -> None:
        """A new directory that was not put in its place yet, and an old one that was not removed yet, are replaced."""
        directory.fresh_pipe(layout, UUID)
        for name in ("pipe.new", "pipe.old"):
            (layout.directory(UUID) / name / "below").mkdir(parents=True)
        directory.fresh_pipe(layout, UUID)
        assert sorted(path.name for path in layout.directory(UUID).iterdir()) == ["log", "pipe"]

    def test_an_unusable_root_is_told(self, tmp_path: Path) -> None:
        """A root that cannot be a directory is an error that says so, and names it."""
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot use MPS root") as caught:
            directory.make_root(tmp_path / "file" / "mps")
        assert caught.value.filename == str(tmp_path / "file" / "mps")


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
        directory.fresh_pipe(layout, UUID)
        place = layout.pipe(UUID).joinpath(*["below"] * depth)
        place.mkdir(parents=True, exist_ok=True)
        plant(place, target)
        if again:
            directory.fresh_pipe(layout, UUID)
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
        directory.fresh_pipe(layout, UUID)
        assert not layout.pipe(UUID).is_symlink()
        assert (tmp_path / "target" / "file").read_text() == "precious"

    def test_depth_costs_nothing(self, layout: Layout) -> None:
        """Directories nested deeper than Python's stack, than our descriptors and than a path can be are removed."""
        directory.fresh_pipe(layout, UUID)
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
