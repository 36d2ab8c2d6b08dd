"""The MPS host: makes the daemons of one node be what the agent asks for, and tells what is true.

It is a process of its own, since clients of a daemon outlive neither the daemon nor its supervision well, and an agent
is restarted more often than pods end. Its life is not that of the daemons either: whenever it ends, however it does,
they go on, and the next one takes over what it finds.

Triggers carry no data: whatever wakes it, it reads what is asked for anew, and has one `Daemon` per GPU that is asked
for or of which something is left. Nothing is told before each of those knows how it stands, so that a host that was
restarted takes no ready daemon away for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from nodeagent.durable import atomic
from nodeagent.durable.formats import FORMATS, Formats
from nodeagent.durable.lock import FileLock
from nodeagent.model.config import Contract
from nodeagent.mps import directory, shm
from nodeagent.mps.compute_modes import ComputeModes
from nodeagent.mps.control import PROGRAM, check_root
from nodeagent.mps.daemon import Daemon, Means
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import Layout, Observed, checksum, decode_desired, encode_observed, is_uuid
from nodeagent.mps.gpus import AllGpus
from nodeagent.mps.launch import CannotLaunch, Launcher
from nodeagent.mps.lifecycle import Timing, Wish
from nodeagent.mps.preparation import Preparation
from nodeagent.mps.process import mps_processes
from nodeagent.mps.rooms import Rooms

logger = logging.getLogger(__name__)

Subscribe = Callable[[Path, Callable[[], None]], None]
"""`subscribe(directory, wake)`: `wake` is called on the loop whenever something happens in that directory."""

DEFAULT_TIMING = Timing()

_LOOK_EVERY = 10.0
_LOCK_RETRY = 0.2
_SETTLES_WITHIN = 3.0


class Unusable(Exception):
    """The host cannot start: its MPS root, or the shared memory below it, cannot be used."""


class Superseded(Exception):
    """The lock is not at its path any more: the next host starts from what is there now."""


class MpsHost:
    """The host of the MPS root `root`.

    `program` is NVIDIA's control program, a path or a name on PATH. `shm_size` is the size in bytes of the tmpfs that
    daemons and clients get as /dev/shm, 0 for the /dev/shm of the node itself.
    """

    def __init__(
        self,
        root: Path,
        *,
        gpus: AllGpus,
        subscribe: Subscribe,
        program: str = PROGRAM,
        shm_size: int = 0,
        timing: Timing = DEFAULT_TIMING,
        formats: Formats = FORMATS,
    ) -> None:
        # Daemons get these paths in their environment, by which the next host knows them: one name for one directory.
        self._layout = Layout(root.resolve())
        self._subscribe = subscribe
        self._shm_size = shm_size
        self._timing = timing
        self._formats = formats
        self._launcher = Launcher(self._layout, program, shared_memory=self._layout.shared_memory if shm_size else None)
        self._modes = ComputeModes(self._layout.compute_modes, gpus)
        rooms = Rooms(bounded=shm_size > 0)
        self._means = Means(self._layout, gpus, self._modes, self._launcher, rooms, timing)
        self._life = secrets.token_hex(16)
        self._beat = 0
        self._preparation = Preparation(self._means, gpus, life=self._life)
        self._disk = Disk(self._layout.root, name="mps-root")
        self._lock = FileLock(self._layout.lock)
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._desired: Mapping[str, Contract] | None = None
        self._answers = ""
        self._unread = ""
        self._problem = ""
        self._daemons: dict[str, Daemon] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._searched_at: float | None = None
        self._written: Observed | None = None

    def look_again(self) -> None:
        """Read now what is asked for, and try now what can be done."""
        self._wake.set()
        self._preparation.look_again()

    async def run(self) -> None:
        """Host until cancelled. Raises Unusable, Superseded, and an ExceptionGroup for a fault of its own."""
        await self._become_the_only_one()
        try:
            await self._prepare()
            logger.info("hosting MPS daemons in %s", self._layout.root)
            self._subscribe(self._layout.root, self._wake.set)
            await self._turn()
            await self._settle()
            # A host of which half has failed would go on telling what is not true: it ends, and is started again.
            async with asyncio.TaskGroup() as halves:
                halves.create_task(self._keep_telling())
                halves.create_task(self._keep_looking())
                halves.create_task(self._preparation.run())
        except ExceptionGroup as faults:
            if (lost := faults.subgroup(Superseded)) is not None and len(lost.exceptions) == len(faults.exceptions):
                raise Superseded(*lost.exceptions[0].args) from None
            raise
        finally:
            await self._let_go()
            self._lock.release()

    # --- start and end ----------------------------------------------------------------------------------------------

    async def _become_the_only_one(self) -> None:
        """Make the root if need be, and wait for the host before this one to end."""
        root = self._layout.root
        try:
            check_root(root)
            await self._disk.do(partial(directory.make_root, root))
            told = False
            # Here on the loop: it never waits, and in a thread it might succeed when nobody wants it any more.
            while not self._lock.acquire():
                if not told:
                    logger.info("another MPS host has %s: waiting until it is gone", root)
                told = True
                await asyncio.sleep(_LOCK_RETRY)
        except ValueError as error:
            raise Unusable(str(error)) from error
        except OSError as error:
            raise Unusable(reason(error)) from error

    async def _prepare(self) -> None:
        try:
            if self._shm_size:
                await self._disk.do(partial(shm.mount, self._layout.shared_memory, self._shm_size))
            else:
                logger.info("nothing is mounted: what pods can write to is in the file system of %s", self._layout.root)
        except OSError as error:
            raise Unusable(f"{reason(error)} (a size of 0 does without)") from error
        try:
            await self._preparation.clear()
            await self._modes.load()
        except OSError as error:
            raise Unusable(reason(error)) from error

    async def _settle(self) -> None:
        """Wait until it is known of each daemon how it stands, or one of them takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLES_WITHIN):
                await asyncio.gather(*(daemon.settled.wait() for daemon in self._daemons.values()))

    async def _let_go(self) -> None:
        """End all supervision; daemons stay as they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.remove_done_callback(self._forget)
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._timing.ends_within)

    # --- what is asked for ------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._wake.wait()
            await self._turn()

    async def _turn(self) -> None:
        """Read what is asked for, and hand each GPU its part."""
        self._wake.clear()
        await self._check_lock()
        data = await self._read()
        found = await self._search()
        # From here on nothing is awaited: which wishes an answer is about is told together with the answer.
        if data is not None:
            self._take(data)
        for uuid in sorted(found | set(self._desired or ()) | self._modes.uuids | self._daemons.keys()):
            self._ask(uuid)
        self._problem = self._find_problem()
        self._changed.set()

    async def _check_lock(self) -> None:
        """Raises Superseded when another host may have the root: it was removed or replaced, or the lock in it."""
        with suppress(OSError):  # nothing is known: the next look will tell
            if not await self._disk.do(lambda: self._lock.is_at_path):
                raise Superseded(f"{self._layout.root} or its lock was removed or replaced")

    async def _read(self) -> bytes | None:
        """What desired.json holds. If it is gone or cannot be read, what was asked for last stays."""
        try:
            data = await self._disk.do(partial(atomic.read, self._layout.desired))
        except OSError as error:
            self._unread = reason(error)
        except atomic.Untrusted as error:
            self._unread = f"cannot use {self._layout.desired}: {error}"
        else:
            self._unread = ""
            return data
        return None

    def _take(self, data: bytes) -> None:
        """Work by these wishes from now on; by those of before if they are damaged."""
        try:
            self._desired, self._answers = decode_desired(data, self._formats.desired), checksum(data)
        except atomic.Untrusted as error:
            self._unread = f"cannot use {self._layout.desired}: {error}"

    async def _search(self) -> set[str]:
        """GPUs of which a host before this one has left a record, a room, a directory or a process. Looks seldom."""
        if self._searched_at is not None and time.monotonic() - self._searched_at < self._timing.strays_every:
            return set()
        try:
            found = await self._disk.do(self._remains)
        except OSError as error:
            logger.warning("cannot look for what other hosts have left: %s", reason(error))
            return set()
        self._searched_at = time.monotonic()
        return found

    def _remains(self) -> set[str]:
        layout = self._layout
        known = [entry.name for entry in layout.root.iterdir() if is_uuid(entry.name)]
        recorded = {uuid for uuid in known if layout.record(uuid).exists() or layout.pipe(uuid).exists()}
        recorded |= self._means.rooms.left(layout.root) & set(known)
        return recorded | {one.uuid for one in mps_processes(layout.root) if one.uuid is not None and is_uuid(one.uuid)}

    def _ask(self, uuid: str) -> None:
        wish = Wish(given=False) if self._desired is None else Wish(self._desired.get(uuid))
        daemon = self._daemons.get(uuid)
        if daemon is not None:
            daemon.want(wish)
            return
        daemon = self._daemons[uuid] = Daemon(uuid, self._means, wish=wish, changed=self._changed.set)
        task = self._tasks[uuid] = asyncio.create_task(daemon.run(), name=uuid)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Nothing is left of a daemon; if it has been asked for in this very moment, there is another one."""
        uuid = task.get_name()
        del self._daemons[uuid], self._tasks[uuid]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: a fault of the MPS host", uuid, exc_info=error)
        self._changed.set()
        self._wake.set()

    # --- what is true -----------------------------------------------------------------------------------------------

    def _find_problem(self) -> str:
        """Why what is asked for cannot be done, whichever GPU that is about; told in the log when it changes."""
        problems = [self._unread] if self._unread else []
        try:
            self._launcher.find()
        except CannotLaunch as error:
            problems.append(str(error))
        problem = "; ".join(problems)
        if problem and problem != self._problem:
            logger.warning("%s", problem)
        return problem

    async def _keep_telling(self) -> None:
        """Write what is true whenever that changes, and now and then in any case: one that is old is not believed."""
        complaint, due = "", True
        while True:
            self._changed.clear()
            if due or self._observed() != self._written:
                # Each time another number: changes that come without end are no sign of a host that hangs.
                self._beat += 1
                told = self._observed()
                try:
                    data = encode_observed(told, self._formats.observed)
                    await self._disk.do(partial(atomic.write, self._layout.observed, data, sync=False))
                    self._written, complaint, due = told, "", False
                except OSError as error:
                    if reason(error) != complaint:
                        logger.error("cannot tell what is true: %s", reason(error))
                    complaint = reason(error)
                    await asyncio.sleep(self._timing.look_again)
                    continue
            try:
                async with asyncio.timeout(self._timing.beats_every):
                    await self._changed.wait()
            except TimeoutError:
                due = True

    def _observed(self) -> Observed:
        return Observed(
            host_pid=os.getpid(),
            shared_memory=self._launcher.shared_memory,
            problem=self._problem,
            daemons={uuid: daemon.observed for uuid, daemon in self._daemons.items()},
            answers=self._answers,
            life=self._life,
            beat=self._beat,
            reads=self._formats.desired.reads,
        )
