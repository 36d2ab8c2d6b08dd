"""The daemon of one GPU, from the first wish for it until nothing is left of it: performs what `lifecycle` decides.

One task per GPU. Whatever a daemon, the driver or the disk does not answer holds up this GPU and no other: every call
has a deadline. What must be known after a crash is on the disk before it is true: the record before the start, the
compute mode before it is changed. The record goes last, so that as long as anything is left there is a record of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from nodeagent.model.config import Contract
from nodeagent.model.inventory import DriverError
from nodeagent.model.mps import DaemonState
from nodeagent.mps import directory
from nodeagent.mps.compute_modes import ComputeModes
from nodeagent.mps.control import Control, ControlError, NoAnswer, NoDaemon, Unexpected
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import Layout, ObservedDaemon, Record
from nodeagent.mps.gpus import Gpus
from nodeagent.mps.hunt import CannotEnd, Hunt
from nodeagent.mps.launch import CannotLaunch, Launcher
from nodeagent.mps.lifecycle import (
    Backoff,
    Step,
    Timing,
    Wish,
    altered,
    daemon_limits,
    in_the_way,
    next_step,
    started_for,
)
from nodeagent.mps.logs import DaemonLogs
from nodeagent.mps.occupancy import Occupancy
from nodeagent.mps.process import Process
from nodeagent.mps.record import RecordFile
from nodeagent.mps.rooms import Rooms
from nodeagent.mps.silence import Silence, stood_still
from nodeagent.mps.telling import Telling

logger = logging.getLogger(__name__)

_FAULTS: Final = (CannotEnd, CannotLaunch, ControlError, DriverError, OSError)


@dataclass(frozen=True, slots=True)
class Means:
    """What the daemons of one MPS root have in common."""

    layout: Layout
    gpus: Gpus
    modes: ComputeModes
    launcher: Launcher
    rooms: Rooms
    timing: Timing


class Daemon:
    """The daemon of the GPU `uuid`; `changed` is called whenever `observed` differs from before."""

    def __init__(self, uuid: str, means: Means, *, wish: Wish, changed: Callable[[], None]) -> None:
        self._uuid = uuid
        self._layout, self._gpus, self._modes = means.layout, means.gpus, means.modes
        self._launcher, self._rooms, self._timing = means.launcher, means.rooms, means.timing
        self._disk = Disk(means.layout.directory(uuid), name=f"mps-{uuid}")
        self._logs = DaemonLogs(means.layout.log(uuid), uuid)
        self._wish = wish
        self._wake = asyncio.Event()
        self._looked = False
        self._gone = False
        self._record = RecordFile(means.layout.record(uuid), self._disk)
        self._hunt = Hunt(uuid, means.layout, self._disk, means.timing)
        self._occupancy = Occupancy(uuid, means.gpus, self._hunt, means.timing)
        self._process: Process | None = None
        self._ends: asyncio.Task[None] | None = None
        self._misplaced = False
        self._well_since: float | None = None
        self._silence = Silence()
        self._strays_at = 0.0
        self._backoff, self._leaving = Backoff(), Backoff()
        self._telling = Telling(uuid, wish.contract, changed)

    @property
    def observed(self) -> ObservedDaemon:
        """What is known now."""
        return self._telling.observed

    @property
    def settled(self) -> asyncio.Event:
        """Set when `observed` rests on what was found."""
        return self._telling.settled

    def want(self, wish: Wish) -> None:
        """Ask for something else, or for the same."""
        if wish != self._wish:
            self._wish = wish
            self._wake.set()

    async def run(self) -> None:
        """Until no daemon is asked for and none is left. Cancelled, it leaves a daemon running."""
        logs = asyncio.create_task(self._logs.run())
        try:
            while not self._gone:
                self._wake.clear()
                await self._rest(await self._turn())
        finally:
            logs.cancel()
            self._keep(None)

    async def _rest(self, pause: float) -> None:
        begun = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()
        if stood_still(begun, pause, time.monotonic(), self._timing):
            self._silence = Silence()

    # --- steps: each returns after how many seconds there is something to do ----------------------------------------

    async def _turn(self) -> float:
        try:
            if not self._looked:
                await self._look()
            if self._process is not None and not self._process.alive():
                self._lost(f"process {self._process.pid} has ended")
            return await self._do(next_step(self._wish, self._record.known, runs=self._process is not None))
        except _FAULTS as error:
            return self._failed(reason(error) if isinstance(error, OSError) else str(error))
        except Exception:
            logger.exception("%s: a fault of the MPS host", self._uuid)
            return self._failed("a fault of the MPS host: see its log")

    async def _do(self, step: Step) -> float:
        match step:
            case Step.STOP:
                return await self._stop()
            case Step.LEAVE:
                return await self._leave()
            case Step.START:
                return await self._start()
            case Step.CHECK:
                return await self._check()
            case Step.RECOGNISE:
                return await self._recognise()
            case Step.WAIT:
                self._tell(DaemonState.STOPPING, "nobody has asked for daemons yet")
                return self._timing.strays_every

    def _failed(self, message: str) -> float:
        """A step could not be done: it is told why, and what is next is decided anew a little later."""
        ends = self._wish.target(self._record.known) is None or self.observed.state is DaemonState.STOPPING
        self._tell(DaemonState.STOPPING if ends else DaemonState.FAILED, message)
        return self._timing.look_again

    async def _look(self) -> None:
        """Find what hosts before this one have left."""
        await self._record.load()
        with suppress(OSError):  # then it is not found, and what was left is cleared when one is started
            await self._disk.do(partial(directory.publish, self._layout, self._uuid))
        process = await self._hunt.find()
        record = self._record.known
        unproven = record is not None and not record.verified
        if process is not None and not (unproven and not self._launcher.has_begun(process, self._uuid)):
            self._keep(process)
            self._misplaced = not self._launcher.shares_memory(process)
        self._looked = True

    async def _recognise(self) -> float:
        """A daemon whose record is lost, and that has the limits that are asked for, is the one that is asked for.

        Another one goes, but not under its clients: it may be the one, with limits that somebody has changed. While it
        cannot be asked nobody can tell, and it is left alone.
        """
        contract = self._wish.contract
        assert contract is not None  # noqa: S101 - for the types: that is what RECOGNISE means
        begun = time.monotonic()
        try:
            found = altered(await self._control().limits(), contract)
        except (NoDaemon, NoAnswer) as error:
            return await self._silent(begun, error)
        self._silence = Silence()
        if not found:
            await self._record.save(Record(contract, verified=True))
            return 0.0
        if await self._occupancy.has_clients():
            message = f"its record is lost and its limits are {found}: it is started anew when its clients have left"
            self._tell(DaemonState.OCCUPIED, message)
            return self._timing.look_again
        return await self._stop()

    async def _start(self) -> float:
        if (pause := self._pause()) > 0:
            return pause
        contract = self._wish.target(self._record.known)
        assert contract is not None  # noqa: S101 - for the types: that is what START means
        if self.observed.state is not DaemonState.FAILED:
            self._tell(DaemonState.STARTING)
        try:
            self._launcher.find()
        except CannotLaunch as error:
            self._tell(DaemonState.FAILED, str(error))
            return self._timing.look_again
        found = await self._hunt.seen()
        await self._hunt.end(found.daemons)
        if held := in_the_way(await self._gpus.processes(self._uuid), found.servers):
            self._tell(DaemonState.OCCUPIED, held)
            return self._timing.look_again
        await self._hunt.end(found.servers)
        await self._logs.look()  # what the daemon before said last may go with its room
        room, pipe = self._layout.directory(self._uuid), self._layout.pipe(self._uuid)
        # With another shared memory the containers that run cannot be clients any more.
        await self._disk.do(partial(self._rooms.prepare, room, pipe, anew=self._misplaced))
        await self._record.save(started_for(contract, self._record.known))
        await self._modes.take(self._uuid)
        try:
            await self._launch(contract)
        except (ControlError, CannotLaunch):
            self._backoff = self._backoff.failed(time.monotonic(), self._timing)
            raise
        return self._timing.check_every

    async def _launch(self, contract: Contract) -> None:
        """Start it, and see that it gives its clients their limits. What fails in that is ended."""
        prepare = partial(directory.prepare, self._layout, self._uuid, swap=not self._launcher.apart)
        try:
            await self._disk.do(prepare)
            await self._launcher.start(self._uuid)
        finally:
            await self._disk.do(partial(directory.publish, self._layout, self._uuid))
        process = await self._hunt.find()
        if process is None:
            await self._hunt.end((await self._hunt.seen()).daemons)
            raise NoDaemon("it ended as soon as it was started, or something else listens at its socket")
        try:
            self._keep(process)
            self._misplaced = False
            self._occupancy.forget()
            await self._control().probe()
            await self._limit(contract)
            await self._well()
        except _FAULTS:
            await self._hunt.end([process])
            self._keep(None)
            raise

    async def _check(self) -> float:
        process, record = self._process, self._record.known
        assert process is not None  # noqa: S101 - for the types: that is what CHECK means
        assert record is not None  # noqa: S101
        if time.monotonic() >= self._strays_at:
            self._strays_at = time.monotonic() + self._timing.strays_every
            await self._hunt.end_strays(process)
        await self._occupancy.look()
        if self._misplaced and not await self._occupancy.has_clients():
            return await self._stop()
        begun = time.monotonic()
        try:
            self._hunt.identify(process)
            await self._compare(record)
        except (NoDaemon, NoAnswer) as error:
            return await self._silent(begun, error)
        except ControlError:
            self._silence = Silence()
            raise
        self._silence = Silence()
        return self._timing.check_every

    async def _compare(self, record: Record) -> None:
        """Its limits are those of its contract, or are set again."""
        changed = altered(await self._control().limits(), record.contract)
        if not changed:
            await self._well()
        elif not record.verified:
            await self._limit(record.contract)
            await self._well()
        else:
            logger.warning("%s: somebody has changed its limits to %s: they are set again", self._uuid, changed)
            await self._control().set_limits(*daemon_limits(record.contract))
            await self._record.note(replace(record, restored=record.restored + 1))
            self._tell_well(altered=changed)

    async def _silent(self, begun: float, error: ControlError) -> float:
        """It does not answer: told at once; ended, so that it can be started again, when that lasts."""
        process, now = self._process, time.monotonic()
        if process is None or not process.alive():
            return 0.0
        if stood_still(begun, self._timing.answers_within, now, self._timing):
            self._silence = Silence()
            return 0.0
        self._silence = self._silence.failed(begun)
        self._tell(DaemonState.FAILED, "does not answer" if isinstance(error, NoAnswer) else str(error))
        if (pause := self._silence.lasts(now, self._timing)) > 0:
            return pause
        await self._hunt.kill(process)
        self._lost(f"did not answer for {self._timing.silent_at_most:g} s and was killed")
        return 0.0

    async def _stop(self) -> float:
        process = self._process
        assert process is not None  # noqa: S101 - for the types: that is what STOP means
        self._tell(DaemonState.STOPPING)
        with suppress(ControlError, CannotLaunch):
            await self._control().quit()
            await process.ended(self._timing.ends_within)
        await self._hunt.end([process])
        self._keep(None)
        self._backoff = self._leaving = Backoff()
        await self._hunt.end((await self._hunt.seen()).servers)
        return 0.0

    async def _leave(self) -> float:
        if (pause := self._leaving.not_before - time.monotonic()) > 0:
            return pause
        self._tell(DaemonState.STOPPING)
        found = await self._hunt.seen()
        await self._hunt.end((*found.daemons, *found.servers))
        await self._disk.do(partial(directory.remove_pipe, self._layout, self._uuid))
        try:
            await self._modes.give_back(self._uuid)
        except DriverError:  # for a GPU that is not there any more this may never be possible
            self._leaving = self._leaving.failed(time.monotonic(), self._timing)
            raise
        await self._record.remove()
        await self._logs.look()
        await self._disk.do(partial(self._rooms.end, self._layout.directory(self._uuid)))
        self._gone = self._wish.contract is None
        logger.info("%s: no daemon any more", self._uuid)
        return 0.0

    # --- parts of steps ---------------------------------------------------------------------------------------------

    def _control(self) -> Control:
        pipe, within = self._layout.pipe(self._uuid), self._timing.answers_within
        return Control(pipe, program=self._launcher.find(), deadline=within)

    async def _limit(self, contract: Contract) -> None:
        """Give the daemon its limits, and see that it has them."""
        await self._control().set_limits(*daemon_limits(contract))
        if wrong := altered(await self._control().limits(), contract):
            memory, threads = daemon_limits(contract)
            raise Unexpected(f"limits of {memory} MiB and {threads} % of threads are read back as {wrong}")

    async def _well(self) -> None:
        """It answers, and has its limits."""
        if (record := self._record.known) is not None and not record.verified:
            await self._record.note(replace(record, verified=True))
        self._well_since = self._well_since or time.monotonic()
        self._tell_well()

    def _tell_well(self, *, altered: str = "") -> None:
        """It is as it should be, or would be for the clients that it has: new ones would not find their data."""
        if self._misplaced:
            memory = self._launcher.shared_memory
            message = f"its shared memory is not {memory}: it is started anew when its clients have left"
            self._tell(DaemonState.OCCUPIED, message, altered=altered)
        elif self._occupancy.held:
            self._tell(DaemonState.OCCUPIED, self._occupancy.held, altered=altered)
        else:
            self._tell(DaemonState.READY, altered=altered)

    def _lost(self, message: str) -> None:
        """There is no daemon any more, though one should run."""
        now = time.monotonic()
        well_for = 0.0 if self._well_since is None else now - self._well_since
        self._backoff = self._backoff.failed(now, self._timing, well_for=well_for)
        self._keep(None)
        self._tell(DaemonState.FAILED, message)

    def _keep(self, process: Process | None) -> None:
        """Take this process for the daemon, and be woken when it ends."""
        if self._ends is not None:
            self._ends.cancel()
        self._process, self._ends = process, None
        self._well_since, self._silence = None, Silence()
        if process is not None:
            self._ends = asyncio.create_task(self._wake_at_end(process))

    async def _wake_at_end(self, process: Process) -> None:
        await process.ended()
        self._wake.set()

    def _pause(self) -> float:
        return max(0.0, self._backoff.not_before - time.monotonic())

    def _tell(self, state: DaemonState, message: str = "", *, altered: str = "") -> None:
        record, process, target = self._record.known, self._process, self._wish.target(self._record.known)
        serves = record.contract if record is not None and (process is not None or target is None) else target
        self._telling.tell(state, message, contract=serves, process=process, record=record, altered=altered)
