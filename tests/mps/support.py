"""Daemons for tests: NVIDIA's own, under a root with a short path, of which nothing is left afterwards."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.mps.control import Control, NoDaemon
from nodeagent.mps.files import Layout
from nodeagent.mps.process import Process, mps_processes
from tests.waiting import eventually_sync, longer

UUID = "GPU-00000000-0000-0000-0000-000000000000"
OTHER = "GPU-11111111-1111-1111-1111-111111111111"

CONTRACT = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(9216, 25))


@contextmanager
def temporary_root() -> Iterator[Path]:
    """A directory whose path is short enough for sockets; processes of MPS below it have ended afterwards."""
    root = Path(tempfile.mkdtemp(prefix="na-mps-"))
    try:
        yield root
    finally:
        eventually_sync(lambda: end_all(root))
        unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)


def end_all(root: Path) -> bool:
    """Kill every process of MPS below this root. Whether there was none."""
    found = mps_processes(root)
    for one in found:
        one.process.signal(signal.SIGKILL)
    return not found


def unmount_below(root: Path) -> None:
    """Nothing is mounted below this root any more."""
    for line in reversed(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()):
        path = line.split(" ")[4]
        if path.startswith(f"{root}/"):
            subprocess.run(["umount", "--lazy", path], check=True)


@dataclass(frozen=True)
class Daemons:
    """Starts daemons below one root, as the MPS host does but without any of its care."""

    root: Path
    program: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def start(self, uuid: str = UUID) -> Process:
        """Start the daemon of a GPU; it listens on return, and nothing else of it runs."""
        pipe, log = self.layout.pipe(uuid), self.layout.log(uuid)
        for directory in (pipe, log):
            directory.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": f"{self.program.parent}:/usr/bin:/bin",
            "CUDA_VISIBLE_DEVICES": uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(log),
        }
        before = self._running(uuid)
        subprocess.run(
            [str(self.program), "-d"], env=environment, check=True, timeout=longer(10), stdin=subprocess.DEVNULL
        )
        found = Process.find(self.control(uuid).peer())
        assert found is not None
        # The process between the program and its daemon has done its work, and may not have ended yet.
        eventually_sync(lambda: self._running(uuid) - before == {found})
        return found

    def _running(self, uuid: str) -> set[Process]:
        return {one.process for one in mps_processes(self.root) if (one.kind, one.uuid) == ("daemon", uuid)}

    def control(self, uuid: str = UUID, deadline: float = 2.0) -> Control:
        """Talks to the daemon of a GPU."""
        return Control(self.layout.pipe(uuid), program=str(self.program), deadline=deadline)

    def gone(self) -> bool:
        """Whether nobody listens. The kernel may close the sockets of a daemon a moment after its end."""
        try:
            self.control().peer()
        except NoDaemon:
            return True
        return False


@contextmanager
def responsive_loop(longest: float) -> Iterator[None]:
    """Fail when the running loop stands still for longer than `longest` seconds meanwhile."""
    loop = asyncio.get_running_loop()
    beats: list[float] = [loop.time()]
    ticking = True

    def beat() -> None:
        beats.append(loop.time())
        if ticking:
            loop.call_later(longest / 10, beat)

    beat()
    try:
        yield
    finally:
        ticking = False
    gaps = [after - before for before, after in itertools.pairwise(beats)]
    assert max(gaps) < longest, f"the loop stood still for {max(gaps):.3f} s"


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run a blocking call beside the test."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
