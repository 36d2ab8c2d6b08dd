"""The plan: what removes the drift, in order, and what each part still waits for.

Invariants, checked on every plan by performing it on a copy, action by action (`invariants.verify`):

1. No share leaves the list unfenced, held, or while the kubelet can still hand it out.
2. The contract of a GPU changes only when none of its shares is on the list: a held share keeps its contract.
3. A GPU is on the list as a whole one, or its MIG devices are, and never both, unless pods have both.
4. The shares of a GPU that can be handed out (Healthy, or held) never become more than the wanted number, unless pods
already have more; of a contract that is not wanted, not more than are on the list.
5. Nothing that needs an MPS daemon is advertised before that is verified; a daemon is there as long as its contract,
which ends when the last share has left.
6. A plan without a desired state (nothing accepted, or suspended) takes nothing away, and gives only what pods have,
what a change that was begun has fenced, and what a GPU whose old contract has ended was to become. Of an agent that has
just started and has not judged a document yet it gives only what pods have.
7. The plan of a converged state is empty.
8. Actions are ordered so that any prefix is a state from which planning anew converges: first what is known of the
GPUs, then fences, then what leaves, then what comes, then what is known of the daemons, then the registrations.

Each piece of silicon is planned and checked by itself. What would break an invariant there, which is a fault of ours,
is refused: nothing changes there but what is known of it, and all others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nodeagent.model.config import Contract, Mode
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Forget,
    KubeletAction,
    Limit,
    Plan,
    Reconnect,
    Refusal,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    ShareAction,
    Start,
    Verdict,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu, share_id
from nodeagent.state.daemons import fault, missing
from nodeagent.state.desired import MAX_LIST_BYTES, MAX_SHARES, Desired, device_bytes
from nodeagent.state.effect import perform
from nodeagent.state.families import Family, families, is_beside
from nodeagent.state.health import diagnose
from nodeagent.state.invariants import verify
from nodeagent.state.nodegpus import lost
from nodeagent.state.observed import Observed
from nodeagent.state.transition import Step, adopt, keep_still, stay, transition
from nodeagent.state.waves import Decision, Device, Trouble, decide

_ORDER: tuple[type[ShareAction], ...] = (
    Remember, Forget, Diagnose, Adopt, Fence, Drop, Release, Start, Restore, Advertise,
)  # fmt: skip
"""Order of what is known of the GPUs, and of what `transition` gives; verdicts and limits come after it."""

_NOTHING_DECIDED = Decision()


@dataclass(frozen=True, slots=True)
class _Known:
    """A family with all that is known of it taken over: by the actions, which are performed in its `applied`. `adopted`
    are those of its members that take back shares by them. `fault` is why nothing can be planned for it.
    """

    family: Family
    applied: Applied
    actions: tuple[ShareAction, ...] = ()
    adopted: frozenset[str] = frozenset()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Course:
    """What all families are planned by: the arguments of `plan`, and who may leave."""

    desired: Desired | None
    observed: Observed
    unfinished: Desired | None
    decision: Decision

    @property
    def wishes(self) -> Desired | None:
        """What GPUs without a contract are to become."""
        return self.desired if self.desired is not None else self.unfinished


@dataclass(frozen=True, slots=True)
class _Part:
    """What a plan does to one family."""

    actions: tuple[ShareAction, ...] = ()
    waits: tuple[Wait, ...] = ()
    fault: str = ""


def plan(desired: Desired | None, observed: Observed, unfinished: Desired | None = None) -> Plan:
    """Everything that can be done now towards `desired`, and what waits for what.

    None: what is applied is kept, and only what a change towards `unfinished` has left without a contract is finished.
    """
    known = [_know(family, observed) for family in families(observed)]
    faults = {one.family.uuid: one.fault for one in known if one.fault}
    course, parts = _courses(known, desired, unfinished, observed, faults)
    if broken := {one.family.uuid: part.fault for one, part in zip(known, parts, strict=True) if part.fault}:
        # What is refused must not take the turn of another: everybody else is planned without it.
        faults |= broken
        course, parts = _courses(known, desired, unfinished, observed, faults)
    learned = _sorted(action for one in known for action in one.actions)
    steps = _sorted(action for part in parts for action in part.actions)
    applied = Applied({uuid: entry for one in known for uuid, entry in one.applied.gpus.items()})
    fitting, crowded = _fit(applied, steps)
    after = perform(applied, fitting, observed.now)
    return Plan(
        actions=(
            *learned,
            *fitting,
            *_judge(after, observed),
            *_limits(after, desired),
            *registrations(desired, after, observed),
        ),
        waits=(*(wait for part in parts for wait in part.waits), *crowded),
        refused=tuple(Refusal(uuid, why) for uuid, why in faults.items()),
        waves=course.decision.waves,
    )


def _courses(
    known: Sequence[_Known],
    desired: Desired | None,
    unfinished: Desired | None,
    observed: Observed,
    faults: Mapping[str, str],
) -> tuple[_Course, list[_Part]]:
    """What is done to each family; nothing to those with faults."""
    course = _Course(desired, observed, unfinished, _decide(desired, known, observed, faults))
    return course, [_Part() if one.family.uuid in faults else _part(one, course) for one in known]


def _sorted(actions: Iterable[ShareAction]) -> list[ShareAction]:
    return sorted(actions, key=lambda action: _ORDER.index(type(action)))


def _know(family: Family, observed: Observed) -> _Known:
    try:
        return _learn(family, observed)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the other GPUs anything
        return _Known(family, family.applied, fault=_words(error))


def _learn(family: Family, observed: Observed) -> _Known:
    """Take over the newest facts and verdicts, daemons that nothing remembers but the MPS host, and shares that pods
    have; forget what is gone.
    """
    actions = _facts(family, observed)
    applied = perform(family.applied, actions, observed.now)
    diagnoses = diagnose(applied, observed.symptoms)
    applied = perform(applied, diagnoses, observed.now)
    orphans = _find(applied, observed)
    applied = perform(applied, orphans, observed.now)
    adopts = [one for entry in applied.ordered() if (one := adopt(entry, family.holdings(entry))) is not None]
    return _Known(
        family,
        perform(applied, adopts, observed.now),
        (*actions, *diagnoses, *orphans, *adopts),
        frozenset(one.uuid for one in adopts),
    )


def _facts(family: Family, observed: Observed) -> tuple[ShareAction, ...]:
    known = family.applied.gpus
    news = [
        Remember(gpu, seen=gpu.uuid in observed.listed)
        for gpu in family.gpus
        if (entry := known.get(gpu.uuid)) is None or entry.gpu != gpu or (entry.unseen and gpu.uuid in observed.listed)
    ]
    here = {gpu.uuid for gpu in family.gpus}
    away = [entry for entry in family.applied.ordered() if entry.gpu.uuid not in here]
    news += [
        Remember(lost(entry.gpu), seen=False)
        for entry in away
        if entry.contract is not None and entry.gpu != lost(entry.gpu)
    ]
    gone = [Forget(entry.gpu.uuid) for entry in away if entry.contract is None and entry.gpu.uuid not in family.held]
    return (*news, *gone)


def _find(applied: Applied, observed: Observed) -> tuple[ShareAction, ...]:
    """Take over the daemons that nothing remembers but the MPS host."""
    return tuple(
        Adopt(uuid, contract, frozenset())
        for uuid, contract in sorted(observed.orphans.items())
        if (entry := applied.gpus.get(uuid)) is not None and entry.contract is None
    )


def _decide(
    desired: Desired | None, known: Iterable[_Known], observed: Observed, faults: Mapping[str, str]
) -> Decision:
    """Which GPUs may leave the contract that they have."""
    if desired is None:
        return _NOTHING_DECIDED
    return decide(
        desired,
        [
            _device(entry, one, desired, observed, refused=one.family.uuid in faults)
            for one in known
            for entry in one.applied.gpus.values()
        ],
    )


def _device(entry: AppliedGpu, known: _Known, desired: Desired, observed: Observed, *, refused: bool) -> Device:
    want = desired.wants.get(entry.gpu.uuid)
    contract = want.contract if want is not None else None
    lacks = missing(contract, entry.gpu, observed.mps) if contract is not None else ""
    own = known.family.holdings(entry).own if observed.readable else entry.numbers
    lingers = entry.gpu.uuid in observed.mps.daemons or entry.gpu.uuid in observed.mps.left_modes
    between = not entry.numbers and (entry.contract is not None or lingers)
    arriving = contract is not None and between and not refused
    kept_by = None
    if refused:
        kept_by = Wait(entry.gpu.uuid, WaitReason.WAVE, entry.numbers)
    elif lacks:
        kept_by = Wait(entry.gpu.uuid, WaitReason.DAEMON, entry.numbers, lacks)
    elif observed.unwritten:
        kept_by = Wait(entry.gpu.uuid, WaitReason.DISK, entry.numbers)
    trouble = None
    if contract is not None and arriving:
        trouble = _stuck_for(entry, contract, lacks, observed.mps)
    elif entry.fault and entry.contract == contract:
        trouble = Trouble.DOES_NOT_COME
    return Device(entry, want, own, kept_by, arriving=arriving, trouble=trouble)


def _stuck_for(entry: AppliedGpu, contract: Contract, lacks: str, mps: MpsStatus) -> Trouble | None:
    """Why a GPU that offers nothing any more will not offer shares under this contract by itself."""
    if mps.reason is MpsReason.PENDING:
        return None
    daemon = mps.daemons.get(entry.gpu.uuid)
    if daemon is not None and (daemon.hindered or daemon.contract != contract):
        # A daemon that has outlived its host goes when somebody ends it.
        return Trouble.DOES_NOT_GO if daemon.hindered or mps.reason is not MpsReason.RUNNING else None
    if contract.limits is None:
        return Trouble.DOES_NOT_GO if lacks else None
    return Trouble.DOES_NOT_COME if lacks or (daemon is not None and daemon.stuck) else None


def _part(known: _Known, course: _Course) -> _Part:
    try:
        found = _steps(known, course)
        actions = (*known.actions, *found.actions)
        verify(known.family, course.observed, course.wishes, actions, keeps=course.desired is None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the other GPUs anything
        return _Part(fault=_words(error))
    return found


def _words(error: Exception) -> str:
    return str(error) or repr(error)


def _steps(known: _Known, course: _Course) -> _Part:
    """The next step of each member. What has shares to take back does only that."""
    actions: list[ShareAction] = []
    waits: list[Wait] = []
    taken = {uuid: entry for uuid, entry in known.applied.gpus.items() if entry.contract is not None}
    for entry in known.applied.ordered():
        if entry.gpu.uuid in known.adopted:
            continue
        step = _alone(_step(entry, known.family, course), entry, taken)
        if any(isinstance(action, Start | Advertise) for action in step.actions):
            taken[entry.gpu.uuid] = entry
        actions += step.actions
        waits += step.waits
    return _Part(tuple(_sorted(actions)), tuple(waits))


def _step(entry: AppliedGpu, family: Family, course: _Course) -> Step:
    uuid, stays = entry.gpu.uuid, course.decision.stay
    if uuid in stays:
        return stay(entry, stays[uuid])
    want = course.wishes.wants.get(uuid) if course.wishes is not None else None
    contract, count = (want.contract, want.count) if want is not None else (None, 0)
    holdings = family.holdings(entry)
    if course.desired is None and (entry.numbers or contract is None):
        return keep_still(entry, holdings, course.observed) if course.observed.undecided else stay(entry)
    return transition(entry, contract, count, holdings, course.observed)


def _alone(step: Step, entry: AppliedGpu, taken: dict[str, AppliedGpu]) -> Step:
    """What a GPU as a whole one, or a MIG device, would come to while the same silicon has a contract, or takes one,
    the other way: nothing of it is begun before that has ended.
    """
    coming = [action for action in step.actions if isinstance(action, Start | Advertise)]
    if not coming or not is_beside(entry, taken):
        return step
    others = tuple(action for action in step.actions if action not in coming)
    return Step(others, (*step.waits, Wait(entry.gpu.uuid, WaitReason.MIG)))


def _judge(applied: Applied, observed: Observed) -> tuple[ShareAction, ...]:
    """Take over what is known of the daemons of the shares that are on the list then."""
    return tuple(
        Verdict(entry.gpu.uuid, told)
        for entry in applied.ordered()
        if (told := fault(entry, observed.mps, observed.applied.gpus.get(entry.gpu.uuid))) != entry.fault
    )


def _limits(applied: Applied, desired: Desired | None) -> tuple[Limit, ...]:
    """A change of `maxSharesPerContainer` concerns requests to come only, so it is not part of the contract and is made
    at once. A GPU that does not have the wanted contract yet gets the limit with it.
    """
    if desired is None:
        return ()
    found = []
    for entry in applied.ordered():
        want = desired.wants.get(entry.gpu.uuid)
        if want is None or want.contract is None or entry.contract != want.contract:
            continue
        if entry.max_shares_per_container != want.rule.max_shares_per_container:
            found.append(Limit(entry.gpu.uuid, want.rule.max_shares_per_container))
    return tuple(found)


def _fit(applied: Applied, actions: list[ShareAction]) -> tuple[list[ShareAction], list[Wait]]:
    """Hold back what would make a list longer than the kubelet takes, or all lists longer than the agent can keep,
    while other shares are still leaving. What there is room for comes at once.
    """
    there = sum(len(entry.numbers) for entry in applied.gpus.values())
    coming = sum(len(action.numbers) for action in actions if isinstance(action, Advertise))
    if not coming or there + coming <= min(MAX_SHARES, MAX_LIST_BYTES // device_bytes("x" * 63)):
        return actions, []
    resources = {action.contract.resource for action in actions if isinstance(action, Advertise)}
    size = dict.fromkeys(resources, 0)
    for entry in applied.gpus.values():
        if entry.contract is not None and entry.contract.resource in resources:
            size[entry.contract.resource] += _bytes(entry.gpu.uuid, entry.contract, entry.numbers)
    fitting: list[ShareAction] = []
    crowded = []
    for action in actions:
        if isinstance(action, Drop) and (contract := applied.gpus[action.uuid].contract) is not None:
            there -= len(action.numbers)
            if contract.resource in resources:
                size[contract.resource] -= _bytes(action.uuid, contract, action.numbers)
        if not isinstance(action, Advertise):
            fitting.append(action)
            continue
        resource = action.contract.resource
        room = MAX_LIST_BYTES - size[resource]
        numbers = _first_that_fit(action, room, MAX_SHARES - there)
        if numbers:
            fitting.append(replace(action, numbers=numbers))
            there += len(numbers)
            size[resource] += _bytes(action.uuid, action.contract, numbers)
        if late := action.numbers - numbers:
            crowded.append(Wait(action.uuid, WaitReason.LIST_SIZE, late))
    return fitting, crowded


def _first_that_fit(action: Advertise, room: int, shares: int) -> frozenset[int]:
    """The lowest of the numbers, as many as there is `room` for in bytes of the list, and in `shares`."""
    if len(action.numbers) <= shares and _bytes(action.uuid, action.contract, action.numbers) <= room:
        return action.numbers
    found: list[int] = []
    for number in sorted(action.numbers)[: max(shares, 0)]:
        room -= device_bytes(share_id(action.uuid, action.contract.mode, number))
        if room < 0:
            break
        found.append(number)
    return frozenset(found)


def _bytes(uuid: str, contract: Contract, numbers: frozenset[int]) -> int:
    first = device_bytes(share_id(uuid, contract.mode, 0))
    if contract.mode is Mode.EXCLUSIVE:
        return len(numbers) * first
    return len(numbers) * (first - 1) + sum(map(len, map(str, numbers)))


def registrations(desired: Desired | None, applied: Applied, observed: Observed) -> tuple[KubeletAction, ...]:
    """A resource is registered once anything of it is on the list or held, so that no empty list takes away what pods
    have from another plugin, or from an agent whose memory was lost. It stays as long as any of it is there or wanted.

    Where the contract of a GPU could not be read, nothing is registered before it is known what pods have: the list
    would lack what they have of that GPU. Nor does an agent without a memory register what pods hold before it has read
    a document, or given up waiting for one: its first list would take away what is free on the kubelet's.

    While nothing is known of the MPS daemons yet, which is for two seconds at most, one whose free shares would follow
    in a moment waits for them: without them its first list would take away what is on the kubelet's.
    """
    there = frozenset(
        entry.contract.resource for entry in applied.gpus.values() if entry.contract is not None and entry.numbers
    )
    there |= {resource for resource, share in observed.held if resource and share.partition("::")[0] in applied.gpus}
    if observed.unread or (observed.partial and not observed.looked):
        there = frozenset()
    needed = there | applied.resources() | (desired.resources() if desired is not None else frozenset[str]())
    retire = observed.registered - needed if observed.readable else frozenset[str]()
    return (
        *(
            Register(resource)
            for resource in sorted(there - observed.registered - _following(desired, applied, observed))
        ),
        *(Retire(resource) for resource in sorted(retire)),
        *(Resend(resource) for resource in sorted(observed.resend & needed)),
        *(Reconnect(resource) for resource in sorted(observed.reconnect & needed)),
    )


def _following(desired: Desired | None, applied: Applied, observed: Observed) -> frozenset[str]:
    """Resources under MPS that have fewer shares than are wanted, as long as their daemons may be verified soon."""
    if desired is None or observed.mps.reason is not MpsReason.PENDING:
        return frozenset()
    return frozenset(
        want.contract.resource
        for uuid, want in desired.wants.items()
        if want.contract is not None
        and want.contract.limits is not None
        and (entry := applied.gpus.get(uuid)) is not None
        and entry.contract == want.contract
        and len(entry.numbers) < want.count
    )
