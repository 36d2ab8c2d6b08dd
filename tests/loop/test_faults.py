"""A fault stays where it is: whatever is wrong with one GPU, every other GPU of the node goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from nodeagent.model.config import Match, Rule
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.mps import DaemonState
from nodeagent.model.plan import Fence, Plan
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.plan import plan
from tests.loop.worlds import World, world
from tests.state import make

SMALL = "nvidia.com/mig-1g.10gb"
NO_MIG_DEVICE = replace(make.withheld(), match=Match(mig=("*",)))


def node(*gpus: Gpu, rules: tuple[Rule, ...] = ()) -> World:
    """A node with these GPUs, on which nothing has happened yet."""
    found = world(gpus=len(gpus))
    has(found, *gpus)
    found.follow(*(rules or (make.sliced(4, 0),)))
    return found


def has(found: World, *gpus: Gpu) -> None:
    """What the driver lists from now on."""
    found.agent.driver.inventory = make.inventory(*gpus)


def offered(found: World, resource: str) -> int:
    """How many healthy devices of a resource the kubelet has."""
    return sum(found.kubelet.views.get(resource, {}).values())


def test_a_finished_pod_that_had_a_gpu_as_a_whole_one_holds_up_that_gpu_only() -> None:
    """MIG is enabled on it, and an agent starts without memory: what the kubelet's checkpoint names is taken for held,
    the MIG devices wait for it, and every other GPU is offered.
    """
    found = node(make.gpu(0), make.with_mig(1), make.mig(1, 1), make.mig(1, 2), make.gpu(2))
    found.kubelet.checkpoint.add(CheckpointEntry("finished", "main", "nvidia.com/gpu", "GPU-1"))
    found.works(8)
    assert found.agent.plan.refused == ()
    assert offered(found, make.SHARED) == 4
    assert offered(found, "nvidia.com/gpu") == 2, "GPU 2, and GPU 1 as the pod may have it"
    found.kubelet.purge()
    found.rests()
    assert offered(found, SMALL) == 2
    assert offered(found, "nvidia.com/gpu") == 1


def test_a_gpu_that_is_lost_keeps_its_mig_devices() -> None:
    """The driver knows nothing of MIG on a GPU that it has lost, and a commit asks for what was withheld of it."""
    found = node(
        make.gpu(0), make.with_mig(1), make.mig(1, 1), make.mig(1, 2), rules=(make.sliced(4, 0), NO_MIG_DEVICE)
    )
    found.rests()
    has(found, make.gpu(0), make.gpu(1, health=GpuHealth.LOST))
    found.works(4)
    found.follow(make.sliced(6, 0))
    found.rests()
    assert offered(found, make.SHARED) == 6
    assert {uuid for uuid, one in found.agent.applied.gpus.items() if one.numbers} == {"GPU-0", "MIG-1-1", "MIG-1-2"}
    assert offered(found, SMALL) == 0, "they are lost with their GPU"
    has(found, make.gpu(0), make.with_mig(1), make.mig(1, 1), make.mig(1, 2))
    found.rests()
    assert offered(found, SMALL) == 2


def test_mig_devices_that_are_gone_do_not_come_back_with_a_gpu_that_hangs() -> None:
    """They could not be forgotten, since the disk is full; their GPU is whole by now."""
    found = node(make.gpu(0), make.with_mig(1), make.mig(1, 1), rules=(make.sliced(4, 0), NO_MIG_DEVICE))
    found.rests()
    found.agent.disk.writable = False
    has(found, make.gpu(0), make.gpu(1))
    found.works(2)
    has(found, make.gpu(0), make.gpu(1, health=GpuHealth.HANG))
    found.follow(make.sliced(4, 0))
    found.works(2)
    found.agent.disk.writable = True
    found.rests()
    assert offered(found, make.SHARED) == 4
    assert not any(one.gpu.mig for one in found.agent.applied.gpus.values())


class Broken(Mapping[int, float]):
    """Fences that cannot be looked at: a fault that no rule foresees."""

    def __getitem__(self, key: int) -> NoReturn:
        raise RuntimeError("broken")

    def __iter__(self) -> NoReturn:
        raise RuntimeError("broken")

    def __len__(self) -> int:
        return 1


def test_a_plan_that_cannot_be_made_for_one_gpu_is_made_for_all_others() -> None:
    """Whatever goes wrong in planning a GPU: it stays as it is, the plan says so, and is not converged."""
    healthy = make.entry(0, make.SLICED, range(2))
    broken = AppliedGpu(make.gpu(1), make.SLICED, frozenset(range(2)), Broken())
    desired = make.wanted([make.gpu(0), make.gpu(1), make.gpu(2)], make.sliced(4))
    view = replace(make.seen(make.applied(healthy)), gpus=(make.gpu(0), make.gpu(1), make.gpu(2)))
    made = plan(desired, replace(view, applied=make.applied(healthy, broken)))
    assert [one.uuid for one in made.refused] == ["GPU-1"]
    assert {getattr(action, "uuid", None) for action in made.actions} >= {"GPU-0", "GPU-2"}
    assert not any(getattr(action, "uuid", None) == "GPU-1" for action in made.actions)
    assert not made.converged


def test_a_refused_gpu_takes_nobodys_turn() -> None:
    """Of four GPUs one may change at a time; the first in line cannot be planned for, and the second goes."""
    broken = AppliedGpu(make.gpu(0), make.SLICED, frozenset(range(2)), Broken())
    have = make.applied(*(make.entry(index, make.SLICED, range(2)) for index in (1, 2, 3)))
    gpus = tuple(make.gpu(index) for index in range(4))
    view = replace(make.seen(have), gpus=gpus, applied=make.applied(broken, *have.ordered()))
    made = plan(make.wanted(gpus, make.whole()), view)
    assert [one.uuid for one in made.refused] == ["GPU-0"]
    assert [one.uuid for one in made.actions if isinstance(one, Fence)] == ["GPU-1"]


def test_a_refused_gpu_between_two_contracts_takes_nobodys_turn() -> None:
    """Its old shares have gone and its daemon is on its way, but nothing of it is planned: the others go on."""
    broken = AppliedGpu(make.gpu(0), make.QUARTER, frozenset(), Broken())
    have = make.applied(*(make.entry(index, make.SLICED, range(2)) for index in (1, 2, 3)))
    gpus = tuple(make.gpu(index) for index in range(4))
    mps = make.host(make.daemon(0, state=DaemonState.STARTING))
    view = replace(make.seen(have), gpus=gpus, applied=make.applied(broken, *have.ordered()), mps=mps)
    made = plan(make.wanted(gpus, make.mps(4, 0), make.whole()), view)
    assert [one.uuid for one in made.refused] == ["GPU-0"]
    assert [one.uuid for one in made.actions if isinstance(one, Fence)] == ["GPU-1"]


def test_a_refused_plan_is_not_converged() -> None:
    """Nobody is told that the config is applied."""
    desired = make.wanted([make.gpu(0)], make.sliced(4))
    at_rest = plan(desired, make.seen(make.applied(make.entry(0, make.SLICED, range(4)))))
    assert at_rest.converged
    assert Plan(refused=plan_of_a_broken_gpu().refused).converged is False


def plan_of_a_broken_gpu() -> Plan:
    """What is planned of a node whose only GPU cannot be planned for."""
    broken = AppliedGpu(make.gpu(0), make.SLICED, frozenset(range(2)), Broken())
    view = replace(make.seen(make.applied()), gpus=(make.gpu(0),), applied=make.applied(broken))
    return plan(make.wanted([make.gpu(0)], make.sliced(4)), view)
