"""Which processes are ended, and which only look as if they should be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from nodeagent.mps.disk import Disk
from nodeagent.mps.files import Layout
from nodeagent.mps.hunt import Hunt
from nodeagent.mps.lifecycle import Timing
from nodeagent.mps.process import Process
from tests.mps.support import UUID
from tests.waiting import eventually


async def test_a_child_of_the_daemon_is_no_second_one(mps_root: Path) -> None:
    """A server that a daemon is about to execute has the name and the environment of the daemon: it is left alone."""
    layout = Layout(mps_root)
    # A shell by the name of the daemon, and a copy of it that has executed nothing yet.
    program = mps_root / "nvidia-cuda-mps-control"
    shutil.copy(shutil.which("dash") or "/bin/sh", program)
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(layout.pipe(UUID))}
    forking = [str(program), "-c", "exec 3<&0; (while read line <&3; do :; done) & wait", "-d"]
    hunt = Hunt(UUID, layout, Disk(layout.directory(UUID), name="hunt"), Timing())

    async def seen(number: int) -> bool:
        return len((await hunt.seen()).daemons) == number

    with (
        subprocess.Popen(forking, env=environment, stdin=subprocess.PIPE) as daemon,
        subprocess.Popen([str(program), "-c", "read line", "-d"], env=environment, stdin=subprocess.PIPE) as other,
    ):
        try:
            kept, second = Process.find(daemon.pid), Process.find(other.pid)
            assert kept is not None
            assert second is not None
            await eventually(lambda: seen(3))
            (child,) = (one for one in (await hunt.seen()).daemons if one not in {kept, second})
            assert await hunt.strays(kept) == [second]
            await hunt.end_strays(kept)
            assert not second.alive()
            assert kept.alive()
            assert child.alive()
        finally:
            daemon.kill()
            other.kill()
