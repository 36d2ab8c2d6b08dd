"""Whether one daemon is what the host says: the agent advertises shares on what it has seen itself, on nothing else.

A daemon that the host calls ready is asked by way of its own socket: does the very process listen there, and does it
read back the limits of its contract? That it listens is seen every two seconds for the price of a connection; its
limits, which clients can change, now and then, and whenever the host has news of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState, MpsDaemon
from nodeagent.mps.control import Control, ControlError, Limits, NotHere
from nodeagent.mps.files import ObservedDaemon

_Identity = tuple[Contract, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `altered`: the limits that were read back, where they had been right before. `unseen`: there is
    nothing to be found here.
    """

    good: bool
    message: str = ""
    altered: str = ""
    unseen: bool = False


class Verification:
    """Looks after the daemon of one GPU. `tell` is called on the loop whenever a look has ended."""

    def __init__(
        self,
        uuid: str,
        claim: ObservedDaemon,
        control: Control,
        *,
        tell: Callable[[], None],
        interval: float,
        thorough_every: float,
    ) -> None:
        self._uuid = uuid
        self._claim = claim
        self._control = control
        self._tell = tell
        self._interval = interval
        self._thorough_every = thorough_every
        self._news = asyncio.Event()
        self._thorough_at = 0.0
        self._verdict = Verdict(good=False)
        self._judged: _Identity | None = None
        self._verified: _Identity | None = None

    def expect(self, claim: ObservedDaemon) -> None:
        """Take the host's newest word."""
        if claim != self._claim:
            self._claim = claim
            self._thorough_at = 0.0
            self._news.set()

    @property
    def settled(self) -> bool:
        """Whether `daemon` rests on a look of our own, or needs none."""
        return self._claim.state is not DaemonState.READY or _are_one(self._judged, _identity(self._claim))

    @property
    def unseen(self) -> bool:
        """Whether the host calls it ready, and not even its directory can be seen here."""
        return self._claim.state is DaemonState.READY and self.settled and self._verdict.unseen

    @property
    def daemon(self) -> MpsDaemon:
        """What can be relied on: READY only what was verified, every other state by the host's word."""
        claim, verdict = self._claim, self._verdict
        told = MpsDaemon(
            self._uuid,
            claim.contract,
            claim.state,
            message=claim.message,
            restarts=claim.restarts,
            restored=claim.restored,
            altered=claim.altered,
            hindered=claim.state is DaemonState.STOPPING and bool(claim.message),
        )
        if claim.state is not DaemonState.READY:
            return told
        if not self.settled:
            return replace(told, state=DaemonState.STARTING, message="it is not verified yet")
        if not verdict.good:
            return replace(told, state=DaemonState.FAILED, message=verdict.message)
        return replace(told, altered=claim.altered or verdict.altered)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._news.clear()
            if self._claim.state is DaemonState.READY:
                await self._look(self._claim)
                self._tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._news.wait()

    async def _look(self, claim: ObservedDaemon) -> None:
        now, verdict = time.monotonic(), self._verdict
        thorough = now >= self._thorough_at or not verdict.good or bool(verdict.altered)
        if thorough:
            self._thorough_at = now + self._thorough_every
        try:
            self._demand_process(claim)
            if thorough:
                verdict = self._compare(claim, await self._control.limits())
        except ControlError as error:
            verdict = Verdict(good=False, message=str(error), unseen=isinstance(error, NotHere))
        self._verdict, self._judged = verdict, _identity(claim)
        if verdict.good:
            self._verified = self._judged

    def _demand_process(self, claim: ObservedDaemon) -> None:
        peer = self._control.peer()
        if claim.pid is not None and peer not in {0, claim.pid}:  # of a host that is not heard nobody knows the pid
            raise ControlError(f"process {peer} listens at its socket, and not process {claim.pid}, its daemon")

    def _compare(self, claim: ObservedDaemon, found: Limits) -> Verdict:
        limits = claim.contract.limits
        if limits is None:
            return Verdict(good=False, message=f"it is not of MPS: {claim.contract}")
        memory, threads = limits.times(limits.most)
        if found.fits(memory, threads):
            return Verdict(good=True)
        if self._verified == _identity(claim):
            return Verdict(good=True, altered=str(found))
        return Verdict(good=False, message=f"its limits are {found}, and not {Limits(threads, memory)}")


def _identity(claim: ObservedDaemon) -> _Identity:
    return claim.contract, claim.pid, claim.start_time


def _are_one(judged: _Identity | None, claimed: _Identity) -> bool:
    """Whether what was looked at is what is claimed. A host that is not heard claims no process: when it comes to be
    heard, or no longer is, its daemons are as they were.
    """
    if judged is None or judged[0] != claimed[0]:
        return False
    return judged == claimed or judged[1] is None or claimed[1] is None
