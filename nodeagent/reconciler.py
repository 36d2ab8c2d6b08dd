"""The one loop, and the only writer of state.

Every event in the agent only wakes it. A turn takes the newest of everything, works out what is wanted, what is true
and what must be done, has it done, and leaves an immutable snapshot that all reports are made from. Lost, merged or
reordered events do no harm.

    document -> judge -> desired ----+
    GPUs, kubelet, holds -> observed +-> plan -> executor -> lists -> snapshot
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.collaborators import Devices, Plugins, Pods, Source
from nodeagent.desk import FrontDesk
from nodeagent.executor import Executor, kubelet_actions, share_actions
from nodeagent.keeper import Keeper, Store
from nodeagent.model.config import DEFAULT_TRANSITION_TIMEOUT, Loaded, Unreadable
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import PodResourcesReason, PodResourcesStatus, RegistrationState
from nodeagent.model.plan import Drop, Plan, Reconnect, Resend, ShareAction, WaitReason
from nodeagent.model.shares import Applied, Listing
from nodeagent.model.snapshot import ChangeClass, Snapshot
from nodeagent.reloads import Counters, Reloads
from nodeagent.state import acceptance, holds, kubelet_view, lists, nodegpus, observed, overview, status, summary
from nodeagent.state import plan as planning
from nodeagent.state.acceptance import Acceptance, Verdict
from nodeagent.state.allocation import offers
from nodeagent.state.desired import Desired
from nodeagent.state.kubelet_view import Published, View
from nodeagent.state.observed import Observed
from nodeagent.state.summarize import Identity, Turn, failing, summarize

logger = logging.getLogger(__name__)

LOOK_WHILE_WAITING = 0.5
"""Seconds between two looks at PodResources while something drains or leaves."""

LOOK_SELDOM = 30.0

STEPS = 3
"""Plans that one turn performs, at most. What one makes possible at once (the free shares of a GPU, after those that
pods have from another plugin) is done before anybody is shown a list that lacks it.
"""

RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds before a failed action is tried again without an event: at first, and at most (it doubles)."""


INVENTORY_SECONDS = 6.0
"""How long the first judgement waits for a first word of the driver: a config is judged, and its story told, on the
GPUs that it is for."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier agent left on this node. `same_boot` is False when the node has been restarted since, `cautious`
    True when not all that it left could be read.
    """

    applied: Applied = field(default_factory=Applied)
    holds: Holds = field(default_factory=Holds)
    last_known_good: Loaded | None = None
    same_boot: bool = True
    cautious: bool = False


class Reconciler:
    """Runs the loop. All of its collaborators are handed in; `desk` is where the kubelet's questions are answered."""

    def __init__(
        self,
        identity: Identity,
        *,
        source: Source,
        devices: Devices,
        pods: Pods,
        plugins: Plugins,
        desk: FrontDesk,
        store: Store,
        counters: Counters,
        remembered: Remembered,
        wake: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._source = source
        self._devices = devices
        self._pods = pods
        self._plugins = plugins
        self._desk = desk
        self._clock = clock
        self._wall = wall
        self._wake = wake
        self._reloads = Reloads(counters, clock=clock, wall=wall)

        stored = remembered.last_known_good
        self._keeper = Keeper(
            store,
            applied=remembered.applied,
            holds=remembered.holds,
            document=stored.document if stored is not None else None,
            wake=wake.set,
        )
        self._executor = Executor(self._keeper, plugins, clock=clock)
        self._acceptance = Acceptance()
        self._last_known_good = stored
        self._converged: Loaded | None = None
        self._observed_generation = 0

        now = clock()
        self._applied = remembered.applied if remembered.same_boot else nodegpus.unseen(remembered.applied)
        self._holds = remembered.holds
        # What the agent before this one granted in its last moments is on no disk.
        cautious = remembered.cautious or bool(remembered.applied.gpus)
        self._cautious_until = now + holds.GRANT_GRACE if cautious else now
        self._blind_since: float | None = None
        self._desired: Desired | None = None
        self._decided_at = now
        self._judge_by = now + INVENTORY_SECONDS
        self._pressed: frozenset[ShareKey] = frozenset()
        self._looked_at = float("-inf")
        self._looked_for: frozenset[str] = frozenset()
        self._retry = RETRY_FIRST

        self._listings: dict[str, Listing] = {}
        self._listed: Applied | None = None
        self._published: dict[str, Published] = {}
        self._views: Mapping[str, View] = {}
        self._drain_began: float | None = None
        self.snapshot: Snapshot | None = None
        """The summary of the last turn; replaced, never changed."""

    async def run(self) -> None:
        """Turn after turn, until cancelled. A fault of ours in a turn is logged and leaves everything as it is."""
        while True:
            self._wake.clear()
            try:
                due = await self.turn()
            except Exception as error:
                logger.exception("cannot complete a turn; what is applied is kept")
                self._tell_of_fault(error)
                due = self._back_off()
            delay = None if due is None else max(0.0, due - self._clock())
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def turn(self) -> float | None:
        """Look, decide, act, sum up. Returns when the next turn is due without an event, in monotonic seconds."""
        now = self._clock()
        inventory, pods = self._devices.inventory, self._pods.status
        gpus = nodegpus.node_gpus(inventory, self._applied)

        waiting = inventory.reason is InventoryReason.PENDING and now < self._judge_by
        verdict = None if waiting else self._judge(gpus)
        desired = acceptance.wanted(self._acceptance, gpus)
        decided = desired != self._desired
        if decided:
            self._desired, self._decided_at = desired, now
        self._take_in(gpus, pods, now)
        view = self._observe(gpus, pods)
        _tell_of_health(view)
        if verdict is not None:
            self._begin_reload(verdict, view)
        elif decided and (change := summary.change(self._desired, view)).kind is not ChangeClass.NONE:
            logger.info("GPUs changed: %s", change.text)

        plan = planning.plan(self._desired, view)
        healing = [action for action in kubelet_actions(plan.actions) if isinstance(action, Resend | Reconnect)]
        for _ in range(STEPS):
            before = self._applied
            await self._perform(plan, view)
            view = self._observe(gpus, pods)
            plan = planning.plan(self._desired, view)
            if self._applied is before or not share_actions(plan.actions):
                break
        # For what has been reached, not for what the plan would reach if everything could be done.
        if registrations := [*healing, *planning.registrations(self._desired, self._applied, view)]:
            # Nothing may be awaited from here until the lists are shown: a stream that opens sends what it finds.
            self._executor.register(registrations)
            plan = planning.plan(self._desired, self._observe(gpus, pods))
        self._publish(plan)
        self._look_soon(plan)
        self._note_drains(plan)
        await self._keep()
        self._sum_up(plan, inventory, pods)
        return self._next_turn(plan)

    # --- look -------------------------------------------------------------------------------------------------------

    def _judge(self, gpus: Sequence[Gpu]) -> Verdict | None:
        reading = self._source.newest
        if reading is None:
            return None
        self._acceptance, verdict = acceptance.judge(self._acceptance, reading.loaded, gpus)
        stored, self._last_known_good = self._last_known_good, None
        if self._acceptance.accepted is None and stored is not None:
            blob = stored.document.git_blob
            logger.warning("the mounted document cannot be accepted: the last known good is in force, blob %s", blob)
            self._acceptance = acceptance.resume(self._acceptance, stored)
        return verdict

    def _take_in(self, gpus: Sequence[Gpu], pods: PodResourcesStatus, now: float) -> None:
        """Who holds what: what the desk gave away, and what the kubelet says if it has said anything new."""
        notes = self._desk.take_notes()
        self._pressed |= notes.pressed
        for at in set(notes.granted.values()):
            keys = [key for key, granted_at in notes.granted.items() if granted_at == at]
            self._holds = holds.grant(self._holds, keys, at)
        if pods.reason not in {PodResourcesReason.TIMEOUT, PodResourcesReason.UNAVAILABLE}:
            self._blind_since = None
        elif self._blind_since is None:
            self._blind_since = now
        # A look counts for the GPUs that were known then: of one that the driver finds later it says who has what, too.
        uuids = frozenset({gpu.uuid for gpu in gpus} | self._applied.gpus.keys())
        if pods.listing is not None and (pods.listing.begun_at > self._looked_at or not uuids <= self._looked_for):
            self._looked_at, self._looked_for = pods.listing.begun_at, uuids
            self._holds = holds.observe(self._holds, pods.listing, uuids, now)

    def _observe(self, gpus: tuple[Gpu, ...], pods: PodResourcesStatus) -> Observed:
        now = self._clock()
        comparison = kubelet_view.compare(self._views, self._live(), pods.listing)
        self._views = comparison.views
        return Observed(
            now=now,
            gpus=gpus,
            listed=frozenset(self._devices.inventory.by_uuid()),
            applied=self._applied,
            held=holds.held(self._holds, now),
            pods=pods,
            decided_at=self._decided_at,
            cautious_until=self._cautious_until,
            pressed=self._pressed,
            mentions=self._desk.mentions(lists.fenced(self._applied)),
            blind_since=self._blind_since,
            registered=frozenset(entry.resource for entry in self._plugins.statuses()),
            resend=comparison.resend(),
            reconnect=comparison.reconnect(),
        )

    def _live(self) -> dict[str, Published]:
        live = {entry.resource for entry in self._plugins.statuses() if entry.state is RegistrationState.LIVE}
        return {name: published for name, published in self._published.items() if name in live}

    # --- act --------------------------------------------------------------------------------------------------------

    async def _perform(self, plan: Plan, view: Observed) -> None:
        """Do to the shares what the plan says. What fails is still to be done in the next plan."""
        shares = share_actions(plan.actions)
        after = await self._executor.apply(self._applied, shares)
        if self._desk.given(self._dropped(shares)):
            # A pod got a share that was about to leave the list. Nobody was shown anything of this plan: plan anew.
            self._wake.set()
            return
        self._applied = after
        self._pressed -= view.pressed

    def _dropped(self, actions: Sequence[ShareAction]) -> frozenset[ShareKey]:
        return frozenset(
            (entry.contract.resource, share)
            for action in actions
            if isinstance(action, Drop) and (entry := self._applied.gpus[action.uuid]).contract is not None
            for share in entry.ids(action.numbers)
        )

    def _publish(self, plan: Plan) -> None:
        now = self._clock()
        served = [entry.resource for entry in self._plugins.statuses()]
        if self._listed is not self._applied or self._listings.keys() != set(served):
            self._listings = lists.lists(self._applied, served, self._listings)
            self._listed = self._applied
        self._published = {
            name: known
            if (known := self._published.get(name)) is not None and known.listing is listing
            else Published(listing, now)
            for name, listing in self._listings.items()
        }
        self._desk.show(self._listings, offers(self._applied, self._listings, plan, holds.held(self._holds, now)))
        self._plugins.publish()

    async def _keep(self) -> None:
        """Write what was learned and need not be on disk before it is used."""
        await self._keeper.keep_holds(self._holds)
        accepted = self._acceptance.accepted
        if accepted is not None and not self._acceptance.from_store:
            await self._keeper.keep_document(accepted.document)

    # --- sum up -----------------------------------------------------------------------------------------------------

    def _begin_reload(self, verdict: Verdict, view: Observed) -> None:
        reading = self._source.newest
        event_at = reading.event_at if reading is not None else view.now
        self._reloads.begin(self._acceptance, verdict, event_at, self._desired, view)

    def _note_drains(self, plan: Plan) -> None:
        """Since when what drains. What cannot be seen for a while, before a document has been read, keeps its age."""
        if self._desired is None:
            return
        draining = overview.draining_since(plan, self._holds.draining, self._wall())
        self._holds = replace(self._holds, draining=draining)
        self._drain_began = min(draining.values(), default=None) if self._drain_began is None else self._drain_began

    def _sum_up(self, plan: Plan, inventory: Inventory, pods: PodResourcesStatus) -> None:
        """Replace the snapshot."""
        registrations = self._plugins.statuses()
        held = holds.held(self._holds, self._clock())
        self._reloads.end(
            plan=plan,
            held=held,
            listings=self._listings,
            registrations=registrations,
            problem=self._keeper.problem,
        )
        if plan.converged and self._desired is not None:
            self._converge()
        newest = self._acceptance.newest
        config = acceptance.config_state(
            self._acceptance,
            path=self._identity.config_path,
            applied=self._converged,
            last_known_good=self._keeper.document,
            observed_generation=self._observed_generation,
        )
        facts = status.Facts(
            now=self._wall(),
            config=config,
            inventory=inventory,
            applied=self._applied,
            registrations=registrations,
            pods=pods,
            plan=plan,
            draining=self._holds.draining,
            transition_timeout=self._transition_timeout(),
            missing=isinstance(newest, Unreadable) and newest.missing,
            looked=newest is not None,
            disk_problem=self._keeper.problem,
            wanted=self._desired.resources() if self._desired is not None else frozenset(),
        )
        turn = Turn(facts, self._desired, held, self._views, self._listings, self._reloads.history)
        before, self.snapshot = self.snapshot, summarize(self._identity, turn, self.snapshot)
        _tell_of_conditions(before, self.snapshot)

    def _tell_of_fault(self, error: Exception) -> None:
        """A turn that fails leaves no summary: the last one stands, but for what it says of us."""
        if self.snapshot is not None:
            self.snapshot = failing(self.snapshot, f"cannot complete a turn: {error!r}", self._wall())

    def _converge(self) -> None:
        """Every GPU is as the config in force wants it."""
        began, self._drain_began = self._drain_began, None
        self._converged = self._acceptance.accepted
        if self._observed_generation == self._acceptance.generation:
            return
        self._observed_generation = self._acceptance.generation
        if began is not None:
            seconds = self._wall() - began
            logger.info("config applied: generation %d, after %.1f s of draining", self._observed_generation, seconds)

    def _transition_timeout(self) -> float:
        accepted = self._acceptance.config
        return accepted.transition_timeout if accepted is not None else DEFAULT_TRANSITION_TIMEOUT

    # --- when to look again -----------------------------------------------------------------------------------------

    def _look_soon(self, plan: Plan) -> None:
        """Ask for the look at the kubelet that the plan, or the comparison with the kubelet's view, needs next."""
        self._pods.set_interval(LOOK_WHILE_WAITING if plan.waits else LOOK_SELDOM)
        stale = bool(plan.waits) and self._looked_at < self._decided_at
        if stale or any(due <= self._clock() for due in self._looks_due()):
            self._pods.request()

    def _looks_due(self) -> list[float]:
        """When a look at the kubelet is needed though nothing waits for it, in monotonic seconds."""
        due = (kubelet_view.next_due(self._views, self._live()), holds.look_due(self._holds, self._looked_at))
        return [at for at in due if at is not None]

    def _next_turn(self, plan: Plan) -> float | None:
        """The earliest moment at which time alone changes anything."""
        now = self._clock()
        due = [self._judge_by, *self._looks_due()]
        if any(wait.reason is not WaitReason.PODS for wait in plan.waits) or (plan.waits and self._holds.granted):
            # Fences, grants and mentions grow old without an event, and so does a look that brings nothing new.
            due.append(now + LOOK_WHILE_WAITING)
        if plan.waits:
            late = (observed.drop_due(self._applied, now), holds.next_change(self._holds, now))
            due += [at for at in late if at is not None]
            ends = (since + self._transition_timeout() - self._wall() for since in self._holds.draining.values())
            due += [now + end for end in ends]
        if self._keeper.problem is not None:
            due.append(self._back_off())
        else:
            self._retry = RETRY_FIRST
        # What is due already has been asked for: its answer is an event.
        return min((at for at in due if at > now), default=None)

    def _back_off(self) -> float:
        due = self._clock() + self._retry
        self._retry = min(self._retry * 2, RETRY_MOST)
        return due


def _tell_of_conditions(before: Snapshot | None, after: Snapshot) -> None:
    """Conditions that nobody else tells of: their own rooms log what the kubelet, the disk and the document do."""
    for name in ("InventoryReady", "Stalled"):
        known = before.condition(name) if before is not None else None
        now = after.condition(name)
        if now is not None and known is not None and (now.status, now.reason) != (known.status, known.reason):
            good = now.status is not (name == "Stalled")
            told = f": {now.message}" if now.message else ""
            logger.log(logging.INFO if good else logging.WARNING, "%s is %s: %s%s", name, now.status, now.reason, told)


def _tell_of_health(view: Observed) -> None:
    for gpu in view.gpus:
        known = view.applied.gpus.get(gpu.uuid)
        if known is not None and known.gpu.health is not gpu.health:
            level = logging.INFO if gpu.health is GpuHealth.OK else logging.ERROR
            told = f": {gpu.message}" if gpu.message else ""
            logger.log(level, "GPU %d (%s) is %s%s", gpu.index, gpu.uuid, gpu.health.value, told)
