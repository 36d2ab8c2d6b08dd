"""The GPUs of a file: a node without GPUs, or with broken ones, for trying configs, for tests and for CI.

The file is followed while the agent runs: editing it makes GPUs appear, vanish, fail or hang, MIG devices come and go,
and XIDs happen. A GPU that hangs is asked by the same means as a real one, in a thread that does not return until the
file says something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from nodeagent import refusals
from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.devices.looking import Fault, LookingDriver, Subscribe, assemble
from nodeagent.devices.simulated_xids import XidNews
from nodeagent.devices.simulation_file import SimulatedNode, Use, parse
from nodeagent.devices.turns import Turns
from nodeagent.documents.strict import Rejected
from nodeagent.errand import Errand, Hangs
from nodeagent.model.inventory import (
    ComputeMode,
    DriverError,
    Gpu,
    GpuHealth,
    GpuProcess,
    Inventory,
    InventoryReason,
)

T = TypeVar("T")

_READ_WITHIN = 5.0

_MOST_READ = 2 << 20
"""Bytes: more than a document may have."""

_MESSAGES = {GpuHealth.LOST: "the simulation file says that it is lost", GpuHealth.HANG: "no answer: simulated"}


class SimulatedDriver(LookingDriver):
    """The GPUs that the file at `path` describes.

    It is read anew whenever something happens in its directory, and every `interval` seconds in any case. `deadline` is
    how long a GPU that hangs is waited for, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        node_name: str,
        subscribe: Subscribe,
        wake: Callable[[], None],
        interval: float = 10.0,
        deadline: float = 0.05,
    ) -> None:
        super().__init__(wake=wake, interval=interval)
        self._path = path
        self._node_name = node_name
        self._deadline = deadline
        self._files = Turns("simulation-file", _READ_WITHIN, on_late=self.refresh)
        self._modes = ComputeModes(path)
        self._read: tuple[bytes, SimulatedNode | Rejected] | None = None
        self._hanging: dict[str, _HangingGpu] = {}
        self._news = XidNews()
        subscribe(path.parent, self.refresh)

    async def _look(self, last: Inventory) -> Inventory:
        try:
            outcome = await self._files.run(self._parse)
        except OSError as error:
            return self._unread(last, f"cannot read {self._path}: {refusals.words(error, self._path)}")
        except Hangs:
            return self._unread(last, f"cannot read {self._path}: no answer within {_READ_WITHIN:g} s")
        if isinstance(outcome, Rejected):
            return replace(last, reason=InventoryReason.INVALID_FILE, message=_summary(outcome))
        self._release_all_but_hanging(outcome.gpus)
        answers = await asyncio.gather(*(self._ask(gpu) for gpu in outcome.gpus))
        self._xids = self._news.after(self._xids, outcome.xids, outcome.silent, time.monotonic())
        return _inventory(outcome, answers)

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """The mode that was set last, else the one in the file."""
        task = f"read the compute mode of {uuid}"
        return await self._call(task, uuid, lambda use: self._modes.read().get(uuid, use.mode))

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Kept beside the file, for all that simulate this node."""
        task = f"set the compute mode of {uuid} to {mode.value}"
        await self._call(task, uuid, lambda use: self._modes.keep(uuid, mode, use.mode))

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """What the file says."""
        return await self._call(f"list the processes on {uuid}", uuid, lambda use: use.processes)

    async def _call(self, task: str, uuid: str, call: Callable[[Use], T]) -> T:
        """What `call` makes of the use of this GPU, if that answers at all. `call` is made in a thread."""
        try:
            node = await self._files.run(self._parse)
            if isinstance(node, Rejected):
                raise DriverError(f"cannot {task}: {_summary(node)}")
            self._release_all_but_hanging(node.gpus)
            gpu = next((one for one in node.gpus if one.uuid == uuid), None)
            if gpu is None:
                raise DriverError(f"cannot {task}: the simulation file has no such GPU")
            answer = await self._ask(gpu)
            if isinstance(answer, Fault):
                raise DriverError(f"cannot {task}: {answer.message}")
            return await self._files.run(partial(call, node.uses[uuid]))
        except OSError as error:
            raise DriverError(f"cannot {task}: {error.filename or self._path}: {refusals.words(error)}") from error
        except Hangs as error:
            raise DriverError(f"cannot {task}: {self._path}: no answer within {_READ_WITHIN:g} s") from error

    def _parse(self) -> SimulatedNode | Rejected:
        """Reads the file, in a thread. What has the same bytes as before is not parsed again."""
        data = _bytes(self._path)
        if self._read is None or self._read[0] != data:
            try:
                self._read = data, parse(data, str(self._path), self._node_name)
            except Rejected as rejected:
                self._read = data, rejected
        return self._read[1]

    def _unread(self, last: Inventory, message: str) -> Inventory:
        """The file cannot be read: a driver that is not there yet, or was there before."""
        missing = last.reason in {InventoryReason.PENDING, InventoryReason.DRIVER_MISSING}
        reason = InventoryReason.DRIVER_MISSING if missing else InventoryReason.INVALID_FILE
        return replace(last, reason=reason, message=message)

    def _release_all_but_hanging(self, gpus: Iterable[Gpu]) -> None:
        """Lets the calls return that wait for GPUs which no longer hang."""
        hanging = {gpu.uuid for gpu in gpus if gpu.health is GpuHealth.HANG}
        for uuid in self._hanging.keys() - hanging:
            self._hanging.pop(uuid).released.set()

    async def _ask(self, gpu: Gpu) -> Gpu | Fault:
        if gpu.health is not GpuHealth.HANG:
            return _answer(gpu)
        hanging = self._hanging.get(gpu.uuid)
        if hanging is None:
            hanging = self._hanging[gpu.uuid] = _HangingGpu(Errand(f"simulated-{gpu.uuid}", on_late=self.refresh))
        with contextlib.suppress(Hangs):
            await hanging.errand.run(hanging.released.wait, self._deadline)
        return _answer(gpu)


@dataclass(frozen=True, slots=True)
class _HangingGpu:
    """A GPU whose call is stuck until it is released."""

    errand: Errand
    released: threading.Event = field(default_factory=threading.Event)


def load_inventory(path: Path, node_name: str) -> Inventory:
    """What the file at `path` describes, read once. Raises OSError and `Rejected`, with all violations."""
    node = parse(_bytes(path), str(path), node_name)
    return _inventory(node, [_answer(gpu) for gpu in node.gpus])


def _bytes(path: Path) -> bytes:
    """The file, or so much of it that it is known to be too large."""
    with path.open("rb") as file:
        return file.read(_MOST_READ)


def _answer(gpu: Gpu) -> Gpu | Fault:
    """What asking a GPU of that health comes to."""
    message = _MESSAGES.get(gpu.health)
    return gpu if message is None else Fault(gpu.index, gpu.health, message)


def _inventory(node: SimulatedNode, answers: Iterable[Gpu | Fault]) -> Inventory:
    told = list(answers)
    return assemble(
        [one for answer in told if isinstance(answer, Gpu) for one in (answer, *node.parts[answer.uuid])],
        [answer for answer in told if isinstance(answer, Fault)],
        known=node.everything,
        driver_version=node.driver_version,
        cuda_version=node.cuda_version,
        driver_load=node.driver_load,
        topology=node.topology,
        vgpu=node.vgpu,
    )


def _summary(rejected: Rejected) -> str:
    first, *others = rejected.violations
    return f"{first} (and {len(others)} more)" if others else str(first)
