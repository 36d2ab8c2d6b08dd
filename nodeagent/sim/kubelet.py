"""The stand-in kubelet: a small device manager over real gRPC on real unix sockets.

The demo shows what it sees, and the tests hold the plugin against it, so it does what the real kubelet was seen to do,
also where that is unkind. Where the real one would die, it records a `Crash`, closes its sockets and refuses all
further use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from nodeagent.model.shares import MAX_ID_LENGTH
from nodeagent.sim import checkpoint
from nodeagent.sim.admission import Allocator, Hooks, Refusal, Vanished, start_container
from nodeagent.sim.devices import Devices
from nodeagent.sim.history import Crash, History, ListMessage
from nodeagent.sim.plugins import PluginClient, PluginError, PluginRegistry
from nodeagent.sim.pod_resources import CALLS_PER_SECOND, Fault, PodResourcesService
from nodeagent.sim.pods import AdmissionError, ContainerError, KubeletCrash, KubeletDown, Phase, Pod, Requests
from nodeagent.sim.sockets import SocketServer, wipe_sockets
from nodeagent.sim.view import KubeletView

log = logging.getLogger(__name__)

GRACE = 300.0
"""Seconds for which the kubelet keeps the capacity of a resource whose plugin is gone."""


class StandInKubelet(KubeletView):
    """A kubelet in `directory`, with its folders `device-plugins` and `pod-resources`, made when absent.

    `grace`: see `GRACE`. `dial_timeout` bounds the dial back inside Register. `pods_after`: how long after a restart
    its pods are known again (they come from the API server). `calls_per_second` limits PodResources (None: no limit);
    `serves_get` False: a kubelet before 1.34, whose PodResources have no `Get`; `gets_finished`: its `Get` finds pods
    that have finished and are still in the API, too. `history_limit` bounds what `history` and its like remember. All
    times in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        grace: float = GRACE,
        dial_timeout: float = 10.0,
        pods_after: float = 0.0,
        calls_per_second: float | None = CALLS_PER_SECOND,
        serves_get: bool = True,
        gets_finished: bool = False,
        history_limit: int | None = None,
    ) -> None:
        self.directory = directory
        self.device_plugins = directory / "device-plugins"
        self.pod_resources_dir = directory / "pod-resources"
        self.dial_timeout = dial_timeout
        self.pods_after = pods_after
        self.hooks = Hooks()
        super().__init__(History(limit=history_limit), self.device_plugins / names.CHECKPOINT, grace=grace)
        self._admission = asyncio.Lock()  # one pod after the other: a plugin that hangs blocks them all
        self._life: _Life | None = None
        self._starts = 0
        self._pod_resources = PodResourcesService(
            lambda: self._books,
            lambda: self._active() if self._pods_known else [],
            self._collect,
            calls_per_second=calls_per_second,
            serves_get=serves_get,
            found=(lambda: self._pods.values() if self._pods_known else []) if gets_finished else None,
        )

    # --- life ---

    @property
    def running(self) -> bool:
        return self._life is not None

    async def start(self) -> None:
        """Wipe the sockets, read the checkpoint, serve. Raises OSError or ValueError when it cannot; KubeletCrash."""
        self._refuse_after_crash()
        if self._life is not None:
            raise RuntimeError("cannot start the stand-in kubelet: it runs already")
        self.device_plugins.mkdir(parents=True, exist_ok=True)
        self.pod_resources_dir.mkdir(parents=True, exist_ok=True)
        self._books = Devices()
        try:
            self._books.restore(checkpoint.read(self.checkpoint_path), time.monotonic())
        except ValueError as error:
            log.warning("the kubelet starts without its allocations: %s", error)
        registry = PluginRegistry(self.device_plugins, self, self.record, dial_timeout=self.dial_timeout)
        servers = (
            SocketServer(self.device_plugins / names.KUBELET_SOCKET, registry.handler(), scratch=self.directory),
            SocketServer(
                self.pod_resources_dir / names.KUBELET_SOCKET, self._pod_resources.handler(), scratch=self.directory
            ),
        )
        for server in servers:
            await server.prepare()
        wipe_sockets(self.device_plugins)
        for server in servers:
            server.publish()
        self._life = life = _Life(registry, servers)
        self._starts += 1
        if self._starts == 1:
            life.pods_known.set()
        else:
            life.arrival = asyncio.create_task(self._pods_arrive(life), name="pods arrive")

    async def stop(self) -> None:
        """End as by SIGTERM: connections break, stale sockets stay behind, pods go on. Nothing when it does not run."""
        life, self._life = self._life, None
        if life is not None:
            await life.end()

    async def restart(self, *, down_for: float = 0.0) -> None:
        """Stop, and start again `down_for` seconds later."""
        self._refuse_after_crash()
        await self.stop()
        await asyncio.sleep(down_for)
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def end_stream(self, resource: str) -> None:
        """End the newest plugin's stream, as the kubelet does when the stream of an older one of the resource ends."""
        if self._life is not None:
            await self._life.registry.end(resource)

    # --- pods ---

    async def admit(
        self,
        name: str,
        namespace: str = "default",
        containers: Mapping[str, Requests] | None = None,
        *,
        init_containers: Mapping[str, Requests] | None = None,
    ) -> Pod:
        """Admit a pod bound to this node; `containers` maps each to {resource: count} (None: one that asks for
        nothing).

        Waits while another pod is admitted, and after a restart until pods are known. Raises AdmissionError (the pod
        is Failed and stays in `pods`), ContainerError (admitted, but a container cannot start), KubeletDown,
        KubeletCrash.
        """
        pod = Pod(name, namespace, containers or {"main": {}}, init_containers or {})
        async with self._admission:
            life = self._alive()
            await life.pods_known.wait()
            self._alive(life)
            self._pods[pod.uid] = pod
            await self._admit(life, pod)
            pod.phase = Phase.RUNNING
            for container in pod.containers:
                await self._start_container(life, pod, container)
        return pod

    async def end(self, pod: Pod, *, stays: bool = False) -> None:
        """The pod has finished: what it held is free, and is forgotten at the next admission or List. `stays`: it is
        still in the API, as a Job's is.
        """
        self._refuse_after_crash()
        if pod.active:
            pod.phase = Phase.SUCCEEDED
        pod.running.clear()
        if not stays:
            self._pods.pop(pod.uid, None)

    def stop_container(self, pod: Pod, container: str) -> None:
        """A container died; nobody starts it again until `restart_container`."""
        pod.running.discard(container)

    async def restart_container(self, pod: Pod, container: str) -> Mapping[str, str]:
        """Start a container of a running pod again, with the old answer, without an Allocate; gives its environment.

        Raises ContainerError (it may be tried again), KubeletDown, KubeletCrash; ValueError for a pod that does not
        run.
        """
        async with self._admission:
            life = self._alive()
            if pod.phase is not Phase.RUNNING:
                raise ValueError(f"cannot start {container}: pod {pod.name} is {pod.phase.value}: {pod.message}")
            pod.running.discard(container)
            await self._start_container(life, pod, container)
        return pod.envs(container)

    # --- PodResources ---

    @property
    def pod_resources_fault(self) -> Fault | None:
        """How PodResources misbehaves: it hangs, is unavailable, or limits everybody's rate; None: it does not."""
        return self._pod_resources.fault

    @pod_resources_fault.setter
    def pod_resources_fault(self, fault: Fault | None) -> None:
        self._pod_resources.fault = fault

    @property
    def pod_resources_calls(self) -> int:
        """How many calls PodResources has had, refused and hanging ones too."""
        return self._pod_resources.calls.total()

    @property
    def lists(self) -> int:
        """How many of them were `List`."""
        return self._pod_resources.calls["List"]

    @property
    def allocatable_calls(self) -> int:
        """How many of them were `GetAllocatableResources`."""
        return self._pod_resources.calls["GetAllocatableResources"]

    # --- what plugins do (PluginRegistry's receiver) ---

    def connected(self, client: PluginClient, options: api.DevicePluginOptions) -> None:
        """A plugin has registered."""
        self._books.connected(client, options)

    def disconnected(self, resource: str) -> None:
        """A stream of the resource has ended."""
        self._books.disconnected(resource, time.monotonic())
        self.record.allocatable(resource, 0)

    def received(self, client: PluginClient, message: api.ListAndWatchResponse) -> None:
        """A plugin has sent its list."""
        at = time.monotonic()
        resource = client.resource
        states: dict[str, bool] = {}
        nodes: dict[str, tuple[int, ...]] = {}
        for device in message.devices:
            id_ = device.ID
            states[id_] = device.health == names.HEALTHY
            nodes[id_] = tuple(node.ID for node in device.topology.nodes) if device.HasField("topology") else ()
        if too_long := [id_ for id_ in states if len(id_) > MAX_ID_LENGTH]:
            self.record.broken(resource, f"refused a list with ids of more than {MAX_ID_LENGTH} characters", too_long)
            return
        if len(states) != len(message.devices):
            self.record.broken(resource, "a list names an id twice", states)
        self._books.replace(resource, states, nodes)
        self.record.message(ListMessage(at, resource, client.socket.name, states), self.held(resource))
        self._save()

    # --- inside ---

    @property
    def _pods_known(self) -> bool:
        return self._life is not None and self._life.pods_known.is_set()

    def _collect(self) -> None:
        """Free what finished pods held: in memory only, as the kubelet does, and only once it knows its pods."""
        if self._pods_known:
            self._books.forget_pods_except(pod.uid for pod in self._active())

    def _refuse_after_crash(self) -> None:
        if self.record.crashes:
            raise KubeletCrash(str(self.record.crashes[0]))

    def _alive(self, expected: _Life | None = None) -> _Life:
        """This life of the kubelet, which must still be the expected one. Raises KubeletDown, KubeletCrash."""
        self._refuse_after_crash()
        if self._life is None or expected not in (None, self._life):
            raise KubeletDown("the kubelet is down" if expected is None else "the kubelet stopped meanwhile")
        return self._life

    async def _admit(self, life: _Life, pod: Pod) -> None:
        try:
            await self._allocate(life, pod)
        except (Refusal, PluginError) as error:
            pod.fail(f"Allocate failed due to {error}, which is unexpected")
            raise AdmissionError(pod.message) from error
        except BaseException as error:
            pod.fail(f"not admitted: {error}")
            raise

    async def _allocate(self, life: _Life, pod: Pod) -> None:
        """Allocate what the pod's containers have not yet. Raises Refusal, PluginError, KubeletDown, KubeletCrash."""
        self._forget_expired()
        self._collect()
        books = self._books
        try:
            changed = await Allocator(books, pod, self.hooks, pods_known=life.pods_known.is_set()).allocate_pod()
        except Vanished as vanished:
            crash = Crash(time.monotonic(), vanished.resource, f"{pod.namespace}/{pod.name}", vanished.ids)
            self.record.crashes.append(crash)
            await self.stop()
            raise KubeletCrash(str(crash)) from vanished
        except (Refusal, PluginError, asyncio.CancelledError):
            books.recount()
            self._alive(life)  # a plugin that could not be asked because the kubelet stopped has refused nothing
            raise
        self._alive(life)
        if changed:
            self._save()

    async def _start_container(self, life: _Life, pod: Pod, container: str) -> None:
        self._forget_expired()
        try:
            if not await start_container(self._books, pod, container, pod.containers[container]):
                await self._allocate(life, pod)
        except (Refusal, PluginError) as error:
            self._alive(life)
            raise ContainerError(str(error)) from error
        for inside, path in pod.mounts(container).items():
            if not Path(path).exists():
                raise ContainerError(f"cannot mount {path} at {inside}: it does not exist")
        pod.running.add(container)

    async def _pods_arrive(self, life: _Life) -> None:
        """After a restart each pod is admitted anew; a container that is down and has lost its device fails its pod."""
        await asyncio.sleep(self.pods_after)
        for pod in self._active():
            try:
                await self._admit(life, pod)
            except AdmissionError as error:
                log.info("pod %s/%s is not admitted again: %s", pod.namespace, pod.name, error)
        life.pods_known.set()


class _Life:
    """One run of the kubelet, from start to stop: its servers, the plugins that registered, and whether it knows its
    pods.
    """

    def __init__(self, registry: PluginRegistry, servers: tuple[SocketServer, ...]) -> None:
        self.registry = registry
        self._servers = servers
        self.pods_known = asyncio.Event()
        self.arrival: asyncio.Task[None] | None = None

    async def end(self) -> None:
        if self.arrival is not None and self.arrival is not asyncio.current_task():
            self.arrival.cancel()
            await asyncio.gather(self.arrival, return_exceptions=True)
        await self.registry.close()
        await asyncio.gather(*(server.stop() for server in self._servers))
        self.pods_known.set()  # whoever waited for it looks again, and finds this life over
