"""The status document."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from nodeagent.model.config import Contract, Mode, Stage
from nodeagent.model.handover import HandOver, IdStrategy, ListStrategy
from nodeagent.model.health import EventsReason, XidLog, XidSource, XidTally
from nodeagent.model.inventory import ComputeMode, Gpu, GpuHealth, Inventory, InventoryReason, MigDevice
from nodeagent.model.kubelet import RegistrationState
from nodeagent.model.moment import Moment
from nodeagent.model.mps import DaemonState, GpuMeans, MpsReason, MpsStatus
from nodeagent.model.node import SyncReason
from nodeagent.model.plan import Action, Plan, Wait, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu, Listing, ShareState
from nodeagent.model.snapshot import ChangeClass, ConfigState, DriftKind, ReloadResult, ShareStatus, Snapshot
from nodeagent.report.dates import dated
from nodeagent.report.status import render, to_json
from nodeagent.report.status_reader import (
    applied_from_status,
    inventory_from_status,
    moment_from_status,
    mps_from_status,
)
from nodeagent.report.times import rfc3339, unix_seconds
from tests.report import builders

SCHEMA: Mapping[str, object] = json.loads(
    files("nodeagent").joinpath("schemas", "status-v1alpha1.json").read_text("utf-8")
)

EVERY_WAY = HandOver(
    strategies=frozenset(ListStrategy), id_strategy=IdStrategy.INDEX, device_specs=True, imex_channels=(0,)
)
"""Containers get their devices in every way at once."""

SNAPSHOTS = {
    "in sync": builders.snapshot(),
    "in trouble": builders.troubled(),
    "mps": builders.sharing_by_mps(),
    "mig": builders.partitioned(),
    "labels differ": builders.mislabelled(),
    "handed over otherwise": replace(builders.snapshot(), handover=EVERY_WAY),
    "every action": builders.snapshot(plan=builders.every_action()),
    "just started": Snapshot(0, 0.0, 0.0, "n", None, "0.1.0", ConfigState("/c", problem="no such file"), Inventory()),
}


class Kept(dict[str, Listing]):
    """Lists of which it can be told whether anybody still has them."""


@pytest.fixture(params=list(SNAPSHOTS))
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """Each kind of node."""
    return SNAPSHOTS[request.param]


def read_back(snapshot: Snapshot) -> dict[str, object]:
    """Return what a client of `/status` gets."""
    value: dict[str, object] = json.loads(b"".join(render(snapshot)))
    return value


def test_it_is_what_the_schema_says(snapshot: Snapshot) -> None:
    """Every status has exactly the keys and values that are published."""
    validator = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [error.message for error in validator.iter_errors(read_back(snapshot))] == []


def test_the_pieces_are_the_whole(snapshot: Snapshot) -> None:
    """What is sent in pieces is the same document, in the same order."""
    assert json.dumps(read_back(snapshot)) == json.dumps(to_json(snapshot))


def test_the_schema_is_strict_and_describes_every_key() -> None:
    """No object is open, no key is optional, and none is without a word of what it means."""
    Draft202012Validator.check_schema(SCHEMA)
    seen = 0

    def visit(value: object) -> None:
        nonlocal seen
        if isinstance(value, list):
            for item in value:
                visit(item)
        if not isinstance(value, dict):
            return
        if isinstance(properties := value.get("properties"), dict):
            assert value["additionalProperties"] is False
            assert value["required"] == list(properties)
            for name, described in properties.items():
                seen += 1
                reference = described.get("$ref", "")
                assert described.get("description") or reference.startswith("#/$defs/gpu/"), name
        for item in value.values():
            visit(item)

    visit(SCHEMA)
    assert seen > 80


def test_the_schema_knows_every_word_of_the_model() -> None:
    """A new mode, state, reason or action cannot be forgotten in the schema."""
    text = json.dumps(SCHEMA)
    words = [
        *(mode.value for mode in Mode if mode is not Mode.WITHHELD),
        *(
            member.value
            for kind in (
                Stage, GpuHealth, InventoryReason, RegistrationState, WaitReason, ShareState, ChangeClass, DriftKind,
                ReloadResult, MpsReason, DaemonState, EventsReason, SyncReason, ListStrategy, IdStrategy,
            )
            for member in kind
        ),
        *(kind.__name__.lower() for kind in get_args(Action)),
    ]  # fmt: skip
    assert [word for word in words if f'"{word}"' not in text] == []


def test_labels_that_differ_are_there_one_by_one() -> None:
    """What each should be and what it is, null for none; why, and that it is drift, stand where all such things do."""
    status = read_back(builders.mislabelled())
    labels: Any = status["labels"]
    assert (labels["reason"], labels["synced"], status["kubeApi"]) == ("Forbidden", False, True)
    assert labels["differences"] == [
        {"key": "nodeagent.io/config.state", "want": "applied", "have": "draining"},
        {"key": "nvidia.com/gpu.replicas", "want": "10", "have": None},
        {"key": "nvidia.com/mps.capable", "want": None, "have": "true"},
    ]
    assert read_back(builders.snapshot())["labels"] == {
        "reason": "LabelsOff", "message": "", "synced": True, "differences": []
    }  # fmt: skip


def test_how_devices_are_handed_over_is_told() -> None:
    """What is in force, in the words of the options, ways in an order that never changes."""
    told: Any = read_back(replace(builders.snapshot(), handover=EVERY_WAY))["handOver"]
    assert told["strategies"] == ["envvar", "volume-mounts", "cdi-annotations", "cdi-cri"]
    assert (told["idStrategy"], told["deviceSpecs"], told["imexChannels"]) == ("index", True, [0])
    assert (told["devRoot"], told["cdiVendor"], told["annotationPrefix"]) == ("/", "nvidia.com", "cdi.k8s.io/")


def test_each_held_share_names_its_container() -> None:
    """As namespace, pod and container; one that is free, or of which nobody is named, has none."""
    status: Any = read_back(builders.snapshot(builders.gpu_status(builders.gpu(0), "hfdU")))
    holders = [share["holder"] for share in status["gpus"][0]["shares"]]
    assert holders == ["team-a/worker-0-0/main", None, "team-a/worker-0-2/main", None]


def test_a_share_that_nobody_is_named_to_have_says_since_when_it_is_held() -> None:
    """By the wall clock as it is now, as all times; in the pieces as in the whole."""
    one = builders.gpu_status(builders.gpu(0), "hUU")
    assert one.contract is not None
    since = {(one.contract.resource, one.shares[1].id): 100.0}
    snapshot = dated(replace(builders.snapshot(one), held_since=since), Moment(150.0, builders.AT))
    status: Any = read_back(snapshot)
    (shares,) = status["gpus"]
    assert [share["heldSince"] for share in shares["shares"]] == [None, rfc3339(builders.AT - 50.0), None]
    assert json.loads(b"".join(render(snapshot)))["gpus"][0] == shares


def test_times_are_rfc_3339_in_utc() -> None:
    """Milliseconds, a Z, and no rounding into a second 60."""
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_790_000_000.9999) == "2026-09-21T14:13:21.000Z"
    assert datetime.fromisoformat(rfc3339(1_790_000_000.25)) == datetime.fromtimestamp(1_790_000_000.25, UTC)


@given(st.integers(0, 2**41))
def test_times_come_back(milliseconds: int) -> None:
    """To the millisecond, whichever it is."""
    assert unix_seconds(rfc3339(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize("text", ["yesterday", "2026-02-03", "2026-02-03T04:05:06"])
def test_a_time_without_a_zone_is_none(text: str) -> None:
    """Whose noon it is must not depend on who reads."""
    with pytest.raises(ValueError, match=r"Invalid isoformat|expected a time with a zone"):
        unix_seconds(text)


def test_the_applied_state_comes_back(snapshot: Snapshot) -> None:
    """A client can plan for the node: the applied contract is complete, fences from time 0."""
    applied, _ = applied_from_status(read_back(snapshot))
    assert applied == Applied(
        {uuid: replace(entry, fences=dict.fromkeys(entry.fences, 0.0)) for uuid, entry in snapshot.applied.gpus.items()}
    )
    assert inventory_from_status(read_back(snapshot)) == snapshot.inventory


UUIDS = st.sampled_from([f"GPU-{number}" for number in range(4)])
COUNTS = st.integers(0, 200)
MIG = st.builds(MigDevice, UUIDS, st.sampled_from(["1g.5gb", "1c.3g.20gb+me"]), COUNTS, COUNTS)
GPUS = st.builds(
    Gpu,
    uuid=st.sampled_from([f"{kind}-{number}" for kind in ("GPU", "MIG") for number in range(9)]),
    index=COUNTS,
    model=st.text(max_size=9),
    memory=st.integers(0, 2**40),
    compute_capability=st.none() | st.tuples(COUNTS, COUNTS),
    minor=st.none() | COUNTS,
    pci_bus_id=st.none() | st.text(max_size=9),
    numa_node=st.none() | COUNTS,
    health=st.sampled_from(GpuHealth),
    message=st.text(max_size=9),
    mig_enabled=st.booleans(),
    mig=st.none() | MIG,
    driver_index=st.none() | COUNTS,
    provisional=st.booleans(),
)
XIDS = st.dictionaries(st.integers(0, 200), st.integers(0, 2**41).map(lambda milliseconds: milliseconds / 1000))
LOADS = st.none() | st.text(max_size=9)


@given(st.lists(st.tuples(GPUS, XIDS, LOADS), unique_by=lambda found: found[0].uuid, max_size=6), LOADS)
def test_whatever_is_known_of_gpus_comes_back(
    found: list[tuple[Gpu, dict[int, float], str | None]], load: str | None
) -> None:
    """MIG devices, both numbers, XIDs with their times, the driver's loading: as the schema says, and to the bit."""
    statuses = [builders.gpu_status(one, "", contract=None) for one, _, _ in found]
    applied = Applied({one.uuid: AppliedGpu(one, xids=xids, driver_load=when) for one, xids, when in found})
    listed = tuple(replace(one, driver_index=None, provisional=False) for one, _, _ in found)
    inventory = Inventory(listed, driver_load=load, counted=len(found))
    told = read_back(builders.snapshot(gpus=tuple(statuses), applied=applied, inventory=inventory))
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(told)] == []
    assert applied_from_status(told)[0] == applied
    assert inventory_from_status(told) == inventory


def test_xids_are_told_as_they_came() -> None:
    """Every tally, by GPU and code, the whole GPU before its instances; those that are no fault as well."""
    told = read_back(builders.partitioned())["xids"]
    assert isinstance(told, dict)
    assert (told["reason"], told["message"]) == ("Watching", "")
    seen = [(one["uuid"][4:12], one["xid"], one["gpuInstance"], one["count"]) for one in told["counts"]]
    assert seen == [
        ("00000000", 13, None, 41), ("00000000", 31, None, 1), ("00000002", 31, 2, 3), ("00000002", 48, 1, 1),
        ("00000002", 94, 1, 2), ("00000003", 79, None, 1),
    ]  # fmt: skip
    assert told["counts"][0]["lastSeen"] == rfc3339(builders.AT - 20)
    uuid = builders.gpu(0).uuid
    log = XidLog(EventsReason.FAILED, "no", {XidSource(uuid, 1, *of): XidTally(1, 0.0) for of in ((3, 0), (), (0, 0))})
    mixed = read_back(builders.snapshot(xids=log))["xids"]
    assert isinstance(mixed, dict)
    assert [(one["gpuInstance"], one["computeInstance"]) for one in mixed["counts"]] == [(None, None), (0, 0), (3, 0)]


def test_an_unhealthy_gpu_says_why() -> None:
    """The code, what it means, and when it came; a code that nobody knows has no meaning."""
    base = builders.unwell(builders.snapshot(), {builders.gpu(0).uuid: {79: builders.AT, 999: builders.AT}})
    told = to_json(base)["gpus"]
    assert isinstance(told, list)
    at = rfc3339(builders.AT)
    assert told[0]["applied"]["xids"] == [
        {"xid": 79, "meaning": "GPU has fallen off the bus", "lastSeen": at},
        {"xid": 999, "meaning": None, "lastSeen": at},
    ]
    assert (told[0]["applied"]["driverLoad"], told[1]["applied"]["driverLoad"]) == (builders.LOAD, None)
    assert told[1]["applied"]["xids"] == []


def test_an_older_agent_says_less() -> None:
    """What an agent without MIG, XIDs and the driver's numbers does not say is taken as not there: its node can be
    planned for.
    """
    status = json.loads(json.dumps(to_json(builders.snapshot())))
    del status["xids"], status["inventory"]["driverLoad"], status["inventory"]["count"]
    for facts in (*status["gpus"], *status["inventory"]["gpus"]):
        del facts["label"], facts["mig"], facts["migEnabled"]
    for facts in status["gpus"]:
        del facts["applied"]["xids"], facts["applied"]["driverLoad"], facts["driverIndex"]
        del facts["applied"]["unseen"], facts["applied"]["provisional"]
    base = builders.snapshot()
    assert applied_from_status(status)[0] == base.applied
    assert inventory_from_status(status) == replace(base.inventory, driver_load=None)
    assert moment_from_status(status) == base.at


def test_mps_comes_back() -> None:
    """A client can plan for the node's daemons as the agent does: how the host stands, and each daemon."""
    snapshot = builders.sharing_by_mps()
    assert mps_from_status(read_back(snapshot)) == snapshot.mps
    assert mps_from_status(read_back(builders.snapshot())) == builders.snapshot().mps
    forgotten = builders.mps_daemon(0, DaemonState.STOPPING, contract=Contract("(forgotten)", Mode.MPS))
    leaving = builders.snapshot(builders.gpu_status(builders.gpu(0), "", contract=None, daemon=forgotten))
    assert mps_from_status(read_back(leaving)) == leaving.mps
    off = MpsStatus(MpsReason.OFF, "no daemon can be started")
    assert mps_from_status(read_back(builders.snapshot(mps=off))) == off
    said = MpsStatus(
        MpsReason.RUNNING,
        means={"GPU-a": GpuMeans("it hangs", None, 16), "GPU-b": GpuMeans("", 81920, 48)},
        left_modes={"GPU-c": None, "GPU-d": ComputeMode.PROHIBITED},
        host_version="0.2.0",
        bounded=True,
    )
    assert mps_from_status(read_back(builders.snapshot(mps=said))) == said


def test_a_wait_for_a_daemon_says_in_what_words_it_was_given() -> None:
    """What is missing, or left over, in the words of the plan."""
    plan = Plan((), (Wait(builders.gpu(0).uuid, WaitReason.DAEMON, frozenset({0}), "no MPS host runs"),))
    told = to_json(builders.snapshot(builders.gpu_status(builders.gpu(0), "", contract=None), plan=plan))["plan"]
    assert isinstance(told, dict)
    assert told["waits"][0]["text"] == "GPU 0: waiting for MPS: no MPS host runs"


def test_held_shares_come_back_also_of_a_lost_gpu() -> None:
    """Held is said apart from the state: a pod does not lose its share because the GPU is unhealthy."""
    snapshot = builders.troubled()
    _, held = applied_from_status(read_back(snapshot))
    lost = snapshot.gpus[2]
    assert {key for key in held if key[1].startswith(lost.gpu.uuid)} == {
        ("nvidia.com/gpu.shared", f"{lost.gpu.uuid}::0"),
        ("nvidia.com/gpu.shared", f"{lost.gpu.uuid}::1"),
    }
    assert ("nvidia.com/gpu", snapshot.gpus[3].gpu.uuid) in held
    assert len(held) == 6 + 2 + 2 + 1


def test_a_newer_agent_may_say_more() -> None:
    """Keys that a client does not know are passed over."""
    status = json.loads(json.dumps(to_json(builders.snapshot())))
    status["weather"] = "fine"
    status["gpus"][0]["fan"] = 7
    applied, _ = applied_from_status(status)
    assert applied == builders.snapshot().applied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "NodeStat"}, "not a status of this version"),
        ({"apiVersion": "nodeagent.io/v2"}, "not a status of this version"),
        ({"gpus": {}}, "gpus: expected list, got {}"),
        ({"gpus": [{}]}, r"gpus\[0\].uuid: expected str, got None"),
    ],
)
def test_what_is_no_status_is_refused(change: dict[str, object], message: str) -> None:
    """Nobody plans on a guess."""
    with pytest.raises(ValueError, match=message):
        applied_from_status({**read_back(builders.snapshot()), **change})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mode", "mig", "expected one of exclusive, time-sliced, mps, withheld, got 'mig': is that agent newer"),
        ("mode", "mps", r"gpus\[0\].applied.limits: expected dict, got None"),
        ("numbers", ["1"], r"gpus\[0\].applied.numbers: expected int"),
        ("numbers", [-1], r"gpus\[0\].applied.numbers: expected numbers of shares, from 0 to 1000000"),
        ("fenced", [10**9], r"gpus\[0\].applied.fenced: expected numbers of shares"),
        ("maxSharesPerContainer", True, "expected int, got True"),
        ("xids", [{"xid": "79"}], r"gpus\[0\].applied.xids.xid: expected int, got '79'"),
        ("xids", [{"xid": 79, "lastSeen": "now"}], r"applied.xids.lastSeen: expected a time such as .*, got 'now'"),
    ],
)
def test_a_contract_that_is_not_understood_is_refused(key: str, value: object, message: str) -> None:
    """A mode of a newer agent cannot be planned for by an older one."""
    status = json.loads(json.dumps(to_json(builders.snapshot())))
    status["gpus"][0]["applied"][key] = value
    with pytest.raises(ValueError, match=message):
        applied_from_status(status)


def test_forty_thousand_shares_are_told_one_by_one() -> None:
    """Nothing is left out of a large node, and no piece of the answer is the whole of it."""
    snapshot = builders.large()
    pieces = list(render(snapshot))
    assert max(map(len, pieces)) < 100_000
    applied, held = applied_from_status(json.loads(b"".join(pieces)))
    assert applied == snapshot.applied
    assert len(held) == 8 * 1667


@pytest.mark.parametrize("name", [*SNAPSHOTS, "large"])
def test_what_is_sent_is_the_document_as_it_would_be_written_at_once(name: str) -> None:
    """Byte for byte, so that neither the order of keys nor a space depends on how it is sent."""
    snapshot = builders.large(2, 1234) if name == "large" else SNAPSHOTS[name]
    assert b"".join(render(snapshot)) == json.dumps(to_json(snapshot)).encode() + b"\n"


@given(st.text(), st.text(), st.integers(0), st.sampled_from(ShareState), st.booleans(), st.booleans())
def test_a_share_is_sent_as_json_writes_it(
    id_: str, holder: str, number: int, state: ShareState, held: bool, fenced: bool
) -> None:
    """Whatever stands in its id, or is the name of its holder."""
    share = ShareStatus(number, id_, state, holder or None, held, fenced)
    told = builders.snapshot(replace(builders.gpu_status(builders.gpu(0), "f"), shares=(share, share)))
    assert b"".join(render(told)) == json.dumps(to_json(told)).encode() + b"\n"


def test_who_takes_a_status_slowly_keeps_no_list_in_memory() -> None:
    """The lists of then, which are what is largest, can go when there are newer ones."""
    snapshot = builders.large(2, 1000)
    kept = Kept()
    gone = weakref.ref(kept)
    snapshot = replace(snapshot, listings=kept)
    pieces = render(snapshot)
    next(pieces)
    del snapshot, kept
    assert gone() is None
    assert b'"reloads"' in b"".join(pieces)


def test_every_action_and_wait_has_words() -> None:
    """The plan can be read without knowing the agent's insides, and names GPUs by index."""
    plan = to_json(builders.snapshot(plan=builders.every_action()))["plan"]
    assert isinstance(plan, dict)
    texts = [entry["text"] for entry in plan["actions"] + plan["waits"]]
    assert len(set(texts)) == len(texts)
    assert "offer 2 shares of GPU 0 as time-sliced nvidia.com/gpu.shared" in texts
    assert "offer 1 fenced share of GPU 0 again" in texts
    assert "forget GPU-gone, which is gone" in texts
    assert "start the MPS daemon of GPU 0 for mps nvidia.com/gpu.mps (20480 MiB and 25 % each)" in texts
    assert "send the shares of GPU 0 as healthy again" in texts
    assert "take GPU 0 for unhealthy: XID 79 (GPU has fallen off the bus)" in texts
    assert "hold no XID against GPU 0 any more" in texts
    assert "take note of MIG device 1:7 (1g.5gb of NVIDIA A100-SXM4-40GB, ok)" in texts
    assert not [text for text in texts if "frozenset" in text or "{" in text]
    nothing = {"devices": 0, "changed": 0, "maxUnavailable": 0, "underWay": [], "waiting": []}
    expected = {"converged": True, "actions": [], "waits": [], "refused": [], "waves": nothing}
    assert to_json(builders.snapshot())["plan"] == expected


def test_a_wait_for_a_daemon_says_why() -> None:
    """What keeps a daemon from being ready, or from leaving, is told where it is waited for."""
    plan = to_json(builders.sharing_by_mps())["plan"]
    assert isinstance(plan, dict)
    assert [wait["text"] for wait in plan["waits"]] == [
        "GPU 3: waiting for its MPS daemon: its limits are being set",
        "GPU 4: waiting for its MPS daemon: held by process 4242 (python)",
        "GPU 5: waiting for its MPS daemon: it has not been started yet",
        "GPU 6: waiting for its MPS daemon to leave: it is asked to end",
        "GPU 7: waiting for its MPS daemon: it still serves mps nvidia.com/gpu.mps (20480 MiB and 25 % each)",
    ]


def test_a_wait_for_a_daemon_that_is_not_known_says_what_is() -> None:
    """Without a word of the MPS host there may be a daemon or not: what is known of the host is told instead."""
    unknown = MpsStatus(MpsReason.PENDING, "the MPS host has not been asked yet")
    plan = Plan((), (Wait(builders.gpu(0).uuid, WaitReason.DAEMON),))
    gpus = (builders.gpu_status(builders.gpu(0), "", contract=None),)
    told = to_json(builders.snapshot(*gpus, mps=unknown, plan=plan))["plan"]
    assert isinstance(told, dict)
    assert told["waits"][0]["text"] == "GPU 0: waiting for news of its MPS daemon: the MPS host has not been asked yet"
