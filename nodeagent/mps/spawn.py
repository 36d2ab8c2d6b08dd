"""Keeps an MPS host running where nobody else does: `run --mps-host spawn`.

The host outlives the agent, however that ends, since daemons are to be looked after without a gap: it is in a session
of its own and inherits nothing but where to log. The next agent finds it by its lock, and starts another one only when
that is free. In a cluster the end of a pod is the end of all its processes: there, the host has a pod of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nodeagent import refusals

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
STABLE: Final = 60.0
"""Seconds. A host that ran this long is started again after the first pause, another after twice the last one."""


def host_command(
    root: Path,
    *,
    driver: str,
    driver_root: Path,
    nvml_library: Path | None,
    program: str,
    shm_size: str,
    node_name: str,
    log_format: str,
    log_level: str,
) -> list[str]:
    """The command line of the host that belongs to an agent of these options."""
    return [
        sys.executable,
        "-m",
        "nodeagent",
        "mps-host",
        f"--mps-root={root}",
        f"--driver={driver}",
        f"--driver-root={driver_root}",
        f"--nvml-library={nvml_library or ''}",
        f"--mps-control={program}",
        f"--shm-size={shm_size}",
        f"--node-name={node_name}",
        f"--log-format={log_format}",
        f"--log-level={log_level}",
    ]


class SpawnedHost:
    """Starts `command` when a host is needed and none runs, and again, with backoff, when it ends.

    Belongs to one event loop.
    """

    def __init__(self, command: Sequence[str], *, first_pause: float = FIRST_PAUSE) -> None:
        self._command = list(command)
        self._first_pause = first_pause
        self._needed = asyncio.Event()
        self._message = ""

    @property
    def message(self) -> str:
        """Why no host runs; empty while that is nobody's fault."""
        return self._message

    def need(self, *, needed: bool) -> None:
        """Whether a host is needed and none holds the lock. One of ours may still be on its way."""
        if needed:
            self._needed.set()
        else:
            self._needed.clear()
            self._message = ""

    async def run(self) -> None:
        """See to it until cancelled; a host that runs then goes on."""
        pause = self._first_pause
        while True:
            await self._needed.wait()
            begun = time.monotonic()
            try:
                code = await self._attend(self._start())
            except OSError as error:
                self._message = f"cannot start the MPS host: {refusals.named(error)}"
            else:
                self._message = f"the MPS host has ended with exit code {code}"
            if time.monotonic() - begun >= STABLE:
                pause = self._first_pause
            logger.error("%s; it is started again in %g s if it is needed", self._message, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _start(self) -> int:
        """The pid of a new host. Raises OSError."""
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own
        logger.info("started the MPS host, process %d", child.pid)
        # It may outlive us: Popen is not to wait for it, nor to complain that nobody did.
        child.returncode = 0
        return child.pid

    async def _attend(self, pid: int) -> int:
        """Wait until it has ended, and reap it; what it ended with."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        descriptor = os.pidfd_open(pid)
        try:
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
            _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return os.waitstatus_to_exitcode(status)
