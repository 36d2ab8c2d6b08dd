"""The status document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import get_args

import pytest
from jsonschema import Draft202012Validator

from nodeagent.model.config import Mode, Stage
from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import RegistrationState
from nodeagent.model.plan import Action, WaitReason
from nodeagent.model.shares import Applied, ShareState
from nodeagent.model.snapshot import ChangeClass, ConfigState, DriftKind, ReloadResult, Snapshot
from nodeagent.report.status import render, rfc3339, to_json
from nodeagent.report.status_reader import applied_from_status, inventory_from_status
from tests.report import builders

SCHEMA: Mapping[str, object] = json.loads(
    files("nodeagent").joinpath("schemas", "status-v1alpha1.json").read_text("utf-8")
)

SNAPSHOTS = {
    "in sync": builders.snapshot(),
    "in trouble": builders.troubled(),
    "every action": builders.snapshot(plan=builders.every_action()),
    "just started": Snapshot(0, 0.0, 0.0, "n", None, "0.1.0", ConfigState("/c", problem="no such file"), Inventory()),
}


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
                ReloadResult,
            )
            for member in kind
        ),
        *(kind.__name__.lower() for kind in get_args(Action)),
    ]  # fmt: skip
    assert [word for word in words if f'"{word}"' not in text] == []


def test_times_are_rfc_3339_in_utc() -> None:
    """Milliseconds, a Z, and no rounding into a second 60."""
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_790_000_000.9999) == "2026-09-21T14:13:21.000Z"
    assert datetime.fromisoformat(rfc3339(1_790_000_000.25)) == datetime.fromtimestamp(1_790_000_000.25, UTC)


def test_the_applied_state_comes_back(snapshot: Snapshot) -> None:
    """A client can plan for the node: the applied contract is complete, fences from time 0."""
    applied, _ = applied_from_status(read_back(snapshot))
    assert applied == Applied(
        {uuid: replace(entry, fences=dict.fromkeys(entry.fences, 0.0)) for uuid, entry in snapshot.applied.gpus.items()}
    )
    assert inventory_from_status(read_back(snapshot)) == snapshot.inventory


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
        ("mode", "mps", "expected one of exclusive, time-sliced, withheld, got 'mps': is that agent newer"),
        ("numbers", ["1"], r"gpus\[0\].applied.numbers: expected int"),
        ("maxSharesPerContainer", True, "expected int, got True"),
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
    assert len(pieces) == 10
    applied, held = applied_from_status(json.loads(b"".join(pieces)))
    assert applied == snapshot.applied
    assert len(held) == 8 * 1667


def test_every_action_and_wait_has_words() -> None:
    """The plan can be read without knowing the agent's insides, and names GPUs by index."""
    plan = to_json(builders.snapshot(plan=builders.every_action()))["plan"]
    assert isinstance(plan, dict)
    texts = [entry["text"] for entry in plan["actions"] + plan["waits"]]
    assert len(set(texts)) == len(texts)
    assert "offer 2 shares of GPU 0 as time-sliced nvidia.com/gpu.shared" in texts
    assert "offer 1 fenced share of GPU 0 again" in texts
    assert "forget GPU-gone, which is gone" in texts
    assert not [text for text in texts if "frozenset" in text or "{" in text]
    assert to_json(builders.snapshot())["plan"] == {"converged": True, "actions": [], "waits": []}
