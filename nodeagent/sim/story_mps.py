"""The middle of the demo's story: two GPUs come under MPS, keep that through whatever happens, and leave it again.

What a daemon allows is always read back from the daemon itself, as its clients would find it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from nodeagent.model.inventory import ComputeMode
from nodeagent.mps.process import Process
from nodeagent.sim.pods import Pod
from nodeagent.sim.story_files import MPS, PAIR, SHARED, WHOLE, pair_mps, pair_whole, shared
from nodeagent.sim.strips import Strip
from nodeagent.sim.telling import NotAsTold, Synced, Teller, milliseconds

_BOTH = " and ".join(map(str, PAIR))


class MpsStory:
    """Steps, to be played in their order. Each raises NotAsTold, NotInTime, GitFailed and what pods raise."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._screen = teller.screen
        self._node = teller.node
        self._kubelet = teller.kubelet

    async def play(self) -> None:
        """All of it."""
        chat = await self._under_mps()
        await self._daemon_dies(chat)
        limits = await self._other_limits(chat)
        training = await self._whole()
        await self._reverted(limits, training)

    async def _under_mps(self) -> Pod:
        teller = self._teller
        await teller.chapter(
            "5 of 10: two GPUs under MPS",
            f"Model servers are to compute on GPUs {_BOTH} at the same time, each with its limits: NVIDIA's MPS. No "
            "GPU has needed it until now, so that not even its host runs. CI asks the node what the commit would do:",
        )
        for resource in (SHARED, MPS):
            self._kubelet.reset_fewest(resource)
        synced = await teller.commit(shared(4, pair_mps(4, 18, 25)), f"GPUs {_BOTH} under MPS", planned=True)
        self._screen.line()
        await teller.follow(PAIR[0], synced.at, f"GPU {PAIR[0]} is under MPS", _of_mps(4))
        await self._node.until(f"GPU {PAIR[1]} is under MPS", lambda: _of_mps(4)(teller.strip(PAIR[1])))
        await teller.reloaded(synced)
        for index in PAIR:
            await self._tell_daemon(index, 18, 25)
        chat = await teller.start("chat", MPS)
        self._screen.labelled("pods", f"{chat.name} starts on GPU {teller.gpu(chat)}, and gets", "cyan")
        envs = chat.envs("main")
        for name, value in envs.items():
            self._screen.line(f"            {name}={value}")
        self._screen.labelled("", f"and as mounts {' and '.join(chat.mounts('main'))}, to find its daemon", "dim")
        got = [envs.get(f"CUDA_MPS_{name}") for name in ("PINNED_DEVICE_MEM_LIMIT", "ACTIVE_THREAD_PERCENTAGE")]
        teller.check("a pod's limits are those of its share", holds=got == ["0=18432M", "25"], got=got)
        teller.show()
        await teller.applied(synced)
        fewest = self._kubelet.fewest(SHARED)
        teller.check("the six others were never touched: always at least 24 shares", holds=fewest >= 24, got=fewest)
        await teller.pause(2)
        return chat

    async def _daemon_dies(self, chat: Pod) -> None:
        teller, index = self._teller, self._teller.gpu(chat)
        process = self._daemon(index)
        seen = len(self._kubelet.history)
        self._screen.line()
        self._screen.line(f"  $ kill -9 {process.pid}    # the MPS daemon of GPU {index}", "bold")
        await teller.pause(1)
        self._screen.line()
        failed = False

        def is_back(strip: Strip) -> bool:
            nonlocal failed
            failed |= (strip.held, strip.unhealthy) == (1, 3)
            return failed and _of_mps(4)(strip)

        killed_at = time.monotonic()
        process.signal(signal.SIGKILL)
        await teller.follow(index, killed_at, f"the shares of GPU {index} are Unhealthy, and back", is_back)
        await self._tell_daemon(index, 18, 25)
        uuid = teller.uuid(index)
        touched = {
            share.partition("::")[0]
            for message in self._kubelet.history[seen:]
            for share, healthy in message.devices.items()
            if not healthy
        }
        teller.check(f"only shares of GPU {index} were Unhealthy meanwhile", holds=touched == {uuid}, got=touched)
        counted = f'nodeagent_mps_daemon_restarts_total{{uuid="{uuid}"}} 1.0'
        await teller.measured(counted, "an alert can see it: nodeagent_mps_daemon_restarts_total is 1 for it")
        await teller.pause(2)

    def _is_listed(self, pod: Pod) -> bool:
        """Whether the agent knows by name who holds the pod's shares: a moment after its start it does not yet."""
        shares = [share for gpu in self._node.snapshot.gpus for share in gpu.shares if share.id in pod.ids(MPS)]
        return bool(shares) and all(share.holder is not None for share in shares)

    async def _other_limits(self, chat: Pod) -> Synced:
        teller, busy = self._teller, self._teller.gpu(chat)
        idle = next(index for index in PAIR if index != busy)
        await teller.chapter(
            f"6 of 10: other limits, while {chat.name} has its own",
            "The models have grown: two for each GPU, with half of it each. What a pod has is never changed.",
        )
        before = self._daemon(busy)
        await self._node.until(f"{chat.name} on the agent's list", lambda: self._is_listed(chat))
        synced = await teller.commit(shared(4, pair_mps(2, 36, 50)), "Half a GPU for each service", planned=True)
        self._screen.line()
        await teller.follow(busy, synced.at, f"GPU {busy} waits", lambda strip: strip.bar() == "~")
        await teller.follow(idle, synced.at, f"GPU {idle} has its new limits", _of_mps(2))
        await teller.reloaded(synced)
        await self._tell_daemon(idle, 36, 50)
        await self._tell_daemon(busy, 18, 25)
        same = self._daemon(busy)
        teller.check(f"nothing has changed for {chat.name}: its daemon is the same", holds=same == before, got=same)
        await teller.pause(2)
        ended_at = await teller.end(chat)
        await teller.follow(busy, ended_at, f"GPU {busy} has its new limits", _of_mps(2))
        await self._tell_daemon(busy, 36, 50)
        await teller.applied(synced)
        teller.count(MPS, 4)
        await teller.pause(2)
        return synced

    async def _whole(self) -> Pod:
        teller = self._teller
        await teller.chapter(
            "7 of 10: two GPUs whole, six shared", f"A training run needs GPUs {_BOTH} whole, without MPS."
        )
        self._kubelet.reset_fewest(SHARED)
        synced = await teller.commit(shared(4, pair_whole()), f"GPUs {_BOTH} whole, for training")
        await teller.reloaded(synced)
        self._screen.line()
        await teller.follow(PAIR[0], synced.at, f"GPU {PAIR[0]} is whole", _is_whole)
        await self._node.until(f"GPU {PAIR[1]} is whole", lambda: _is_whole(teller.strip(PAIR[1])))
        training = await teller.start("training", WHOLE)
        visible = training.envs("main").get("NVIDIA_VISIBLE_DEVICES", "nothing")
        self._screen.labelled("pods", f"training starts, and sees {visible}", "cyan")
        teller.show()
        await teller.applied(synced)
        counts = teller.allocatable(WHOLE), teller.allocatable(SHARED)
        teller.check("2 whole GPUs, and 24 shares of the other six", holds=counts == (2, 24), got=counts)
        uuids = [teller.uuid(index) for index in PAIR]
        left = [uuid for uuid in uuids if self._node.daemons.find(uuid) is not None]
        modes = {self._node.compute_mode(uuid) for uuid in uuids}
        teller.check(
            "no MPS daemon is left, and the GPUs have their old compute mode again",
            holds=not left and modes == {ComputeMode.DEFAULT},
            got=(left, modes),
        )
        fewest = self._kubelet.fewest(SHARED)
        teller.check("the six were never touched: always at least 24 shares", holds=fewest >= 24, got=fewest)
        await teller.pause(2)
        return training

    async def _reverted(self, earlier: Synced, training: Pod) -> None:
        teller, busy = self._teller, self._teller.gpu(training)
        free = next(index for index in PAIR if index != busy)
        await teller.chapter("8 of 10: git revert", "The last commit is taken back while the training still runs.")
        synced = await teller.revert()
        await teller.reloaded(synced)
        same = synced.commit.blob == earlier.commit.blob
        teller.check("the blob is that of step 6 again", holds=same, got=synced.commit.blob)
        await self._node.until(f"GPU {free} is under MPS", lambda: _of_mps(2)(teller.strip(free)))
        took = milliseconds(synced.at, self._node.listed_at(MPS))
        self._screen.labelled("kubelet", f"has GPU {free} under MPS again after {took}; GPU {busy} trains on:", "cyan")
        teller.show()
        await teller.pause(2)
        ended_at = await teller.end(training)
        await teller.follow(busy, ended_at, f"GPU {busy} is under MPS", _of_mps(2))
        await teller.applied(synced)
        teller.count(MPS, 4)
        await teller.pause(2)

    # --- daemons ---

    def _daemon(self, index: int) -> Process:
        """The daemon of a GPU. Raises NotAsTold where there is none."""
        found = self._node.daemons.find(self._teller.uuid(index))
        if found is None:
            raise NotAsTold(f"GPU {index} has an MPS daemon: got none")
        return found

    async def _tell_daemon(self, index: int, memory: int, threads: int) -> None:
        """Show the daemon of a GPU, and check that it allows each client so many GiB and percent."""
        process = self._daemon(index)
        mode = self._node.compute_mode(self._teller.uuid(index))
        if mode is not ComputeMode.EXCLUSIVE_PROCESS:
            raise NotAsTold(f"GPU {index} has the compute mode of MPS: got {mode.value}")
        found = await self._node.daemons.limits(self._teller.uuid(index))
        self._screen.labelled("mps", f"GPU {index}: daemon {process.pid} allows a client {found}", "cyan")
        if not found.fits(memory * 1024, threads):
            raise NotAsTold(f"the daemon of GPU {index} allows {memory} GiB and {threads} %: got {found}")


def _of_mps(total: int) -> Callable[[Strip], bool]:
    """Whether a GPU has so many shares under MPS, each held or free, and a daemon that is ready."""
    return lambda strip: (strip.resource, strip.held + strip.free, strip.mps) == (MPS, total, "ready")


def _is_whole(strip: Strip) -> bool:
    return strip.whole and strip.free == 1
