"""Admitting and ending pods: who gets which id, and what the kubelet does when one has vanished."""

from __future__ import annotations

import asyncio

import pytest

from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import AdmissionError, ContainerError, KubeletCrash, Phase
from tests.sim.conftest import MakePlugin
from tests.sim.plugin import RESOURCE
from tests.waiting import eventually


async def test_free_is_healthy_minus_allocated_by_id(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """An admitted pod holds its ids until it ends; what is left is what the next one is offered."""
    tiny = await plugin("a", "b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    tiny.preferred = ["b"]
    first = await kubelet.admit("first", "ml", {"main": {RESOURCE: 1}})
    assert first.ids() == {"b"}
    assert first.envs("main") == {"VISIBLE": "b"}
    assert kubelet.free(RESOURCE) == {"a", "c"}
    assert kubelet.schedulable(RESOURCE) == 2
    await kubelet.end(first)
    second = await kubelet.admit("second", "ml", {"main": {RESOURCE: 3}})
    assert second.ids() == {"a", "b", "c"}
    assert tiny.asked == [
        ("prefer", ("a", "b", "c")),
        ("allocate", ("b",)),
        ("prefer", ("a", "b", "c")),
        ("allocate", ("a", "b", "c")),
    ]


async def test_without_the_option_the_plugin_is_not_asked_what_it_prefers(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """GetPreferredAllocation is called only where the plugin's options offer it."""
    tiny = await plugin("a", "b", preference=False)
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    assert [kind for kind, _ in tiny.asked] == ["allocate"]


async def test_a_pod_for_more_than_is_free_fails(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Too few devices are an UnexpectedAdmissionError with the numbers; the pod is Failed and holds nothing."""
    await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    with pytest.raises(AdmissionError, match=r"UnexpectedAdmissionError.*Requested: 2, Available: 1"):
        await kubelet.admit("p", containers={"main": {RESOURCE: 2}})
    (pod,) = kubelet.pods
    assert pod.phase is Phase.FAILED
    assert kubelet.free(RESOURCE) == {"a"}


async def test_the_plugins_refusal_fails_the_pod_with_its_message(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """An error from Allocate is the pod's message, and the ids are free again."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    tiny.refuse = "at most 1 share"
    with pytest.raises(AdmissionError, match="code = InvalidArgument desc = at most 1 share"):
        await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    tiny.refuse = None
    assert (await kubelet.admit("q", containers={"main": {RESOURCE: 1}})).ids() == {"a"}


async def test_a_resource_that_was_never_registered_gives_no_device(kubelet: StandInKubelet) -> None:
    """A pod bound to the node that asks for an unknown resource is admitted without a device."""
    pod = await kubelet.admit("p", containers={"main": {"example.com/unknown": 1}})
    assert pod.phase is Phase.RUNNING
    assert pod.ids() == set()


async def test_an_unhealthy_id_is_not_given_but_stays_with_who_holds_it(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """Unhealthy ids leave the free set; a pod that holds one goes on, and the scheduler's count sinks below what is
    there.
    """
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await tiny.send(["b"], ["a"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert pod.phase is Phase.RUNNING
    assert kubelet.free(RESOURCE) == {"b"}
    assert kubelet.schedulable(RESOURCE) == 0


async def test_containers_use_again_what_init_containers_had(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Init containers come first; the app container gets their ids, and they keep what nobody else took."""
    await plugin("a", "b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}}, init_containers={"prepare": {RESOURCE: 2}})
    prepared = set(pod.grants["prepare"][RESOURCE].ids)
    assert len(prepared) == 2
    assert set(pod.grants["main"][RESOURCE].ids) < prepared
    assert len(kubelet.free(RESOURCE)) == 1


async def test_an_id_that_vanishes_while_it_is_allocated_crashes_the_kubelet(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """The available set is older than the preference: an id dropped in between is a crash, and nothing works any
    more.
    """
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]

    async def drop() -> None:
        await tiny.send(["b"])
        await eventually(lambda: kubelet.capacity(RESOURCE) == 1)

    kubelet.hooks.before_preferred = drop
    with pytest.raises(KubeletCrash, match="vanished while pod default/p was given them: a"):
        await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    (crash,) = kubelet.crashes
    assert crash.ids == {"a"}
    assert not kubelet.running
    with pytest.raises(KubeletCrash):
        await kubelet.restart()
    with pytest.raises(KubeletCrash):
        await kubelet.admit("q")


async def test_an_id_that_turns_unhealthy_while_it_is_allocated_does_no_harm(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """A fence in the same window leaves the id on the list: the pod gets it."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]

    async def fence() -> None:
        await tiny.send(["b"], ["a"])
        await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)

    kubelet.hooks.before_allocate = fence
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    assert pod.ids() == {"a"}
    assert kubelet.crashes == []


async def test_an_allocation_that_hangs_blocks_every_other_pod(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Admission has no deadline and no second lane."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    tiny.grant.clear()
    first = asyncio.create_task(kubelet.admit("first", containers={"main": {RESOURCE: 1}}))
    await eventually(lambda: ("allocate", ("a",)) in tiny.asked)
    second = asyncio.create_task(kubelet.admit("second"))
    await asyncio.wait([second], timeout=0.1)
    assert not second.done()
    tiny.grant.set()
    assert (await first).phase is Phase.RUNNING
    assert (await second).phase is Phase.RUNNING


async def test_an_admission_that_is_given_up_holds_nothing(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Who stops waiting for an admission leaves a Failed pod behind, and its ids free."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    tiny.grant.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kubelet.admit("first", containers={"main": {RESOURCE: 1}}), 0.1)
    tiny.grant.set()
    assert (await kubelet.admit("second", containers={"main": {RESOURCE: 1}})).ids() == {"a"}


async def test_a_container_restarts_with_the_old_answer(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """No new Allocate, even though the id has left the list meanwhile."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await tiny.send(["b"])
    await eventually(lambda: kubelet.capacity(RESOURCE) == 1)
    asked = len(tiny.asked)
    kubelet.stop_container(pod, "main")
    assert await kubelet.restart_container(pod, "main") == {"VISIBLE": "a"}
    assert len(tiny.asked) == asked
    assert pod.running == {"main"}


async def test_after_the_grace_a_container_cannot_restart_until_the_plugin_is_back(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """A container whose resource is forgotten fails with CreateContainerConfigError; registering again mends it."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await tiny.end_streams()
    await eventually(lambda: kubelet.streams_ended)
    assert await kubelet.restart_container(pod, "main") == {"VISIBLE": "a"}
    kubelet.grace = 0.0
    with pytest.raises(ContainerError, match=r"CreateContainerConfigError.*endpoint not found"):
        await kubelet.restart_container(pod, "main")
    await tiny.register()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert await kubelet.restart_container(pod, "main") == {"VISIBLE": "a"}


async def test_a_plugin_that_wants_it_is_told_before_a_container_starts(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """With pre_start_required, PreStartContainer names the ids at every start of the container."""
    tiny = await plugin("a", register=False)
    tiny.options.pre_start_required = True
    await tiny.register()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await kubelet.restart_container(pod, "main")
    assert tiny.pre_started == [("a",), ("a",)]
