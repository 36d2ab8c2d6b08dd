"""The agent's side of MPS: asks the host for daemons through a file, and tells of them what it has verified itself.

Agent and host share nothing but the files under the MPS root, in either order of start. The agent writes what it wants
whenever that is not what is on disk, follows what the host tells, and believes of that only what the daemons themselves
confirm. Without a host, daemons that run go on, and so do their shares.

A GPU is free of MPS only when the host says so and is known to have read the newest wish: one who begins with a daemon
that was asked for a moment ago, and is no longer, is not to find the GPU given to somebody else. Where no host runs,
`remains` says it. What a host of this version tells is believed as long as it tells it anew. Of one that tells it in a
version that is not read here, nothing new is asked; daemons that it has recorded are asked themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from nodeagent.durable import atomic
from nodeagent.durable.formats import FORMATS, UNDECLARED, Formats
from nodeagent.model.config import Contract
from nodeagent.model.mps import SHARED_MEMORY, DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.mps.control import DEADLINE, PROGRAM, Control, check_root
from nodeagent.mps.directory import make_root
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import FORGOTTEN, Layout, Observed, ObservedDaemon, encode_desired
from nodeagent.mps.freshness import Freshness
from nodeagent.mps.look import Seen, look
from nodeagent.mps.remains import ReadMode, Remains
from nodeagent.mps.verification import Verification

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
THOROUGH_EVERY: Final = 20.0
SETTLES_WITHIN: Final = 2.0
"""Seconds after the start in which nothing is told, so that no daemon seems not ready that was only not asked yet."""

STALE_AFTER: Final = 15.0
"""Seconds without a new word of a host that tells one every few seconds, after which what it told is not believed."""

_UNANSWERED: Final = "the MPS host has not answered yet"


_UNSEEN: Final = (
    "its directory is empty here, though the MPS host has mounted a file system there: the agent's pod has to have"
    " mountPropagation HostToContainer for the MPS root"
)


class Host(Protocol):
    """Who sees to it that an MPS host runs. `message`: why it does not; empty when that is nobody's fault."""

    @property
    def message(self) -> str: ...
    def need(self, *, needed: bool) -> None: ...


class MpsView:
    """Follows the daemons below `root`, which need not exist yet. Belongs to one event loop.

    `subscribe` is that of a DirectoryWatch; `wake` is called on the loop when `status` has changed; `host` is told
    whether one is needed and none runs; `read_mode` is the driver's. Raises ValueError for a root that is too long for
    sockets.
    """

    def __init__(
        self,
        root: Path,
        *,
        subscribe: Callable[[Path, Callable[[], None]], None],
        wake: Callable[[], None],
        read_mode: ReadMode,
        host: Host | None = None,
        program: str = PROGRAM,
        look_every: float = LOOK_EVERY,
        thorough_every: float = THOROUGH_EVERY,
        stale_after: float = STALE_AFTER,
        deadline: float = DEADLINE,
        formats: Formats = FORMATS,
    ) -> None:
        check_root(root)
        self._layout = Layout(root)
        self._wake = wake
        self._host = host
        self._program = program
        self._look_every = look_every
        self._thorough_every = thorough_every
        self._deadline = deadline
        self._formats = formats
        self._disk = Disk(root, name="mps-root", deadline=deadline)
        self._remains = Remains(self._layout, self._disk, read_mode)
        self._freshness = Freshness(look_every, stale_after)
        self._again = asyncio.Event()
        self._settles_at: float | None = None
        self._settled = False
        self._wanted: Mapping[str, Contract] | None = None
        self._prepares = False
        self._wishes: list[Mapping[str, Contract]] = []
        self._contracts: dict[str, Contract] = {}
        self._seen: Seen | None = None
        self._observed: Observed | None = None
        self._problem = ""
        self._daemons: dict[str, tuple[Verification, asyncio.Task[None]]] = {}
        self._status = MpsStatus(MpsReason.PENDING, "the MPS host has not been looked for yet", root=str(root))
        subscribe(root, self._again.set)

    @property
    def status(self) -> MpsStatus:
        """What is known; PENDING for at most `SETTLES_WITHIN` seconds after the start."""
        return self._status

    def want(self, daemons: Mapping[str, Contract], *, prepare: bool = False) -> None:
        """Have the host keep exactly these daemons. To be called on the loop, as often as one likes.

        `prepare`: more are wished for, so that a host is to say what it can do before they are asked for.
        """
        if daemons != self._wanted or prepare is not self._prepares:
            self._wanted, self._prepares = dict(daemons), prepare
            self._contracts.update(daemons)
            self._again.set()
            self._publish()

    def load_wanted(self) -> Mapping[str, Contract]:
        """What the host is asked for on disk; where that cannot be used, what it has kept and what it tells. Blocks.

        An agent that remembers nothing itself asks for these, until it knows who has their shares.
        """
        try:
            seen = look(self._layout, self._formats)
        except OSError as error:
            logger.warning("cannot tell which MPS daemons were asked for: %s", reason(error))
            return {}
        if seen.problem:
            logger.warning("cannot tell for certain which MPS daemons were asked for: %s", seen.problem)
        if seen.desired is not None:
            return seen.desired
        told = seen.observed.daemons if seen.observed is not None else {}
        found = {one: daemon.contract for one, daemon in told.items() if daemon.contract != FORGOTTEN}
        return {**found, **{one: contract for one, contract in seen.kept.items() if contract is not None}}

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        self._settles_at = loop.time() + SETTLES_WITHIN
        settling = loop.call_later(SETTLES_WITHIN, self._publish)
        self._daemons.clear()
        self._settled = False
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._again.clear()
                    await self._turn(tasks)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._look_every):
                            await self._again.wait()
        finally:
            settling.cancel()

    async def _turn(self, tasks: asyncio.TaskGroup) -> None:
        try:
            seen = await self._disk.do(lambda: look(self._layout, self._formats))
            if self._freshness.stale(seen, time.monotonic()):
                seen = replace(seen, answered=False)
            self._take(seen, tasks)
            self._problem = seen.problem
            await self._ask(seen)
            await self._look_at_remains()
        except OSError as error:
            self._problem = reason(error)
        self._publish()

    async def _look_at_remains(self) -> None:
        """Know what is left of MPS where no host runs. What is asked for is no remains: it is to come."""
        seen = self._seen
        if seen is None or seen.runs:
            self._remains.forget()
            return
        asked = {*(self._wanted or {}), *(seen.desired or {}), *(one for wish in self._wishes for one in wish)}
        known = {*self._contracts, *self._daemons, *seen.kept}
        await self._remains.look(known - asked)

    # --- what is asked for ------------------------------------------------------------------------------------------

    async def _ask(self, seen: Seen) -> None:
        """Write what is wanted, unless that is on disk, or there is nobody and nothing that it could matter to."""
        wanted = self._wanted
        if wanted is None:
            return
        form = self._formats.desired
        # What the host reads; where it has not said so, or not in words that are read here, what everybody has read.
        reads = self._observed.reads if self._observed is not None and not seen.unheard else UNDECLARED
        if wanted == seen.desired and (seen.unheard or seen.version in {*reads, form.written_for(reads)}):
            return
        if seen.desired is None and not wanted and not self._is_used(seen):
            return
        self._may_work_by(wanted)
        self._seen = replace(seen, answered=False)
        # Another token each time: an answer to the same wish of a while ago is none to this one.
        data = encode_desired(wanted, uuid.uuid4().hex, form=form, declared=reads)

        def write() -> None:
            make_root(self._layout.root)
            atomic.write(self._layout.desired, data, sync=False)

        await self._disk.do(write)
        self._again.set()

    def _is_used(self, seen: Seen) -> bool:
        return bool(self._wanted or seen.runs or seen.kept or (self._observed is not None and self._observed.daemons))

    # --- what is true -----------------------------------------------------------------------------------------------

    def _take(self, seen: Seen, tasks: asyncio.TaskGroup) -> None:
        """Follow what was seen: ask the daemons that it names."""
        self._seen = seen
        self._contracts.update({one: contract for one, contract in seen.kept.items() if contract is not None})
        asked = seen.desired or {}
        self._contracts = {**asked, **self._contracts}
        if seen.answered or not seen.runs:  # one that is yet to come reads what is on disk now
            self._wishes.clear()
        if seen.desired is not None:
            self._may_work_by(seen.desired)
        if seen.observed is not None:
            self._observed = seen.observed
            claims = seen.observed.daemons
        elif seen.runs and seen.unheard:
            claims = {one: ObservedDaemon(contract, DaemonState.READY) for one, contract in seen.verified.items()}
        else:  # what it told last is better than nothing
            return
        for one, claim in claims.items():
            self._contracts[one] = claim.contract
            if one in self._daemons:
                self._daemons[one][0].expect(claim)
                continue
            verification = Verification(
                one,
                claim,
                Control(self._layout.pipe(one), program=self._program, deadline=self._deadline),
                tell=self._publish,
                interval=self._look_every,
                thorough_every=self._thorough_every,
            )
            self._daemons[one] = verification, tasks.create_task(verification.run())
        for one in self._daemons.keys() - claims.keys():
            self._daemons.pop(one)[1].cancel()

    def _publish(self) -> None:
        """Tell what is known, once enough is."""
        if not self._settled and not self._settle():
            return
        status = self._summary()
        if self._host is not None:
            seen = self._seen
            used = seen is not None and (self._prepares or self._is_used(seen))
            self._host.need(needed=used and seen is not None and not seen.runs)
        if status != self._status:
            self._status = status
            self._wake()

    def _settle(self) -> bool:
        if self._settles_at is None:
            return False
        seen = self._seen
        known = seen is not None and (seen.answered or seen.unheard or not seen.runs)
        known = known and all(verification.settled for verification, _ in self._daemons.values())
        self._settled = known or asyncio.get_running_loop().time() >= self._settles_at
        return self._settled

    def _summary(self) -> MpsStatus:
        found, message = self._reason()
        observed, word = self._observed, self._seen.heard if self._seen is not None else None
        gone = self._remains.gone - set(self._wanted or ())
        left = {one: mode for one, mode in self._remains.left_modes.items() if one in gone}
        there = {*self._daemons, *self._hidden()} - gone
        return MpsStatus(
            found,
            message,
            daemons={one: self._daemon(one, message) for one in sorted(there)},
            root=str(self._layout.root),
            shared_memory=observed.shared_memory if observed is not None else SHARED_MEMORY,
            means=self._seen.means if self._seen is not None else {},
            left_modes=left,
            host_version=word.version if word is not None else "",
            bounded=word.bounded if word is not None else None,
        )

    def _reason(self) -> tuple[MpsReason, str]:
        if self._problem or self._seen is None:
            return MpsReason.UNUSABLE, self._problem or f"cannot look at {self._layout.root}: it takes too long"
        if not self._seen.runs:
            told = self._host.message if self._host is not None else ""
            return MpsReason.ABSENT, told or f"no MPS host runs at {self._layout.root}"
        if self._freshness.is_stale:
            return MpsReason.UNUSABLE, (
                f"the MPS host has not written {self._layout.observed} for more than {self._freshness.limit:g} s: it"
                " hangs, or there is no room left"
            )
        if self._observed is not None and self._observed.problem:
            return MpsReason.UNUSABLE, self._observed.problem
        return MpsReason.RUNNING, ""

    def _hidden(self) -> set[str]:
        """GPUs that MPS may have laid hands on, though the host does not tell of them (yet)."""
        seen = self._seen
        if seen is None:  # the root could never be looked at: all that was ever asked for may be there
            return set(self._contracts)
        if seen.runs and seen.answered:
            return set()
        return {*seen.kept, *(one for wish in self._wishes for one in wish)}

    def _may_work_by(self, wish: Mapping[str, Contract]) -> None:
        """From now on the host may do what this asks for, or still what was asked for before."""
        if wish not in self._wishes:
            self._wishes.append(wish)

    def _is_asked(self, daemon: MpsDaemon) -> bool:
        """Whether this daemon is asked for, and nothing else was that the host may be about to do: it could be ended in
        the very moment in which its shares are advertised.
        """
        wishes = self._wishes if self._wanted is None else [*self._wishes, self._wanted]
        return all(wish.get(daemon.uuid) == daemon.contract for wish in wishes)

    def _daemon(self, one: str, message: str) -> MpsDaemon:
        if one in self._daemons:
            verification = self._daemons[one][0]
            daemon = verification.daemon
            word = self._seen.heard if self._seen is not None else None
            if verification.unseen and word is not None and word.bounded:
                return replace(daemon, message=f"{_UNSEEN} {self._layout.root}")
            if daemon.state is not DaemonState.READY or self._is_asked(daemon):
                return daemon
            return replace(daemon, state=DaemonState.STARTING, message=message or _UNANSWERED)
        state = DaemonState.STARTING if one in (self._wanted or {}) else DaemonState.STOPPING
        contract = self._contracts.get(one, FORGOTTEN)
        return MpsDaemon(one, contract, state, message or _UNANSWERED)
