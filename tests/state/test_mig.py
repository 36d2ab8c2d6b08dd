"""GPUs that are used through their MIG devices: what is offered of them, and how instances come and go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from nodeagent.executor import share_actions
from nodeagent.model.config import (
    MIG_RESOURCES,
    THROUGH_MIG,
    Contract,
    Match,
    Mode,
    Rule,
    SharingConfig,
    mig_resource,
)
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.state.desired import check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.lists import lists
from nodeagent.state.nodegpus import DESTROYED, node_gpus
from nodeagent.state.observed import Observed
from nodeagent.state.plan import plan
from tests.state import make

SMALL = "nvidia.com/mig-1g.10gb"
LARGE = "nvidia.com/mig-3g.40gb"
BY_PROFILE = Contract(MIG_RESOURCES, Mode.EXCLUSIVE)
SLICES = Rule("slices", Match(mig=("1g.*",)), Contract(SMALL, Mode.TIME_SLICED), 4)
ONE, TWO, BIG = make.mig(0, 7), make.mig(0, 8), make.mig(0, 2, "3g.40gb")


def config(*rules: Rule, mig: bool = True) -> SharingConfig:
    """A sharing config of these rules."""
    return SharingConfig("test", rules, mig=mig)


def offered(rules: SharingConfig, *gpus: Gpu) -> dict[str, str]:
    """By uuid, the resource, and mode, under which each is offered."""
    wants = resolve(rules, gpus).wants
    return {uuid: str(want.contract) for uuid, want in wants.items() if want.contract is not None}


def test_without_a_rule_each_has_the_name_of_its_profile() -> None:
    """As under NVIDIA's strategy `mixed`; the GPU itself is not offered, whole GPUs are as ever."""
    assert offered(config(), make.with_mig(0), ONE, BIG, make.gpu(1)) == {
        ONE.uuid: f"exclusive {SMALL}",
        BIG.uuid: f"exclusive {LARGE}",
        "GPU-1": "exclusive nvidia.com/gpu",
    }


def test_rules_without_mig_speak_of_whole_gpus() -> None:
    """A rule for every GPU takes no MIG device, and one for MIG devices no GPU."""
    everything = make.sliced(10)
    assert offered(config(everything), make.with_mig(0), ONE, make.gpu(1)) == {
        ONE.uuid: f"exclusive {SMALL}",
        "GPU-1": f"time-sliced {make.SHARED}",
    }
    assert offered(config(SLICES), make.with_mig(0), ONE, BIG, make.gpu(1)) == {
        ONE.uuid: f"time-sliced {SMALL}",
        BIG.uuid: f"exclusive {LARGE}",
        "GPU-1": "exclusive nvidia.com/gpu",
    }


def test_the_other_criteria_are_those_of_the_gpu() -> None:
    """Index, model and uuid; a MIG device can be named by its own uuid too, without more; the memory is its own."""
    at = replace(SLICES, match=Match(indices=frozenset({0}), mig=("*",)))
    other = make.mig(1, 7)
    for match, taken in {
        Match(indices=frozenset({0}), mig=("*",)): True,
        Match(indices=frozenset({1}), mig=("*",)): False,
        Match(uuids=frozenset({"GPU-0"}), mig=("1g.*",)): True,
        Match(uuids=frozenset({ONE.uuid})): True,
        Match(uuids=frozenset({other.uuid})): False,
        Match(models=("*H100*",), mig=("1g.*",)): True,
        Match(min_memory=11 * make.GIB, mig=("*",)): False,
        Match(mig=("2g.*", "3g.*")): False,
    }.items():
        assert replace(at, match=match).matches(ONE) is taken, match


def test_a_gpu_that_is_withheld_is_so_with_its_mig_devices() -> None:
    """By whatever the rule names it; with `mig` such a rule takes these MIG devices only."""
    maintained = make.withheld(0)
    assert offered(config(maintained), make.with_mig(0), ONE, BIG, make.mig(1, 7)) == {"MIG-1-7": f"exclusive {SMALL}"}
    small = Rule("small", Match(mig=("1g.*",)), None, 0)
    assert offered(config(small), make.with_mig(0), ONE, BIG) == {BIG.uuid: f"exclusive {LARGE}"}


def test_a_config_that_does_not_know_mig_offers_whole_gpus() -> None:
    """NVIDIA's strategy `none`: the GPU as if MIG were not enabled, and nothing of its MIG devices."""
    assert offered(config(mig=False), make.with_mig(0), ONE) == {"GPU-0": "exclusive nvidia.com/gpu"}
    assert resolve(config(mig=False), (ONE,)).wants[ONE.uuid].rule is THROUGH_MIG


@pytest.mark.parametrize(
    ("profile", "resource"),
    [
        ("1g.5gb", "nvidia.com/mig-1g.5gb"),
        ("1g.10gb+me", "nvidia.com/mig-1g.10gb.me"),
        ("1c.3g.20gb", "nvidia.com/mig-1c.3g.20gb"),
    ],
)
def test_names_of_profiles_are_nvidias(profile: str, resource: str) -> None:
    """A resource name has no `+`."""
    assert mig_resource(profile) == resource


@dataclass
class World:
    """A node whose instances come and go, planned for and acted on."""

    config: SharingConfig
    driver: tuple[Gpu, ...]
    now: float = 100.0
    applied: Applied = field(default_factory=Applied)
    held: frozenset[ShareKey] = frozenset()

    def turn(self, seconds: float = 2.0) -> Plan:
        """Plan and perform until nothing more can be done now; the last plan."""
        self.now += seconds
        made = self._plan()
        for _ in range(5):
            if not share_actions(made.actions):
                break
            self.applied = perform(self.applied, share_actions(made.actions), self.now)
            made = self._plan()
        return made

    def listed(self) -> dict[str, dict[str, bool]]:
        """By resource, the ids that the kubelet is told of, and whether they are healthy; not what is empty."""
        found = lists(self.applied, (), {})
        return {name: {one.id: one.healthy for one in told.devices} for name, told in found.items() if told.devices}

    def _plan(self) -> Plan:
        inventory = make.inventory(*self.driver)
        gpus = node_gpus(inventory, self.applied)
        return plan(
            resolve(self.config, gpus),
            Observed(
                now=self.now,
                gpus=gpus,
                listed=frozenset(inventory.by_uuid()),
                applied=self.applied,
                held=self.held,
                pods=make.listed(make.look(self.now, self.held, make.followed(self.applied))),
                mps=make.host(),
                registered=self.applied.resources(),
            ),
        )


def test_instances_come() -> None:
    """Each is offered as soon as the driver lists it."""
    world = World(config(), (make.with_mig(0),))
    world.turn()
    assert world.listed() == {}
    world.driver = (make.with_mig(0), ONE)
    world.turn()
    assert world.listed() == {SMALL: {ONE.uuid: True}}


def test_a_gpu_is_repartitioned_under_held_shares() -> None:
    """What pods have of an instance that is no more stays on the list, Unhealthy, until they have let go of it; what is
    free leaves; what is new is offered at once. Then nothing of it is remembered.
    """
    world = World(config(SLICES), (make.with_mig(0), ONE, TWO))
    world.turn()
    world.held = frozenset({(SMALL, f"{ONE.uuid}::2")})
    world.driver = (make.with_mig(0), TWO, BIG)
    world.turn()
    made = world.turn()
    listed = world.listed()
    assert {share: well for share, well in listed[SMALL].items() if share.startswith(ONE.uuid)} == {
        f"{ONE.uuid}::2": False
    }
    assert {share for share, well in listed[SMALL].items() if well} == {f"{TWO.uuid}::{number}" for number in range(4)}
    assert listed[LARGE] == {BIG.uuid: True}
    assert [(wait.uuid, wait.reason) for wait in made.waits] == [(ONE.uuid, WaitReason.PODS)]

    world.held = frozenset()
    world.turn()
    assert world.turn().converged
    assert ONE.uuid not in world.applied.gpus
    assert world.listed() == {
        SMALL: {f"{TWO.uuid}::{number}": True for number in range(4)},
        LARGE: {BIG.uuid: True},
    }


@pytest.mark.parametrize("enabled", [True, False], ids=["MIG is enabled", "Git wants it by MIG device"])
def test_a_gpu_that_a_pod_has_whole(enabled: bool) -> None:
    """Its MIG devices are offered when the pod has ended, since a pod with one of them would have a part of the same
    silicon; the whole GPU is offered to nobody else meanwhile.
    """
    whole = "nvidia.com/gpu"
    gpu = make.gpu(0) if enabled else make.with_mig(0)
    world = World(config(mig=enabled), (gpu,) if enabled else (gpu, ONE))
    world.turn()
    world.held = frozenset({(whole, "GPU-0")})
    world.driver, world.config = (make.with_mig(0), ONE), config()
    made = world.turn()
    assert world.listed() == {whole: {"GPU-0": True}}
    assert {(wait.uuid, wait.reason) for wait in made.waits} == {
        ("GPU-0", WaitReason.PODS),
        (ONE.uuid, WaitReason.MIG),
    }
    world.held = frozenset()
    world.turn()
    world.turn()
    assert world.listed() == {SMALL: {ONE.uuid: True}}


def test_a_mig_device_that_a_pod_has_of_a_gpu_that_git_wants_whole() -> None:
    """The other way round: the GPU is offered when its last MIG device has been given back."""
    world = World(config(), (make.with_mig(0), ONE, TWO))
    world.turn()
    world.held = frozenset({(SMALL, ONE.uuid)})
    world.config = config(mig=False)
    world.turn()
    made = world.turn()
    assert world.listed() == {SMALL: {ONE.uuid: True}}
    assert ("GPU-0", WaitReason.MIG) in {(wait.uuid, wait.reason) for wait in made.waits}
    world.held = frozenset()
    world.turn()
    world.turn()
    assert world.listed() == {"nvidia.com/gpu": {"GPU-0": True}}


@pytest.mark.parametrize("later", [GpuHealth.HANG, GpuHealth.LOST], ids=lambda health: health.value)
def test_what_was_destroyed_stays_so(later: GpuHealth) -> None:
    """Though its GPU stops answering while a pod still has it: it is wanted by nobody, and no other is kept waiting."""
    world = World(config(), (make.with_mig(0), ONE))
    world.turn()
    world.held = frozenset({(SMALL, ONE.uuid)})
    world.driver = (make.with_mig(0), BIG)
    world.turn()
    big = replace(BIG, health=later, message="it fails")
    world.driver = (make.with_mig(0, health=later), big)
    made = world.turn()
    assert [(wait.uuid, wait.reason) for wait in made.waits] == [(ONE.uuid, WaitReason.PODS)]
    world.held = frozenset()
    world.turn()
    world.turn()
    assert ONE.uuid not in world.applied.gpus


def test_a_device_that_hung_and_was_destroyed() -> None:
    """What is told of it is that it was destroyed, as soon as its GPU answers again."""
    world = World(config(), (make.with_mig(0), ONE))
    world.turn()
    world.held = frozenset({(SMALL, ONE.uuid)})
    world.driver = (make.with_mig(0, health=GpuHealth.HANG), replace(ONE, health=GpuHealth.HANG, message="it hangs"))
    world.turn()
    world.driver = (make.with_mig(0),)
    world.turn()
    assert world.applied.gpus[ONE.uuid].gpu.health is GpuHealth.LOST
    assert world.applied.gpus[ONE.uuid].gpu.message == DESTROYED


def test_a_lost_gpu_keeps_no_other_from_being_partitioned_anew() -> None:
    """One name for all MIG devices: what a lost GPU had does not count against the rule for the others."""
    single = Rule("single", Match(mig=("*",)), Contract("nvidia.com/gpu", Mode.EXCLUSIVE), 1)
    lost = [replace(gpu, health=GpuHealth.LOST, message="it is lost") for gpu in (make.with_mig(0), ONE)]
    others = (make.with_mig(1), make.mig(1, 2, "3g.40gb"))
    assert check(resolve(config(single), (*lost, *others)), "c") == ()
    mixed = (*others, make.with_mig(0), ONE)
    assert check(resolve(config(single), mixed), "c") != ()


def test_mig_is_disabled() -> None:
    """The GPU is offered whole, and nothing of its instances."""
    world = World(config(), (make.with_mig(0), ONE, TWO))
    world.turn()
    world.driver = (make.gpu(0),)
    world.turn()
    world.turn()
    assert world.listed() == {"nvidia.com/gpu": {"GPU-0": True}}
    assert set(world.applied.gpus) == {"GPU-0"}
