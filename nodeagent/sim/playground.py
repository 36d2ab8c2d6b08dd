"""The demo that leaves the file to the user: what changes is shown, and a few pods run so that drains can be seen."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

from nodeagent.model.health import describe_xids
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason
from nodeagent.model.plan import WaitReason
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
    - name: services
      match: {indices: [2, 3]}
      resource: nvidia.com/gpu.mps
      mps: {replicas: 4}        # a quarter of the memory and of the threads each
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

_HOST_STARTS = 3.0
"""Seconds for which it is no news that no MPS host runs."""

_WHOLE = "nvidia.com/gpu"
_FIRST = 1.0
_SETTLED = 5.0
"""Seconds that pods wait at most for the first file to be applied: they spread over what is there when they start."""

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
        self._seen: deque[tuple[str, tuple[Strip, ...]]] = deque()
        self._xids: dict[str, frozenset[int]] = {}
        self._daemons: dict[int, MpsDaemon] = {}
        self._host = "", 0.0

    def introduce(self) -> None:
        """What this is, and what can be done here."""
        screen = self._screen
        screen.line("nodeagent: a simulated node that follows a file", "bold")
        screen.line()
        screen.say("Edit this file with any editor, and save it:")
        screen.line(f"    {self._file}", "bold")
        screen.say("The node's GPUs are in node.yaml beside it: add one, or let one fail.")
        screen.say(f"Status page: {self._node.url}")
        if self._node.mps is not None:
            screen.say(f"MPS daemons: processes of their own, of {self._node.mps.told}.")
        screen.line()
        screen.say("Things to try, in the files and in another terminal:")
        for edit, effect in _TO_TRY:
            screen.say(effect, lead=f"    {edit:<22}")
        screen.line()
        screen.say(
            f"{PODS} pods run here, with one share each. When a share is to be given back, or its GPU or MIG device is "
            f"gone, its pod goes on for {self._linger:.0f} seconds and ends by itself; a little later another one "
            "starts where there is room. "
            "Ctrl-C ends the demo."
        )
        screen.line()
        for line in LEGEND:
            screen.line(f"  {line}", "dim")
        screen.line()

    async def run(self) -> None:
        """Until cancelled."""
        # What the first file does is told at once, and not from nothing: unless it does nothing at all.
        with suppress(NotInTime):
            await self._node.until("a first list", lambda: bool(self._kubelet.resources()), within=_FIRST)
        self._start_at = time.monotonic() + _SETTLED
        # What a list changes may be over before the next look.
        self._kubelet.record.on_message = lambda _: self._seen.append((_clock(), self._node.strips()))
        while True:
            self._tell_reload()
            if not self._serial and self._node.snapshot.in_sync:
                self._start_at = 0.0
            await self._keep_pods()
            self._tell_conditions()
            self._tell_strips()
            self._tell_faults()
            self._tell_mps()
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
        """End the pods whose shares have been wanted back for long enough, and those whose device has been gone for as
        long.
        """
        back = self._wanted_back()
        self._draining = {
            pod.uid: self._draining.get(pod.uid, now) for pod in self._pods if not pod.ids().isdisjoint(back)
        }
        due = [pod for pod in self._pods if now - self._draining.get(pod.uid, now) >= self._linger]
        for pod in due:
            self._pods.remove(pod)
            await self._kubelet.end(pod)
        return due

    def _wanted_back(self) -> frozenset[str]:
        """Shares whose pods are waited for, and those of devices that are not there any more. Not by their states: what
        is unhealthy, as all that is gone is, does not say that it drains as well.
        """
        snapshot = self._node.snapshot
        there = snapshot.inventory.by_uuid()
        waits: dict[str, frozenset[int]] = {}
        for wait in snapshot.plan.waits:
            if wait.reason is WaitReason.PODS:
                waits[wait.uuid] = waits.get(wait.uuid, frozenset()) | wait.numbers
        return frozenset(
            share.id
            for gpu in snapshot.gpus
            for share in gpu.shares
            if gpu.gpu.uuid not in there or share.number in waits.get(gpu.gpu.uuid, ())
        )

    async def _start_pod(self) -> Pod | None:
        """Start one where there is room, on a share rather than on a whole GPU, and of each kind of share as many; None
        where there is none.
        """
        has = Counter(resource for pod in self._pods for resource in pod.containers["main"])
        for resource in sorted(self._kubelet.resources(), key=lambda name: (name == _WHOLE, has[name], name)):
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
        self._seen.append((_clock(), self._node.strips()))
        while self._seen:
            at, strips = self._seen.popleft()
            sure = [strip for strip in strips if not strip.unsure]
            for strip in sure:
                if strip not in self._strips:
                    lead = f"{at}  "
                    self._screen.line(lead + strip.line(self._screen, room=self._screen.width - len(lead)))
            names = {strip.name for strip in strips}
            for name in sorted({strip.name for strip in self._strips} - names):
                self._screen.line(f"{at}  {name} is no more")
            # Of what is not sure, what was told last stands.
            unsure = names - {strip.name for strip in sure}
            self._strips = (*sure, *(strip for strip in self._strips if strip.name in unsure))

    def _tell_faults(self) -> None:
        """XIDs that stand against a GPU or MIG device, with the command for when it is well again."""
        applied = self._node.snapshot.applied
        told = {uuid: frozenset(entry.xids) for uuid, entry in applied.gpus.items() if entry.xids}
        for uuid, xids in told.items():
            gpu = applied.gpus[uuid].gpu
            if xids == self._xids.get(uuid) or (gpu.mig is not None and xids == told.get(gpu.physical)):
                continue
            self._say("gpu", f"{gpu.name}: {describe_xids(xids)}. When it is well:", "red")
            for part in ("nodeagent clear-health \\", f"    --state-dir {self._node.state_dir} \\", f"    {uuid}"):
                self._screen.line(" " * 10 + part)
        self._xids = told

    def _tell_mps(self) -> None:
        """What is wrong with the MPS host, if that lasts; each daemon with its limits when it has become ready, or what
        is wrong with it. That one is on its way is seen at its GPU.
        """
        self._tell_host()
        told = {status.gpu.index: status.daemon for status in self._node.snapshot.gpus if status.daemon is not None}
        for index, daemon in told.items():
            if daemon == self._daemons.get(index):
                continue
            if daemon.state in {DaemonState.FAILED, DaemonState.OCCUPIED}:
                self._say("mps", f"GPU {index}: {daemon.state.value}: {daemon.message}", "red")
            elif daemon.state is DaemonState.READY and daemon.altered:
                self._say("mps", f"GPU {index}: somebody has changed its limits: {daemon.altered}", "red")
            elif daemon.state is DaemonState.READY:
                process = self._node.daemons.find(daemon.uuid)
                who = f"process {process.pid}" if process is not None else "its daemon"
                self._say("mps", f"GPU {index}: {who}, {daemon.contract.limits}", "green")
        self._daemons = told

    def _tell_host(self) -> None:
        mps, ready = self._node.snapshot.mps, self._node.snapshot.condition("MpsReady")
        wrong = ready is not None and not ready.status and mps.reason is not MpsReason.RUNNING
        trouble = mps.message if wrong else ""
        if trouble != self._host[0]:
            self._host = trouble, time.monotonic() + _HOST_STARTS
        elif trouble and time.monotonic() >= self._host[1]:
            self._host = trouble, math.inf
            self._say("mps", trouble, "red")

    def _say(self, who: str, text: str, style: str) -> None:
        self._screen.say(f"{who}: {text}", lead=f"{_clock()}  ", style=style)


_TO_TRY = (
    ("replicas: 10", "more time-sliced shares, at once"),
    ("replicas: 2", "fewer: held shares drain, the others go at once"),
    ("replica: 2", "a typo: nothing changes, and you are told why"),
    ("indices: [2, 3, 4]", "one more GPU comes under MPS; the others do not notice"),
    ("threadPercentage: 50", "in `mps`: other limits, where no pod has the old ones"),
    ("withheld: {}", "for `resource` and `exclusive`: out of service"),
    ("kill -9 PID", "of an MPS daemon: its GPU's shares fail, and are back"),
    ("xids: [...]", "in node.yaml: a GPU has a fault, until clear-health"),
    ("mig: {devices: [...]}", "in node.yaml: a GPU is divided, while nobody is on it"),
)


def _names(pods: list[Pod]) -> str:
    return ", ".join(pod.name for pod in pods)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
