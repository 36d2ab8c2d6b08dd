"""The story that `nodeagent demo --once` plays: six commits, and pods that hold what Git takes away.

Each step says what is wanted, does it, shows what the kubelet sees, and checks that it came out as told.
"""

from __future__ import annotations

from nodeagent.model.snapshot import ReloadResult
from nodeagent.sim.pods import Pod
from nodeagent.sim.strips import Strip
from nodeagent.sim.telling import Synced, Teller, milliseconds

WHOLE = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"

_HEAD = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: demo
spec:
  rules:
"""
_TRAINING = """\
    - name: training
      match: {indices: [6, 7]}
      resource: nvidia.com/gpu
      exclusive: {}
"""
_EVERYBODY = """\
    - name: everybody
"""
_ALL_WHOLE = f"""\
{_HEAD}{_EVERYBODY}\
      resource: nvidia.com/gpu
      exclusive: {{}}
"""

BUSY, IDLE, ENDING = 3, 6, 7
"""GPUs with a part: one that is too full, and the two that become whole: one is idle, one has a pod that ends."""

_PODS_PER_GPU = 6
_STAY = (0, 2, 1, 6, 2, 3, 0, 1)
"""How many of its pods stay on each GPU."""


class Story:
    """Six steps, to be played in their order. Each raises NotAsTold, NotInTime, GitFailed and what pods raise."""

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
            "the real agent, all in one process. Six commits to a real git repository follow, and after each of them "
            "what the kubelet sees. It takes about a minute."
        )
        await self._teller.pause(3)
        await self._whole()
        await self._shared()
        await self._pods_come_and_go()
        await self._typo()
        fewer = await self._fewer()
        await self._mixed()
        await self._reverted(fewer)

    async def _whole(self) -> None:
        teller = self._teller
        await teller.chapter("1 of 6: whole GPUs", "The first commit gives away every GPU whole, to one container.")
        synced = await teller.commit(_ALL_WHOLE, "Whole GPUs")
        await self._node.start()
        await self._node.until("8 whole GPUs at the kubelet", lambda: teller.allocatable(WHOLE) == 8)
        took = milliseconds(self._node.started_at, self._node.listed_at(WHOLE))
        self._screen.labelled("agent", f"starts; the kubelet has its list {took} later", "cyan")
        self._screen.labelled("", f"its status page, while this plays: {self._node.url}")
        teller.show()
        await teller.applied(synced)
        teller.count(WHOLE, 8)
        await teller.pause(3)

    async def _shared(self) -> None:
        teller = self._teller
        await teller.chapter(
            "2 of 6: ten share each GPU", "Small jobs leave most of a GPU idle. Let ten share each one."
        )
        synced = await teller.commit(_shared(10), "Let ten share each GPU")
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
        await teller.pause(3)

    async def _pods_come_and_go(self) -> None:
        teller = self._teller
        total = _PODS_PER_GPU * len(_STAY)
        self._screen.line()
        self._screen.labelled("pods", f"{total} start, each with one share; most of them soon end:", "cyan")
        for number in range(total):
            pod = await teller.start(f"job-{number}", SHARED)
            self._pods.setdefault(teller.gpu(pod), []).append(pod)
        spread = {index: len(pods) for index, pods in sorted(self._pods.items())}
        for index, stay in enumerate(_STAY):
            while len(self._pods[index]) > stay:
                await self._kubelet.end(self._pods[index].pop())
        teller.show()
        teller.legend()
        teller.check(
            f"the agent had spread the {total} evenly: {_PODS_PER_GPU} on each GPU",
            holds=spread == dict.fromkeys(range(len(_STAY)), _PODS_PER_GPU),
            got=spread,
        )
        await teller.pause(3)

    async def _typo(self) -> None:
        teller, record = self._teller, self._kubelet.record
        await teller.chapter(
            "3 of 6: a typo", "Four shares per GPU would do. But somebody forgets an s, and nobody notices."
        )
        before = self._node.strips()
        sent = record.message_count, record.stream_end_count
        text = _shared(4).replace("replicas", "replica")
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
        metrics = (await self._node.metrics()).splitlines()
        teller.check(f"an alert can see it: {failing}", holds=failing in metrics, got="another value")
        await teller.pause(3)
        teller.show()
        teller.check(
            "nothing has happened: no list was sent, no stream ended, no share changed",
            holds=sent == (record.message_count, record.stream_end_count) and before == self._node.strips(),
            got=(record.message_count, record.stream_end_count, self._node.strips()),
        )
        await teller.pause(2)

    async def _fewer(self) -> Synced:
        teller = self._teller
        await teller.chapter(
            "4 of 6: four share each GPU, while pods hold six shares of one",
            f"The typo is mended. GPU {BUSY} has more pods than it will have shares; nobody is evicted.",
        )
        self._kubelet.reset_fewest(SHARED)
        synced = await teller.commit(_shared(4), "Mend the typo: replicas")
        await teller.reloaded(synced)
        self._screen.line()
        await teller.follow(BUSY, synced.at, f"GPU {BUSY} drains", lambda strip: strip.bar() == "####~~")
        draining = self._node.snapshot.condition("Draining")
        self._screen.labelled("agent", f"Draining: {draining.message if draining is not None else 'no'}", "cyan")
        await teller.pause(2)
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
        await teller.pause(3)
        return synced

    async def _pod_leaves(self, left: int) -> float:
        """One pod of the GPU that is too full ends, so that `left` shares are left; when it ended."""
        await self._teller.pause(1.5)
        at = await self._teller.end(self._pods[BUSY].pop())
        await self._teller.follow(BUSY, at, f"{left} shares of GPU {BUSY} are left", lambda strip: strip.total == left)
        return at

    async def _mixed(self) -> None:
        teller = self._teller
        await teller.chapter(
            "5 of 6: two GPUs whole, six shared",
            f"A training run needs GPUs {IDLE} and {ENDING} whole. GPU {IDLE} is idle, on GPU {ENDING} a pod runs.",
        )
        self._kubelet.reset_fewest(SHARED)
        synced = await teller.commit(_shared(4, _TRAINING), f"GPUs {IDLE} and {ENDING} whole, for training")
        await teller.reloaded(synced)
        self._screen.line()
        await teller.follow(IDLE, synced.at, f"GPU {IDLE} is whole", _is_whole)
        await teller.follow(ENDING, synced.at, f"GPU {ENDING} waits for its pod", lambda strip: strip.draining == 1)
        await teller.pause(2)
        ended_at = await teller.end(self._pods[ENDING].pop())
        await teller.follow(ENDING, ended_at, f"GPU {ENDING} is whole", _is_whole)
        training = await teller.start("training", WHOLE)
        self._pods[teller.gpu(training)] = [training]
        visible = training.envs("main").get("NVIDIA_VISIBLE_DEVICES", "nothing")
        self._screen.labelled("pods", f"training starts, and sees {visible}", "cyan")
        teller.show()
        await teller.applied(synced)
        counts = teller.allocatable(WHOLE), teller.allocatable(SHARED)
        teller.check("2 whole GPUs, and 24 shares of the other six", holds=counts == (2, 24), got=counts)
        fewest = self._kubelet.fewest(SHARED)
        teller.check("the six were never touched: always at least 24 shares", holds=fewest >= 24, got=fewest)
        await teller.pause(3)

    async def _reverted(self, earlier: Synced) -> None:
        teller = self._teller
        await teller.chapter("6 of 6: git revert", "The last commit is taken back while the training still runs.")
        synced = await teller.revert()
        await teller.reloaded(synced)
        same = synced.commit.blob == earlier.commit.blob
        teller.check("the blob is that of step 4 again", holds=same, got=synced.commit.blob)
        training = next(pod for pods in self._pods.values() for pod in pods if pod.name == "training")
        busy = teller.gpu(training)
        free = ENDING if busy == IDLE else IDLE
        await self._node.until(f"GPU {free} is shared", lambda: teller.strip(free).resource == SHARED)
        took = milliseconds(synced.at, self._node.listed_at(SHARED))
        self._screen.labelled("kubelet", f"has GPU {free} shared again after {took}; GPU {busy} trains on:", "cyan")
        teller.show()
        await teller.pause(3)
        await teller.end(training)
        await self._node.until("32 shares at the kubelet", lambda: teller.allocatable(SHARED) == 32)
        teller.show()
        await teller.applied(synced)
        teller.count(SHARED, 32)
        await teller.pause(3)


def _shared(replicas: int, rules_before: str = "") -> str:
    """A config that lets `replicas` share each GPU that the rules before it do not match."""
    return (
        f"{_HEAD}{rules_before}{_EVERYBODY}"
        f"      resource: nvidia.com/gpu.shared\n      timeSlicing: {{replicas: {replicas}}}\n"
    )


def _is_whole(strip: Strip) -> bool:
    return strip.whole and strip.free == 1
