"""The story that `nodeagent demo --once` plays: ten commits, and pods that hold what Git takes away.

The first part is about sharing as such; `story_mps` and `story_gpus` go on from there. Each step says what is wanted,
does it, shows what the kubelet sees, and checks that it came out as told.
"""

from __future__ import annotations

from nodeagent.model.snapshot import ReloadResult
from nodeagent.sim.pods import Pod
from nodeagent.sim.story_files import SHARED, WHOLE, all_whole, shared
from nodeagent.sim.story_gpus import GpuStory
from nodeagent.sim.story_mps import MpsStory
from nodeagent.sim.telling import Teller, milliseconds

BUSY = 3
"""The GPU that has more pods than it is to have shares."""

_PODS_PER_GPU = 6
_STAY = (0, 2, 1, 6, 2, 3, 0, 0)
"""How many of its pods stay on each GPU."""

_FEWER = 4
"""Shares that each GPU is to have then."""


class Story:
    """Steps, to be played in their order. Each raises NotAsTold, NotInTime, GitFailed and what pods raise."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._screen = teller.screen
        self._node = teller.node
        self._kubelet = teller.kubelet
        self._pods: dict[int, list[Pod]] = {}

    async def play(self) -> None:
        """All of it."""
        self._screen.line("nodeagent: a GPU node that becomes what a file in Git says it should be", "bold")
        self._screen.line()
        self._screen.say(
            "This is a node with eight GPUs (simulated), a kubelet (a stand-in that speaks the real protocols) and "
            "the real agent. Ten commits to a real git repository follow, and after each of them what the kubelet "
            "sees. It takes a minute and a half."
        )
        self._teller.tell_program()
        await self._teller.pause(2)
        await self._whole()
        await self._shared()
        await self._pods_come_and_go()
        await self._typo()
        await self._fewer()
        await MpsStory(self._teller).play()
        await GpuStory(self._teller).play()

    async def _whole(self) -> None:
        teller = self._teller
        await teller.chapter("1 of 10: whole GPUs", "The first commit gives away every GPU whole, to one container.")
        synced = await teller.commit(all_whole(), "Whole GPUs")
        await self._node.start()
        await self._node.until("8 whole GPUs at the kubelet", lambda: teller.allocatable(WHOLE) == 8)
        # The kubelet may be told before the agent has summed up what it told.
        await self._node.until("8 GPUs", lambda: len(self._node.strips()) == 8)
        took = milliseconds(self._node.started_at, self._node.listed_at(WHOLE))
        self._screen.labelled("agent", f"starts; the kubelet has its list {took} later", "cyan")
        self._screen.labelled("", f"its status page, while this plays: {self._node.url}")
        teller.show()
        await teller.applied(synced)
        teller.count(WHOLE, 8)
        await teller.pause(2)

    async def _shared(self) -> None:
        teller = self._teller
        await teller.chapter(
            "2 of 10: ten share each GPU", "Small jobs leave most of a GPU idle. Let ten share each one."
        )
        synced = await teller.commit(shared(10), "Let ten share each GPU")
        await teller.reloaded(synced)
        await self._node.until("80 shares at the kubelet", lambda: teller.allocatable(SHARED) == 80)
        took = milliseconds(synced.at, self._node.listed_at(SHARED))
        self._screen.labelled("kubelet", f"has the new list {took} after the swap", "cyan")
        self._screen.say(
            "A GPU has one mode at a time. Before it changes, it is no longer handed out for a second, so that nobody "
            "is just being given it; a new count within a mode takes milliseconds.",
            lead=" " * 10,
            style="dim",
        )
        teller.show()
        await teller.applied(synced)
        teller.count(SHARED, 80)
        await teller.pause(2)

    def _held(self) -> list[int]:
        """How many shares of each GPU the agent takes for held."""
        return [sum(share.held for share in status.shares) for status in self._node.snapshot.gpus]

    async def _pods_come_and_go(self) -> None:
        teller = self._teller
        total, stay_on = _PODS_PER_GPU * len(_STAY), sum(_STAY)
        self._screen.line()
        self._screen.labelled("pods", f"{total} start, each with one share", "cyan")
        for number in range(total):
            pod = await teller.start(f"job-{number}", SHARED)
            self._pods.setdefault(teller.gpu(pod), []).append(pod)
        spread = {index: len(pods) for index, pods in sorted(self._pods.items())}
        teller.check(
            f"the agent has spread the {total} evenly: {_PODS_PER_GPU} on each GPU",
            holds=spread == dict.fromkeys(range(len(_STAY)), _PODS_PER_GPU),
            got=spread,
        )
        for index, stay in enumerate(_STAY):
            while len(self._pods[index]) > stay:
                await self._kubelet.end(self._pods[index].pop())
        await self._node.until("the agent knows who has ended", lambda: self._held() == [*_STAY])
        self._screen.labelled("pods", f"{total - stay_on} of them end; the {stay_on} others go on:", "cyan")
        teller.show()
        teller.legend()
        held = sum(strip.held for strip in self._node.strips())
        teller.check(f"{stay_on} shares are held, one by each pod", holds=held == stay_on, got=held)
        await teller.pause(2)

    async def _typo(self) -> None:
        teller, record = self._teller, self._kubelet.record
        await teller.chapter(
            "3 of 10: a typo", "Four shares per GPU would do. But somebody forgets an s, and nobody notices."
        )
        before = self._node.strips()
        sent = record.message_count, record.stream_end_count
        text = shared(_FEWER).replace("replicas", "replica")
        line = text[: text.index("replica")].count("\n") + 1
        synced = await teller.commit(text, "Four shares per GPU are enough")
        reload = await teller.reloaded(synced)
        took = milliseconds(synced.at)
        self._screen.labelled("", f"{took} after the swap; in CI `nodeagent validate` says the same", "dim")
        config = self._node.snapshot.config
        teller.check(
            f"rejected; the message names line {line} and what was meant",
            holds=reload.result is ReloadResult.REJECTED
            and [violation.where.line for violation in config.violations] == [line]
            and 'did you mean "replicas"?' in reload.message,
            got=reload.message,
        )
        blob = config.newest.git_blob if config.newest is not None else None
        teller.check("the agent names the bad blob, too", holds=blob == synced.commit.blob, got=blob)
        failing = "nodeagent_config_last_reload_successful 0.0"
        await teller.measured(failing, f"an alert can see it: {failing}")
        await teller.pause(2)
        teller.show()
        teller.check(
            "nothing has happened: no list was sent, no stream ended, no share changed",
            holds=sent == (record.message_count, record.stream_end_count) and before == self._node.strips(),
            got=(record.message_count, record.stream_end_count, self._node.strips()),
        )
        await teller.pause(1.5)

    async def _fewer(self) -> None:
        teller, surplus = self._teller, sum(max(0, stay - _FEWER) for stay in _STAY)
        await teller.chapter(
            "4 of 10: four share each GPU, while pods hold six shares of one",
            f"The typo is fixed. Pods have {sum(_STAY)} shares. Only {surplus} of these are too many, those beyond the "
            f"fourth on GPU {BUSY}. Nobody is evicted.",
        )
        self._kubelet.reset_fewest(SHARED)
        synced = await teller.commit(shared(_FEWER), "Fix the typo: replicas")
        await teller.reloaded(synced)
        self._screen.line()
        await teller.follow(BUSY, synced.at, f"GPU {BUSY} drains", lambda strip: strip.bar() == "####~~")
        told = f"{surplus} held shares drain on GPU {BUSY}"
        await self._node.until(f"the condition Draining: {told}", lambda: self._draining() == told)
        self._screen.labelled("agent", f"Draining: {told}", "cyan")
        draining = [strip.draining for strip in self._node.strips()]
        teller.check(
            f"no other GPU drains: `~` stands for {surplus} shares on the whole node",
            holds=sum(draining) == draining[BUSY] == surplus,
            got=draining,
        )
        await teller.pause(1.5)
        late = await teller.start("late-job", SHARED)
        index = teller.gpu(late)
        self._screen.labelled("pods", f"one more starts, and gets a share of GPU {index}", "cyan")
        teller.check(f"nothing new lands on GPU {BUSY}", holds=index != BUSY, got=index)
        await self._pod_leaves(5)
        ended_at = await self._pod_leaves(4)
        await self._node.until("exactly 32 shares at the kubelet", lambda: len(self._kubelet.devices(SHARED)) == 32)
        took = milliseconds(ended_at, self._node.listed_at(SHARED))
        self._screen.labelled("kubelet", f"has exactly the wanted list {took} after the second one ended", "cyan")
        teller.show()
        await teller.applied(synced)
        fewest = self._kubelet.fewest(SHARED)
        teller.check("at no moment were there fewer than 32 healthy shares", holds=fewest >= 32, got=fewest)
        await teller.pause(2)

    def _draining(self) -> str:
        """What the condition of that name says, while it is true."""
        found = self._node.snapshot.condition("Draining")
        return found.message if found is not None and found.status else ""

    async def _pod_leaves(self, left: int) -> float:
        """One pod of the GPU that is too full ends, so that `left` shares are left; when it ended."""
        await self._teller.pause(1)
        at = await self._teller.end(self._pods[BUSY].pop())
        await self._teller.follow(BUSY, at, f"{left} shares of GPU {BUSY} are left", lambda strip: strip.total == left)
        return at
