"""The verdict: the gravest thing first, nothing hidden by it, and the same words wherever it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, Drift, DriftKind, Snapshot
from nodeagent.report.verdict import LONGEST, Outcome, Verdict, judge, of, stopped
from tests.report import builders
from tests.report.test_page import EMPTY

Reasons = dict[str, tuple[bool, str, str]]

WELL: Reasons = {}
LOST: Reasons = {"InventoryReady": (False, "GpuLost", "GPU 1 (GPU-1): the driver no longer lists it")}
REJECTED: Reasons = {
    "ConfigAccepted": (False, "SchemaError", str(builders.violation())),
    "ServingLastKnownGood": (True, "DocumentNotAccepted", "the newest document is not accepted"),
}
MISSING: Reasons = {"ConfigAccepted": (False, "Missing", "/c: no such file")}
KUBELET: Reasons = {
    "Ready": (False, "NotRegistered", "nvidia.com/gpu is absent"),
    "Registered": (False, "KubeletAbsent", "nvidia.com/gpu is absent"),
}
DRAINS: Reasons = {"Draining": (True, "PodsHoldShares", "2 held shares drain on GPU 0")}
LATE: Reasons = {"Stalled": (True, "DrainTimeout", "the drain lasts longer than allowed on GPU 0")}
SUSPENDED: Reasons = {"Suspended": (True, "ConfigSuspends", "what is applied is kept")}
DISK: Reasons = {"StateDirWritable": (False, "WriteFailed", "disk full")}
TWICE: Reasons = {"SharedTwice": (True, "SeveralPods", "GPU-0 (nvidia.com/gpu): a/b and c/d")}


def verdict(snapshot: Snapshot) -> Verdict:
    """As the page makes it."""
    return judge(of(snapshot))


def node(*lost: int, in_sync: bool = True, rejected: bool = False, told: Reasons = WELL) -> Snapshot:
    """Two GPUs, those in `lost` off the bus."""
    gpus = [
        builders.gpu_status(
            builders.gpu(index, health=GpuHealth.LOST, message="it fell off the bus")
            if index in lost
            else builders.gpu(index),
            "u" * 4 if index in lost else "f" * 4,
        )
        for index in range(2)
    ]
    base = builders.snapshot(*gpus, conditions=builders.conditions(**told), in_sync=in_sync)
    drift = tuple(Drift(DriftKind.HARDWARE, f"GPU {index}", "ok", "lost: it fell off the bus") for index in lost)
    violations = (builders.violation(),) * 3 if rejected else ()
    return replace(base, drift=drift, config=replace(base.config, violations=violations))


@pytest.mark.parametrize(
    ("snapshot", "title", "rest", "outcome"),
    [
        (node(), "In sync", (), Outcome.AS_WANTED),
        (node(1, told=LOST), "GPU 1 is lost", ("it fell off the bus", "otherwise in sync"), Outcome.FAULTY),
        (node(0, 1, told=LOST), "GPU 0 and GPU 1 are lost", ("GPU 0, GPU 1: lost: it fell",), Outcome.FAULTY),
        (
            node(1, in_sync=False, rejected=True, told=LOST | REJECTED),
            "GPU 1 is lost",
            ("Also: the newest document is rejected, with 3 errors; the node goes on with h100-inference",),
            Outcome.FAULTY,
        ),
        (
            node(1, in_sync=False, told=LOST | KUBELET),
            "Not ready",
            ("nvidia.com/gpu is absent. Also: GPU 1 is lost",),
            Outcome.FAULTY,
        ),
        (node(told=KUBELET), "Not ready", ("nvidia.com/gpu is absent",), Outcome.FAULTY),
        (
            node(in_sync=False, rejected=True, told=REJECTED | DRAINS | DISK),
            "Not in sync: the newest document is rejected",
            ("3 errors; the node goes on", "StateDirWritable is not met", "2 held shares drain on GPU 0"),
            Outcome.FAULTY,
        ),
        (
            node(in_sync=False, told=MISSING),
            "Not in sync: there is no valid document",
            ("/etc/nodeagent/sharing.yaml: /c: no such file; the node goes on with h100-inference",),
            Outcome.FAULTY,
        ),
        (node(told=TWICE), "Two pods have the same share", ("a/b and c/d",), Outcome.FAULTY),
        (node(in_sync=False, told=DRAINS), "Draining: pods still hold", ("2 held shares",), Outcome.DIFFERS),
        (
            node(in_sync=False, told=DRAINS | LATE),
            "Not in sync: a drain takes too long",
            ("Also: 2 held shares drain",),
            Outcome.FAULTY,
        ),
        (node(told=SUSPENDED), "In sync, and suspended", ("kept",), Outcome.AS_WANTED),
        (node(in_sync=False, told=SUSPENDED), "Not in sync: suspended", ("kept",), Outcome.DIFFERS),
        (
            node(in_sync=False, told=SUSPENDED | DISK),
            "Not in sync yet, with a fault",
            ("disk full. Also: suspended",),
            Outcome.FAULTY,
        ),
        (node(in_sync=False), "Not in sync yet", ("being carried out",), Outcome.DIFFERS),
        (
            node(in_sync=False, told={"MpsReady": (False, "Starting", "GPU 0: its limits are being set")}),
            "Not in sync yet",
            (),
            Outcome.DIFFERS,
        ),
        (
            node(told={"MpsReady": (False, "Starting", "GPU 0: its limits are being set")}),
            "In sync, with a fault",
            ("GPU 0: its limits",),
            Outcome.FAULTY,
        ),
        (
            node(in_sync=False, told={"MpsReady": (False, "HostAbsent", "GPU 0: no MPS host")}),
            "Not in sync yet, with a fault",
            ("no MPS host",),
            Outcome.FAULTY,
        ),
        (
            node(told={"HealthWatched": (False, "NotSupported", "GPU 0: no events")}),
            "In sync",
            ("Note: GPU 0: no events",),
            Outcome.AS_WANTED,
        ),
        (EMPTY, "Not in sync yet", (), Outcome.DIFFERS),
    ],
)
def test_the_gravest_thing_comes_first_and_hides_nothing(
    snapshot: Snapshot, title: str, rest: tuple[str, ...], outcome: Outcome
) -> None:
    """What a node lacks before what it waits for; the other things are named behind the first."""
    found = verdict(snapshot)
    assert found.title.startswith(title)
    assert found.outcome is outcome
    for expected in rest:
        assert expected in found.text, found.text
    assert (found.tone == "ok") == (outcome is Outcome.AS_WANTED and "suspended" not in title)


def test_a_node_that_offers_nothing_says_so() -> None:
    """All may be withheld, which is as wanted; that there is no GPU at all is hardly what anybody wants."""
    withheld = builders.snapshot(builders.gpu_status(builders.gpu(0), "", wanted=None, contract=None, rule="none"))
    assert (verdict(withheld).title, verdict(withheld).outcome) == (
        "In sync, and nothing is offered",
        Outcome.AS_WANTED,
    )
    bare = replace(builders.snapshot(), gpus=(), applied=Applied(), resources=())
    assert (verdict(bare).title, verdict(bare).outcome) == ("In sync, and there is no GPU", Outcome.FAULTY)


def test_a_node_that_starts_is_called_so() -> None:
    """Before the document was read, and before the driver was asked, nothing can be said against either."""
    pending = (False, "Pending", "the document has not been read yet")
    nothing = (False, "NothingAccepted", "no sharing config was ever accepted")
    base = node(in_sync=False, told={"ConfigAccepted": pending, "Ready": nothing})
    found = verdict(replace(base, config=ConfigState("/c")))
    assert (found.title, found.outcome) == ("Starting", Outcome.FAULTY)
    asked = (False, "Pending", "the driver has not been asked yet")
    found = verdict(node(in_sync=False, told={"InventoryReady": asked, "Ready": (False, "NoGpus", asked[2])}))
    assert (found.title, found.text) == ("Starting", "the driver has not been asked yet.")


def test_a_first_document_that_is_wrong_is_what_keeps_a_node_from_being_ready() -> None:
    """Not that nothing was ever accepted, which follows from it."""
    base = node(
        in_sync=False,
        rejected=True,
        told=REJECTED | {"Ready": (False, "NothingAccepted", "no config was ever accepted")},
    )
    found = verdict(replace(base, config=replace(base.config, desired=None)))
    assert (found.title, found.text) == (
        "Not in sync: the newest document is rejected",
        "3 errors; nothing was ever accepted.",
    )


def test_an_agent_that_has_stopped_is_not_in_sync() -> None:
    """Whatever its last snapshot says."""
    found = verdict(stopped(node(1, told=LOST), "the loop has stopped"))
    assert (found.title, found.outcome) == ("Not ready", Outcome.FAULTY)
    assert found.text.startswith("the loop has stopped. Also: GPU 1 is lost")


def test_a_verdict_is_short() -> None:
    """However many things are wrong, and however long the messages are."""
    many = {f"Thing{number}": (False, "Broken", "x" * 10_000) for number in range(50)}
    base = node(in_sync=False, rejected=True, told=REJECTED | DRAINS | LATE)
    assert len(verdict(replace(base, conditions=builders.conditions(**many))).text) < 6 * LONGEST
    lost = [builders.gpu_status(builders.gpu(index, health=GpuHealth.LOST, message="gone"), "u") for index in range(16)]
    drift = tuple(Drift(DriftKind.HARDWARE, f"GPU {index}", "ok", f"lost: {'y' * 900}") for index in range(16))
    found = verdict(builders.snapshot(*lost, drift=drift))
    assert found.title == "16 GPUs are lost"
    assert "GPU 0, GPU 1, GPU 2, and 13 more: lost" in found.text
    assert len(found.text) < 2 * LONGEST
