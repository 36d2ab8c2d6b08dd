"""A change of contracts never takes from a node what is not to be had again in a moment: it goes in waves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.config import Contract, MaxUnavailable, Mode, Rule, SharingConfig
from nodeagent.model.inventory import GpuHealth, InventoryReason
from nodeagent.model.mps import DaemonState, MpsReason
from nodeagent.model.plan import WaitReason
from nodeagent.model.shares import AppliedGpu
from tests.loop.agent import Agent
from tests.loop.worlds import World, world
from tests.state import make

WHOLE_SHARED = Contract(make.SHARED, Mode.EXCLUSIVE)


def whole(*indices: int) -> Rule:
    """Whole GPUs under the name that is usually shared."""
    return make.whole(*indices, resource=make.SHARED)


def node(*rules: Rule, gpus: int = 8) -> World:
    """A node at rest with this config."""
    found = world(gpus=gpus)
    found.follow(*rules)
    found.rests()
    found.kubelet.least.clear()
    return found


def follow(found: World, config: SharingConfig) -> None:
    """Git says this."""
    found.agent.around.mount.has(config, found.clock.now)


def change(found: World, *rules: Rule, at_most: int | str = "25%") -> None:
    """Git says something else, at most so many devices at a time."""
    most = MaxUnavailable(number=at_most) if isinstance(at_most, int) else MaxUnavailable(percent=int(at_most[:-1]))
    follow(found, replace(make.config(*rules), max_unavailable=most))


def pod(found: World, resource: str, *ids: str) -> str:
    """A pod that has just these shares; returns its uid."""
    kubelet, agent = found.kubelet, found.agent
    before = set(kubelet.pods)
    views = kubelet.views[resource]
    kubelet.views[resource] = {share: healthy and share in ids for share, healthy in views.items()}
    kubelet.begin_admission(agent.desk, resource, len(ids), found.clock.now, init=False, ask=False)
    kubelet.finish_admission(agent.desk, found.clock.now, fails=False)
    kubelet.views[resource] = views
    (uid,) = set(kubelet.pods) - before
    return uid


def ends(found: World, uid: str) -> None:
    """A pod ends, and the kubelet knows."""
    found.kubelet.pods[uid].finished = True
    found.kubelet.purge()


def modes(found: World) -> dict[int, Mode | None]:
    """What each GPU is by now."""
    entries = found.agent.applied.gpus.values()
    return {one.gpu.index: one.contract.mode if one.contract is not None else None for one in entries}


def waits(found: World) -> dict[int, WaitReason]:
    """What each GPU waits for, the last word on each."""
    gpus = found.agent.applied.gpus
    return {gpus[wait.uuid].gpu.index: wait.reason for wait in found.agent.plan.waits}


def unavailable(found: World) -> int:
    """How many GPUs offer nothing, or fence all that is free."""
    entries = found.agent.applied.gpus.values()
    return sum(one.healthy and len(one.fences) == len(one.numbers) for one in entries)


def test_a_change_of_mode_under_one_name_never_takes_the_node_to_zero() -> None:
    """Twenty changes on eight free GPUs: two at a time, and the name is never without a device."""
    found = node(make.sliced(10))
    for number in range(20):
        change(found, whole() if number % 2 == 0 else make.sliced(10))
        most = 0
        for _ in range(40):
            made = found.works()
            most = max(most, unavailable(found))
            if made.converged:
                break
        assert found.agent.plan.converged
        assert most == 2
    assert found.kubelet.least[make.SHARED] >= 6


@pytest.mark.parametrize(
    ("at_most", "gpus", "expected"),
    [(1, 8, 1), (3, 8, 3), ("25%", 8, 2), ("10%", 8, 1), ("26%", 8, 3), ("100%", 8, 8), ("25%", 3, 1), (50, 4, 4)],
)
def test_how_many_go_at_a_time(at_most: int | str, gpus: int, expected: int) -> None:
    """A number, or a percentage of the devices rounded up, and at least one. All at once only where all may."""
    found = node(make.sliced(4), gpus=gpus)
    change(found, make.whole(), at_most=at_most)  # another name, so that it alone does not hold anything up
    most = 0
    for _ in range(60):
        made = found.works()
        most = max(most, unavailable(found))
        if made.converged:
            break
    assert found.agent.plan.converged
    assert most == expected


def test_a_name_of_two_gpus_is_never_at_zero() -> None:
    """Two of the eight under a name of their own change one after the other, however many may be unavailable."""
    found = node(make.sliced(4, 0, 1), make.whole(resource="example.com/whole"))
    change(found, whole(0, 1), make.whole(resource="example.com/whole"), at_most="100%")
    found.rests()
    assert found.kubelet.least[make.SHARED] == 1
    assert modes(found)[0] is modes(found)[1] is Mode.EXCLUSIVE


def test_a_swap_of_two_names_is_made() -> None:
    """Each is the last of its name: one goes all the same, and then the other."""
    found = node(make.sliced(4, 0), make.whole(1, resource="example.com/whole"), gpus=2)
    change(found, make.whole(0, resource="example.com/whole"), make.sliced(4, 1))
    found.rests()
    assert found.agent.plan.converged
    assert modes(found) == {0: Mode.EXCLUSIVE, 1: Mode.TIME_SLICED}
    assert found.kubelet.least["example.com/whole"] == 1, "the second of them leaves when the first has come"


def test_one_gpu_changes_alone() -> None:
    """There is nobody else to wait for."""
    found = node(make.sliced(4), gpus=1)
    change(found, whole())
    found.rests()
    assert modes(found) == {0: Mode.EXCLUSIVE}


def test_with_a_pod_on_each_gpu_one_drains_and_whoever_is_free_goes() -> None:
    """The one whose turn it is waits for its pod. Meanwhile each GPU whose pod has ended changes at once."""
    found = node(make.sliced(4), gpus=4)
    pods = [pod(found, make.SHARED, f"GPU-{index}::0") for index in range(4)]
    change(found, whole())
    found.works(6)
    assert waits(found) == {0: WaitReason.PODS, 1: WaitReason.WAVE, 2: WaitReason.WAVE, 3: WaitReason.WAVE}
    for index in (2, 3, 1):
        ends(found, pods[index])
        found.works(8)
        assert modes(found)[index] is Mode.EXCLUSIVE
        assert modes(found)[0] is Mode.TIME_SLICED
    ends(found, pods[0])
    assert found.rests().converged
    assert found.kubelet.least[make.SHARED] > 0


def test_the_fewest_held_go_first() -> None:
    """Of occupied GPUs the one goes first that is free the soonest, free ones before all."""
    found = node(make.sliced(4), gpus=4)
    for share in ("0::0", "0::1", "1::0", "2::0", "2::1", "2::2"):
        pod(found, make.SHARED, f"GPU-{share}")
    change(found, make.whole())
    found.works(8)
    assert modes(found)[3] is Mode.EXCLUSIVE, "it is free"
    assert waits(found) == {0: WaitReason.WAVE, 1: WaitReason.PODS, 2: WaitReason.WAVE}


def test_gpus_that_wait_for_their_turn_are_given_away_last() -> None:
    """New pods get shares of GPUs that stay, so that the others become free."""
    found = node(make.sliced(4), gpus=4)
    pod(found, make.SHARED, "GPU-0::0")
    change(found, make.sliced(4, 2, 3), whole(0, 1))
    found.works(1)
    uids = set(found.kubelet.pods)
    for _ in range(8):
        found.kubelet.begin_admission(found.agent.desk, make.SHARED, 1, found.clock.now, init=False, ask=True)
        found.kubelet.finish_admission(found.agent.desk, found.clock.now, fails=False)
    given = {
        share.partition("::")[0] for uid in set(found.kubelet.pods) - uids for share in found.kubelet.pods[uid].ids
    }
    assert given == {"GPU-2", "GPU-3"}


@pytest.mark.parametrize("health", [GpuHealth.LOST, GpuHealth.HANG])
def test_a_gpu_that_offers_nothing_does_not_count(health: GpuHealth) -> None:
    """One of four is lost: it changes at once, and the others go on, one at a time."""
    found = node(make.sliced(4), gpus=4)
    found.agent.driver.inventory = make.inventory(
        *(make.gpu(index, health=health if index == 1 else GpuHealth.OK) for index in range(4))
    )
    found.works(2)
    change(found, whole())
    found.works(2)
    entries = found.agent.applied.gpus
    assert entries["GPU-0"].leaving
    assert entries["GPU-1"].leaving
    assert not entries["GPU-2"].leaving
    assert found.rests().converged
    assert found.kubelet.least[make.SHARED] >= 2


def test_a_revert_in_the_middle_gives_back_at_once_what_is_fenced() -> None:
    """And what had changed already changes back, in waves as well."""
    found = node(make.sliced(4))
    change(found, whole())
    found.works(5)
    assert Mode.EXCLUSIVE in modes(found).values()
    fenced = [one.gpu.index for one in found.agent.applied.ordered() if one.fences]
    assert fenced
    change(found, make.sliced(4))
    found.works(1)
    back = [one for one in found.agent.applied.ordered() if one.gpu.index in fenced]
    assert all(not one.fences and not one.leaving for one in back)
    assert found.rests().converged
    assert set(modes(found).values()) == {Mode.TIME_SLICED}
    assert found.kubelet.least[make.SHARED] > 0


def test_a_newer_commit_in_the_middle_of_fewer_shares_takes_no_more_than_a_wave() -> None:
    """Shares that were fenced since there were too many come back before their GPU's turn has come."""
    found = node(make.sliced(8))
    change(found, make.sliced(2))
    found.works(1)
    assert all(len(one.fences) == 6 for one in found.agent.applied.ordered())
    change(found, whole())
    found.works(1)
    assert sum(bool(one.fences) for one in found.agent.applied.ordered()) == 2
    assert found.rests().converged
    assert found.kubelet.least[make.SHARED] >= 6


def test_suspended_in_the_middle_no_new_wave_begins() -> None:
    """What is fenced comes back as it was; a GPU whose old contract has ended is what it was to become."""
    found = node(make.sliced(4), make.mps(2, resource=make.MPS))
    change(found, make.mps(2, resource=make.MPS))
    found.host.works()
    for _ in range(12):
        found.clock.now += 0.5
        found.looks()
        found.agent.settle()
        found.kubelet.arrive_all()
        if any(one.contract is not None and not one.numbers for one in found.agent.applied.ordered()):
            break
    ended = [one.gpu.index for one in found.agent.applied.ordered() if not one.numbers]
    assert len(ended) == 2
    newest = found.config
    assert newest is not None
    follow(found, replace(newest, suspend=True))
    found.works(20)
    assert {index for index, mode in modes(found).items() if mode is Mode.MPS} == set(ended)
    assert all(one.numbers and not one.fences for one in found.agent.applied.ordered())
    follow(found, newest)
    assert found.rests().converged
    assert set(modes(found).values()) == {Mode.MPS}


def test_suspended_with_fences_out_gives_them_back() -> None:
    """Within the second in which shares are fenced and not dropped yet."""
    found = node(make.sliced(4))
    change(found, whole())
    found.works(1)
    assert sum(bool(one.fences) for one in found.agent.applied.ordered()) == 2
    newest = found.config
    assert newest is not None
    follow(found, replace(newest, suspend=True))
    found.works(10)
    assert set(modes(found).values()) == {Mode.TIME_SLICED}
    assert not any(one.fences for one in found.agent.applied.ordered())


def test_mps_without_a_host_takes_nothing_away() -> None:
    """Eighty of eighty shares stay, every GPU says what is missing, and goes on by itself when the host is there."""
    found = node(make.sliced(10))
    found.host.dies()
    found.agent.daemons.looks()
    change(found, make.mps(4, resource=make.SHARED))
    found.works(20)
    assert found.agent.mps.reason is MpsReason.ABSENT
    assert sum(found.kubelet.views[make.SHARED].values()) == 80
    assert waits(found) == dict.fromkeys(range(8), WaitReason.DAEMON)
    assert all(wait.detail for wait in found.agent.plan.waits)
    found.host.returns()
    assert found.rests().converged
    assert set(modes(found).values()) == {Mode.MPS}
    assert found.kubelet.least[make.SHARED] > 0


def test_a_daemon_that_does_not_become_ready_holds_the_change_up() -> None:
    """No more GPUs leave what they are than may be unavailable, as long as those that have left do not come back."""
    found = node(make.sliced(4))
    found.host.works = found.host.reads  # type: ignore[method-assign]  # this host never has a daemon ready
    change(found, make.mps(4, resource=make.SHARED))
    found.works(30)
    assert list(modes(found).values()).count(Mode.TIME_SLICED) == 6
    assert sum(found.kubelet.views[make.SHARED].values()) == 24


@pytest.mark.parametrize("state", [DaemonState.FAILED, DaemonState.OCCUPIED])
def test_a_daemon_that_does_not_work_holds_up_no_other_contract(state: DaemonState) -> None:
    """A GPU whose old shares have gone and whose daemon does not come is stuck: the others change, to the last one."""
    found = node(make.sliced(4), gpus=4)
    found.host.works = lambda: only_reaches(found, state)  # type: ignore[method-assign]
    change(found, make.mps(4, 0), whole(1, 2, 3))
    found.works(60)
    assert modes(found) == {0: Mode.MPS, **dict.fromkeys((1, 2, 3), Mode.EXCLUSIVE)}
    assert waits(found) == {0: WaitReason.DAEMON}
    assert found.kubelet.least[make.SHARED] >= 1


def only_reaches(found: World, state: DaemonState) -> None:
    """The host takes its wishes in; no daemon becomes more than this."""
    found.host.reads()
    for uuid, daemon in list(found.host.daemons.items()):
        if daemon.state is not state:
            found.host.moves(uuid, state)


def test_a_host_that_goes_in_the_middle_holds_up_no_other_contract() -> None:
    """Two GPUs fill the wave, and what they need goes away after they have left: the other six change."""
    found = node(make.sliced(4))
    change(found, make.mps(4, 0, 1), whole(*range(2, 8)))
    while not found.host.daemons:
        found.works(1)
        found.host.reads()
    found.host.dies()
    found.works(60)
    assert [modes(found)[index] for index in range(2, 8)] == [Mode.EXCLUSIVE] * 6
    assert set(waits(found).values()) <= {WaitReason.DAEMON}
    found.host.returns()
    found.rests()
    assert found.agent.plan.converged


def test_a_daemon_that_does_not_leave_holds_up_no_other_gpu() -> None:
    """A GPU leaves MPS and its daemon cannot be ended: it alone waits, under whatever contract it is to be."""
    found = node(make.mps(4, 0), make.sliced(4, 1, 2, 3), gpus=4)
    found.host.daemons["GPU-0"].hindered = True
    change(found, whole())
    found.works(60)
    assert [modes(found)[index] for index in (1, 2, 3)] == [Mode.EXCLUSIVE] * 3
    assert not found.agent.applied.gpus["GPU-0"].numbers
    found.host.daemons["GPU-0"].hindered = False
    found.rests()
    assert modes(found)[0] is Mode.EXCLUSIVE


def test_a_daemon_that_is_held_up_says_nothing_of_its_contract() -> None:
    """One GPU's daemon is kept out by processes of others: the same contract is taken by all the others."""
    found = node(make.sliced(4), gpus=4)

    def works() -> None:
        found.host.reads()
        for uuid in [*found.host.daemons] * 2:
            outcome = DaemonState.OCCUPIED if uuid == "GPU-0" else DaemonState.READY
            if (daemon := found.host.daemons.get(uuid)) is not None and daemon.state is not outcome:
                found.host.moves(uuid, outcome)

    found.host.works = works  # type: ignore[method-assign]
    change(found, make.mps(4, resource=make.SHARED))
    found.works(60)
    assert set(modes(found).values()) == {Mode.MPS}
    assert waits(found) == {0: WaitReason.DAEMON}


EVERYWHERE = [
    pytest.param([make.mps(4, resource=make.SHARED)], id="one name"),
    pytest.param([make.mps(4, 2 * n, 2 * n + 1, resource=f"example.com/m{n}") for n in range(4)], id="four names"),
]


@pytest.mark.parametrize("state", [DaemonState.FAILED, DaemonState.OCCUPIED])
@pytest.mark.parametrize("rules", EVERYWHERE)
def test_mps_that_works_nowhere_takes_one_gpu_more_than_a_wave(rules: list[Rule], state: DaemonState) -> None:
    """A daemon that does not come says something of all that are still to come, whatever their contract."""
    found = node(make.sliced(4))
    found.host.works = lambda: only_reaches(found, state)  # type: ignore[method-assign]
    change(found, *rules)
    found.works(80)
    assert list(modes(found).values()).count(Mode.TIME_SLICED) == 5
    assert found.kubelet.least[make.SHARED] == 20


def test_mps_that_works_on_half_of_the_gpus_takes_one_more_than_a_wave_of_the_others() -> None:
    """That it works on some is no reason to try it on all that are left."""
    found = node(make.sliced(4), gpus=16)

    def works() -> None:
        found.host.reads()
        for uuid in [*found.host.daemons] * 2:
            outcome = DaemonState.READY if int(uuid.removeprefix("GPU-")) < 8 else DaemonState.FAILED
            if (daemon := found.host.daemons.get(uuid)) is not None and daemon.state is not outcome:
                found.host.moves(uuid, outcome)

    found.host.works = works  # type: ignore[method-assign]
    change(found, make.mps(4, resource=make.SHARED))
    found.works(200)
    assert list(modes(found).values()).count(Mode.TIME_SLICED) == 3
    assert sum(found.kubelet.views[make.SHARED].values()) == 4 * (8 + 3)


@pytest.mark.parametrize("state", [DaemonState.FAILED, DaemonState.OCCUPIED])
@pytest.mark.parametrize("at_most", ["25%", "100%"])
def test_the_last_of_a_name_does_not_follow_one_that_failed(at_most: str, state: DaemonState) -> None:
    """What happened to the other GPU of the name would happen to it, and the name would be at zero."""
    found = node(make.sliced(4, 0, 1), make.whole(resource="example.com/whole"))
    found.host.works = lambda: only_reaches(found, state)  # type: ignore[method-assign]
    change(found, make.mps(4, 0, 1, resource=make.SHARED), make.whole(), at_most=at_most)
    found.works(80)
    assert found.kubelet.least[make.SHARED] == 4
    assert waits(found) == {0: WaitReason.DAEMON, 1: WaitReason.LAST}
    assert [modes(found)[index] for index in range(2, 8)] == [Mode.EXCLUSIVE] * 6


def test_daemons_that_cannot_be_ended_keep_the_others_from_being_ended() -> None:
    """One GPU more than a wave has left MPS, and waits; the others go on under it, and so do those that stay."""
    found = node(make.mps(4))
    for daemon in found.host.daemons.values():
        daemon.hindered = True
    change(found, make.mps(4, 0, 1), make.whole(*range(2, 8)))
    found.works(80)
    assert sum(found.kubelet.views[make.MPS].values()) == 4 * (2 + 3)


def test_a_daemon_that_fails_keeps_nobody_under_mps() -> None:
    """GPU 0 stays under MPS, where its daemon fails: the others leave MPS."""
    found = node(make.mps(4), gpus=4)
    found.host.works = lambda: failing_first(found)  # type: ignore[method-assign]
    found.host.daemons["GPU-0"].state = DaemonState.FAILED
    change(found, make.mps(4, 0), make.whole(1, 2, 3))
    found.works(80)
    assert modes(found) == {0: Mode.MPS, **dict.fromkeys((1, 2, 3), Mode.EXCLUSIVE)}


def failing_first(found: World) -> None:
    """The host does what it can, but for the daemon of GPU 0, which has failed."""
    found.host.reads()
    for uuid in [*found.host.daemons] * 3:
        if uuid != "GPU-0":
            found.host.moves(uuid)


def test_a_daemon_that_cannot_be_ended_keeps_nobody_from_mps() -> None:
    """GPU 0 is to leave MPS and cannot: the others come under it."""
    found = node(make.mps(4, 0), make.sliced(4, 1, 2, 3), gpus=4)
    found.host.daemons["GPU-0"].hindered = True
    change(found, make.whole(0), make.mps(4, 1, 2, 3))
    found.works(80)
    assert [modes(found)[index] for index in (1, 2, 3)] == [Mode.MPS] * 3


def test_a_host_that_is_gone_lets_no_more_than_a_wave_and_one_leave_its_daemons() -> None:
    """Nobody ends them: what has left waits, the others stay as good as they were, and go on when there is a host."""
    found = node(make.mps(4))
    found.host.dies()
    found.agent.daemons.looks()
    change(found, make.mps(4, 0, 1), make.whole(*range(2, 8)))
    found.works(60)
    assert sum(found.kubelet.views[make.MPS].values()) == 4 * (2 + 3)
    found.host.returns()
    found.rests()
    assert found.agent.plan.converged


def test_a_swap_waits_for_no_gpu_that_is_stuck() -> None:
    """Two GPUs swap their names; a third is to have one of these, after a fourth whose daemon cannot be ended."""
    x, y, z = (f"example.com/{name}" for name in "xyz")
    found = node(make.sliced(4, 0, resource=x), make.sliced(4, 1, resource=y), make.mps(4, 2, 3), gpus=4)
    found.host.daemons["GPU-2"].hindered = True
    new = make.sliced(4, 0, resource=y), make.sliced(4, 1, 3, resource=x), make.sliced(4, 2, resource=z)
    change(found, *new)
    found.works(80)
    assert {uuid: entry.contract.resource for uuid, entry in found.agent.applied.gpus.items() if entry.contract} == {
        "GPU-0": y,
        "GPU-1": x,
        "GPU-3": x,
    }


def test_a_withheld_gpu_is_not_the_last_of_its_name_while_another_is_to_take_it_over() -> None:
    """Nothing is to replace what is withheld, but its name."""
    found = node(make.sliced(4, 0), make.whole(1, resource="example.com/whole"), gpus=2)
    change(found, make.withheld(0), make.sliced(4, 1))
    found.rests()
    assert found.agent.plan.converged
    assert found.kubelet.least[make.SHARED] == 4


def test_a_withheld_gpu_does_not_come_back_for_another_ones_trouble() -> None:
    """It has begun to leave for good: when the others that offer its name fail it is not offered once more, though
    another one is about to have that name.
    """
    found = node(make.mps(4, 0, 1, 2), make.sliced(4, 3), gpus=4)
    change(found, make.mps(4, 0, 1, 3), make.withheld(2))
    found.works(1)
    assert found.agent.applied.gpus["GPU-2"].leaving
    found.host.works = found.host.reads  # type: ignore[method-assign]  # nobody starts a daemon anew
    for uuid in ("GPU-0", "GPU-1"):
        found.host.daemon_dies(uuid)
    for _ in range(8):
        found.works(1)
        leaving = found.agent.applied.gpus["GPU-2"]
        assert leaving.fences.keys() == leaving.numbers
    assert not found.agent.applied.gpus["GPU-2"].numbers


def slow_host(found: World, *uuids: str) -> None:
    """The MPS host takes in every wish from now on, and has the daemons of these GPUs alone ready."""
    found.clock.now += 0.5
    found.looks()
    found.host.reads()
    for uuid in uuids:
        found.host.moves(uuid)
    found.agent.daemons.looks()
    found.agent.settle()
    found.kubelet.arrive_all()


def test_suspended_within_the_second_of_fewer_shares_gives_them_back() -> None:
    """What is fenced comes back under the contract that it has, though fewer are wanted."""
    found = node(make.sliced(8), gpus=2)
    change(found, make.sliced(2))
    found.works(1)
    newest = found.config
    assert newest is not None
    follow(found, replace(newest, suspend=True))
    found.works(4)
    assert found.agent.plan.refused == ()
    assert sum(found.kubelet.views[make.SHARED].values()) == 16


@pytest.mark.parametrize("reason", [InventoryReason.DRIVER_MISSING, InventoryReason.FOUND])
def test_a_gpu_that_is_lost_for_a_while_stays_until_it_can_be_prepared(reason: InventoryReason) -> None:
    """Without an MPS host nothing is withdrawn for MPS, also while the driver is away or GPUs hang."""
    found = node(make.sliced(10))
    found.host.dies()
    found.agent.daemons.looks()
    change(found, make.mps(4, resource=make.SHARED))
    found.works(4)
    good = found.agent.driver.inventory
    hanging = tuple(replace(gpu, health=GpuHealth.HANG, message="it hangs") for gpu in good.gpus)
    gone = replace(good, reason=reason, message="no driver", gpus=() if reason is not good.reason else hanging)
    found.agent.driver.inventory = gone
    found.works(10)
    found.agent.driver.inventory = good
    found.works(10)
    assert sum(found.kubelet.views[make.SHARED].values()) == 80


def test_a_moment_in_which_occupied_gpus_hang_begins_nothing() -> None:
    """They could not change in it, and are what they were when it is over."""
    found = node(make.sliced(4), gpus=4)
    for index in range(4):
        pod(found, make.SHARED, f"GPU-{index}::0")
    change(found, whole())
    found.works(6)
    before = sum(found.kubelet.views[make.SHARED].values())
    good = found.agent.driver.inventory
    hanging = (replace(gpu, health=GpuHealth.HANG, message="it hangs") for gpu in good.gpus)
    found.agent.driver.inventory = replace(good, gpus=tuple(hanging))
    found.works(2)
    found.agent.driver.inventory = good
    found.works(10)
    assert sum(found.kubelet.views[make.SHARED].values()) == before == 13


def test_a_revert_does_not_take_the_only_one_that_offers() -> None:
    """One GPU has changed, the other is between its contracts: it comes back before the first one leaves again."""
    found = node(make.sliced(4), gpus=2)
    change(found, make.mps(4, resource=make.SHARED))
    for _ in range(40):
        slow_host(found, "GPU-0")
        first, second = found.agent.applied.ordered()
        if first.numbers and first.contract != make.SLICED and not second.numbers:
            break
    found.kubelet.least.clear()
    change(found, make.sliced(4))
    found.rests()
    assert set(modes(found).values()) == {Mode.TIME_SLICED}
    assert found.kubelet.least[make.SHARED] == 4


def test_a_revert_in_the_middle_takes_no_more_than_a_wave() -> None:
    """GPUs that are between two contracts count, whichever of them is wanted by now."""
    found = node(make.sliced(4))
    change(found, make.mps(4, resource=make.SHARED))
    found.works(8)
    for _ in range(8):
        slow_host(found)
    change(found, make.sliced(4))
    for _ in range(40):
        found.works()
        assert sum(not one.numbers or len(one.fences) == len(one.numbers) for one in entries_of(found)) <= 2
    assert found.agent.plan.converged


def entries_of(found: World) -> list[AppliedGpu]:
    """What is applied of each GPU."""
    return found.agent.applied.ordered()


def test_who_takes_a_name_over_is_waited_for() -> None:
    """A GPU that has offered nothing is to offer the name: the last one that has it stays until that is so."""
    found = node(make.withheld(0), make.sliced(4, 1), gpus=2)
    change(found, make.mps(4, resource=make.SHARED))
    for _ in range(6):
        slow_host(found)
    found.rests()
    assert set(modes(found).values()) == {Mode.MPS}
    assert found.kubelet.least[make.SHARED] == 4


@pytest.mark.parametrize("swap", [False, True])
def test_the_last_of_a_name_does_not_leave_for_one_that_may_not_go(swap: bool) -> None:
    """MPS fails on more GPUs than may be unavailable, so that nobody else comes under it: who is to take a name over
    under MPS is not waited for, and not counted on.
    """
    x, y, z, other = (f"example.com/{name}" for name in ("x", "y", "z", "other"))
    found = node(*(make.sliced(4, index, resource=name) for index, name in enumerate((x, y, other, other))), gpus=4)
    found.host.works = lambda: only_reaches(found, DaemonState.FAILED)  # type: ignore[method-assign]
    begin = make.sliced(4, 0, resource=x), make.sliced(4, 1, resource=y)
    change(found, *begin, make.mps(4, 2, 3), at_most=1)
    found.works(40)
    assert waits(found) == {2: WaitReason.DAEMON, 3: WaitReason.DAEMON}
    change(
        found, make.mps(4, 0, resource=y), make.sliced(4, 1, resource=x if swap else z), make.mps(4, 2, 3), at_most=1
    )
    found.works(40)
    assert found.kubelet.least.get(y, 4) == 4
    assert modes(found)[0] is modes(found)[1] is Mode.TIME_SLICED


def test_an_agent_that_restarts_does_not_take_a_gpu_on_its_way_for_stuck() -> None:
    """Until it has heard of the MPS host a GPU without shares is on its way: no other one begins."""
    found = node(make.sliced(4), gpus=4)
    found.host.works = found.host.reads  # type: ignore[method-assign]  # its daemon stays where it is
    change(found, make.mps(4, 0), whole(1, 2, 3), at_most=1)
    found.works(6)
    assert not found.agent.applied.gpus["GPU-0"].numbers
    found.agent = Agent(found.agent.around, found.agent.driver.inventory)
    found.host.dies()
    found.looks()
    found.agent.settle()
    assert found.agent.mps.reason is MpsReason.PENDING
    assert found.agent.plan.waves.under_way == ("GPU-0",)


def test_who_takes_a_name_over_may_have_to_wait_for_its_turn() -> None:
    """The last GPU of a name stays until another one offers it, though that drains only after a third one has."""
    names = ["example.com/x", "example.com/w", "example.com/z"]
    found = node(*(make.sliced(4, index, resource=name) for index, name in enumerate(names)), gpus=3)
    first = pod(found, names[1], "GPU-1::0")
    second = pod(found, names[2], "GPU-2::0", "GPU-2::1")
    new = ["example.com/y", "example.com/v", "example.com/x"]
    change(found, *(make.sliced(4, index, resource=name) for index, name in enumerate(new)))
    found.works(20)
    assert waits(found) == {0: WaitReason.LAST, 1: WaitReason.PODS, 2: WaitReason.WAVE}
    ends(found, first)
    found.works(20)
    assert waits(found) == {0: WaitReason.LAST, 2: WaitReason.PODS}
    ends(found, second)
    found.rests()
    assert found.agent.plan.converged
    assert found.kubelet.least[names[0]] >= 4


def test_who_takes_a_name_over_may_have_to_wait_for_the_next_of_its_own() -> None:
    """A chain: each stays until the one before it has come, and the first of them waits for its turn."""
    names = ["example.com/x", "example.com/z", "example.com/w", "example.com/u"]
    found = node(*(make.sliced(4, index, resource=name) for index, name in enumerate(names)), gpus=4)
    pods = [pod(found, names[3], "GPU-3::0"), pod(found, names[2], "GPU-2::0", "GPU-2::1")]
    new = ["example.com/y", "example.com/x", "example.com/z", "example.com/t"]
    change(found, *(make.sliced(4, index, resource=name) for index, name in enumerate(new)))
    found.works(20)
    assert waits(found) == {0: WaitReason.LAST, 1: WaitReason.LAST, 2: WaitReason.WAVE, 3: WaitReason.PODS}
    for uid in pods:
        ends(found, uid)
        found.works(20)
    found.rests()
    assert found.agent.plan.converged
    assert min(found.kubelet.least[name] for name in names[:2]) >= 4


def test_a_ring_of_names_is_made() -> None:
    """Each GPU is to have the name of the next: one goes all the same, and the others in their turn."""
    names = ["example.com/x", "example.com/y", "example.com/z"]
    found = node(*(make.sliced(4, index, resource=name) for index, name in enumerate(names)), gpus=3)
    change(found, *(make.sliced(4, index, resource=names[index - 1]) for index in range(3)))
    found.rests()
    assert found.agent.plan.converged
    assert sorted(found.kubelet.least[name] for name in names) == [0, 4, 4]


def test_a_name_that_nobody_else_will_offer_waits_for_no_drain() -> None:
    """Each GPU has a name of its own: one that drains holds up no free one."""
    names = [f"example.com/team{index}" for index in range(4)]
    found = node(*(make.sliced(4, index, resource=name) for index, name in enumerate(names)), gpus=4)
    pods = [pod(found, name, f"GPU-{index}::0") for index, name in enumerate(names)]
    change(found, *(make.whole(index, resource=name) for index, name in enumerate(names)))
    found.works(6)
    for index in (2, 3):
        ends(found, pods[index])
    found.works(12)
    assert waits(found)[0] is WaitReason.PODS
    assert (modes(found)[2], modes(found)[3]) == (Mode.EXCLUSIVE, Mode.EXCLUSIVE)


def test_daemons_that_fail_everywhere_end_the_change() -> None:
    """A contract whose daemons fail as soon as they are ready takes no more GPUs than two waves and one."""
    found = node(make.sliced(4))
    change(found, make.mps(4, resource=make.SHARED))
    for _ in range(60):
        found.works()
        for uuid, daemon in found.host.daemons.items():
            if found.agent.applied.gpus[uuid].numbers and daemon.ready:
                daemon.dead = True
        found.host.works = found.host.reads  # type: ignore[method-assign]
        for uuid in list(found.host.daemons):
            if not found.agent.applied.gpus[uuid].numbers:
                found.host.moves(uuid)
    assert list(modes(found).values()).count(Mode.TIME_SLICED) >= 3


def test_a_gpu_with_mig_enabled_offers_nothing_that_others_could_leave_for() -> None:
    """It has to leave as a whole one, however many may be unavailable: another one keeps the name."""
    found = node(make.sliced(4), gpus=3)
    found.agent.driver.inventory = make.inventory(make.with_mig(0), make.gpu(1), make.gpu(2))
    change(found, whole(), at_most="100%")
    found.rests()
    assert found.kubelet.least[make.SHARED] >= 1


def test_a_disk_that_cannot_be_written_keeps_no_share_fenced() -> None:
    """Nothing can be begun: what a change has fenced comes back, the plan says why, and goes on when there is room."""
    found = node(make.sliced(4))
    change(found, whole())
    found.works(1)
    found.agent.disk.writable = False
    found.works(4)
    assert sum(found.kubelet.views[make.SHARED].values()) == 32
    assert set(waits(found).values()) == {WaitReason.DISK}
    found.agent.disk.writable = True
    assert found.rests().converged
    assert set(modes(found).values()) == {Mode.EXCLUSIVE}


def test_an_agent_that_restarts_while_suspended_finishes_what_it_finds() -> None:
    """A GPU that had taken its new contract gets its shares, by the suspended config that gives it that contract."""
    found = node(make.sliced(4), make.mps(2, resource=make.MPS), gpus=4)
    change(found, make.mps(2, resource=make.MPS))
    for _ in range(8):
        slow_host(found)
    newest = found.config
    assert newest is not None
    follow(found, replace(newest, suspend=True))
    found.agent = Agent(found.agent.around, found.agent.driver.inventory)
    found.works(40)
    entries = found.agent.applied.ordered()
    assert [len(one.numbers) for one in entries] == [2, 4, 4, 4]


def test_a_gpu_that_flaps_holds_up_no_other() -> None:
    """What is known of one GPU changes at every turn: that decides nothing anew for those that drain."""
    found = node(make.sliced(4), gpus=4)
    first = pod(found, make.SHARED, "GPU-0::0")
    change(found, whole(0), make.sliced(4, 1, 2, 3, resource="example.com/other"))
    found.works(30)
    good = found.agent.driver.inventory
    hangs = replace(good.gpus[3], health=GpuHealth.HANG, message="it hangs")
    ends(found, first)
    for number in range(8):
        found.agent.driver.inventory = replace(good, gpus=(*good.gpus[:3], hangs)) if number % 2 else good
        found.works(1)
    assert modes(found)[0] is Mode.EXCLUSIVE


def test_a_reload_that_takes_many_waves_has_not_failed() -> None:
    """Each wave has the time that daemons may take."""
    found = node(make.sliced(4))
    change(found, make.mps(4, resource=make.SHARED))
    since: dict[str, float] = {}
    for _ in range(60):
        ready = [uuid for uuid, at in since.items() if found.clock.now - at >= 2.0]
        slow_host(found, *ready)
        for uuid in found.host.daemons:
            since.setdefault(uuid, found.clock.now)
        if found.agent.plan.converged:
            break
    assert found.agent.plan.converged
    assert [reload.result.value for reload in found.agent.snapshot.reloads] == ["accepted", "accepted"]


def test_the_waves_are_part_of_the_plan() -> None:
    """How many have changed, of how many, and who is on the way."""
    found = node(make.sliced(4), gpus=4)
    change(found, whole())
    found.works(1)
    waves = found.agent.plan.waves
    assert (waves.total, waves.changed, waves.limit) == (4, 0, 1)
    assert waves.under_way == ("GPU-0",)
    assert len(waves.waiting) == 3
    found.rests()
    assert found.agent.plan.waves.changed == 4
