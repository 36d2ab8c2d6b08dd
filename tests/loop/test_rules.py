"""The rules of the shares, on nodes in any state, with any config (DESIGN section 5).

Every turn in here is one of the real loop: it goes through the model kubelet, which fails loudly where the real one
would crash or a pod would lose its share, and each of its plans is examined.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nodeagent.executor import share_actions
from nodeagent.model.config import Document, Loaded, Rule, Stage, Unreadable, Violation, Where
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import Advertise, Drop, Release, Remember, Restore, WaitReason
from nodeagent.model.shares import AppliedGpu
from nodeagent.model.snapshot import ConfigState
from nodeagent.state import lists
from nodeagent.state.acceptance import Acceptance, judge, wanted
from nodeagent.state.drift import drift
from nodeagent.state.effect import perform
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.plan import plan
from tests.loop.agent import Agent
from tests.loop.worlds import GPUS, World, entries, give, is_as_wanted, one_meaning, rules, world, worlds
from tests.state import make

SOME = settings(max_examples=50)
"""An example is a node and all that comes of it; the machine of test_machine.py tries these rules on many more."""

FOR_PODS = {WaitReason.PODS, WaitReason.WAVE, WaitReason.LAST}
CUTS = st.lists(st.integers(0, 5), max_size=12)


def shares_drift(node: World) -> tuple[object, ...]:
    """What drift says of this node's shares."""
    agent = node.agent
    found = drift(
        config=ConfigState("config"),
        desired=agent.desired,
        applied=agent.applied,
        inventory=agent.driver.inventory,
        mps=agent.mps,
        registrations=(),
        views={},
    )
    return found[1:]


@SOME
@given(worlds())
def test_a_node_without_pods_becomes_what_the_config_says(node: World) -> None:
    """Executing plans leaves no drift, and then there is nothing left to plan."""
    node.pods_end()
    assert node.rests().converged
    assert is_as_wanted(node.agent)
    assert shares_drift(node) == ()


@SOME
@given(worlds())
def test_pods_are_the_only_thing_that_is_waited_for(node: World) -> None:
    """With pods that stay, a node comes to rest with what they hold too much draining; when they end so does that.
    Other GPUs may wait for their turn, which comes when those that drain have ended.
    """
    made = node.rests()
    assert {wait.reason for wait in made.waits} <= FOR_PODS
    assert bool(made.waits) == bool(shares_drift(node))
    node.pods_end()
    assert node.rests().converged
    assert is_as_wanted(node.agent)


@SOME
@given(worlds())
def test_held_shares_come_through_with_their_contract(node: World) -> None:
    """A held id is never withdrawn, and never means anything else to its pod."""
    held = node.kubelet.held()
    before = {uuid: entry.contract for uuid, entry in node.agent.applied.gpus.items()}
    node.rests()
    for resource, share in held:
        entry = node.agent.applied.gpus[share.partition("::")[0]]
        assert share in set(entry.ids(entry.numbers))
        assert entry.contract is not None
        assert entry.contract.resource == resource
        assert entry.contract == before[entry.gpu.uuid]


@SOME
@given(worlds(), CUTS)
def test_any_prefix_of_a_plan_then_planned_anew_converges(node: World, cuts: list[int]) -> None:
    """However little of each plan is performed, the node comes to the same end."""
    node.pods_end()
    for cut in cuts:
        node.works(cut=cut)
    assert node.rests().converged
    assert is_as_wanted(node.agent)


@SOME
@given(rules(), rules(), st.integers(0, 8))
def test_there_and_back_is_the_same_state(first: tuple[Rule, ...], second: tuple[Rule, ...], rounds: int) -> None:
    """A -> B -> A gives the same state, however far B was followed."""
    node = world()
    node.follow(*first)
    node.rests()
    before = node.agent.applied
    node.follow(*second)
    if rounds:
        node.works(rounds)
    node.follow(*first)
    assert node.rests().converged
    assert node.agent.applied == before


@SOME
@given(rules(), rules(), st.integers(0, 30), st.data())
def test_there_and_back_with_pods_is_the_same_state(
    first: tuple[Rule, ...], second: tuple[Rule, ...], rounds: int, data: st.DataObject
) -> None:
    """A -> B -> A with pods that stay gives the same state, and they never noticed."""
    node = world()
    node.follow(*first)
    node.rests()
    for _ in range(data.draw(st.integers(0, 5))):
        if choices := node.kubelet.choices():
            resource = data.draw(st.sampled_from(choices))
            node.kubelet.begin_admission(node.agent.desk, resource, 1, node.clock.now, init=False, ask=True)
            node.kubelet.finish_admission(node.agent.desk, node.clock.now, fails=False)
    node.rests()
    before = node.agent.applied
    node.follow(*second)
    if rounds:
        node.works(rounds)
    node.follow(*first)
    assert node.rests().converged
    assert node.agent.applied == before


@SOME
@given(worlds())
def test_the_plan_of_a_converged_state_is_empty(node: World) -> None:
    """At rest, planning gives nothing, whatever time it is and whether PodResources can be read or not."""
    node.pods_end()
    node.rests()
    for seconds in (0.0, 1.0, 3600.0):
        node.clock.now += seconds
        view = node.agent.looks_ahead()
        assert plan(node.agent.desired, view).converged
        assert plan(node.agent.desired, replace(view, pods=make.unreadable(view.pods.listing))).converged


@SOME
@given(worlds(), st.sampled_from([Stage.PARSE, Stage.SCHEMA, Stage.SEMANTIC, None]))
def test_a_rejected_document_changes_nothing(node: World, stage: Stage | None) -> None:
    """With a document that is rejected or cannot be read, what is wanted stays, and so does the plan."""
    gpus = node.agent.looks_ahead().gpus
    good = Loaded(Document("c", b"good"), node.config)
    accepted, _ = judge(Acceptance(), good, gpus)
    bad: Loaded | Unreadable = Unreadable("c", missing=True, message="gone")
    if stage is not None:
        bad = Loaded(Document("c", b"bad"), None, (Violation("c", Where(), "no", stage),))
    rejected, _ = judge(accepted, bad, gpus)
    assert wanted(rejected, gpus) == wanted(accepted, gpus) == (node.agent.desired, ())


@SOME
@given(worlds())
def test_nothing_accepted_takes_nothing_away(node: World) -> None:
    """Without a desired state only what pods have comes back to the lists, and what was fenced; nothing is added,
    fenced or dropped.
    """
    node.agent.around.mount.newest = None
    before = node.agent.applied.gpus
    node.rests()
    for uuid, entry in before.items():
        have = node.agent.applied.gpus[uuid]
        assert (have.contract, have.numbers, dict(have.fences)) == (entry.contract, entry.numbers, {})
    assert all(entry.contract is None for uuid, entry in node.agent.applied.gpus.items() if uuid not in before)


@SOME
@given(worlds())
def test_unreadable_pod_resources_take_nothing_away(node: World) -> None:
    """While nobody knows who holds what, no share is fenced or dropped, and no contract ends."""
    node.looks()
    view = node.agent.looks_ahead()
    blind = plan(node.agent.desired, replace(view, pods=make.unreadable(view.pods.listing)))
    shrinking = [
        one
        for one in share_actions(blind.actions)
        if isinstance(one, Drop) or (isinstance(one, Release) and view.applied.gpus[one.uuid].numbers)
    ]
    assert not shrinking


@SOME
@given(st.lists(st.integers(0, GPUS - 1), max_size=6), rules(), st.sampled_from([GpuHealth.LOST, GpuHealth.HANG]))
def test_a_fault_of_a_gpu_changes_no_share(failing: list[int], first: tuple[Rule, ...], health: GpuHealth) -> None:
    """A real fault is sent as Unhealthy, never by dropping an id, and its end changes nothing else."""
    node = world()
    node.follow(*first)
    node.rests()
    before = node.agent.applied
    for index in failing:
        node.agent.driver.inventory = make.inventory(
            *(make.gpu(one, health=health if one == index else GpuHealth.OK) for one in range(GPUS))
        )
        made = plan(node.agent.desired, node.agent.looks_ahead())
        assert all(isinstance(one, Remember) for one in made.actions)
        node.works()
    node.agent.driver.inventory = make.inventory(*(make.gpu(one) for one in range(GPUS)))
    assert node.rests().converged
    assert node.agent.applied == before


@SOME
@given(entries(0), st.integers(0, 8))
def test_what_can_be_handed_out_never_becomes_more_than_wanted(
    have: tuple[AppliedGpu, frozenset[int]], count: int
) -> None:
    """Action by action: Healthy or held shares exceed the wanted number only where they did so before."""
    entry, held = have
    node = world((entry, held), gpus=1)
    node.follow(make.sliced(count, 0) if count else make.withheld(0))
    for _ in range(30):
        node.clock.now += 0.5
        node.looks()
        view = node.agent.looks_ahead()
        state = view.applied
        for action in share_actions(plan(node.agent.desired, view).actions):
            before = _out(state.gpus.get("GPU-0"), held)
            state = perform(state, (action,), view.now)
            after = _out(state.gpus.get("GPU-0"), held)
            if isinstance(action, Advertise | Restore):
                assert after <= max(count, before)
            else:
                assert after <= before
        node.kubelet.arrive_all()


def _out(entry: AppliedGpu | None, held: frozenset[int]) -> int:
    if entry is None or entry.contract is None:
        return 0
    return len((entry.numbers - entry.fences.keys()) | (held & entry.numbers))


@SOME
@given(worlds(), st.integers(0, GPUS - 1), rules())
def test_gpus_that_do_not_change_are_never_touched(node: World, index: int, other: tuple[Rule, ...]) -> None:
    """A change for one GPU leaves the shares of the others exactly as they are, at every moment."""
    node.pods_end()
    node.rests()
    before = node.agent.applied.gpus
    assert node.config is not None
    mixed = [*node.config.rules]
    mixed[index] = other[index]
    assume(one_meaning(mixed))  # any other config is rejected
    node.follow(*mixed)
    for _ in range(8):
        node.works()
        for uuid, entry in node.agent.applied.gpus.items():
            if uuid != make.uuid_of(index):
                assert entry == before[uuid]


@SOME
@given(worlds(), st.integers(0, 20), st.integers(0, 4))
def test_a_restart_at_any_moment_changes_nothing_in_the_end(node: World, rounds: int, unread: int) -> None:
    """An agent that is replaced in the middle of a change comes to the same end as one that is not. While it cannot
    read the document it offers nothing that was fenced, but for what pods have.
    """
    node.pods_end()
    if rounds:
        node.works(rounds)
    for resource in node.agent.streams.served:
        node.kubelet.disconnect(resource)
    mount = node.agent.around.mount
    newest, mount.newest = mount.newest, None if unread else mount.newest
    fenced = lists.fenced_shares(node.agent.applied)
    node.agent = Agent(node.agent.around, node.agent.driver.inventory)
    for _ in range(unread):
        node.works()
        assert fenced <= lists.fenced_shares(node.agent.applied)
    mount.newest = newest
    assert node.rests().converged
    assert is_as_wanted(node.agent)


Keys = frozenset[ShareKey]

GIVEN = [
    make.keys(make.SHARED, 0, 0, 1, 5),
    make.keys(make.SHARED, 0, 3),
    make.keys("nvidia.com/gpu", 0, 2),
    make.keys("nvidia.com/gpu", 0),
]


def of(keys: Keys, index: int) -> Keys:
    """The same shares of another GPU."""
    return frozenset((resource, share.replace("GPU-0", make.uuid_of(index))) for resource, share in keys)


@SOME
@given(st.lists(st.none() | st.sampled_from(GIVEN), max_size=GPUS), rules())
def test_what_another_plugin_gave_is_taken_over(given_: list[Keys | None], wish: tuple[Rule, ...]) -> None:
    """With the first look every share that a pod has is served as it was given, and it goes on from there."""
    node = world()
    for index, keys in enumerate(given_):
        give(node, index, of(keys or frozenset(), index))
    node.follow(*wish)
    node.works()
    assert {wait.reason for wait in node.rests().waits} <= FOR_PODS
    node.pods_end()
    assert node.rests().converged
    assert is_as_wanted(node.agent)


def test_an_agent_without_a_memory_reads_the_document_first() -> None:
    """What pods have is not registered alone: it would take away what is free on the kubelet's list. Where there is no
    document for a while, it is.
    """
    node = world()
    give(node, 0, make.keys(make.SHARED, 0, 1))
    node.works(3)
    assert not node.agent.streams.served
    node.follow(make.sliced(4))
    node.works()
    assert len(node.kubelet.allocatable()[make.SHARED]) == 4 * GPUS

    node = world()
    give(node, 0, make.keys(make.SHARED, 0, 1))
    node.works(14)
    assert node.agent.streams.served == {make.SHARED}


@SOME
@given(st.lists(st.sets(st.sampled_from(GIVEN)), max_size=GPUS), rules())
def test_pods_of_several_contracts_leave_one_after_the_other(given_: list[set[Keys]], wish: tuple[Rule, ...]) -> None:
    """However another plugin mixed its contracts on a GPU, it ends with what is wanted."""
    node = world()
    node.checked = False
    for index, groups in enumerate(given_):
        give(node, index, of(frozenset().union(*groups), index))
    node.follow(*wish)
    node.rests()
    for uid in sorted(node.kubelet.pods):
        node.kubelet.pods[uid].finished = True
        node.works(4)
    node.pods_end()
    assert node.rests().converged
    assert is_as_wanted(node.agent)


@pytest.mark.parametrize("complete", [True, False])
def test_a_gpu_that_drops_out_keeps_its_index_and_its_shares(complete: bool) -> None:
    """Rules by index go on meaning the GPUs they meant, though the driver's indices shift."""
    node = world()
    node.follow(make.sliced(4, 0), make.whole(1, resource="example.com/whole"), make.sliced(2, 2))
    node.rests()
    before = node.agent.applied
    shifted = [replace(make.gpu(index), index=index - 1) for index in (1, 2)]
    node.agent.driver.inventory = make.inventory(*shifted, complete=complete)
    node.rests()
    have = node.agent.applied
    assert {uuid: one.numbers for uuid, one in have.gpus.items()} == {u: one.numbers for u, one in before.gpus.items()}
    assert [one.gpu.index for one in have.ordered()] == [0, 1, 2]
    assert have.gpus["GPU-0"].healthy is not complete
    assert node_gpus(node.agent.driver.inventory, have)[1].uuid == "GPU-1"
