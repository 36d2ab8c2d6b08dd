"""PodResources of the stand-in kubelet: what it lists, and how it fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import podresources_pb2 as api
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pod_resources import Fault
from nodeagent.sim.pods import AdmissionError
from tests.sim.conftest import MakePlugin
from tests.sim.plugin import RESOURCE, TinyPlugin
from tests.waiting import eventually, longer

Listed = set[tuple[str, str, str, tuple[str, ...]]]


class Client:
    """Asks PodResources, on a fresh connection each time, as after a restart."""

    def __init__(self, kubelet: StandInKubelet) -> None:
        self.target = f"unix:{kubelet.pod_resources_dir / names.KUBELET_SOCKET}"

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)])

    async def allocatable(self) -> list[tuple[str, ...]]:
        async with self.channel() as channel:
            ask = channel.unary_unary(
                names.GET_ALLOCATABLE,
                api.AllocatableResourcesRequest.SerializeToString,
                api.AllocatableResourcesResponse.FromString,
            )
            answer: api.AllocatableResourcesResponse = await ask(api.AllocatableResourcesRequest(), timeout=longer(5))
        return sorted(tuple(entry.device_ids) for entry in answer.devices)

    async def list(self) -> Listed:
        async with self.channel() as channel:
            ask = channel.unary_unary(
                names.LIST_POD_RESOURCES,
                api.ListPodResourcesRequest.SerializeToString,
                api.ListPodResourcesResponse.FromString,
            )
            answer: api.ListPodResourcesResponse = await ask(api.ListPodResourcesRequest(), timeout=longer(5))
        return _shown(answer.pod_resources)

    async def get(self, namespace: str, name: str) -> Listed:
        async with self.channel() as channel:
            ask = channel.unary_unary(
                names.GET_POD_RESOURCES,
                api.GetPodResourcesRequest.SerializeToString,
                api.GetPodResourcesResponse.FromString,
            )
            request = api.GetPodResourcesRequest(pod_namespace=namespace, pod_name=name)
            answer: api.GetPodResourcesResponse = await ask(request, timeout=longer(5))
        return _shown([answer.pod_resources])


def _shown(pods: Iterable[api.PodResources]) -> Listed:
    return {
        (pod.namespace, pod.name, entry.name, tuple(id_ for device in entry.devices for id_ in device.device_ids))
        for pod in pods
        for entry in pod.containers
    }


@pytest.fixture
def client(kubelet: StandInKubelet) -> Client:
    """Asks the kubelet's PodResources."""
    return Client(kubelet)


async def test_allocatable_is_one_entry_per_healthy_device(
    kubelet: StandInKubelet, plugin: MakePlugin, client: Client
) -> None:
    """Healthy devices, held or not, one entry each; none when the plugin is gone."""
    tiny = await plugin("a", "b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    assert await client.allocatable() == [("a",), ("b",), ("c",)]
    await tiny.send(["a"], ["b", "c"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert await client.allocatable() == [("a",)]
    await tiny.stop()
    await eventually(lambda: kubelet.streams_ended)
    assert await client.allocatable() == []


async def test_list_shows_containers_and_leaves_init_containers_out(
    kubelet: StandInKubelet, plugin: MakePlugin, client: Client
) -> None:
    """Every container of every active pod, with the ids it holds; what only an init container holds is not there."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]
    pod = await kubelet.admit("p", "ml", {"main": {}, "gpu": {RESOURCE: 1}})
    await kubelet.admit("q", "ml", {"main": {}}, init_containers={"prepare": {RESOURCE: 1}})
    assert await client.list() == {("ml", "p", "main", ()), ("ml", "p", "gpu", ("a",)), ("ml", "q", "main", ())}
    assert kubelet.held(RESOURCE) == {"a", "b"}
    await kubelet.end(pod)
    assert await client.list() == {("ml", "q", "main", ())}


async def test_an_id_that_left_the_list_is_still_listed_for_its_pod(
    kubelet: StandInKubelet, plugin: MakePlugin, client: Client
) -> None:
    """What a pod holds does not depend on what the plugin says now."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await tiny.send(["b"])
    await eventually(lambda: kubelet.devices(RESOURCE) == {"b": True})
    assert await client.list() == {("default", "p", "main", ("a",))}


async def test_failed_pods_are_absent(kubelet: StandInKubelet, plugin: MakePlugin, client: Client) -> None:
    """A pod that was not admitted is not listed."""
    await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    with pytest.raises(AdmissionError):
        await kubelet.admit("p", containers={"main": {RESOURCE: 2}})
    assert await client.list() == set()


async def test_get_says_of_one_pod_what_list_says(kubelet: StandInKubelet, plugin: MakePlugin, client: Client) -> None:
    """Of a pod that has ended it knows nothing."""
    await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    pod = await kubelet.admit("p", "ml", {"main": {}, "gpu": {RESOURCE: 1}})
    ids = tuple(pod.ids())
    assert await client.get("ml", "p") == {("ml", "p", "main", ()), ("ml", "p", "gpu", ids)}
    await kubelet.end(pod)
    for name in ("p", "q"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.get("ml", name)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == f"pod {name} in namespace ml not found"
    assert kubelet.lists == 0


async def test_an_old_kubelet_does_not_serve_get(tmp_path: Path) -> None:
    """Before 1.34 it is behind a gate."""
    async with StandInKubelet(tmp_path, serves_get=False) as kubelet:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Client(kubelet).get("ml", "p")
        assert caught.value.details() == "PodResources API Get method disabled"


@pytest.mark.parametrize(
    ("looks", "twice"),
    [(Client.list, True), (lambda client: client.get("default", "gone"), False), (Client.allocatable, False)],
    ids=["List", "Get", "GetAllocatableResources"],
)
async def test_list_during_an_allocate_makes_it_hand_out_a_device_twice(
    kubelet: StandInKubelet,
    plugin: MakePlugin,
    client: Client,
    looks: Callable[[Client], Awaitable[object]],
    twice: bool,
) -> None:
    """As in the real one: where a pod has ended, the set of what is taken is made anew from the books. What is being
    allocated is not in them yet. The other calls do no such thing.
    """
    await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    gone = await kubelet.admit("gone", containers={"main": {RESOURCE: 1}})

    async def look() -> None:
        kubelet.hooks.before_allocate = None
        await kubelet.end(gone)
        with suppress(grpc.aio.AioRpcError):
            await looks(client)

    kubelet.hooks.before_allocate = look
    pods = [await kubelet.admit(f"p-{number}", containers={"main": {RESOURCE: 1}}) for number in range(2)]
    if not twice:
        assert pods[0].ids() != pods[1].ids()
        return
    pods.append(await kubelet.admit("p-2", containers={"main": {RESOURCE: 1}}))
    assert len({ids for pod in pods for ids in pod.ids()}) == 2


async def test_after_a_restart_list_is_empty_until_pods_are_known(
    kubelet: StandInKubelet, plugin: MakePlugin, client: Client
) -> None:
    """The pods of a restarted kubelet come from the API server: nothing is listed at first, and nothing is freed by
    that.
    """
    await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    kubelet.pods_after = 0.5
    await kubelet.restart()
    assert await client.list() == set()
    assert kubelet.held(RESOURCE) == {"a"}

    async def listed() -> bool:
        return await client.list() == {("default", "p", "main", ("a",))}

    await eventually(listed, every=0.05)


@pytest.mark.parametrize("gets_finished", [True, False])
async def test_a_finished_pod_that_stays_is_not_listed(tmp_path: Path, gets_finished: bool) -> None:
    """Some kubelets' `Get` finds it, with its devices until they are freed."""
    async with StandInKubelet(tmp_path, gets_finished=gets_finished) as kubelet:
        plugin = TinyPlugin(kubelet.device_plugins)
        await plugin.serve()
        await plugin.send(["a"])
        await plugin.register()
        await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
        pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
        await kubelet.end(pod, stays=True)
        client = Client(kubelet)
        if gets_finished:
            assert await client.get("default", "p") == {("default", "p", "main", ("a",))}
        assert await client.list() == set()
        if gets_finished:
            assert not any(ids for *_, ids in await client.get("default", "p"))
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="not found"):
                await client.get("default", "p")
        await plugin.stop()


async def test_too_many_calls_are_refused(kubelet: StandInKubelet, client: Client) -> None:
    """Beyond its rate the kubelet answers RESOURCE_EXHAUSTED, and a little later it answers again."""
    results = await asyncio.gather(*(client.list() for _ in range(60)), return_exceptions=True)
    codes = Counter(result.code() for result in results if isinstance(result, grpc.aio.AioRpcError))
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.total() < 60

    async def answered() -> bool:
        try:
            return await client.list() == set()
        except grpc.aio.AioRpcError:
            return False

    await eventually(answered)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE), (Fault.RATE_LIMITED, grpc.StatusCode.RESOURCE_EXHAUSTED)],
)
async def test_a_fault_is_an_error_until_it_is_mended(
    kubelet: StandInKubelet, client: Client, fault: Fault, code: grpc.StatusCode
) -> None:
    """Unavailable and rate-limited answer every call with their code."""
    kubelet.pod_resources_fault = fault
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.allocatable()
    assert caught.value.code() is code
    kubelet.pod_resources_fault = None
    assert await client.allocatable() == []


async def test_a_hanging_call_is_answered_when_it_is_mended(kubelet: StandInKubelet, client: Client) -> None:
    """A hang holds the call, and the kubelet still stops at once."""
    kubelet.pod_resources_fault = Fault.HANG
    asking = asyncio.create_task(client.list())
    await eventually(lambda: kubelet.pod_resources_calls == 1)
    assert not asking.done()
    kubelet.pod_resources_fault = None
    assert await asking == set()
    kubelet.pod_resources_fault = Fault.HANG
    asking = asyncio.create_task(client.list())
    await eventually(lambda: kubelet.pod_resources_calls == 2)
    await kubelet.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await asking
