"""Pods that come and go by themselves, placed as a scheduler does that knows the node's status."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Self

from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import AdmissionError, ContainerError, KubeletDown, Pod
from tests.waiting import eventually

MOST = 30
"""Pods at once, at most, unless told otherwise."""


class Tenants:
    """The pods of one node. Within `async with` they come and go, but for the time from `rest` to `go_on`.

    There are `most` at once, at most; `admitted` counts those that came.
    """

    def __init__(self, kubelet: StandInKubelet, rng: random.Random, *, most: int = MOST) -> None:
        self._kubelet = kubelet
        self._rng = rng
        self._most = most
        self._pods: list[Pod] = []
        self._asked = 0
        self.admitted = 0
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.go_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def go_on(self) -> None:
        """Pods come and go again."""
        if self._life is None:
            self._life = asyncio.create_task(self._live())

    async def rest(self) -> None:
        """Nobody comes or goes any more; who is there stays. Raises what went wrong among the pods."""
        await self._stop()
        await self._witness()

    async def _stop(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            with suppress(asyncio.CancelledError):
                await life

    async def leave(self) -> None:
        """Nobody comes any more, and all go."""
        await self._stop()
        for pod in self._kubelet.pods:
            await self._kubelet.end(pod)
        self._pods.clear()
        await self._witness()
        await self._kubelet.end(self._pods.pop())

    async def _witness(self) -> None:
        """One pod more, after which the kubelet's checkpoint names nobody who has gone, and which is there until it has
        been listed: a pod that never was may be an init container that runs, and so counts as held for an hour.
        """
        await eventually(self._come, within=60.0)
        seen = self._kubelet.allocatable_calls
        # A look makes two calls: of three, the last two are of one that began after the pod had come.
        await eventually(lambda: self._kubelet.allocatable_calls >= seen + 3, within=60.0)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / 0.05))
            if self._rng.random() < len(self._pods) / self._most:
                await self._kubelet.end(self._pods.pop(self._rng.randrange(len(self._pods))))
            else:
                await self._come()

    async def _come(self) -> Pod | None:
        """A pod comes that fits into what the node's status says, at times with an init container; None when it is not
        admitted, or nothing fits.
        """
        asked = self._rng.choice((1, 1, 1, 2))
        places = [name for name in self._kubelet.resources() if self._kubelet.schedulable(name) >= asked]
        if not places:
            return None
        requests = {self._rng.choice(places): asked}
        init = {"first": requests} if self._rng.random() < 0.1 else None
        self._asked += 1
        before = set(self._kubelet.pods)
        try:
            pod = await self._kubelet.admit(f"pod-{self._asked}", containers={"main": requests}, init_containers=init)
        except (AdmissionError, ContainerError, KubeletDown):
            # The agent or the kubelet was away, or the node's status was not of this moment.
            for failed in set(self._kubelet.pods) - before:
                await self._kubelet.end(failed)
            return None
        self._pods.append(pod)
        self.admitted += 1
        return pod
