"""A config that can never change is told: the kernel says what its file has been mounted from."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent import mountinfo
from nodeagent.config.mounting import Mounting, following
from nodeagent.config.source import ConfigSource
from nodeagent.model.config import Following
from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.watcher import DirectoryWatch
from tests.waiting import eventually

Bind = Callable[[Path, Path], None]

VOLUMES = "/var/lib/kubelet/pods/2c1f0c2e/volumes"
VERSION = "..2026_11_30_20_54_07.3019482716"


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Mounts a file or directory at another place, until the end of the test."""
    made: list[Path] = []

    def mount(what: Path, where: Path) -> None:
        if what.is_dir():
            where.mkdir(exist_ok=True)
        else:
            where.touch()
        if subprocess.run(["mount", "--bind", what, where], capture_output=True, check=False).returncode != 0:
            pytest.skip("nothing can be mounted here")
        made.append(where)

    yield mount
    for where in reversed(made):
        subprocess.run(["umount", "-l", where], check=False)


def line(root: str, point: str, kind: str = "ext4") -> str:
    """A line of mountinfo, with optional fields."""
    return f"812 803 259:1 {root} {point} ro,relatime shared:7 master:3 - {kind} /dev/root ro,discard"


def found(tmp_path: Path, file: str, *lines: str) -> Following:
    """How a file is mounted, where these are all the mounts."""
    table = tmp_path / "mountinfo"
    table.write_text("\n".join([line("/", "/", "overlay"), line("/", "/proc", "proc"), *lines, ""]))
    return following(Path(file), table)


CONFIG = "/etc/nodeagent/sharing.yaml"

FROZEN = {
    "a key of a ConfigMap": line(f"{VOLUMES}/kubernetes.io~configmap/config/{VERSION}/sharing.yaml", CONFIG),
    "under another name": line(f"{VOLUMES}/kubernetes.io~configmap/config/{VERSION}/pool-a.yaml", CONFIG),
    "a key whose version has gone": line(
        f"{VOLUMES}/kubernetes.io~configmap/config/{VERSION}/sharing.yaml//deleted", CONFIG
    ),
    "a key of a Secret": line(f"/{VERSION}/sharing.yaml", CONFIG, "tmpfs"),
    "a key of a projected volume": line(f"{VOLUMES}/kubernetes.io~projected/all/{VERSION}/a/sharing.yaml", CONFIG),
    "a directory in a ConfigMap": line(f"{VOLUMES}/kubernetes.io~configmap/config/{VERSION}/a", "/etc/nodeagent"),
    "as the kubelet sees it": line("/var/lib/kubelet/pods/2c1f/volume-subpaths/config/nodeagent/0", CONFIG),
}


@pytest.mark.parametrize("what", FROZEN)
def test_a_sub_path_is_known_by_what_is_mounted(tmp_path: Path, what: str) -> None:
    """Whatever lies in one version of a volume stays as it is: a key, under any name, or a directory of keys."""
    assert found(tmp_path, CONFIG, FROZEN[what]) is Following.SUB_PATH


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [line(f"{VOLUMES}/kubernetes.io~configmap/config", "/etc/nodeagent")],
        [line("/", "/etc/nodeagent", "tmpfs")],
        [line(f"{VOLUMES}/kubernetes.io~empty-dir/git/repository", "/etc/nodeagent")],
        [line(f"{VOLUMES}/kubernetes.io~configmap/other/{VERSION}/hosts", "/etc/hosts")],
        [line(f"{VOLUMES}/kubernetes.io~configmap/other/{VERSION}/x", "/etc/nodeagent/sharing.yaml.d")],
        [FROZEN["a directory in a ConfigMap"], line(f"{VOLUMES}/kubernetes.io~configmap/config", "/etc/nodeagent")],
        ["", "garbage", "1 2 3 - 4"],
    ],
)
def test_a_directory_is_followed(tmp_path: Path, mounts: list[str]) -> None:
    """Volumes as directories, a directory of the image or of a developer, other files that are mounted: none of them
    keeps the config from changing. Of several mounts at one place the last is seen.
    """
    assert found(tmp_path, CONFIG, *mounts) is Following.FOLLOWED


def test_a_single_file_is_told_apart(tmp_path: Path) -> None:
    """A file that is mounted by itself may change, but by nobody who replaces it."""
    assert found(tmp_path, CONFIG, line("/srv/pools/a.yaml", CONFIG)) is Following.SINGLE_FILE
    assert found(tmp_path, CONFIG, line("/srv/pools/a.yaml//deleted", CONFIG)) is Following.SINGLE_FILE


def test_names_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    """A space, a tab, a line feed and a backslash are four characters each; everything else is as it is."""
    table = tmp_path / "mountinfo"
    odd = rb"/a\040b\011c\012d\134040/" + "é".encode() + b"\xff"
    table.write_bytes(b"1 2 0:3 /x\\040y " + odd + b" rw - tmpfs my\\040source rw\n")
    (mount,) = mountinfo.read(table)
    assert mount == mountinfo.Mount("/x y", "/a b\tc\nd\\040/é\udcff", "tmpfs", "my source")


def test_the_nearest_mount_counts() -> None:
    """Not one whose name is only the beginning of the path's."""
    mounts = [mountinfo.Mount("/", point, "ext4", "x") for point in ("/", "/etc", "/etc/node", "/etc/nodeagent")]
    assert [
        mount.point if (mount := mountinfo.covering(mounts, path)) else None
        for path in (CONFIG, "/etc/node", "/etc/nodes", "/var")
    ] == ["/etc/nodeagent", "/etc/node", "/etc", "/"]


def test_real_mounts(tmp_path: Path, bind: Bind) -> None:
    """As a kubelet makes them: one key of a ConfigMap at a place of its own, its directory, and a file of the node;
    each also through a link.
    """
    volume = MountedConfigMap(tmp_path / "volume with spaces")
    volume.write({"sharing.yaml": b"a"})
    key, directory, single = tmp_path / "sharing.yaml", tmp_path / "directory", tmp_path / "single.yaml"
    bind((volume.directory / "sharing.yaml").resolve(), key)
    bind(volume.directory, directory)
    (tmp_path / "of-the-node").write_text("a")
    bind(tmp_path / "of-the-node", single)
    (tmp_path / "link.yaml").symlink_to(key)

    assert following(key) is Following.SUB_PATH
    assert following(tmp_path / "link.yaml") is Following.SUB_PATH
    assert following(directory / "sharing.yaml") is Following.FOLLOWED
    assert following(volume.directory / "sharing.yaml") is Following.FOLLOWED
    assert following(single) is Following.SINGLE_FILE
    assert following(tmp_path / "of-the-node") is Following.FOLLOWED
    volume.write({"sharing.yaml": b"b"})
    assert following(key) is Following.SUB_PATH
    assert key.read_bytes() == b"a"


def test_what_the_kernel_does_not_say_changes_nothing(tmp_path: Path) -> None:
    """Without a table of mounts it stays as it was known."""
    assert Mounting(tmp_path / "nothing").look(Path(CONFIG)) is Following.FOLLOWED


@pytest.mark.parametrize("by", ["file", "directory"])
async def test_it_is_told_at_the_start(tmp_path: Path, bind: Bind, by: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the first look, once, in the log, by a config that is named as a file or as its directory; the document is
    read and judged as any other.
    """
    volume = MountedConfigMap(tmp_path / "volume")
    volume.write({"sharing.yaml": b"version: v2"})
    mount = tmp_path / "mount"
    mount.mkdir()
    bind((volume.directory / "sharing.yaml").resolve(), mount / "sharing.yaml")
    watch = DirectoryWatch()
    source = ConfigSource(
        mount / "sharing.yaml" if by == "file" else mount, subscribe=watch.subscribe, wake=lambda: None, reread=0.05
    )
    with caplog.at_level(logging.INFO, logger="nodeagent.config.source"):
        task = asyncio.create_task(source.run())
        await eventually(lambda: source.newest is not None)
        assert source.following is Following.SUB_PATH
        for _ in range(3):
            newest, source_looks = source.newest, len(caplog.records)
            source.look_again()
            await asyncio.sleep(0)
            assert (source.newest, len(caplog.records)) == (newest, source_looks)
        task.cancel()
    (told,) = [record for record in caplog.records if "subPath" in record.message]
    assert told.levelno == logging.WARNING
    assert told.message.startswith(f"{mount}/sharing.yaml: it is mounted by subPath")
