"""Sockets that cannot be had: each reason is told as what it is, and left as soon as it has gone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.pod_resources import PodResources
from nodeagent.model.kubelet import Obstacle, PodResourcesReason, RegistrationState
from nodeagent.sim.kubelet import StandInKubelet
from tests.denied import as_nobody, open_directory
from tests.kubelet.support import running
from tests.waiting import eventually

LIVE, ABSENT, BACKOFF = RegistrationState.LIVE, RegistrationState.ABSENT, RegistrationState.BACKOFF


@pytest.fixture
async def kubelet() -> AsyncIterator[StandInKubelet]:
    """A stand-in kubelet in a directory that anybody may look into."""
    with open_directory() as path:
        stand_in = StandInKubelet(path)
        await stand_in.start()
        stand_in.device_plugins.chmod(0o755)
        yield stand_in
        await stand_in.stop()


@pytest.mark.parametrize("closed", ["socket", "directory"])
async def test_a_socket_that_may_not_be_used(kubelet: StandInKubelet, closed: str) -> None:
    """Whoever is denied kubelet.sock, or the directory that it is in, is told so and by whom; not that nobody listens,
    nor that it is not there. The moment it is allowed the kubelet is registered with.
    """
    path = kubelet.device_plugins / names.KUBELET_SOCKET
    shut = path if closed == "socket" else kubelet.device_plugins
    shut.chmod(0o700)
    with as_nobody():
        async with running(kubelet.device_plugins) as agent:
            await agent.reaches(BACKOFF if closed == "socket" else ABSENT)
            status = agent.status()
            assert "Permission denied (EACCES)" in status.message
            assert "this process is user 65534 and not root" in status.message
            assert str(path) in status.message
            assert status.obstacle is Obstacle.DENIED
            os.seteuid(0)
            kubelet.device_plugins.chmod(0o755)
            agent.events.happen()
            await agent.reaches(LIVE)
            assert agent.status().obstacle is None


def _file(path: Path) -> None:
    path.write_text("")


def _deserted(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


def _datagram(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        os.set_inheritable(other.fileno(), True)
        _KEPT.append(other.dup())


_KEPT: list[socket.socket] = []


def _full(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(path))
    _KEPT.extend((listener, waiting))


IN_ITS_PLACE: dict[str, tuple[Callable[[Path], None], RegistrationState, str]] = {
    "a file": (_file, ABSENT, "it is a file and no socket"),
    "a directory": (Path.mkdir, ABSENT, "it is a directory and no socket"),
    "a pipe": (os.mkfifo, ABSENT, "it is a pipe and no socket"),
    "a loop": (lambda path: path.symlink_to(path.name), ABSENT, "(ELOOP): it is a loop of links"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), ABSENT, "waiting for the kubelet"),
    "a socket that was left": (_deserted, BACKOFF, "(ECONNREFUSED): nobody listens"),
    "a socket whose queue is full": (_full, BACKOFF, "(EAGAIN): whoever listens takes no connection"),
    "a socket of another kind": (_datagram, BACKOFF, "(EPROTOTYPE): it is a socket of another kind"),
}


@pytest.mark.parametrize("what", IN_ITS_PLACE)
async def test_what_stands_in_the_place_of_the_socket(tmp_path: Path, what: str) -> None:
    """Each thing is called what it is."""
    make, state, said = IN_ITS_PLACE[what]
    make(tmp_path / names.KUBELET_SOCKET)
    async with running(tmp_path) as agent:
        await agent.reaches(state)
        assert said in agent.status().message
        assert agent.status().obstacle is None


async def test_a_part_of_the_path_is_no_directory(tmp_path: Path) -> None:
    """That is told, and not that the kubelet is away."""
    (tmp_path / "kubelet").write_text("")
    async with running(tmp_path / "kubelet" / "device-plugins") as agent:
        await agent.reaches(ABSENT)
        assert "(ENOTDIR): a part of the path is no directory" in agent.status().message


async def test_a_directory_that_is_not_mounted(tmp_path: Path) -> None:
    """A kubelet that is away leaves its directory behind: where there is none that is said as well."""
    async with running(tmp_path / "device-plugins") as agent:
        await agent.reaches(ABSENT)
        assert agent.status().message.endswith(f"(there is no directory {tmp_path}/device-plugins)")


@pytest.fixture
def read_only(kubelet: StandInKubelet) -> Iterator[Path]:
    """The kubelet's directory, mounted so that nothing can be made in it."""
    path = kubelet.device_plugins
    done = subprocess.run(["mount", "--bind", path, path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("nothing can be mounted here")
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=False)


async def test_a_directory_that_is_read_only(read_only: Path) -> None:
    """Whoever cannot make a socket there is told that it is that, and registers when it can be written."""
    async with running(read_only) as agent:
        await agent.reaches(BACKOFF)
        status = agent.status()
        assert status.message.startswith(f"cannot bind a socket in {read_only}: ")
        assert "Read-only file system (EROFS): mounted with readOnly" in status.message
        assert status.obstacle is Obstacle.UNWRITABLE
        subprocess.run(["mount", "-o", "remount,bind,rw", read_only], check=True)
        await agent.reaches(LIVE)


async def test_a_refused_directory_is_logged_once(
    read_only: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried in vain: each try has another socket, and gRPC, which writes to stderr, is not asked
    for what cannot be.
    """
    async with running(read_only) as agent:
        await agent.reaches(BACKOFF)
        await eventually(lambda: agent.status().failures >= 3)
    told = [record.getMessage() for record in caplog.records if "cannot bind" in record.getMessage()]
    assert len(told) == 1
    assert "nodeagent-" not in capfd.readouterr().err


async def test_a_directory_that_may_not_be_written(kubelet: StandInKubelet) -> None:
    """The same where it is a mode that denies it, though the kubelet can be spoken to."""
    (kubelet.device_plugins / names.KUBELET_SOCKET).chmod(0o777)
    with as_nobody():
        async with running(kubelet.device_plugins) as agent:
            await agent.reaches(BACKOFF)
            status = agent.status()
            assert status.message.startswith(f"cannot bind a socket in {kubelet.device_plugins}: ")
            assert "Permission denied (EACCES): this process is user 65534" in status.message
            assert status.obstacle is Obstacle.UNWRITABLE


async def test_a_full_disk(tmp_path: Path) -> None:
    """A directory without room for one more name is no kubelet that refuses."""
    mounted = ["mount", "-t", "tmpfs", "-o", "nr_inodes=64", "tmpfs", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    kubelet = StandInKubelet(tmp_path)
    try:
        await kubelet.start()
        number = 0
        with suppress(OSError):  # there are no inodes left
            for number in range(64):
                (tmp_path / f"{number}").touch()
        assert number < 63
        async with running(kubelet.device_plugins) as agent:
            await agent.reaches(BACKOFF)
            assert "(ENOSPC): no room or no inode is left there" in agent.status().message
            assert agent.status().obstacle is Obstacle.UNWRITABLE
            (tmp_path / "0").unlink()
            await agent.reaches(LIVE)
    finally:
        await kubelet.stop()
        subprocess.run(["umount", "-l", tmp_path], check=False)


@pytest.mark.parametrize("closed", ["socket", "directory"])
async def test_pod_resources_that_may_not_be_read(kubelet: StandInKubelet, closed: str) -> None:
    """The same of the kubelet's other socket: it is said who denies it, and every share counts as held meanwhile."""
    path = kubelet.directory / "pod-resources" / "kubelet.sock"
    shut = path if closed == "socket" else path.parent
    path.parent.chmod(0o755)
    shut.chmod(0o700)
    pods = PodResources(path, kubelet.device_plugins / "none", wake=lambda: None)
    with as_nobody():
        task = asyncio.create_task(pods.run())
        await eventually(lambda: pods.status.reason is PodResourcesReason.ACCESS_DENIED)
        assert "Permission denied (EACCES)" in pods.status.message
        assert str(path) in pods.status.message
        os.seteuid(0)
        shut.chmod(0o755)
        await eventually(lambda: pods.status.reason is PodResourcesReason.LISTED)
        task.cancel()


async def test_a_checkpoint_that_may_not_be_read(kubelet: StandInKubelet) -> None:
    """Looks are by List then, and it is said why."""
    checkpoint = kubelet.directory / "checkpoint"
    checkpoint.write_text("{}")
    checkpoint.chmod(0o600)
    path = kubelet.directory / "pod-resources" / "kubelet.sock"
    path.parent.chmod(0o755)
    path.chmod(0o777)
    pods = PodResources(path, checkpoint, wake=lambda: None)
    with as_nobody():
        task = asyncio.create_task(pods.run())
        await eventually(lambda: pods.status.reason is PodResourcesReason.LISTED)
        assert pods.status.message.startswith(
            f"cannot read {checkpoint}: Permission denied (EACCES): this process is user 65534 and not root"
        )
        assert pods.status.message.endswith("; every look is a List")
        task.cancel()
