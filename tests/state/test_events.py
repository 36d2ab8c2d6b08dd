"""Events on the Node: each real change once, in words for people who look at `kubectl describe node`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.config import Contract
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.kubelet import SharedTwice
from nodeagent.model.node import NodeEvent
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import (
    ChangeClass,
    ConfigState,
    Drift,
    DriftKind,
    GpuStatus,
    Reload,
    ReloadResult,
    Snapshot,
)
from nodeagent.state.events import MAX_BYTES, events
from tests.report import builders
from tests.report.builders import AT, SHARED, WHOLE, conditions, document, gpu, gpu_status, mig, mig_status

OLD, NEW, BAD = document("old"), document("new", revision="main@sha1:0a1b2c3d"), document("bad")
PATH = OLD.path


def config(**changes: object) -> ConfigState:
    """A node that has applied the old document as the first since its agent was started."""
    fields: dict[str, object] = {
        "path": PATH,
        "newest": OLD,
        "desired": OLD,
        "applied": OLD,
        "last_known_good": OLD,
        "generation": 1,
        "observed_generation": 1,
        **changes,
    }
    return ConfigState(**fields)  # type: ignore[arg-type]


STARTING = config(newest=None, desired=None, applied=None, last_known_good=None, generation=0, observed_generation=0)
"""A node that never had a document."""

APPLIED = config()
ACCEPTED = config(newest=NEW, desired=NEW, last_known_good=NEW, generation=2)
FOLLOWED = config(newest=NEW, desired=NEW, applied=NEW, last_known_good=NEW, generation=2, observed_generation=2)
REJECTED = config(newest=BAD, violations=(builders.violation(),))


def snapshot(state: ConfigState = APPLIED, *gpus: GpuStatus, **changes: object) -> Snapshot:
    """A node of two GPUs with ten shares each, unless others are given."""
    return builders.snapshot(*gpus, config=state, **{"reloads": (), **changes})


def shared(index: int, states: str, wanted: int | None = None) -> GpuStatus:
    """A time-sliced GPU."""
    return gpu_status(gpu(index), states, wanted_shares=wanted)


def waiting(*gpus: GpuStatus) -> Plan:
    """A plan that waits for the pods on the draining shares of these GPUs."""
    return Plan(
        (),
        tuple(
            Wait(one.gpu.uuid, WaitReason.PODS, frozenset(share.number for share in one.shares if share.held))
            for one in gpus
        ),
    )


def told(before: Snapshot | None, after: Snapshot) -> list[tuple[str, str]]:
    """Reasons and messages."""
    return [(event.reason, event.message) for event in events(before, after)]


# --- config ---------------------------------------------------------------------------------------------------------


def test_an_accepted_document_is_told_with_what_it_changes() -> None:
    """By blob, revision, and what becomes of which GPUs, as the log's line of the reload says."""
    before = snapshot(APPLIED, shared(0, "hhhhhhffff"), shared(1, "ffffffffff"))
    after = snapshot(ACCEPTED, shared(0, "hhhhhhffff", 4), shared(1, "ffffffffff", 4))
    assert events(before, after) == (
        NodeEvent(
            "ConfigAccepted",
            f"accepted blob {NEW.git_blob[:12]} (revision main@sha1:0a1b2c3d): GPUs 0-1: time-sliced"
            " nvidia.com/gpu.shared x10 -> time-sliced nvidia.com/gpu.shared x4; held shares drain: 2 on GPU 0",
        ),
    )


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        pytest.param(shared(0, "f" * 4), shared(0, "f" * 4), "nothing changes", id="nothing"),
        pytest.param(
            shared(0, "hhff"),
            gpu_status(gpu(0), "hhff", wanted=WHOLE, wanted_shares=1),
            "GPU 0: time-sliced nvidia.com/gpu.shared x4 -> exclusive nvidia.com/gpu; held shares drain: 2 on GPU 0",
            id="another mode, in use",
        ),
        pytest.param(
            shared(0, "ffff"),
            gpu_status(gpu(0), "f", wanted=WHOLE, contract=WHOLE),
            "GPU 0: time-sliced nvidia.com/gpu.shared x4 -> exclusive nvidia.com/gpu",
            id="another mode, free",
        ),
        pytest.param(
            gpu_status(gpu(0), "", contract=None),
            shared(0, "ff"),
            "GPU 0: nothing -> time-sliced nvidia.com/gpu.shared x2",
            id="from nothing",
        ),
        pytest.param(
            shared(0, "ff"),
            gpu_status(gpu(0), "", wanted=None, contract=None),
            "GPU 0: time-sliced nvidia.com/gpu.shared x2 -> withheld",
            id="withheld",
        ),
        pytest.param(
            shared(0, "ff"),
            replace(builders.through_mig(0), gpu=gpu(0)),
            "GPU 0: time-sliced nvidia.com/gpu.shared x2 -> used through MIG devices",
            id="through MIG",
        ),
        pytest.param(
            gpu_status(gpu(0), "", wanted=None, contract=None, rule=None),
            gpu_status(gpu(0), "", wanted=None, contract=None, rule=None),
            "nothing changes",
            id="gone",
        ),
    ],
)
def test_each_kind_of_change_has_its_words(before: GpuStatus, after: GpuStatus, change: str) -> None:
    """From what is offered to what is wanted, and what has to drain first."""
    [(reason, message)] = told(snapshot(APPLIED, before), snapshot(ACCEPTED, after))
    assert (reason, message.partition("): ")[2]) == ("ConfigAccepted", change)


def test_gpus_that_drain_alike_are_told_together() -> None:
    """Each with as many shares."""
    before = [shared(index, "hhhh") for index in range(3)]
    after = [shared(index, "hhhh", 1) for index in range(3)]
    [(_, message)] = told(snapshot(APPLIED, *before), snapshot(ACCEPTED, *after))
    assert message.endswith("; held shares drain: 3 each on GPUs 0-2")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"suspended": True}, "spec.suspend is true: what is applied is kept"),
        (
            {"obstacles": (builders.violation("two kinds of GPU have one name"),)},
            "it cannot be applied to these GPUs, and what is applied is kept: two kinds of GPU have one name",
        ),
    ],
)
def test_a_document_that_is_not_carried_out_says_why(changes: dict[str, Any], said: str) -> None:
    """Accepted is not applied."""
    [(reason, message)] = told(snapshot(), snapshot(replace(ACCEPTED, **changes)))
    assert (reason, message.partition("): ")[2]) == ("ConfigAccepted", said)


def test_the_first_document_of_a_node_is_told() -> None:
    """Accepted, and, where nothing is in the way, applied in the same turn."""
    fresh = snapshot(STARTING, applied=Applied(), gpus=())
    assert [reason for reason, _ in told(fresh, snapshot(APPLIED))] == ["ConfigAccepted", "ConfigApplied"]


def test_an_agent_that_is_started_anew_does_not_repeat_itself() -> None:
    """The document that was in force before the start is neither accepted nor applied again: at once, or when the
    daemons have been heard of.
    """
    fresh = snapshot(replace(STARTING, last_known_good=OLD))
    resumed = snapshot(config(applied=None, observed_generation=0))
    assert told(None, fresh) == told(None, snapshot(APPLIED)) == []
    assert told(fresh, snapshot(APPLIED)) == []
    assert told(fresh, resumed) == told(resumed, snapshot(APPLIED)) == []


def test_what_was_under_way_when_an_agent_was_started_is_told_at_its_end() -> None:
    """It has been applied since."""
    drift = (Drift(DriftKind.SHARES, "GPU 0", "x4", "x6", AT),)
    draining = snapshot(config(applied=None, observed_generation=0), drift=drift)
    assert told(draining, snapshot(APPLIED)) == [
        ("ConfigApplied", f"blob {OLD.git_blob[:12]} is applied on every GPU"),
    ]


def test_another_document_than_before_the_start_is_told() -> None:
    """A commit that came while there was no agent is news, even where it changes nothing."""
    fresh = snapshot(replace(STARTING, last_known_good=OLD))
    after = snapshot(replace(FOLLOWED, generation=1, observed_generation=1))
    assert [reason for reason, _ in told(fresh, after)] == ["ConfigAccepted", "ConfigApplied"]


def test_the_document_from_the_disk_is_not_accepted_again() -> None:
    """Where the mounted one is wrong, that is what is told."""
    fresh = snapshot(replace(STARTING, last_known_good=OLD))
    resumed = snapshot(replace(REJECTED, using_last_known_good=True))
    assert [reason for reason, _ in told(fresh, resumed)] == ["ConfigRejected"]


@pytest.mark.parametrize(
    ("change", "seconds", "said"),
    [
        (ChangeClass.LIVE, 5, ""),
        (ChangeClass.DRAINED, 5, ", 5 s after it was accepted"),
        (ChangeClass.DRAINED, 300, ", 5 min after it was accepted"),
        (ChangeClass.DRAINED, 14_400, ", 4 h after it was accepted"),
    ],
)
def test_an_applied_document_is_told_with_how_long_it_waited(change: ChangeClass, seconds: float, said: str) -> None:
    """Where held shares had to drain first."""
    reloads = (
        Reload(AT - 1, FOLLOWED.newest, ReloadResult.UNCHANGED, None, "nothing changes", 0.01),
        Reload(AT - seconds, NEW, ReloadResult.ACCEPTED, change, "10 -> 4", 0.04),
    )
    after = snapshot(FOLLOWED, reloads=reloads)
    assert told(snapshot(ACCEPTED), after) == [
        (
            "ConfigApplied",
            f"blob {NEW.git_blob[:12]} (revision main@sha1:0a1b2c3d) is applied on every GPU{said}",
        )
    ]


def test_how_long_another_document_waited_is_not_told() -> None:
    """The newest that was accepted is the one that was applied, or nothing is known of the wait."""
    reloads = (Reload(AT - 60, OLD, ReloadResult.ACCEPTED, ChangeClass.DRAINED, "10 -> 4", 0.04),)
    [(_, message)] = told(snapshot(ACCEPTED), snapshot(FOLLOWED, reloads=reloads))
    assert message.endswith("is applied on every GPU")


def test_a_rejected_document_is_a_warning_with_its_first_error() -> None:
    """By file, line and column, with how many more there are."""
    more = replace(REJECTED, violations=(builders.violation(),) * 3)
    assert events(snapshot(), snapshot(more)) == (
        NodeEvent(
            "ConfigRejected",
            f"rejected blob {BAD.git_blob[:12]}: /etc/nodeagent/sharing.yaml:12:17:"
            " spec.rules[0].timeSlicing.replicas: expected an integer of at least 2, got 1 (and 2 more)",
            warning=True,
        ),
    )


def test_a_rejected_document_is_told_by_an_agent_that_has_just_started() -> None:
    """It may have been started since nobody read that."""
    assert [reason for reason, _ in told(None, snapshot(REJECTED))] == ["ConfigRejected"]


def test_a_missing_document_is_a_warning_with_what_was_looked_for() -> None:
    """With its path, once, and again when another one is looked for; also by an agent that has just started."""
    label = "cannot read config: label nodeagent.io/config of the node is 'x', and there is no x.yaml; there is a.yaml"

    def without(message: str, reason: str = "Missing") -> Snapshot:
        state = config(newest=None, problem=message)
        return snapshot(state, conditions=conditions(ConfigAccepted=(False, reason, message)))

    assert events(snapshot(), without(label)) == (NodeEvent("ConfigMissing", f"{PATH}: {label}", warning=True),)
    assert [reason for reason, _ in told(None, without(label))] == ["ConfigMissing"]
    assert told(without(label), replace(without(label), revision=9)) == []
    assert [reason for reason, _ in told(without(label), without(label.replace("x", "y")))] == ["ConfigMissing"]
    assert told(snapshot(), without("cannot read config: permission denied", "Unreadable")) == []
    assert told(without(label), snapshot()) == []


def test_a_rejected_document_is_told_once_for_its_bytes() -> None:
    """Other mistakes in other bytes are told, and a document that comes to be at odds with the GPUs."""
    rejected = snapshot(REJECTED)
    worse = snapshot(replace(REJECTED, newest=document("worse")))
    other = snapshot(replace(REJECTED, violations=(builders.violation("another GPU is at odds with it"),)))
    fitted = snapshot(config(newest=BAD, desired=BAD))
    assert told(rejected, other) == []
    assert [reason for reason, _ in told(rejected, worse)] == ["ConfigRejected"]
    assert [reason for reason, _ in told(fitted, rejected)] == ["ConfigRejected"]
    assert told(rejected, snapshot(APPLIED)) == []


def test_the_same_meaning_in_other_bytes_is_nothing() -> None:
    """What is counted as unchanged is no event."""
    assert told(snapshot(APPLIED), snapshot(config(newest=NEW, desired=NEW, applied=NEW, last_known_good=NEW))) == []


# --- drains ---------------------------------------------------------------------------------------------------------


def test_a_drain_that_ends_since_pods_leave_is_told() -> None:
    """With the GPUs of which nothing drains any more, one of several as soon as it is free."""
    busy = [shared(0, "hhdd", 2), shared(1, "hhdd", 2), shared(2, "hhdd", 2)]
    left = [shared(0, "hhxx", 2), shared(1, "hhxx", 2), busy[2]]
    before = snapshot(ACCEPTED, *busy, plan=waiting(*busy))
    after = snapshot(ACCEPTED, *left, plan=waiting(busy[2]))
    assert events(before, after) == (
        NodeEvent("Drained", "GPUs 0-1: the pods on shares that Git no longer wants have ended"),
    )


def test_whichever_pod_ends_the_drain_is_over() -> None:
    """Ids are interchangeable: one that drained may be kept in the place of another."""
    before, after = shared(0, "hhd", 2), shared(0, "xhh", 2)
    assert [
        reason
        for reason, _ in told(snapshot(ACCEPTED, before, plan=waiting(before)), snapshot(ACCEPTED, after, plan=Plan()))
    ] == ["Drained"]


def test_a_drain_that_ends_since_git_changes_its_mind_is_not_told() -> None:
    """Nobody has left."""
    before, after = shared(0, "hhdd", 2), shared(0, "hhhh", 4)
    assert told(snapshot(ACCEPTED, before, plan=waiting(before)), snapshot(ACCEPTED, after, plan=Plan())) == []


def test_a_drain_that_cannot_be_seen_for_a_while_is_not_over() -> None:
    """While PodResources cannot be read its shares count as held."""
    gpu_ = shared(0, "hhdd", 2)
    blind = Plan((), (Wait(gpu_.gpu.uuid, WaitReason.POD_RESOURCES, frozenset({2, 3})),))
    assert told(snapshot(ACCEPTED, gpu_, plan=waiting(gpu_)), snapshot(ACCEPTED, gpu_, plan=blind)) == []


def test_a_drain_that_lasts_too_long_is_a_warning() -> None:
    """Once, in the words of the condition."""
    late = snapshot(
        ACCEPTED, conditions=conditions(Stalled=(True, "DrainTimeout", "the drain lasts too long on GPU 0"))
    )
    assert events(snapshot(ACCEPTED), late) == (
        NodeEvent("DrainStalled", "the drain lasts too long on GPU 0", warning=True),
    )
    assert told(late, replace(late, revision=8)) == told(late, snapshot(ACCEPTED)) == []


def test_a_gpu_without_a_plan_is_a_warning() -> None:
    """Once, in the words of the condition."""
    refused = snapshot(ACCEPTED, conditions=conditions(PlanRefused=(True, "InvariantBroken", "GPU 0 stays as it is")))
    assert events(snapshot(ACCEPTED), refused) == (NodeEvent("PlanRefused", "GPU 0 stays as it is", warning=True),)
    assert told(refused, replace(refused, revision=8)) == told(refused, snapshot(ACCEPTED)) == []


# --- health ---------------------------------------------------------------------------------------------------------


def node(*entries: AppliedGpu) -> Snapshot:
    """A node of which this is applied."""
    return snapshot(applied=Applied({entry.gpu.uuid: entry for entry in entries}))


def entry(index: int, message: str = "", health: GpuHealth = GpuHealth.OK, *xids: int, fault: str = "") -> AppliedGpu:
    """A time-sliced GPU, well unless said otherwise."""
    facts = gpu(index, health=health, message=message)
    return AppliedGpu(facts, SHARED, frozenset({0, 1}), fault=fault, xids=dict.fromkeys(xids, AT))


def part(instance: int, health: GpuHealth = GpuHealth.OK, *xids: int, message: str = "gone") -> AppliedGpu:
    """A MIG device of GPU 1."""
    contract: Contract | None = mig_status(mig(1, instance)).contract
    facts = replace(mig(1, instance), health=health, message=message if health is not GpuHealth.OK else "")
    return AppliedGpu(facts, contract, frozenset({0}), xids=dict.fromkeys(xids, AT))


LOST, HANG, OK = GpuHealth.LOST, GpuHealth.HANG, GpuHealth.OK
FAULT = "its MPS daemon is not ready: exited with status 1"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param([entry(3)], [entry(3, "off the bus", LOST)], [" is lost: off the bus"], id="lost"),
        pytest.param([entry(3)], [entry(3, "", OK, 79)], [": XID 79 (GPU has fallen off the bus)"], id="XID"),
        pytest.param([entry(3)], [entry(3, fault=FAULT)], [f": {FAULT}"], id="daemon"),
        pytest.param([entry(3, "", OK, 999)], [entry(3)], [": healthy again"], id="cleared"),
        pytest.param([entry(3, fault=FAULT)], [entry(3)], [": healthy again"], id="daemon is back"),
        pytest.param([], [entry(3, "no answer", HANG)], [" hangs: no answer"], id="found so"),
        pytest.param(
            [entry(3, "", OK, 999)],
            [entry(3, "", OK, 999, 48)],
            [": XID 48 (double-bit ECC error), XID 999"],
            id="another XID",
        ),
        pytest.param([entry(3, "", OK, 999, 48)], [entry(3, "", OK, 999)], [], id="one XID less"),
        pytest.param([entry(3, "", OK, 79)], [entry(3, "", OK, 79, fault=FAULT)], [], id="its daemon fails too"),
        pytest.param([entry(3, "", OK, 79, fault=FAULT)], [entry(3, fault=FAULT)], [f": {FAULT}"], id="still a fault"),
        pytest.param([entry(3, "a", LOST)], [entry(3, "b", LOST)], [], id="in other words"),
        pytest.param([entry(3)], [], [], id="forgotten"),
    ],
)
def test_a_gpu_that_fails_or_recovers_is_told(
    before: list[AppliedGpu], after: list[AppliedGpu], said: list[str]
) -> None:
    """With its name, its uuid and what is wrong; a failure is a warning."""
    found = events(node(*before), node(*after))
    assert [event.message.removeprefix(f"GPU 3 ({gpu(3).uuid})") for event in found] == said
    for event in found:
        well = event.message.endswith("healthy again")
        assert (event.reason, event.warning) == (("GpuRecovered", False) if well else ("GpuUnhealthy", True))


def test_gpus_with_one_fault_are_told_together() -> None:
    """Eight GPUs whose driver has gone are one event; so is their recovery."""
    well, gone = [entry(index) for index in range(8)], [entry(index, "no driver", LOST) for index in range(8)]
    assert told(node(*well), node(*gone)) == [("GpuUnhealthy", "GPUs 0-7 are each lost: no driver")]
    assert told(node(*gone), node(*well)) == [("GpuRecovered", "GPUs 0-7: healthy again")]
    stuck = [entry(index, "no answer", HANG) for index in range(8)]
    assert told(node(*well), node(*stuck)) == [("GpuUnhealthy", "GPUs 0-7 each hang: no answer")]


def test_a_mig_device_is_not_told_apart_from_its_gpu() -> None:
    """What is its GPU's fault, or the recovery from it, is told of the GPU alone; what it has besides is told."""
    well = node(entry(1), part(7), part(8))
    sick = node(entry(1, "", OK, 79), part(7, OK, 79), part(8, OK, 79, 48))
    gone = node(entry(1, "off the bus", LOST), part(7, LOST), part(8, LOST))
    assert told(well, sick) == [
        ("GpuUnhealthy", f"GPU 1 ({gpu(1).uuid}): XID 79 (GPU has fallen off the bus)"),
        (
            "GpuUnhealthy",
            f"MIG device 1:8 ({mig(1, 8).uuid}): XID 48 (double-bit ECC error), XID 79 (GPU has fallen off the bus)",
        ),
    ]
    assert told(sick, well) == [("GpuRecovered", "GPU 1 and MIG device 1:8: healthy again")]
    assert told(well, gone) == [("GpuUnhealthy", f"GPU 1 ({gpu(1).uuid}) is lost: off the bus")]
    assert told(gone, well) == [("GpuRecovered", f"GPU 1 ({gpu(1).uuid}): healthy again")]


def test_a_mig_device_that_was_destroyed_is_no_fault() -> None:
    """Somebody has made other devices of the GPU."""
    well, destroyed = node(entry(1), part(7, OK, 48)), node(entry(1), part(7, LOST, 48))
    assert told(well, destroyed) == told(destroyed, node(entry(1))) == []


# --- all of them ----------------------------------------------------------------------------------------------------


def test_a_share_that_two_pods_have_is_a_warning_with_both_names() -> None:
    """Once for the same pods; its end is none."""
    one = SharedTwice("nvidia.com/gpu", "GPU-0", (("ml", "new"), ("ml", "old")))
    twice = snapshot(shared_twice=(one,))
    [event] = events(snapshot(), twice)
    assert (event.reason, event.warning) == ("SharedTwice", True)
    assert event.message.endswith("several pods: GPU-0 (nvidia.com/gpu): ml/new and ml/old")
    assert told(twice, replace(twice, revision=9)) == []
    assert told(twice, snapshot()) == []
    others = replace(twice, shared_twice=(replace(one, pods=(("ml", "new"), ("ml", "third"))),))
    assert len(told(twice, others)) == 1


def test_a_message_is_never_longer_than_the_api_takes() -> None:
    """What is too long is cut, in bytes and not in the middle of a character."""
    long = replace(REJECTED, violations=(builders.violation("ü" * 2000),))
    [event] = events(None, snapshot(long))
    assert MAX_BYTES - 1 <= len(event.message.encode()) <= MAX_BYTES
    assert event.message.endswith("ü…")


ENTRIES = st.builds(
    lambda health, xids, fault: (health, frozenset(xids), fault),
    st.sampled_from(GpuHealth),
    st.sets(st.sampled_from([48, 79, 999])),
    st.sampled_from(["", FAULT]),
)
STATES = st.text("fhdx", max_size=6)


@st.composite
def nodes(draw: st.DrawFn) -> Snapshot:
    """Any node of three GPUs and two MIG devices."""
    gpus = [shared(index, draw(STATES), draw(st.integers(0, 6))) for index in range(3)]
    whole = [builders.through_mig(3), *(mig_status(mig(3, instance), draw(STATES)) for instance in (7, 8))]
    base = snapshot(draw(st.sampled_from([STARTING, APPLIED, ACCEPTED, FOLLOWED, REJECTED])), *gpus, *whole)
    applied = {}
    for uuid, known in base.applied.gpus.items():
        health, xids, fault = draw(ENTRIES)
        applied[uuid] = replace(known, gpu=replace(known.gpu, health=health), xids=dict.fromkeys(xids, AT), fault=fault)
    drains = draw(st.sets(st.sampled_from(gpus)))
    stalled = (draw(st.booleans()), "DrainTimeout", "the drain lasts too long")
    return replace(base, applied=Applied(applied), plan=waiting(*drains), conditions=conditions(Stalled=stalled))


@given(before=st.none() | nodes(), after=nodes())
def test_a_change_is_told_once(before: Snapshot | None, after: Snapshot) -> None:
    """Whatever was told of a turn, a turn after which all is as before has nothing to tell; nor does an agent that has
    just started, but of what is rejected or missing.
    """
    found = events(before, after)
    assert events(after, after) == events(after, replace(after, revision=99, applied=Applied(after.applied.gpus))) == ()
    assert all(event.message and len(event.message.encode()) <= MAX_BYTES for event in found)
    if before is None:
        assert {event.reason for event in found} <= {"ConfigRejected", "ConfigMissing"}
