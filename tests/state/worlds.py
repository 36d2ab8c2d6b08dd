"""Nodes in any state that the rules allow, with a kubelet whose pods have what the state says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from nodeagent.model.config import DEFAULT_RESOURCE, Contract, Mode, Rule
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.lists import lists
from tests.state import make
from tests.state.model_agent import Clock, Disk, ModelAgent
from tests.state.model_kubelet import ModelKubelet, Pod

GPUS = 3
CONTRACTS = [
    make.WHOLE,
    make.SLICED,
    Contract(DEFAULT_RESOURCE, Mode.TIME_SLICED),
    Contract("example.com/whole", Mode.EXCLUSIVE),
]


@st.composite
def rules(draw: st.DrawFn, gpus: int = GPUS) -> tuple[Rule, ...]:
    """One rule per GPU, such that a resource name stands for one mode."""
    plain_is_whole = draw(st.booleans())
    found = []
    for index in range(gpus):
        kind = draw(st.integers(0, 9))
        if kind < 4:
            found.append(make.sliced(draw(st.integers(2, 6)), index, most=draw(st.sampled_from([None, None, 1, 2]))))
        elif kind < 7:
            plain = make.whole(index) if plain_is_whole else make.sliced(3, index, resource=DEFAULT_RESOURCE)
            found.append(plain)
        elif kind < 9:
            found.append(make.whole(index, resource="example.com/whole"))
        else:
            found.append(make.withheld(index))
    return tuple(found)


@st.composite
def entries(draw: st.DrawFn, index: int) -> tuple[AppliedGpu, frozenset[int]]:
    """What is applied of one GPU, in the middle of whatever, and which of its shares pods have."""
    contract = draw(st.one_of(st.none(), st.sampled_from(CONTRACTS)))
    if contract is None:
        return make.entry(index), frozenset()
    possible = st.just({0}) if contract.mode is Mode.EXCLUSIVE else st.sets(st.integers(0, 7), min_size=1)
    numbers = sorted(draw(possible))
    fenced = draw(st.sets(st.sampled_from(numbers)))
    held = draw(st.sets(st.sampled_from(numbers)))
    return make.entry(index, contract, numbers, dict.fromkeys(fenced, 0.0)), frozenset(held)


@dataclass
class World:
    """A node with its agent, its kubelet, and time."""

    clock: Clock
    kubelet: ModelKubelet
    agent: ModelAgent
    checked: bool = True

    def looks(self) -> None:
        """A look at the kubelet begins and ends."""
        held = self.kubelet.holders()
        look = make.look(self.clock.now, (), self.kubelet.allocatable(), self.kubelet.checkpoint, self.kubelet.name)
        self.agent.take_in(replace(look, holders=held))

    def follow(self, *wanted: Rule) -> None:
        """Git says something else."""
        self.agent.config = make.config(*wanted)

    def works(self, rounds: int = 1, *, cut: int | None = None) -> Plan:
        """Half a second passes, the agent looks and turns, and its lists arrive."""
        made = Plan()
        for _ in range(rounds):
            self.clock.now += 0.5
            self.looks()
            made = self.agent.turn(cut) if cut is not None else self.agent.settle()
            if self.checked:
                self.agent.check()
            self.kubelet.arrive_all()
        return made

    def rests(self) -> Plan:
        """Time passes until nothing more can be done by itself; the last plan, which has waits only."""
        made = self.works(24)
        applied = self.agent.applied
        for _ in range(3):
            made = self.works()
            assert self.agent.applied == applied, "something is done again and again"
        assert not made.actions
        return made

    def pods_end(self) -> None:
        """Every pod ends, and an admission of something else makes the kubelet forget it."""
        for pod in self.kubelet.pods.values():
            pod.finished = True
        self.kubelet.purge()


def world(*have: tuple[AppliedGpu, frozenset[int]], gpus: int = GPUS) -> World:
    """A node on which an agent starts that finds this on its disk, and pods that have these shares."""
    clock, kubelet = Clock(), ModelKubelet()
    applied = Applied({one.gpu.uuid: one for one, _ in have})
    for listing in lists(applied, (), {}).values():
        kubelet.connect(listing.resource)
        kubelet.send(listing)
    kubelet.arrive_all()
    for one, held in have:
        if one.contract is not None and held:
            uid = f"pod-on-{one.gpu.uuid}"
            kubelet.pods[uid] = Pod(uid, one.contract.resource, tuple(one.ids(held)), init=False, since=0.0)
            kubelet.checkpoint |= {
                CheckpointEntry(uid, "main", one.contract.resource, share) for share in one.ids(held)
            }
    inventory = make.inventory(*(make.gpu(index) for index in range(gpus)))
    agent = ModelAgent(kubelet, clock, Disk(applied), inventory)
    agent.registered = applied.resources()
    return World(clock, kubelet, agent)


def give(node: World, index: int, keys: frozenset[ShareKey]) -> None:
    """Another plugin gave these shares of a GPU to a pod each, and has gone."""
    for resource, share in sorted(keys):
        uid = f"pod-{index}-{resource}-{share}"
        node.kubelet.pods[uid] = Pod(uid, resource, (share,), init=False, since=0.0)
        node.kubelet.checkpoint.add(CheckpointEntry(uid, "main", resource, share))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any node, with a config that it is to follow."""
    found = world(*(draw(entries(index)) for index in range(draw(st.integers(0, GPUS)))))
    found.follow(*draw(rules()))
    return found


def is_as_wanted(agent: ModelAgent) -> bool:
    """Whether every GPU has what Git wants of it, and nothing else."""
    assert agent.desired is not None
    return all(
        (entry.contract, len(entry.numbers), dict(entry.fences)) == (want.contract, want.count, {})
        for uuid, want in agent.desired.wants.items()
        for entry in (agent.applied.gpus[uuid],)
    )
