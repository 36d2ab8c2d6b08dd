"""The mounted ConfigMap: what a reader sees of a swap."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.sim.git_mount import MountedConfigMap


def test_files_are_links_through_one_data_link(tmp_path: Path) -> None:
    """What the user opens is a link through `..data`, which is a link to a timestamped directory."""
    mount = MountedConfigMap(tmp_path / "config")
    assert mount.read() is None
    assert mount.write({"sharing.yaml": b"one", "revision": b"abc"})
    assert (mount.directory / "sharing.yaml").readlink() == Path("..data/sharing.yaml")
    assert (mount.directory / "..data").readlink().name.startswith("..20")
    assert (mount.directory / "sharing.yaml").read_bytes() == b"one"
    assert mount.read() == {"sharing.yaml": b"one", "revision": b"abc"}


def test_an_update_swaps_the_data_link_and_leaves_the_files_links(tmp_path: Path) -> None:
    """An update touches `..data` alone: the file's own link keeps its inode, and the old directory is gone."""
    mount = MountedConfigMap(tmp_path)
    mount.write({"sharing.yaml": b"one"})
    link = (tmp_path / "sharing.yaml").lstat().st_ino
    old = (tmp_path / "..data").readlink()
    assert mount.write({"sharing.yaml": b"two"})
    assert (tmp_path / "sharing.yaml").read_bytes() == b"two"
    assert (tmp_path / "sharing.yaml").lstat().st_ino == link
    assert (tmp_path / "..data").readlink() != old
    assert not (tmp_path / old).exists()
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("..2")) == [
        "..data",
        "sharing.yaml",
    ]


def test_the_same_content_touches_nothing(tmp_path: Path) -> None:
    """The kubelet does not swap when nothing differs."""
    mount = MountedConfigMap(tmp_path)
    mount.write({"sharing.yaml": b"one"})
    target = (tmp_path / "..data").readlink()
    assert not mount.write({"sharing.yaml": b"one"})
    assert (tmp_path / "..data").readlink() == target


def test_a_file_that_left_the_config_map_is_gone(tmp_path: Path) -> None:
    """A key that is no longer there takes its link along."""
    mount = MountedConfigMap(tmp_path)
    mount.write({"sharing.yaml": b"one", "revision": b"abc"})
    mount.write({"sharing.yaml": b"one"})
    assert not (tmp_path / "revision").is_symlink()
    assert mount.read() == {"sharing.yaml": b"one"}


@pytest.mark.parametrize("name", ["..data", "a/b", "", "."])
def test_a_name_that_no_key_can_have_is_refused(tmp_path: Path, name: str) -> None:
    """Names with a slash or two leading dots would break the projection."""
    with pytest.raises(ValueError, match="not a key of a ConfigMap"):
        MountedConfigMap(tmp_path).write({name: b""})
