"""Nodes in any state that the rules allow, with a kubelet whose pods have what the state says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from nodeagent.model.config import DEFAULT_RESOURCE, Contract, Loaded, Match, Mode, Rule, SharingConfig
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.daemons import daemons
from nodeagent.state.lists import lists
from tests.loop.agent import Agent, Surroundings
from tests.loop.fakes import Clock, Disk, Mount
from tests.loop.model_host import ModelHost
from tests.loop.model_kubelet import ModelKubelet, Pod
from tests.state import make

GPUS = 3
CONTRACTS = [
    make.WHOLE,
    make.SLICED,
    Contract(DEFAULT_RESOURCE, Mode.TIME_SLICED),
    Contract("example.com/whole", Mode.EXCLUSIVE),
    make.QUARTER,
    make.under_mps(resource=make.SHARED),
]


SLICED_MIG = "example.com/mig.shared"
FOR_MIG = [
    replace(make.sliced(3, resource=SLICED_MIG), match=Match(mig=("*",))),
    replace(make.mps(2, memory=2048, resource=SLICED_MIG), match=Match(mig=("1g.*",))),
    replace(make.withheld(), match=Match(mig=("1g.10gb",))),
]
"""Rules for the MIG devices of all GPUs."""


def under_mps(resource: str) -> st.SearchStrategy[Rule]:
    """A rule under MPS, of a few that differ in shares and limits."""
    return st.builds(
        lambda replicas, limits, most: make.mps(
            replicas, memory=limits[0], threads=limits[1], resource=resource, most=most
        ),
        st.integers(1, 4),
        st.sampled_from([(None, None), (9216, 25), (9216, 30)]),
        st.sampled_from([1, 2]),
    )


@st.composite
def rules(draw: st.DrawFn, gpus: int = GPUS) -> tuple[Rule, ...]:
    """One rule per GPU, such that a resource name stands for one mode, and under MPS for one set of limits."""
    plain_is_whole = draw(st.booleans())
    shared_is_sliced = draw(st.integers(0, 3)) > 0
    shared, mps = draw(under_mps(make.SHARED)), draw(under_mps(make.MPS))
    found = []
    for index in range(gpus):
        kind = draw(st.integers(0, 12))
        here = Match(indices=frozenset({index}))
        if kind < 4 and shared_is_sliced:
            found.append(make.sliced(draw(st.integers(2, 6)), index, most=draw(st.sampled_from([None, None, 1, 2]))))
        elif kind < 4:
            found.append(replace(shared, match=here))
        elif kind < 7:
            plain = make.whole(index) if plain_is_whole else make.sliced(3, index, resource=DEFAULT_RESOURCE)
            found.append(plain)
        elif kind < 9:
            found.append(make.whole(index, resource="example.com/whole"))
        elif kind < 12:
            found.append(replace(mps, match=here))
        else:
            found.append(make.withheld(index))
    if draw(st.booleans()):
        found.append(draw(st.sampled_from(FOR_MIG)))
    return tuple(found)


def one_meaning(wanted: Sequence[Rule]) -> bool:
    """Whether each resource name stands for one mode and one set of limits."""
    contracts = [contract for one in wanted if (contract := one.contract_for(make.gpu(0))) is not None]
    return len(set(contracts)) == len({contract.resource for contract in contracts})


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
    """A node with its agent, its kubelet, its MPS host, and time."""

    clock: Clock
    kubelet: ModelKubelet
    host: ModelHost
    agent: Agent
    checked: bool = True

    def looks(self) -> None:
        """A look at the kubelet begins and ends."""
        held = self.kubelet.holders()
        look = make.look(self.clock.now, (), self.kubelet.allocatable(), self.kubelet.checkpoint, self.kubelet.name)
        self.agent.take_in(replace(look, holders=held))

    def follow(self, *wanted: Rule) -> None:
        """Git says something else."""
        self.agent.around.mount.has(make.config(*wanted), self.clock.now)

    def works(self, rounds: int = 1, *, cut: int | None = None) -> Plan:
        """Half a second passes, the agent looks and turns, its lists arrive, and the MPS host does what it can."""
        made = Plan()
        for _ in range(rounds):
            self.clock.now += 0.5
            self.looks()
            self.host.works()
            self.agent.daemons.looks()
            made = self.agent.turn(cut) if cut is not None else self.agent.settle()
            if self.checked:
                self.agent.check()
            self.kubelet.arrive_all()
        return made

    def rests(self) -> Plan:
        """Time passes until nothing more can be done by itself; the last plan, which has waits only. An agent takes
        nothing away for ten seconds after its start, and a wave takes a few.
        """
        made = self.works(60)
        applied = self.agent.applied
        for _ in range(3):
            made = self.works()
            assert self.agent.applied == applied, "something is done again and again"
        assert not made.actions
        return made

    @property
    def config(self) -> SharingConfig | None:
        """What Git says."""
        newest = self.agent.around.mount.newest
        return newest.loaded.config if newest is not None and isinstance(newest.loaded, Loaded) else None

    def pods_end(self) -> None:
        """Every pod ends, and an admission of something else makes the kubelet forget it."""
        for pod in self.kubelet.pods.values():
            pod.finished = True
        self.kubelet.purge()


def world(*have: tuple[AppliedGpu, frozenset[int]], gpus: int = GPUS) -> World:
    """A node on which an agent starts that finds this on its disk, and pods that have these shares."""
    clock, kubelet = Clock(), ModelKubelet()
    host = ModelHost(kubelet)
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
    if under := daemons(applied, {}):
        host.write(under)
        host.works()
    agent = Agent(Surroundings(kubelet, host, Mount(), Disk(applied), clock), inventory)
    for resource in applied.resources():
        agent.streams.register(resource)
    return World(clock, kubelet, host, agent)


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


def is_as_wanted(agent: Agent) -> bool:
    """Whether every GPU has what Git wants of it, and nothing else."""
    assert agent.desired is not None
    return all(
        (entry.contract, len(entry.numbers), dict(entry.fences)) == (want.contract, want.count, {})
        for uuid, want in agent.desired.wants.items()
        for entry in (agent.applied.gpus[uuid],)
    )
