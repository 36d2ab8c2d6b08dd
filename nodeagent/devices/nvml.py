"""The GPUs that NVIDIA's driver knows, through NVML: who asks what when, and what becomes of no answer.

Each GPU is asked in a thread of its own, of its way to others in another, the library as a whole in one more, and the
XIDs of each GPU are waited for in yet another, so that what hangs holds up nothing else. The library is shut down and
initialised anew only while no other call is under way, and nobody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from nodeagent.devices import nvml_calls, nvml_errors
from nodeagent.devices.looking import Fault, LookingDriver, assemble
from nodeagent.devices.nvml_errors import CannotLoad, Handle, LibraryFault, NVMLError
from nodeagent.devices.nvml_library import Library, System
from nodeagent.devices.nvml_topology import Ways
from nodeagent.devices.turns import Turns
from nodeagent.devices.vgpu import VgpuLook
from nodeagent.devices.xid_watch import XidWatch
from nodeagent.errand import Errand, Hangs
from nodeagent.model.inventory import (
    ComputeMode,
    DriverChange,
    DriverError,
    Gpu,
    GpuHealth,
    GpuProcess,
    Inventory,
    InventoryReason,
)

T = TypeVar("T")


class NvmlDriver(LookingDriver):
    """GPUs and their MIG devices by NVML; looks every `interval` seconds, and hears of XIDs while it runs.

    `deadline` is how long a GPU, or the library, may take to answer in seconds (a GPU without persistence mode takes
    a few when it is first touched). While a GPU is lost NVML is initialised anew after `reopen_after` seconds, and
    then ever more seldom. `driver_root` and `library` say where NVML is. Without `xids` nobody hears of them.
    """

    def __init__(
        self,
        *,
        wake: Callable[[], None],
        interval: float = 10.0,
        deadline: float = 5.0,
        reopen_after: float = 60.0,
        sysfs: Path = Path("/sys"),
        procfs: Path = Path("/proc"),
        driver_root: Path = Path("/"),
        library: Path | None = None,
        xids: bool = True,
    ) -> None:
        super().__init__(wake=wake, interval=interval)
        self._deadline = deadline
        self._hangs = f"no answer within {deadline:g} s"
        self._library = Library(sysfs, reopen_after, driver_root=driver_root, path=library, procfs=procfs)
        self._library_errand = Errand("nvml", on_late=self.refresh)
        self._gpus: dict[int, Turns] = {}
        self._ways = Ways(deadline, on_late=self.refresh)
        self._sysfs = sysfs
        self._vgpu = VgpuLook(sysfs)
        self._lost = False
        self._was_one = False
        self._doubted: set[str] = set()
        self._blocked_at: int | None = None
        self._wants_xids = xids
        self._listens = False
        self._watch = XidWatch(news=self._on_news, refresh=self.refresh, deadline=deadline)

    async def run(self) -> None:
        """Looks, and waits for XIDs, until cancelled."""
        self._listens = self._wants_xids
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._watch.run())

    # --- looks ------------------------------------------------------------------------------------------------------

    async def _look(self, last: Inventory) -> Inventory:
        found, vgpu = await asyncio.gather(self._look_at_gpus(last), self._vgpu.find())
        return replace(found, vgpu=vgpu)

    async def _look_at_gpus(self, last: Inventory) -> Inventory:
        """All GPUs at once. The library, the GPUs and, where they are others than before, the ways between them take
        `deadline` seconds each at most.
        """
        known = last.driver_version is not None
        try:
            system = await self._open()
            self._lost = False
            doubted, self._doubted = self._doubted, set()
            answers = await asyncio.gather(*(self._ask(index) for index in range(system.count)))
            gone = [answer for answer in answers if isinstance(answer, NVMLError)]
            if gone:
                raise gone[0]
        except Hangs:
            message = f"cannot ask NVML: {self._hangs}"
            return self._unanswered(last, LibraryFault(InventoryReason.DRIVER_ERROR, message, GpuHealth.HANG))
        except (NVMLError, CannotLoad) as error:
            self._library.distrust()
            return self._unanswered(last, nvml_errors.library_fault(error, self._library.versions(), known=known))
        if (blocked := self._blocked(system, answers)) is not None:
            return self._unanswered(last, nvml_errors.taken_away(blocked, known=known))
        told = [answer for answer in answers if isinstance(answer, tuple)]
        topology = await self._ways.find(system.opening, [whole for whole, *_ in told])
        if self._listens:
            self._watch.looked(whole for whole, *_ in told)
            self._xids = self._watch.log
        found = assemble(
            [gpu for answer in told for gpu in self._believed(answer, last, doubted)],
            [answer for answer in answers if isinstance(answer, Fault)],
            known=last.gpus,
            driver_version=system.driver_version,
            cuda_version=system.cuda_version,
            driver_load=system.driver_load,
            topology=topology,
        )
        return self._compared(replace(found, kernel_version=system.kernel_version), system)

    def _compared(self, found: Inventory, system: System) -> Inventory:
        """With what is to be said where kernel and library differ: if they did not before, under this process, that the
        driver was replaced.
        """
        self._was_one = self._was_one or system.is_one is True
        if system.is_one is not False:
            return found
        versions = self._library.versions()
        differs = f"{nvml_errors.DIFFER}{versions}: {nvml_errors.MAKES_ONE}"
        if self._was_one:
            differs = f"the driver was replaced while this container ran{versions}; restart the agent"
        return replace(
            found,
            change=DriverChange.REPLACED if self._was_one else None,
            message=f"{found.message}; {differs}" if found.message else differs,
        )

    def _blocked(self, system: System, answers: Sequence[object]) -> str | None:
        """What they all answer, where no GPU can be asked for a reason that need not be its own; None where one can.

        With the first such look the library is begun anew, at once: that fails where the device nodes have gone. Where
        it does not, a GPU that is alone is ill itself; several are not, all at once and in the same words.
        """
        faults = [answer for answer in answers if isinstance(answer, Fault) and answer.health is not GpuHealth.HANG]
        answered = sum(not isinstance(answer, Fault) for answer in answers)
        alone = len(faults) == 1 and system.count > 1  # others hang: it may be ill like them
        if answered or not faults or alone or not all(fault.blocked for fault in faults):
            self._blocked_at = None
            return None
        if self._blocked_at is None:
            self._blocked_at = system.opening
            self._library.distrust()
            self.refresh()
        elif len(faults) == 1 and system.opening > self._blocked_at:
            return None
        return faults[0].message

    async def _open(self) -> System:
        """The library, started anew if that is due and nothing else is under way; nothing begins meanwhile."""
        due = await self._library_errand.run(partial(self._library.is_stale, lost=self._lost), self._deadline)
        idle = due and not self._busy and await self._watch.close() and not self._busy
        return await self._library_errand.run(partial(self._library.open, anew=idle), self._deadline)

    async def _ask(self, index: int) -> tuple[Gpu, ...] | Fault | Exception:
        """One GPU and its MIG devices; an NVMLError where it is the driver that is gone."""
        try:
            answer = await self._gpu(index).run(partial(nvml_calls.read_gpu, index, self._sysfs))
        except Hangs:
            return Fault(index, GpuHealth.HANG, self._hangs)
        except UnicodeError as error:
            self._lost = True
            return Fault(index, GpuHealth.LOST, f"its answer is garbage: {error}")
        except NVMLError as error:
            if nvml_errors.is_unloaded(error):
                gone: Exception = error
                return gone
            self._lost = self._lost or not nvml_errors.is_refused(error)  # a fresh library is refused as well
            return Fault(index, GpuHealth.LOST, str(error), blocked=nvml_errors.is_taken_away(error))
        if self._listens:  # at once: what is reported while others are asked is not missed
            self._watch.listen(answer[0])
        return answer

    def _believed(self, answer: tuple[Gpu, ...], last: Inventory, doubted: AbstractSet[str]) -> tuple[Gpu, ...]:
        """A GPU that tells of no MIG device any more, where it had some, is believed at the second time in a row, which
        is at once: until then all is as it was, but for what it is called by. `doubted` are those of the first time.
        """
        whole, *parts = answer
        known = tuple(gpu for gpu in last.gpus if gpu.physical == whole.uuid)
        if parts or whole.message or whole.uuid in doubted or all(gpu.mig is None for gpu in known):
            return answer
        self._doubted.add(whole.uuid)
        self.refresh()
        return tuple(replace(gpu, index=whole.index, minor=whole.minor, pci_bus_id=whole.pci_bus_id) for gpu in known)

    def _unanswered(self, last: Inventory, fault: LibraryFault) -> Inventory:
        """There was no look. An error of our own access (without a `health`) says nothing about the GPUs: they stay as
        they are. An absent or hanging driver does.
        """
        if self._listens:
            self._watch.not_looked(fault.message)
            self._xids = self._watch.log
        gpus = last.gpus
        if fault.health is not None:
            gpus = tuple(replace(gpu, health=fault.health, message=fault.message) for gpu in gpus)
        return replace(
            last,
            gpus=gpus,
            reason=fault.reason,
            message=fault.message,
            complete=False,
            change=fault.change,
            kernel_version=self._library.kernel_version,
        )

    def _on_news(self) -> None:
        self._xids = self._watch.log
        self._wake()

    @property
    def _busy(self) -> bool:
        """Whether any GPU is being asked something, or about to be."""
        return self._ways.busy or any(gpu.busy for gpu in self._gpus.values())

    def _gpu(self, index: int) -> Turns:
        """Where to ask the GPU at `index`."""
        if index not in self._gpus:
            self._gpus[index] = Turns(f"nvml-gpu-{index}", self._deadline, on_late=self.refresh)
        return self._gpus[index]

    # --- what is asked of one GPU -----------------------------------------------------------------------------------

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """Which processes may use this GPU; None when it has no compute mode."""
        return await self._call(f"read the compute mode of {uuid}", uuid, nvml_calls.compute_mode)

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Change that; takes privilege."""
        task = f"set the compute mode of {uuid} to {mode.value}"
        await self._call(task, uuid, partial(nvml_calls.set_compute_mode, mode))

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """The processes that compute on this GPU, by pid. Their pids are known where the agent shares the host's."""
        return await self._call(f"list the processes on {uuid}", uuid, nvml_calls.processes)

    async def _call(self, task: str, uuid: str, call: Callable[[Handle], T]) -> T:
        """What `call` makes of this GPU, within the deadline."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._find_and_call(task, uuid, call)
        except (TimeoutError, Hangs) as error:
            raise DriverError(f"cannot {task}: {self._hangs}") from error
        except UnicodeError as error:
            raise DriverError(f"cannot {task}: its answer is garbage: {error}") from error
        except NVMLError as error:
            raise DriverError(f"cannot {task}: {nvml_errors.refusal(error) or error}") from error

    async def _find_and_call(self, task: str, uuid: str, call: Callable[[Handle], T]) -> T:
        """The call, where the GPU was last seen; when it does not answer there, after another look at all GPUs."""
        gpu = self.inventory.by_uuid().get(uuid)
        if gpu is not None:
            try:
                return await self._call_at(gpu, call)
            except NVMLError as error:
                if nvml_errors.refusal(error) is not None:
                    raise
        inventory = await self._looked()
        gpu = inventory.by_uuid().get(uuid)
        if gpu is None:
            why = "the driver lists no such GPU" if inventory.complete else inventory.message
            raise DriverError(f"cannot {task}: {why}")
        if gpu.health is not GpuHealth.OK:
            raise DriverError(f"cannot {task}: {gpu.message}")
        return await self._call_at(gpu, call)

    async def _call_at(self, gpu: Gpu, call: Callable[[Handle], T]) -> T:
        """The call, in the thread of this GPU, and not while the library may be shut down."""
        while self._library_errand.busy:
            await self._library_errand.idle()
        return await self._gpu(gpu.index).run(partial(nvml_calls.at, gpu.index, gpu.uuid, call))
