"""The end of the demo's story: what happens to GPUs themselves. One has a fault, and one is divided by MIG.

Neither stands in Git. The simulated driver reports what is written into its file, as a real one does what it notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nodeagent.durable import atomic
from nodeagent.sim.pods import Pod
from nodeagent.sim.story_files import MIG, SHARED, SLICES, mig_slices, node, pair_mps, shared
from nodeagent.sim.strips import Strip
from nodeagent.sim.telling import Teller, milliseconds

FAULTY = 1
"""The GPU that falls off the bus; pods have some of its shares, and not all."""

INNOCENT = 4
"""The GPU on which a program makes a mistake."""

DIVIDED = 0
"""The GPU that MIG divides; hardly anybody is on it."""

_PAIR = pair_mps(2, 36, 50)
_FIRST = 'mig: {devices: ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]}'
_THEN = 'mig: {devices: ["3g.40gb", "3g.40gb"]}'


class GpuStory:
    """Steps, to be played in their order. Each raises NotAsTold, NotInTime, GitFailed and what pods raise."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._screen = teller.screen
        self._node = teller.node
        self._kubelet = teller.kubelet
        self._happens: dict[int, str] = {}

    async def play(self) -> None:
        """All of it."""
        await self._fault()
        await self._reload()
        await self._cleared()
        await self._divided()
        await self._divided_anew(await self._sliced())

    # --- a fault ---

    async def _fault(self) -> None:
        teller = self._teller
        await teller.chapter(
            "9 of 10: a GPU has a fault",
            f"GPU {FAULTY} falls off the bus: its driver reports XID 79. On GPU {INNOCENT} a program makes a mistake, "
            "XID 13, which says nothing of the GPU. The driver is simulated, and reports what is in its file:",
        )
        seen = len(self._kubelet.history)
        pods = teller.pods_on(FAULTY)
        at = self._edit({FAULTY: "xids: [{code: 79, seq: 1}]", INNOCENT: "xids: [{code: 13, seq: 1}]"})
        self._screen.line()
        await teller.follow(FAULTY, at, f"GPU {FAULTY} is unhealthy", _is_sick(4))
        shares = self._shares(FAULTY)
        teller.check(
            f"all 4 shares of GPU {FAULTY} are Unhealthy, whether a pod has them or not",
            holds=len(shares) == 4 and not any(shares.values()),
            got=shares,
        )
        names = " and ".join(pod.name for pod in pods)
        running = bool(pods) and all(pod.running for pod in pods)
        teller.check(f"its pods, {names}, are left alone: nothing is ever killed", holds=running, got=pods)
        counted = f'nodeagent_gpu_xid_events_total{{uuid="{teller.uuid(INNOCENT)}",xid="13"}} 1.0'
        await teller.measured(counted, f"XID 13 is counted: nodeagent_gpu_xid_events_total is 1 for GPU {INNOCENT}")
        touched = {
            share.partition("::")[0]
            for message in self._kubelet.history[seen:]
            for share, healthy in message.devices.items()
            if not healthy
        }
        teller.check(f"but for GPU {FAULTY} none was touched", holds=touched == {teller.uuid(FAULTY)}, got=touched)
        await teller.pause(1.5)

    async def _reload(self) -> None:
        teller = self._teller
        self._screen.line()
        self._screen.say("A reload is no reason to forget a fault. The next commit comes while it lasts:")
        self._screen.line()
        synced = await teller.commit(shared(6, _PAIR), "Six share each GPU")
        self._screen.line()
        await teller.follow(FAULTY, synced.at, f"GPU {FAULTY} has six shares", _is_sick(6))
        await teller.applied(synced)
        teller.count(SHARED, 30, f"the 6 of GPU {FAULTY} are not")
        uuid = teller.uuid(FAULTY)
        await teller.measured(
            f'nodeagent_gpu_healthy{{uuid="{uuid}"}} 0.0',
            f"an alert can see it: nodeagent_gpu_healthy is 0 for GPU {FAULTY}",
        )
        await teller.pause(1.5)

    async def _cleared(self) -> None:
        teller, uuid = self._teller, self._teller.uuid(FAULTY)
        self._screen.line()
        self._screen.say("Somebody has reset the GPU, and found it well. On the node, the agent is told:")
        self._screen.line()
        self._screen.line(f"  $ nodeagent clear-health {uuid}", "bold")
        told = await teller.command("clear-health", "--state-dir", str(self._node.state_dir), uuid)
        self._screen.say(told, lead="    ")
        await self._node.until(f"GPU {FAULTY} is well", lambda: teller.strip(FAULTY).free == 4)
        self._show(FAULTY)
        teller.count(SHARED, 36, f"those of GPU {FAULTY} again")
        await teller.pause(1.5)

    # --- MIG ---

    async def _divided(self) -> None:
        teller = self._teller
        await teller.chapter(
            "10 of 10: MIG",
            f"GPU {DIVIDED} is divided: MIG makes devices of it, each with memory and compute units of its own. That "
            "needs an idle GPU, so its pods end first. No commit speaks of it.",
        )
        for pod in teller.pods_on(DIVIDED):
            await teller.end(pod)
        self._screen.line()
        at = self._edit({DIVIDED: _FIRST})
        self._screen.line()
        await teller.follow(DIVIDED, at, f"GPU {DIVIDED} is divided", lambda strip: strip.parts == 4)
        counts = {f"{MIG}{profile}": count for profile, count in (("1g.10gb", 2), ("2g.20gb", 1), ("3g.40gb", 1))}
        await self._node.until("every profile at the kubelet", lambda: self._counts(counts) == counts)
        self._show(DIVIDED)
        instance = self._parts()[0].label.partition(":")[2]
        self._screen.line(f"  {DIVIDED}:{instance} is GPU instance {instance} of GPU {DIVIDED}", "dim")
        teller.check(
            "4 MIG devices, each profile a resource; no commit was needed",
            holds=self._node.snapshot.in_sync,
            got="not in sync",
        )
        await teller.pause(0.5)

    async def _sliced(self) -> Pod:
        teller = self._teller
        label = next(strip.label for strip in self._parts() if strip.resource == f"{MIG}1g.10gb")
        self._screen.line()
        self._screen.say("Rules can be for MIG devices, too. Let four notebooks share each of the small ones:")
        self._screen.line()
        synced = await teller.commit(shared(6, mig_slices(4) + _PAIR), "Four notebooks on a small MIG device")
        self._screen.line()
        await teller.follow(label, synced.at, f"MIG device {label} is shared", lambda strip: strip.bar() == "....")
        await teller.applied(synced)
        notebook = await teller.start("notebook", SLICES)
        visible = notebook.envs("main").get("NVIDIA_VISIBLE_DEVICES", "nothing")
        where = teller.device(notebook).name
        self._screen.labelled("pods", f"{notebook.name} starts on {where}, and sees {visible}", "cyan")
        await teller.pause(0.5)
        return notebook

    async def _divided_anew(self, notebook: Pod) -> None:
        teller, label = self._teller, self._teller.device(notebook).label
        large = f"{MIG}3g.40gb"
        self._screen.line()
        self._screen.say(f"Now GPU {DIVIDED} is divided anew, although {notebook.name} still has a part of it:")
        self._screen.line()
        at = self._edit({DIVIDED: _THEN})
        self._screen.line()
        await teller.follow(label, at, f"only {notebook.name} is left on {label}", lambda strip: strip.bar() == "#")
        await self._node.until(f"two of {large}", lambda: teller.allocatable(large) == 2)
        await self._node.until("nothing else is left", lambda: len(self._parts()) == 3)
        took = milliseconds(at, self._node.listed_at(large))
        self._screen.labelled("kubelet", f"has had the second {large} {took} after the edit", "cyan")
        self._show(DIVIDED)
        listed = self._kubelet.devices(SLICES)
        teller.check(
            f"what {notebook.name} has stays on the list, Unhealthy",
            holds=bool(listed) and listed == dict.fromkeys(notebook.ids(), False),
            got=listed,
        )
        await teller.pause(0.5)
        ended_at = await teller.end(notebook)
        await self._node.until(f"{label} is gone", lambda: not self._kubelet.devices(SLICES))
        self._screen.labelled("kubelet", f"has forgotten it {milliseconds(ended_at)} later", "cyan")
        teller.count(large, 2)
        # The kubelet has been told before the agent has summed up what it told.
        await self._node.until("the node is in sync", lambda: self._node.snapshot.in_sync)

    def _counts(self, resources: dict[str, int]) -> dict[str, int]:
        return {resource: self._teller.allocatable(resource) for resource in resources}

    # --- the node ---

    def _edit(self, happens: dict[int, str]) -> float:
        """Write into the simulation file what happens to some GPUs, and show it; when, in monotonic seconds."""
        self._happens |= happens
        self._screen.line(f"  $ edit {self._node.gpus.name}", "bold")
        for index, line in happens.items():
            self._screen.line(f"    GPU {index}: {line}", "green")
        at = time.monotonic()
        atomic.write(self._node.gpus, node(self._happens).encode(), sync=False)
        return at

    def _shares(self, index: int) -> dict[str, bool]:
        """The shares of a GPU that the kubelet has, and whether each is healthy."""
        uuid = self._teller.uuid(index)
        return {share: well for share, well in self._kubelet.devices(SHARED).items() if share.startswith(uuid)}

    def _parts(self) -> list[Strip]:
        return [strip for strip in self._node.strips() if strip.label.startswith(f"{DIVIDED}:")]

    def _show(self, index: int) -> None:
        """One GPU, and its MIG devices."""
        self._screen.line()
        for strip in self._node.strips():
            if strip.label.partition(":")[0] == str(index):
                self._screen.line("  " + strip.line(self._screen, room=self._screen.width - 2))
        self._screen.line()


def _is_sick(total: int) -> Callable[[Strip], bool]:
    """Whether a GPU has so many shares, and hands out none of them."""
    return lambda strip: strip.total == total and strip.unhealthy > 0 and not strip.free
