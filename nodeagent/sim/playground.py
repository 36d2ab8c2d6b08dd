"""The demo that leaves the file to the user: what changes is shown, and a few pods run so that drains can be seen."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import Condition, Reload
from nodeagent.sim.node import Node, NotInTime
from nodeagent.sim.pods import AdmissionError, ContainerError, Pod
from nodeagent.sim.screen import Screen
from nodeagent.sim.strips import LEGEND, Strip

CONFIG = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: demo
spec:
  rules:                        # for each GPU the first one that matches
    - name: small-jobs
      match: {indices: [0, 1]}
      resource: nvidia.com/gpu.shared
      timeSlicing: {replicas: 4}
    - name: training            # every other GPU
      resource: nvidia.com/gpu
      exclusive: {}
"""

PODS = 6
LINGER = 8.0
"""Seconds for which a pod still runs when the agent wants its share back: nobody tells it, it just ends some day."""

PAUSE = 3.0
"""Seconds between the end of a pod and the start of the next one: time to see what becomes of the share."""

_TOLD_CONDITIONS = ("InventoryReady", "StateDirWritable", "Stalled")
"""Those that the rest of what is shown does not tell."""

_WHOLE = "nvidia.com/gpu"
_FIRST = 1.0
_LOOK = 0.1


class Playground:
    """Shows what becomes of the node while somebody edits `file`. `linger` and `pause`: see `LINGER` and `PAUSE`."""

    def __init__(self, screen: Screen, node: Node, file: Path, *, linger: float = LINGER, pause: float = PAUSE) -> None:
        self._screen = screen
        self._node = node
        self._kubelet = node.kubelet
        self._file = file
        self._linger = linger
        self._pause = pause
        self._pods: list[Pod] = []
        self._draining: dict[str, float] = {}
        self._start_at = 0.0
        self._serial = 0
        self._conditions: dict[str, Condition] = {}
        self._reload: Reload | None = None
        self._strips: tuple[Strip, ...] = ()

    def introduce(self) -> None:
        """What this is, and what can be done here."""
        screen = self._screen
        screen.line("nodeagent: a simulated node that follows a file", "bold")
        screen.line()
        screen.say("Edit this file with any editor, and save it:")
        screen.line(f"    {self._file}", "bold")
        screen.say("The node's GPUs are in node.yaml beside it: add one, or take one away.")
        screen.say(f"Status page: {self._node.url}")
        screen.line()
        screen.say("Things to try in the file:")
        for edit, effect in _TO_TRY:
            screen.say(effect, lead=f"    {edit:<20}")
        screen.line()
        screen.say(
            f"{PODS} pods run here, with one share each. When a share is to be given back its pod goes on for "
            f"{self._linger:.0f} seconds and ends by itself; a little later another one starts where there is room. "
            "Ctrl-C ends the demo."
        )
        screen.line()
        screen.line(f"  {LEGEND}", "dim")
        screen.line()

    async def run(self) -> None:
        """Until cancelled."""
        # What the first file does is told at once, and not from nothing: unless it does nothing at all.
        with suppress(NotInTime):
            await self._node.until("a first list", lambda: bool(self._kubelet.resources()), within=_FIRST)
        while True:
            self._tell_reload()
            await self._keep_pods()
            self._tell_conditions()
            self._tell_strips()
            await asyncio.sleep(_LOOK)

    # --- pods ---

    async def _keep_pods(self) -> None:
        now = time.monotonic()
        if ended := await self._end_pods(now):
            self._start_at = now + self._pause
            self._say("pods", f"{_names(ended)} ended", "cyan")
        if len(self._pods) == PODS or now < self._start_at:
            return
        started = []
        while len(self._pods) < PODS and (pod := await self._start_pod()) is not None:
            started.append(pod)
        if started:
            self._say("pods", f"{_names(started)} started", "cyan")

    async def _end_pods(self, now: float) -> list[Pod]:
        """End the pods whose shares have been draining for long enough."""
        draining = {
            share.id for gpu in self._node.snapshot.gpus for share in gpu.shares if share.state is ShareState.DRAINING
        }
        self._draining = {
            pod.uid: self._draining.get(pod.uid, now) for pod in self._pods if not pod.ids().isdisjoint(draining)
        }
        due = [pod for pod in self._pods if now - self._draining.get(pod.uid, now) >= self._linger]
        for pod in due:
            self._pods.remove(pod)
            await self._kubelet.end(pod)
        return due

    async def _start_pod(self) -> Pod | None:
        """Start one where there is room, on a share rather than on a whole GPU; None where there is none."""
        for resource in sorted(self._kubelet.resources(), key=lambda name: (name == _WHOLE, name)):
            if self._kubelet.schedulable(resource) > 0 and self._kubelet.free(resource):
                self._serial += 1
                name = f"job-{self._serial}"
                try:
                    pod = await self._kubelet.admit(name, containers={"main": {resource: 1}})
                except (AdmissionError, ContainerError) as error:
                    self._say("pods", f"{name} failed: {error}", "red")
                    self._start_at = time.monotonic() + self._pause
                    return None
                self._pods.append(pod)
                return pod
        return None

    # --- telling ---

    def _tell_reload(self) -> None:
        newest = next(iter(self._node.snapshot.reloads), None)
        if newest is None or newest == self._reload:
            return
        self._reload = newest
        message = newest.message.replace(f"{self._file.parent}/", "")
        blob = f", blob {newest.document.git_blob[:12]}" if newest.document is not None else ""
        good = not self._node.snapshot.config.violations and self._node.snapshot.config.problem is None
        self._say(
            "agent", f"{newest.result.value}{blob} ({newest.duration * 1000:.0f} ms):", "green" if good else "red"
        )
        self._screen.say(message, lead=" " * 10)

    def _tell_conditions(self) -> None:
        """What is wrong with the node, when it becomes so and when it is over."""
        for name in _TOLD_CONDITIONS:
            now, before = self._node.snapshot.condition(name), self._conditions.get(name)
            if now is None:
                continue
            self._conditions[name] = now
            wrong = now.status is (name == "Stalled")
            if wrong if before is None else (now.status, now.message) != (before.status, before.message):
                message = now.message.replace(f"{self._file.parent}/", "")
                self._say("node", f"{name} is {str(now.status).lower()}: {message}", "red" if wrong else "green")

    def _tell_strips(self) -> None:
        strips = self._node.strips()
        for strip in strips:
            if strip not in self._strips:
                lead = f"{_clock()}  "
                self._screen.line(lead + strip.line(self._screen, room=self._screen.width - len(lead)))
        self._strips = strips

    def _say(self, who: str, text: str, style: str) -> None:
        self._screen.say(f"{who}: {text}", lead=f"{_clock()}  ", style=style)


_TO_TRY = (
    ("replicas: 10", "more shares, at once"),
    ("replicas: 2", "fewer: held shares drain, the others go at once"),
    ("replica: 2", "a typo: nothing changes, and you are told why"),
    ("indices: [0, 1, 2]", "one more GPU is shared; the others do not notice"),
    ("withheld: {}", "for `resource` and `exclusive`: out of service"),
)


def _names(pods: list[Pod]) -> str:
    return ", ".join(pod.name for pod in pods)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
