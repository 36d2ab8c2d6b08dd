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
from contextlib import suppress
from dataclasses import dataclass, field, replace

from nodeagent import notices
from nodeagent.clearing import Clearing
from nodeagent.collaborators import Daemons, Devices, Host, Node, Plugins, Pods, Source
from nodeagent.desk import FrontDesk
from nodeagent.executor import Executor, kubelet_actions, share_actions
from nodeagent.keeper import Keeper, Store
from nodeagent.model.config import (
    DEFAULT_TRANSITION_TIMEOUT,
    Contract,
    LabelTerms,
    Loaded,
    Unreadable,
    Violation,
)
from nodeagent.model.handover import HandOver
from nodeagent.model.health import HealthPolicy
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.inventory import Gpu, Inventory, InventoryReason
from nodeagent.model.kubelet import PodResourcesReason, PodResourcesStatus, RegistrationState
from nodeagent.model.plan import Diagnose, Drop, Plan, Reconnect, Resend, ShareAction, WaitReason
from nodeagent.model.plan import Verdict as DaemonVerdict
from nodeagent.model.shares import Applied, Listing
from nodeagent.model.snapshot import ChangeClass, Snapshot
from nodeagent.reloads import Counters, Reloads
from nodeagent.state import (
    acceptance,
    daemons,
    health,
    hints,
    holds,
    kubelet_view,
    lists,
    nodegpus,
    overview,
    schedule,
    shared,
    status,
    summary,
    transition,
)
from nodeagent.state import plan as planning
from nodeagent.state.acceptance import Acceptance, Verdict
from nodeagent.state.allocation import offers
from nodeagent.state.desired import Desired, changed
from nodeagent.state.events import events
from nodeagent.state.health import Intake, Symptoms
from nodeagent.state.kubelet_view import Published, View
from nodeagent.state.labels import report
from nodeagent.state.observed import Observed
from nodeagent.state.schedule import Pending
from nodeagent.state.shared import Sightings
from nodeagent.state.summarize import Identity, Turn, failing, summarize

logger = logging.getLogger(__name__)

STEPS = 3
"""Plans that one turn performs, at most. What one makes possible at once (the free shares of a GPU, after those that
pods have from another plugin) is done before anybody is shown a list that lacks it.
"""

RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds before a failed action is tried again without an event: at first, and at most (it doubles)."""


_BLIND = (PodResourcesReason.TIMEOUT, PodResourcesReason.UNAVAILABLE, PodResourcesReason.ACCESS_DENIED)
"""Reasons for which it is not known who holds what, though there may be a kubelet that knows."""

INVENTORY_SECONDS = 6.0
"""How long the first judgement waits for a first word of the driver: a config is judged, and its story told, on the
GPUs that it is for."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier agent left on this node. `same_boot` is False when the node has been restarted since, `cautious`
    True when not all that it left could be read, `owed` True when what it left is to be written as it was read.
    `partial`: GPUs are missing from the applied contract, since what it left of them could not be read. `daemons` are
    the contracts of the MPS daemons that it asked for.
    """

    applied: Applied = field(default_factory=Applied)
    holds: Holds = field(default_factory=Holds)
    last_known_good: Loaded | None = None
    daemons: Mapping[str, Contract] = field(default_factory=dict)
    same_boot: bool = True
    cautious: bool = False
    owed: bool = False
    partial: bool = False


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
        daemons: Daemons,
        desk: FrontDesk,
        clearing: Clearing,
        host: Host,
        node: Node,
        handover: HandOver,
        store: Store,
        counters: Counters,
        remembered: Remembered,
        wake: asyncio.Event,
        remark: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._source = source
        self._devices = devices
        self._pods = pods
        self._plugins = plugins
        self._daemons = daemons
        self._desk = desk
        self._clearing = clearing
        self._host = host
        self._node = node
        self._options = handover
        self._clock, self._remark = clock, remark
        self._wake = wake
        self._reloads = Reloads(counters, clock=clock)

        stored = remembered.last_known_good
        self._keeper = Keeper(
            store,
            applied=remembered.applied,
            holds=remembered.holds,
            document=stored.document if stored is not None else None,
            owed=remembered.owed,
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
        self._orphans, self._partial = remembered.daemons, remembered.partial
        # What the agent before this one granted in its last moments is on no disk.
        cautious = remembered.cautious or bool(remembered.applied.gpus)
        self._cautious_until = now + holds.GRANT_GRACE if cautious else now
        self._remembers = bool(remembered.applied.gpus)
        self._blind_since: float | None = None
        self._desired: Desired | None = None
        self._wishes: Desired | None = None
        self._obstacles: tuple[Violation, ...] = ()
        self._hints = hints.Hints()
        self._decided_at, self._decisions = now, dict[str, float]()
        self._judge_by = now + INVENTORY_SECONDS
        self._pressed: frozenset[ShareKey] = frozenset()
        self._inherited = lists.fenced_shares(self._applied)
        self._intake = Intake()
        self._looked_at = float("-inf")
        self._looked_for: frozenset[str] = frozenset()
        self._rewritten_at = float("-inf")
        self._shared: Sightings = {}
        self._retry = RETRY_FIRST

        self._listings: dict[str, Listing] = {}
        self._listed: Applied | None = None
        self._published: dict[str, Published] = {}
        self._views: Mapping[str, View] = {}
        self._drain_began: float | None = None
        self.snapshot: Snapshot | None = None
        """The summary of the last turn; replaced, never changed."""

    @property
    def disk_problem(self) -> str | None:
        """Why the disk does not know all that is so; None when it does."""
        return self._keeper.problem

    def rewrite(self, why: str) -> None:
        """What was written is not on disk any more: write everything again. To be called on the loop."""
        self._keeper.forget(why)
        self._retry = RETRY_FIRST
        self._wake.set()

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
        self._host.need(self._handover())
        desired, obstacles = acceptance.wanted(self._acceptance, gpus)
        notices.obstacles(self._obstacles, obstacles)
        self._obstacles = obstacles
        self._hint(gpus, complete=inventory.complete)
        concerns = self._decide(desired, now)
        if self._wishes is None:
            self._wishes = acceptance.unfinished(self._acceptance, gpus, self._applied)
        self._take_in(gpus, pods, now)
        view = self._observe(gpus, pods)
        notices.health(view)
        if verdict is not None:
            self._begin_reload(verdict, view, concerns)
        elif concerns and (change := summary.change(self._desired, view, concerns)).kind is not ChangeClass.NONE:
            logger.info("GPUs changed: %s", change.text)

        plan = self._plan(view)
        healing = [action for action in kubelet_actions(plan.actions) if isinstance(action, Resend | Reconnect)]
        for _ in range(STEPS):
            before = self._applied
            faults = any(isinstance(action, DaemonVerdict) and action.fault for action in plan.actions)
            drops = any(isinstance(action, Drop) for action in plan.actions)
            await self._perform(plan, view)
            view = self._observe(gpus, pods)
            plan = self._plan(view)
            # A daemon that died and is back by now has ended its clients: the kubelet is told, however short it was.
            if self._applied is before or faults or not share_actions(plan.actions):
                break
            if drops:
                # The desk grants what it was shown: until it knows that a share has left nothing may be awaited.
                self._wake.set()
                break
        # For what has been reached, not for what the plan would reach if everything could be done.
        if registrations := [*healing, *planning.registrations(self._desired, self._applied, view)]:
            # Nothing may be awaited from here until the lists are shown: a stream that opens sends what it finds.
            self._executor.register(registrations)
            plan = self._plan(self._observe(gpus, pods))
        self._publish(plan)
        # Shares leave the list before their daemon leaves.
        self._daemons.want(daemons.daemons(self._applied, self._orphans), prepare=daemons.wished(self._desired))
        self._note_drains(plan)
        await self._keep()
        self._sum_up(plan, inventory, pods)
        return self._look_soon(plan, pods)

    # --- look -------------------------------------------------------------------------------------------------------

    def _judge(self, gpus: Sequence[Gpu]) -> Verdict | None:
        reading = self._source.newest
        if reading is None:
            return None
        self._acceptance, verdict = acceptance.judge(self._acceptance, reading.loaded, gpus)
        stored = self._last_known_good
        if self._acceptance.accepted is not None:
            self._last_known_good = None
        elif stored is not None and self._source.concerns(stored.document):
            self._last_known_good = None
            blob = stored.document.git_blob
            logger.warning("the newest document cannot be accepted: the last known good is in force, blob %s", blob)
            self._acceptance = acceptance.resume(self._acceptance, stored)
        return verdict

    def _decide(self, desired: Desired | None, now: float) -> frozenset[str]:
        """Take over what is wanted. Returns the GPUs of which something else is wanted than before, not merely other
        facts known: for these a fresh look is needed before anything is taken away, and the others go on.
        """
        before, self._desired = self._desired, desired
        self._wishes = desired or self._wishes
        concerns = changed(before, desired)
        if (before is None) is not (desired is None):
            self._decided_at, self._decisions = now, {}
            concerns |= desired.wants.keys() if desired is not None else frozenset()
        elif concerns:
            kept = {uuid: at for uuid, at in self._decisions.items() if uuid in self._applied.gpus}
            self._decisions = kept | dict.fromkeys(concerns, now)
        return concerns

    def _hint(self, gpus: tuple[Gpu, ...], *, complete: bool) -> None:
        """What is worth a word on the config in force on these GPUs, and say it once."""
        known, accepted = self._hints, self._acceptance.accepted
        self._hints = hints.look(known, accepted, gpus, self._identity.pool, complete=complete)
        notices.hints(hints.fresh(known, self._hints))

    def _take_notes(self) -> None:
        """What the desk gave away."""
        notes = self._desk.take_notes()
        self._pressed |= notes.pressed
        if self._inherited:
            self._inherited = (self._inherited & lists.fenced_shares(self._applied)) - notes.pressed
        for at in set(notes.granted.values()):
            keys = [key for key, granted_at in notes.granted.items() if granted_at == at]
            self._holds = holds.grant(self._holds, keys, at)

    def _take_in(self, gpus: Sequence[Gpu], pods: PodResourcesStatus, now: float) -> None:
        """Who holds what: what the desk gave away, and what the kubelet says if it has said anything new."""
        self._take_notes()
        if pods.reason not in _BLIND:
            self._blind_since = None
        elif self._blind_since is None:
            self._blind_since = now
        # A look counts for the GPUs that were known then: of one that the driver finds later it says who has what, too.
        uuids = frozenset({gpu.uuid for gpu in gpus} | self._applied.gpus.keys())
        if pods.listing is not None and (pods.listing.begun_at > self._looked_at or not uuids <= self._looked_for):
            self._looked_at, self._looked_for = pods.listing.begun_at, uuids
            self._holds = holds.observe(self._holds, pods.listing, uuids, now)
            self._shared = shared.sight(self._shared, pods.listing, uuids)

    def _observe(self, gpus: tuple[Gpu, ...], pods: PodResourcesStatus) -> Observed:
        """What is so now. Until something is awaited nobody is given anything that is not in it."""
        now = self._clock()
        self._take_notes()
        comparison = kubelet_view.compare(self._views, self._live(), pods.listing, now)
        self._views = comparison.views
        self._orphans = daemons.orphans(self._orphans, self._applied, self._devices.inventory)
        return Observed(
            now=now,
            gpus=gpus,
            listed=frozenset(self._devices.inventory.by_uuid()),
            applied=self._applied,
            held=holds.held(self._holds, now),
            pods=pods,
            decided_at=self._decided_at,
            decisions=self._decisions,
            cautious_until=self._cautious_until,
            undecided=self._undecided() and now < self._cautious_until,
            unread=self._acceptance.newest is None and not self._remembers and now < self._judge_by,
            inherited=self._inherited,
            pressed=self._pressed,
            mentions=self._desk.mentions(lists.fenced(self._applied)),
            mps=self._daemons.status,
            orphans=self._orphans,
            blind_since=self._blind_since,
            symptoms=self._symptoms(),
            registered=frozenset(entry.resource for entry in self._plugins.statuses()),
            resend=comparison.resend(),
            reconnect=comparison.reconnect(),
            unwritten=self._keeper.problem is not None,
            partial=self._partial,
        )

    def _undecided(self) -> bool:
        """Whether no document has been judged yet, nor one from before come in force."""
        return self._acceptance.accepted is None and not isinstance(self._acceptance.newest, Loaded)

    def _plan(self, view: Observed) -> Plan:
        return planning.plan(self._desired, view, self._wishes)

    def _symptoms(self) -> Symptoms:
        self._intake = replace(self._intake, reported=self._devices.xids.tallies)
        return Symptoms(
            now=self._clock(),
            policy=self._health_policy(),
            news=self._intake.news,
            cleared=self._clearing.asked,
            kept=self._intake.kept,
            driver_load=self._devices.inventory.driver_load,
        )

    def _live(self) -> dict[str, Published]:
        live = {entry.resource for entry in self._plugins.statuses() if entry.state is RegistrationState.LIVE}
        return {name: published for name, published in self._published.items() if name in live}

    # --- act --------------------------------------------------------------------------------------------------------

    async def _perform(self, plan: Plan, view: Observed) -> None:
        """Do to the shares what the plan says. What fails is still to be done in the next plan, and what calls for it
        is ticked off only when it has been done.
        """
        shares, intake = share_actions(plan.actions), self._intake
        done = await self._executor.apply(self._applied, shares)
        if self._desk.given(self._dropped(shares)):
            # A pod got a share that was about to leave the list. Nobody was shown anything of this plan: plan anew. An
            # agent that starts now must not find on the disk what has not come to be.
            await self._executor.apply(self._applied, ())
            self._wake.set()
            return
        notices.verdicts(self._applied, done.applied)
        self._applied = done.applied
        self._pressed = transition.unrelieved(self._pressed, plan, view.held, done.applied)
        if all(action in done.actions for action in shares if isinstance(action, Diagnose)):
            self._intake = intake.after(done.applied, view.symptoms)
            notices.dropped(intake.lost, self._intake.lost)
            self._clearing.done(view.symptoms.cleared)

    def _dropped(self, actions: Sequence[ShareAction]) -> frozenset[ShareKey]:
        return frozenset(
            key
            for action in actions
            if isinstance(action, Drop)
            for key in self._applied.gpus[action.uuid].keys(action.numbers)
        )

    def _publish(self, plan: Plan) -> None:
        now = self._clock()
        served = [entry.resource for entry in self._plugins.statuses()]
        if self._listed is not self._applied or self._listings.keys() != set(served):
            self._listings = lists.lists(self._applied, served, self._listings)
            self._listed = self._applied
        self._published = {
            name: kubelet_view.publish(self._published.get(name), listing, now)
            for name, listing in self._listings.items()
        }
        held = holds.held(self._holds, now)
        # Shares are placed as they were while what is applied is kept.
        wishes, topology = self._wishes, self._devices.inventory.topology
        mps = self._daemons.status
        found = offers(
            self._applied,
            self._listings,
            plan,
            held,
            mps,
            desired=wishes,
            topology=topology,
            handover=self._handover(),
            host=self._host.files,
        )
        self._desk.show(self._listings, found)
        self._plugins.publish()

    async def _keep(self) -> None:
        """Write what was learned and need not be on disk before it is used."""
        await self._keeper.keep_holds(self._holds)
        accepted = self._acceptance.accepted
        document = self._keeper.document
        if accepted is not None and not self._acceptance.from_store:
            document = accepted.document
        if document is not None:
            await self._keeper.keep_document(document)

    # --- sum up -----------------------------------------------------------------------------------------------------

    def _begin_reload(self, verdict: Verdict, view: Observed, concerns: frozenset[str]) -> None:
        reading = self._source.newest
        event_at = reading.event_at if reading is not None else view.now
        self._reloads.begin(self._acceptance, verdict, event_at, self._desired, view, concerns=concerns)

    def _note_drains(self, plan: Plan) -> None:
        """Since when what drains. What cannot be seen for a while, before a document has been read, keeps its age."""
        if self._desired is None:
            return
        draining = overview.draining_since(plan, self._holds.draining, self._clock())
        self._holds = replace(self._holds, draining=draining)
        self._drain_began = min(draining.values(), default=None) if self._drain_began is None else self._drain_began

    def _sum_up(self, plan: Plan, inventory: Inventory, pods: PodResourcesStatus) -> None:
        """Replace the snapshot."""
        registrations = self._plugins.statuses()
        held = holds.held(self._holds, self._clock())
        mps = self._daemons.status
        self._reloads.end(
            plan=plan,
            coming=daemons.coming(self._desired, plan, self._applied, self._reloads.concerns),
            unready=daemons.unready(plan, self._applied, mps, self._reloads.concerns),
            held=held,
            listings=self._listings,
            registrations=registrations,
            problem=self._keeper.problem or status.refusals(self._applied, plan.refused) or None,
        )
        if plan.converged and self._desired is not None:
            self._converge()
        newest = self._acceptance.newest
        config = acceptance.config_state(
            self._acceptance,
            path=acceptance.followed(self._acceptance, self._identity.config_path),
            applied=self._converged,
            last_known_good=self._keeper.document,
            observed_generation=self._observed_generation,
            obstacles=self._obstacles,
            hints=self._hints.found,
        )
        facts = status.Facts(
            now=self._clock(),
            config=config,
            inventory=inventory,
            mps=mps,
            applied=self._applied,
            registrations=registrations,
            foreign=kubelet_view.foreign(self._views),
            pods=pods,
            plan=plan,
            draining=self._holds.draining,
            transition_timeout=self._transition_timeout(),
            missing=isinstance(newest, Unreadable) and newest.missing,
            looked=newest is not None,
            disk_problem=self._keeper.problem,
            desired=self._desired,
            xids=replace(self._devices.xids, unplaced=self._intake.dropped),
            node=self._node.status,
            handover=self._handover(),
            host_files=self._host.files,
            shared_twice=shared.shared_twice(self._shared, self._looked_at),
            following=self._source.following,
            remark=self._remark(),
        )
        accepted = self._acceptance.config
        terms = accepted.labels if accepted is not None else LabelTerms()
        since = holds.unproven(self._holds, self._clock())
        turn = Turn(facts, self._desired, held, since, self._views, self._listings, self._reloads.history, terms)
        before, self.snapshot = self.snapshot, summarize(self._identity, turn, self.snapshot)
        notices.conditions(before, self.snapshot)
        notices.refusals(before.plan if before is not None else None, plan, self._applied)
        self._node.tell(events(before, self.snapshot))
        if (wanted := report(self.snapshot)) is not None:
            self._node.want(wanted)

    def _tell_of_fault(self, error: Exception) -> None:
        """A turn that fails leaves no summary: the last one stands, but for what it says of us."""
        if self.snapshot is not None:
            self.snapshot = failing(self.snapshot, f"cannot complete a turn: {error!r}", self._clock())
            with suppress(Exception):  # what the Node says is no reason for another fault
                if (wanted := report(self.snapshot)) is not None:
                    self._node.want(wanted)

    def _converge(self) -> None:
        """Every GPU is as the config in force wants it."""
        began, self._drain_began = self._drain_began, None
        self._converged = self._acceptance.accepted
        if self._observed_generation == self._acceptance.generation:
            return
        self._observed_generation = self._acceptance.generation
        if began is not None:
            seconds = self._clock() - began
            logger.info("config applied: generation %d, after %.1f s of draining", self._observed_generation, seconds)

    def _transition_timeout(self) -> float:
        accepted = self._acceptance.config
        return accepted.transition_timeout if accepted is not None else DEFAULT_TRANSITION_TIMEOUT

    def _handover(self) -> HandOver:
        """How devices are handed over: by the options of the agent, and what the config in force says instead."""
        accepted = self._acceptance.config
        return accepted.handover.over(self._options) if accepted is not None else self._options

    def _health_policy(self) -> HealthPolicy | None:
        accepted = self._acceptance.config
        return accepted.health if accepted is not None else None

    # --- when to look again -----------------------------------------------------------------------------------------

    def _look_soon(self, plan: Plan, pods: PodResourcesStatus) -> float | None:
        """Ask for the look at the kubelet that is needed next. Returns when the next turn is due without an event."""
        now = self._clock()
        ends = [self._judge_by, *self._reloads.ends()]
        if plan.waits:
            timeout = self._transition_timeout()
            ends += [since + timeout for since in self._holds.draining.values()]
        if (recovery := health.next_recovery(self._applied, self._health_policy())) is not None:
            ends.append(recovery)
        ends += [at + health.PLACED_WITHIN for at in self._intake.kept.values()]
        if self._keeper.problem is not None:
            ends.append(self._back_off())
        else:
            self._retry = RETRY_FIRST
            if any(wait.reason is WaitReason.DISK for wait in plan.waits):
                # It was owed something when the plan was made, and that is written by now.
                self._wake.set()
        pending = Pending(
            plan=plan,
            applied=self._applied,
            holds=self._holds,
            listing=pods.listing,
            decided_at=self._decided_at,
            decisions=self._decisions,
            cautious_until=self._cautious_until,
            rewritten_at=self._rewritten_at,
            shared=self._shared,
            views=self._views,
            live=self._live(),
            ends=ends,
        )
        agenda = schedule.agenda(pending, now)
        self._pods.follow(agenda.looks)
        if agenda.look_now:
            self._pods.request()
        if agenda.rewrite and pending.listing is not None:
            self._rewritten_at = pending.listing.listed_at
            for resource in agenda.rewrite:
                self._plugins.resend(resource)
        return agenda.turn_at

    def _back_off(self) -> float:
        due = self._clock() + self._retry
        self._retry = min(self._retry * 2, RETRY_MOST)
        return due
