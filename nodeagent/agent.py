"""The composition root: makes every part, hands them to one another, starts and stops them in order.

Order of the stop: first the loop, so that nothing changes any more; then the streams, so that the kubelet sees them
end; then the eyes and the HTTP server; last the lock, so that the next agent finds everything at rest. A write that is
still under way keeps the lock.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from nodeagent import __version__, clocks, refusals, stopping
from nodeagent.admin import SOCKET, AdminSocket
from nodeagent.clearing import Clearing
from nodeagent.config.by_label import ByLabel
from nodeagent.config.judging import Judge
from nodeagent.config.source import JUDGED_WITHIN, ConfigSource
from nodeagent.desk import FrontDesk
from nodeagent.devices.driver import open_driver
from nodeagent.devices.host_files import HostLook, machine_type
from nodeagent.errand import Errand, Hangs
from nodeagent.errors import CannotStart
from nodeagent.keeper import Gate
from nodeagent.kubelet.cgroups import PodCgroups
from nodeagent.kubelet.plugins import Plugins
from nodeagent.kubelet.pod_resources import PodResources
from nodeagent.kubelet.shown import ShownIds
from nodeagent.model.config import Document, Loaded
from nodeagent.model.holds import Holds
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import Snapshot
from nodeagent.ownership import Claim, Ending, Ownership
from nodeagent.reconciler import Reconciler, Remembered
from nodeagent.renewal import Renewal
from nodeagent.report.http import HttpServer
from nodeagent.report.metrics import Metrics
from nodeagent.settings import Settings
from nodeagent.state.summarize import Identity
from nodeagent.store.state_dir import StateDir, boot_id
from nodeagent.watcher import DirectoryWatch

if TYPE_CHECKING:
    from nodeagent.mps.off import NoMps
    from nodeagent.mps.spawn import SpawnedHost
    from nodeagent.mps.view import MpsView
    from nodeagent.node.api_node import ApiNode
    from nodeagent.node.both import FileAndApi
    from nodeagent.node.label_file import LabelFile
    from nodeagent.node.off import NoNode

logger = logging.getLogger(__name__)

_STREAMS_END = 1.0
_ENDS_WITHIN = 1.0
"""For the loop, and then for all that comes after the streams together: with the streams and HTTP this makes less than
`stopping.STOP_SECONDS`, whatever hangs.
"""

_READ_WITHIN = 1.0

_HEARTBEAT = 2.0
_BEAT_MISSED = 10.0
_LOCK_RETRY = 0.5
_ANSWER_FIRST = 0.01
"""Seconds that a turn waits after an Allocate, so that it does not come between the answer and the kubelet."""
_RESTART_AFTER = (1.0, 30.0)

T = TypeVar("T")


class Agent:
    """One agent on one node. `run` returns after `stop` was called or a signal came, or when its state directory is not
    to be had any more.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._ending = Ending.TOLD
        self._beat = time.monotonic()
        self._reconciler: Reconciler | None = None
        self._loop: asyncio.Task[None] | None = None
        self._metrics = Metrics(lambda: self.snapshot, version=__version__)
        self._http = HttpServer(
            settings.listen,
            snapshot=lambda: self.snapshot,
            alive=lambda: self.alive,
            metrics=self._metrics,
            strict_readiness=settings.strict_readiness,
        )
        self._store = StateDir(settings.state_dir, identity=_identity(settings), boot_id=boot_id())
        self._gate = Gate(self._store, self._store.release)
        self._watch = DirectoryWatch()
        self._judge = Judge()
        try:
            self._source = ConfigSource(
                settings.config,
                subscribe=self._watch.subscribe,
                wake=self._wake.set,
                selects=bool(settings.config_labels),
                default=settings.config_default,
                why_unknown=lambda: self._node.unheard,
                judge=self._judge,
            )
            self._by_label = ByLabel(
                settings.config_labels,
                source=self._source,
                save=lambda chosen: self._gate.during(
                    lambda: self._store.save_selection(chosen, settings.config_labels)
                ),
                default=settings.config_default,
            )
            self._driver = open_driver(
                settings.driver,
                node_name=settings.node_name,
                subscribe=self._watch.subscribe,
                wake=self._wake.set,
                driver_root=settings.driver_root,
                nvml_library=settings.nvml_library,
            )
            self._clearing = Clearing(wake=self._wake.set)
            self._desk = FrontDesk(clock=time.monotonic, wake=self._wake_soon)
            self._plugins = Plugins(
                settings.device_plugins_dir,
                self._desk,
                subscribe=self._watch.subscribe,
                wake=self._wake.set,
                on_allocate=self._metrics.allocation,
                shown=ShownIds(settings.pod_resources_dir / "kubelet.sock"),
            )
            self._mps_host = _spawned(settings) if settings.mps_host == "spawn" else None
            self._mps: NoMps | MpsView = self._no_mps() if settings.mps_host == "off" else self._open_mps()
            self._host = HostLook(settings.driver_root, settings.cdi_dirs, wake=self._wake.set)
            self._node = self._open_node()
        except ValueError as error:
            raise CannotStart(str(error)) from error
        self._pods = PodResources(
            settings.pod_resources_dir / "kubelet.sock",
            settings.device_plugins_dir / "kubelet_internal_checkpoint",
            wake=self._wake.set,
            cgroups=PodCgroups(settings.cgroup_root).uids,
            traffic=self._desk,
            count=self._metrics.pod_resources_call,
            count_without_window=self._metrics.list_without_window,
        )

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest summary; None until the first turn."""
        return self._reconciler.snapshot if self._reconciler is not None else None

    @property
    def alive(self) -> bool:
        """Whether a restart would not help. A turn that fails is no reason for one: what is applied is served on, and a
        fault that is met at every start would take the node's GPUs away again and again. For any thread.
        """
        if time.monotonic() - self._beat >= _BEAT_MISSED:
            return False
        return self._loop is None or not self._loop.done() or self._stop.is_set()

    @property
    def port(self) -> int:
        """Where HTTP is served, once `run` has begun."""
        return self._http.port

    def take_labels(self, labels: Mapping[str, str]) -> None:
        """All labels of the Node, when they are first known and whenever they change. To be called on the loop."""
        if self._settings.config_labels:
            self._by_label.take(labels)

    def stop(self) -> None:
        """Begin to stop. To be called on the loop."""
        self._end_as(Ending.TOLD)

    async def run(self) -> Ending:
        """Serve until stopped; why it has ended. Raises CannotStart."""
        try:
            self._http.start()
        except OSError as error:
            raise CannotStart(f"cannot listen on {self._settings.listen}: {refusals.words(error)}") from error
        heart = asyncio.create_task(self._keep_beating())
        try:
            if await self._wait_for_lock():
                await self._serve()
        finally:
            heart.cancel()
            self._http.close()
            if not self._gate.shut():
                logger.warning(
                    "%s is still being used: its lock is kept until that has ended", self._settings.state_dir
                )
        return self._ending

    @property
    def signal_handlers(self) -> Mapping[signal.Signals, stopping.Handler]:
        """SIGTERM and SIGINT stop in order, SIGHUP looks at the config and the GPUs again. To be called on the loop."""
        return {
            signal.SIGTERM: self._on_stop_signal,
            signal.SIGINT: self._on_stop_signal,
            signal.SIGHUP: self._look_again,
        }

    # --- running ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        remembered = await self._unless_stopped(self._remember())
        if remembered is None:
            return
        renewal = self._renewal()
        machine, now = await self._machine_type(), clocks.now()
        for notice in self._store.notices:
            logger.warning("%s", notice)
        self._reconciler = Reconciler(
            Identity(
                node=self._settings.node_name,
                pool=self._settings.pool,
                version=__version__,
                config_path=str(self._settings.config),
                started_at=now.monotonic,
                machine=machine,
                timestamp=int(now.wall),
            ),
            source=self._source,
            devices=self._driver,
            pods=self._pods,
            plugins=self._plugins,
            daemons=self._mps,
            desk=self._desk,
            clearing=self._clearing,
            host=self._host,
            node=self._node,
            handover=self._settings.handover,
            store=self._gate,
            counters=self._metrics,
            remembered=remembered,
            wake=self._wake,
            remark=lambda: renewal.remark,
        )
        admin = AdminSocket(
            self._settings.state_dir,
            {"clear-health": self._clear_health},
            made=lambda: self._store.leave(SOCKET),
            permit=lambda: self._gate.during(self._store.demand_lock),
        )
        ownership = self._own(self._reconciler, admin)
        logger.info("nodeagent %s on %s, config %s", __version__, self._settings.node_name, self._settings.config)
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "watch": self._watch.run,
            "config": self._source.run,
            "config by label": self._by_label.run,
            "driver": self._driver.run,
            "pod resources": self._pods.run,
            "plugins": self._plugins.run,
            "mps": self._mps.run,
            "host files": self._host.run,
            "node": self._node.run,
            "admin socket": admin.run,
            "state directory": ownership.run,
            "driver change": renewal.run,
        }
        if self._mps_host is not None:
            parts["mps host"] = self._mps_host.run
        others = [asyncio.create_task(supervise(name, run), name=name) for name, run in parts.items()]
        self._loop = asyncio.create_task(self._reconciler.run(), name="reconciler")
        self._loop.add_done_callback(self._tell_of_end)
        await self._stop.wait()
        await _end(self._loop)
        await self._plugins.stop(_STREAMS_END)
        await _end(*others)
        logger.info("stopped")

    def _own(self, reconciler: Reconciler, admin: AdminSocket) -> Ownership:
        """What sees to it that the state directory stays ours, with all that we have in it."""

        def rewrite(why: str) -> None:
            reconciler.rewrite(why)
            self._by_label.rewrite()
            admin.serve_anew()

        return Ownership(
            self._settings.state_dir,
            keep=lambda: self._gate.during(self._store.keep),
            rewrite=rewrite,
            end=self._end_as,
            subscribe=self._watch.subscribe,
        )

    def _renewal(self) -> Renewal:
        """What ends us, once, where only a new container can use the driver again."""
        return Renewal(
            wanted=self._settings.restart_on_driver_change,
            inventory=lambda: self._driver.inventory,
            load=lambda: self._gate.during(self._store.load_renewal),
            save=lambda note: self._gate.during(lambda: self._store.save_renewal(note)),
            end=lambda: self._end_as(Ending.DRIVER_CHANGED),
            wake=self._wake.set,
        )

    def _end_as(self, ending: Ending) -> None:
        """The first reason counts: who was told to stop does not go on because the directory has gone meanwhile."""
        if not self._stop.is_set():
            self._ending = ending
        self._stop.set()

    async def _clear_health(self, uuid: str) -> str:
        snapshot = self.snapshot
        done = await self._clearing.clear(uuid, snapshot.applied if snapshot is not None else Applied())
        problem = self._reconciler.disk_problem if self._reconciler is not None else None
        return done if problem is None else f"{done}; an agent that starts anew will not know: {problem}"

    async def _wait_for_lock(self) -> bool:
        """Become the only agent of this node. False when told to stop before that."""
        told = False
        claim = Claim(self._store)
        while not self._stop.is_set():
            try:
                if await self._unless_stopped(self._at_disk(claim.take)):
                    return True
            except OSError as error:
                raise CannotStart(refusals.named(error)) from error
            if not told:
                logger.info("another agent has %s: waiting until it is gone", self._settings.state_dir)
                told = True
            try:
                async with asyncio.timeout(_LOCK_RETRY):
                    await self._stop.wait()
            except TimeoutError:
                pass
        return False

    async def _at_disk(self, call: Callable[[], T]) -> T:
        """What a call on the state directory returns, which may hang."""
        return await Errand("start", on_late=lambda: None).run(lambda: self._gate.during(call), None)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What comes of it; None when told to stop before."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    def _open_node(self) -> NoNode | LabelFile | ApiNode | FileAndApi:
        """Who tells the cluster of this node: nothing of the API is imported where nobody speaks to it."""
        directory = self._settings.label_file
        if directory is None and not self._settings.kube_api:
            from nodeagent.node.off import NoNode

            return NoNode()
        if directory is None:
            return self._open_api(labels=self._settings.labels == "api")
        from nodeagent.node.label_file import LabelFile

        file = LabelFile(directory, wake=self._wake.set)
        if not self._settings.kube_api:
            return file
        from nodeagent.node.both import FileAndApi

        return FileAndApi(file, self._open_api(labels=False))

    def _open_api(self, *, labels: bool) -> ApiNode:
        """Raises CannotStart where the API client is not installed: no retry would help."""
        try:
            from nodeagent.node.api_client import ApiClient
        except ModuleNotFoundError as error:
            raise CannotStart(
                f"--kube-api on needs the client of the Kubernetes API ({error}): pip install 'nodeagent[kubernetes]'"
            ) from error
        from nodeagent.node.api_node import ApiNode

        return ApiNode(
            self._settings.node_name,
            connect=lambda: ApiClient(self._settings.kubeconfig),
            labels=labels,
            taint=self._settings.startup_taint,
            on_labels=self.take_labels,
            wake=self._wake.set,
        )

    def _no_mps(self) -> NoMps:
        from nodeagent.mps.off import NoMps

        return NoMps(self._settings.mps_root, wake=self._wake.set, read_mode=self._driver.compute_mode)

    def _open_mps(self) -> MpsView:
        from nodeagent.mps.view import MpsView

        return MpsView(
            self._settings.mps_root,
            subscribe=self._watch.subscribe,
            wake=self._wake.set,
            read_mode=self._driver.compute_mode,
            host=self._mps_host,
            program=self._settings.mps_control,
        )

    async def _remember(self) -> Remembered:
        """What is on disk, with what the last known good document means today."""
        remembered, document = await self._at_disk(self._read_all)
        loaded = await self._judge_stored(document) if document is not None else None
        return replace(remembered, last_known_good=loaded)

    async def _machine_type(self) -> str:
        """What the firmware calls this machine; nobody waits for a file that hangs."""
        file = self._settings.machine_type_file
        try:
            return await Errand("machine type", on_late=lambda: None).run(lambda: machine_type(file), _READ_WITHIN)
        except Hangs:
            logger.error("cannot read %s: no answer within %g s; the machine type is unknown", file, _READ_WITHIN)
            return machine_type(None)

    async def _judge_stored(self, document: Document) -> Loaded | None:
        """The last known good document, unless it is none any more; the start does not wait for long."""
        try:
            async with asyncio.timeout(JUDGED_WITHIN):
                found = await self._judge.judge(document)
        except TimeoutError:
            logger.error("no verdict on the last known good config within %g s; starting without it", JUDGED_WITHIN)
            return None
        if isinstance(found, Loaded) and found.config is not None:
            return found
        problem = "; ".join(map(str, found.violations)) if isinstance(found, Loaded) else found.message
        logger.error("cannot use the last known good config: %s; starting without it", problem)
        return None

    def _read_all(self) -> tuple[Remembered, Document | None]:
        """What is on disk. Each file counts for itself: one that is damaged or cannot be read is taken for absent. The
        former is set aside by the store.
        """
        now = time.monotonic()
        told = len(self._store.notices)
        applied, read_applied = _try(lambda: self._store.load_applied(now))
        known, read_holds = _try(lambda: self._store.load_holds(now))
        document, read_document = _try(self._store.load_last_known_good)
        if document is not None:
            self._source.remember(document.path)
        if self._settings.config_labels:
            note, _ = _try(self._store.load_selection)
            accepted = document.path if document is not None else None
            self._by_label.recall(note, identity=_identity(self._settings), accepted=accepted)
        daemons = self._mps.load_wanted()
        remembered = Remembered(
            applied=applied or Applied(),
            holds=known or Holds(),
            last_known_good=None,
            daemons=daemons,
            same_boot=self._store.same_boot or applied is None,
            owed=self._store.owes_times,
            partial=self._store.partial,
            cautious=not (read_applied and read_holds and read_document) or len(self._store.notices) > told,
        )
        return remembered, document

    def _tell_of_end(self, loop: asyncio.Task[None]) -> None:
        if not self._stop.is_set():
            logger.critical("the loop has ended", exc_info=None if loop.cancelled() else loop.exception())

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_HEARTBEAT)

    def _wake_soon(self) -> None:
        asyncio.get_running_loop().call_later(_ANSWER_FIRST, self._wake.set)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        self.stop()

    def _look_again(self, number: signal.Signals) -> None:
        logger.info("%s: looking again", number.name)
        self._source.look_again()
        self._driver.refresh()
        self._pods.request()
        self._wake.set()


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Keep one part running: a fault in it is logged, and it is started again with backoff; the others go on."""
    wait, most = _RESTART_AFTER
    while True:
        begun = time.monotonic()
        try:
            await run()
        except Exception:
            logger.exception("%s failed; starting it again", name)
        else:
            return
        wait = _RESTART_AFTER[0] if time.monotonic() - begun > most else min(wait * 2, most)
        await asyncio.sleep(wait)


def _try(read: Callable[[], T | None]) -> tuple[T | None, bool]:
    """What a file holds, and whether it could be read."""
    try:
        return read(), True
    except OSError as error:
        logger.error("%s; starting without it", error)
        return None, False


async def _end(*tasks: asyncio.Task[None]) -> None:
    """End them, all at once; those that cannot end are not waited for."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_ENDS_WITHIN)


def _spawned(settings: Settings) -> SpawnedHost:
    """The MPS host that this agent starts where none runs, with the agent's own options."""
    from nodeagent.mps.spawn import SpawnedHost, host_command

    return SpawnedHost(
        host_command(
            settings.mps_root,
            driver=settings.driver,
            driver_root=settings.driver_root,
            nvml_library=settings.nvml_library,
            program=settings.mps_control,
            shm_size=settings.mps_shm_size,
            node_name=settings.node_name,
            log_format=settings.log_format,
            log_level=settings.log_level,
        )
    )


def _identity(settings: Settings) -> str:
    """The key of the last known good config: pool and config name."""
    name = settings.config.name if settings.config.suffix else "sharing.yaml"
    return f"{settings.pool or ''}/{name}"
