"""The host's files by which devices are handed over: device nodes, capabilities of MIG, CDI specifications."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.devices.cdi_specs import SpecReader
from nodeagent.errand import Errand, Hangs
from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HostFiles

INTERVAL: Final = 10.0
"""Seconds from one look to the next."""

DEADLINE: Final = 5.0
"""Seconds that a look may take."""

_ROOT: Final = Path("/")
_MINORS: Final = "proc/driver/nvidia-caps/mig-minors"
_MOST_NAME: Final = 4096
"""Bytes that are read of what is to name the machine, whatever the file is."""

_CAPABILITY: Final = re.compile(r"gpu([0-9]+)/gi([0-9]+)(?:/ci([0-9]+))?/access ([0-9]+)", re.ASCII)


class HostLook:
    """Looks at the host's files while anything of how devices are handed over needs them, and wakes for what differs.

    Device nodes are those in `dev` below the driver root, or of the agent's own root where that has none.
    """

    def __init__(self, driver_root: Path, cdi_dirs: tuple[Path, ...], *, wake: Callable[[], None]) -> None:
        self.files = HostFiles()
        self._driver_root = driver_root
        self._specs = SpecReader(cdi_dirs)
        self._wake = wake
        self._needed = False
        self._asked = asyncio.Event()
        self._errand = Errand("host files", on_late=self._asked.set)

    def need(self, handover: HandOver) -> None:
        """Devices are handed over so by now. What is not needed any more is forgotten: it would be old when it is."""
        if handover.needs_files == self._needed:
            return
        self._needed = handover.needs_files
        if not self._needed:
            self.files = HostFiles()
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._asked.clear()
            if not self._needed:
                await self._asked.wait()
                continue
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._asked.wait()

    async def _look(self) -> None:
        try:
            found = await self._errand.run(lambda: look(self._driver_root, self._specs), DEADLINE)
        except Hangs:
            found = replace(self.files, problem=f"cannot look at the host's files: no answer within {DEADLINE:g} s")
        if self._needed and found != self.files:
            self.files = found
            self._wake()


def look(driver_root: Path, specs: SpecReader) -> HostFiles:
    """What there is now. Blocks; raises nothing for what a file does."""
    root = driver_root if _is_directory(driver_root / "dev") else _ROOT
    nodes = frozenset(node for node in (*CONTROL_NODES, IMEX_CHANNEL) if _is_node(root / node.removeprefix("/")))
    kinds, problems = specs.read()
    caps: dict[tuple[int, int, int | None], str] = {}
    try:
        caps = dict(_capabilities(driver_root))
    except OSError as error:
        problems.append(f"cannot read the capabilities of MIG: {refusals.named(error)}")
    except ValueError as error:
        problems.append(f"cannot read the capabilities of MIG: {error}")
    return HostFiles(
        looked=True,
        nodes=nodes,
        caps=caps,
        cdi={kind: frozenset(devices) for kind, devices in kinds.items()},
        cdi_minors={
            f"{kind}={name}": minors for kind, devices in kinds.items() for name, minors in devices.items() if minors
        },
        dev=str(root / "dev"),
        cdi_dirs=tuple(map(str, specs.directories)),
        problem="; ".join(problems),
    )


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_node(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        return False


def _capabilities(driver_root: Path) -> Iterator[tuple[tuple[int, int, int | None], str]]:
    """The nodes by (minor of the GPU, GPU instance, compute instance), from lines `gpu0/gi1/ci0/access 13`."""
    for path in dict.fromkeys((driver_root / _MINORS, _ROOT / _MINORS)):
        try:
            lines = path.read_text("ascii").splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            if found := _CAPABILITY.fullmatch(line):
                minor, gpu_instance, compute, number = found.groups()
                key = int(minor), int(gpu_instance), None if compute is None else int(compute)
                yield key, f"/dev/nvidia-caps/nvidia-cap{number}"
        return


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_NAME)


def machine_type(path: Path | None) -> str:
    """What the firmware calls this machine, from the first line of a file such as `/sys/class/dmi/id/product_name`;
    `unknown` where nobody says. Raises nothing.
    """
    try:
        text = "" if path is None else _beginning(path).decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    return text.partition("\n")[0].rstrip() or "unknown"
