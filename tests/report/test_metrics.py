"""What Prometheus sees."""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.model.allocation import RefusalReason
from nodeagent.model.health import EventsReason, XidLog, XidSource, XidTally
from nodeagent.model.inventory import GpuHealth, Inventory
from nodeagent.model.kubelet import SharedTwice
from nodeagent.model.moment import Moment
from nodeagent.model.plan import Plan, Refusal, Waves
from nodeagent.model.snapshot import ChangeClass, ConfigState, GpuStatus, ReloadResult, Snapshot
from nodeagent.report.metrics import Metrics
from tests.report import builders

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Node:
    """Something to scrape: `snapshot` may be replaced, as the loop does."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.now = builders.AT
        self.metrics = Metrics(lambda: self.snapshot, version="0.1.0", clock=lambda: Moment(self.now, self.now))

    def samples(self) -> Samples:
        """Every sample of one scrape."""
        found: Samples = {}
        for family in text_string_to_metric_families(b"".join(self.metrics.render()).decode()):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
        return found

    def value(self, name: str, /, **labels: str) -> float | None:
        """One sample, None if it is not there."""
        return self.samples().get((f"nodeagent_{name}", frozenset(labels.items())))

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a family by its label values, in order of label names."""
        return {
            tuple(value for _, value in sorted(labels)): value
            for (found, labels), value in self.samples().items()
            if found == f"nodeagent_{name}"
        }


def busy() -> Node:
    """A node with every family in use."""
    node = Node(builders.troubled())
    node.metrics.reload(ReloadResult.ACCEPTED, None, ChangeClass.LIVE, 0.05)
    node.metrics.reload(ReloadResult.REJECTED, "schema", None, None)
    node.metrics.allocation("nvidia.com/gpu", "ok", 0.0002)
    node.metrics.allocation("nvidia.com/gpu", RefusalReason.TOO_MANY.value, 0.0001)
    return node


@pytest.mark.parametrize(
    "node",
    [Node(), Node(builders.snapshot()), busy(), Node(builders.sharing_by_mps()), Node(builders.partitioned())],
    ids=["waiting", "well", "busy", "mps", "mig"],
)
def test_promtool_has_nothing_to_say(promtool: Path, node: Node) -> None:
    """Names, units, help texts and the format are as Prometheus wants them."""
    result = subprocess.run(
        [promtool, "check", "metrics"], input=b"".join(node.metrics.render()), capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_counters_start_at_zero() -> None:
    """The first failure is an increase that an alert can see, not a series out of nothing."""
    node = Node()
    assert node.series("config_reloads_total") == {(result.value,): 0 for result in ReloadResult}
    assert node.series("config_reload_failures_total") == {
        (stage,): 0 for stage in ("read", "parse", "schema", "semantic", "apply", "verify")
    }
    assert node.series("config_changes_total") == {(change.value,): 0 for change in ChangeClass}
    assert node.value("config_reload_duration_seconds_count") == 0


def test_there_are_no_created_series() -> None:
    """A `_created` series per counter would double what every node exports."""
    assert not [name for name, _ in busy().samples() if name.endswith("_created")]


def test_reloads_are_counted() -> None:
    """By result, stage, class and duration."""
    node = busy()
    assert node.value("config_reloads_total", result="accepted") == 1
    assert node.value("config_reloads_total", result="rejected") == 1
    assert node.value("config_reload_failures_total", stage="schema") == 1
    assert node.value("config_changes_total", **{"class": "live"}) == 1
    assert node.value("config_reload_duration_seconds_count") == 1
    assert node.value("config_reload_duration_seconds_bucket", le="0.05") == 1
    assert node.value("config_reload_duration_seconds_bucket", le="0.025") == 0


def test_allocations_are_counted_by_resource_and_result() -> None:
    """The duration has no result: a refusal takes as long as a grant."""
    node = busy()
    assert node.series("allocations_total") == {("nvidia.com/gpu", "ok"): 1, ("nvidia.com/gpu", "too_many"): 1}
    assert node.value("allocation_duration_seconds_count", resource="nvidia.com/gpu") == 2


def test_the_last_reload_is_successful_when_the_newest_document_is_accepted() -> None:
    """A rejected document shows at once, and going back to good bytes clears it."""
    node = Node(builders.snapshot())
    node.metrics.reload(ReloadResult.ACCEPTED, None, ChangeClass.LIVE, 0.05)
    assert node.value("config_last_reload_successful") == 1
    assert node.value("config_last_reload_success_timestamp_seconds") == builders.AT
    node.now += 10
    node.snapshot = builders.troubled()
    node.metrics.reload(ReloadResult.REJECTED, "schema", None, None)
    assert node.value("config_last_reload_successful") == 0
    assert node.value("config_last_reload_success_timestamp_seconds") == builders.AT
    node.snapshot = builders.snapshot()
    node.metrics.reload(ReloadResult.UNCHANGED, None, None, None)
    assert node.value("config_last_reload_successful") == 1
    assert node.value("config_last_reload_success_timestamp_seconds") == builders.AT + 10


def test_a_failed_action_is_no_success_until_it_went_through() -> None:
    """An accepted document that could not be carried out is not successful, however often it is looked at."""
    waiting = builders.snapshot(in_sync=False)
    node = Node(waiting)
    node.metrics.reload(ReloadResult.FAILED, "apply", None, None)
    assert node.value("config_last_reload_successful") == 0
    node.metrics.reload(ReloadResult.UNCHANGED, None, None, None)
    assert node.value("config_last_reload_successful") == 0
    assert node.value("config_last_reload_success_timestamp_seconds") == 0
    node.snapshot = builders.snapshot()
    assert node.value("config_last_reload_successful") == 1
    assert node.value("config_last_reload_success_timestamp_seconds") == builders.AT
    node.snapshot = waiting
    assert node.value("config_last_reload_successful") == 1


def test_a_gpu_without_a_plan_is_no_success() -> None:
    """As long as it is so, whatever the last reload came to; the GPU has a series of its own."""
    node = Node(builders.snapshot(plan=Plan(refused=(Refusal(builders.gpu(0).uuid, "broken"),)), in_sync=False))
    node.metrics.reload(ReloadResult.ACCEPTED, None, ChangeClass.LIVE, 0.05)
    assert node.value("config_last_reload_successful") == 0
    assert node.value("gpu_plan_refused", uuid=builders.gpu(0).uuid) == 1
    assert node.value("gpu_plan_refused", uuid=builders.gpu(1).uuid) == 0
    node.snapshot = builders.snapshot()
    assert node.value("config_last_reload_successful") == 1
    assert node.value("gpu_plan_refused", uuid=builders.gpu(0).uuid) == 0


def test_the_devices_of_a_change_are_counted() -> None:
    """Those that are as wanted, on their way, and waiting for their turn."""
    node = Node(builders.snapshot(plan=Plan(waves=Waves(8, 3, 2, ("a", "b"), ("c", "d", "e")))))
    counts = {state: node.value("transition_devices", state=state) for state in ("changed", "under_way", "waiting")}
    assert counts == {"changed": 3, "under_way": 2, "waiting": 3}


def test_a_drain_is_no_failure() -> None:
    """Waiting for pods is not failing."""
    node = Node(builders.snapshot(in_sync=False))
    node.metrics.reload(ReloadResult.ACCEPTED, None, ChangeClass.DRAINED, 0.05)
    assert node.value("config_last_reload_successful") == 1
    assert node.value("in_sync") == 0


def test_documents_are_told_by_state() -> None:
    """Which commit a node runs is a label; what is unknown is an empty one."""
    node = busy()
    config = builders.troubled().config
    assert config.desired is not None
    assert (
        node.value(
            "config_info",
            state="desired",
            sha256=config.desired.sha256,
            git_blob=config.desired.git_blob,
            revision="",
            name="h100-inference",
            pool="inference",
        )
        == 1
    )
    assert {labels[-1] for labels in node.series("config_info")} == {"desired", "applied", "last_known_good"}
    assert (node.value("config_generation"), node.value("config_observed_generation")) == (5, 4)
    assert node.value("config_using_last_known_good") == 0


def test_no_series_outlives_what_it_speaks_of() -> None:
    """A new document, a GPU that is gone and a resource that is retired leave nothing behind."""
    node = busy()
    node.snapshot = Snapshot(9, node.now, node.now, "n", None, "0.1.0", ConfigState("/c"), Inventory())
    gone = ("nvidia.com/gpu", "GPU-", "Ready", "desired")
    left = [key for key in node.samples() if any(value.startswith(gone) for _, value in key[1])]
    assert left == []
    node.metrics.allocation("nvidia.com/gpu", "ok", 0.0002)
    node.snapshot = builders.troubled()
    assert node.series("allocations_total") == {("nvidia.com/gpu", "ok"): 1}


def test_drift_is_counted_with_the_age_of_the_oldest() -> None:
    """Every kind is there, also at 0, so that an alert can resolve."""
    node = busy()
    assert node.series("drift") == {
        ("config",): 1, ("shares",): 2, ("mps",): 0, ("kubelet",): 0, ("labels",): 0, ("hardware",): 1
    }  # fmt: skip
    assert node.series("drift_seconds") == {
        ("config",): 60.5, ("shares",): 7200, ("mps",): 0, ("kubelet",): 0, ("labels",): 0, ("hardware",): 300
    }  # fmt: skip
    node.snapshot = builders.mislabelled()
    assert node.value("drift", kind="labels") == 3
    assert node.value("condition", type="LabelsSynced", reason="Forbidden") == 0
    node.now -= 100_000
    assert min(node.series("drift_seconds").values()) == 0


def test_conditions_have_their_reason() -> None:
    """One series per condition: the reason of now."""
    assert busy().series("condition")["ForeignPlugin", "Registered"] == 0
    assert busy().series("condition")["DrainTimeout", "Stalled"] == 1
    assert len(busy().series("condition")) == len(builders.conditions())


def test_shares_are_counted_by_state() -> None:
    """Every state of every resource is there."""
    node = busy()
    assert node.value("shares", resource="nvidia.com/gpu.shared", state="draining") == 2
    assert node.value("shares", resource="nvidia.com/gpu.shared", state="unhealthy") == 4
    assert node.value("shares", resource="nvidia.com/new", state="free") == 0
    assert node.series("draining_oldest_seconds") == {
        ("nvidia.com/gpu",): 0, ("nvidia.com/gpu.shared",): 7200, ("nvidia.com/new",): 0
    }  # fmt: skip


def test_each_held_share_has_its_container() -> None:
    """By resource, GPU, device id, and namespace, pod and container that have it, draining or not."""
    gpu = builders.gpu(0)
    node = Node(builders.snapshot(builders.gpu_status(gpu, "fhd")))
    held = {"resource": "nvidia.com/gpu.shared", "uuid": gpu.uuid, "namespace": "team-a", "container": "main"}
    assert len(node.series("share_assignment")) == 2
    for number in (1, 2):
        who = {**held, "share": f"{gpu.uuid}::{number}", "pod": f"worker-0-{number}"}
        assert node.value("share_assignment", **who) == 1


def test_who_has_which_share_is_told_in_pieces() -> None:
    """Thousands of series are not in memory at once, and each is one that Prometheus reads, whatever its pod is
    called.
    """
    node = Node(builders.large(2, 6_000))
    assert max(map(len, node.metrics.render())) < 200_000
    assert len(node.series("share_assignment")) == 4_000
    odd = builders.gpu_status(builders.gpu(0), "h")
    odd = replace(odd, shares=tuple(replace(share, holder='a/b"c\\d\ne/{f="g"}') for share in odd.shares))
    [(container, namespace, pod, *_)] = Node(builders.snapshot(odd)).series("share_assignment")
    assert (container, namespace, pod) == ('{f="g"}', "a", 'b"c\\d\ne')


def test_a_share_of_which_nobody_says_who_has_it_has_no_container() -> None:
    """It is held all the same, and counted as such; a GPU without shares has none that could be."""
    held = builders.gpu_status(builders.gpu(0), "h")
    unknown = replace(held, shares=tuple(replace(share, holder=None) for share in held.shares))
    withheld = builders.gpu_status(builders.gpu(1), "", contract=None)
    node = Node(builders.snapshot(unknown, withheld))
    assert node.value("shares", resource="nvidia.com/gpu.shared", state="held") == 1
    assert node.series("share_assignment") == {}


def test_a_pod_that_has_left_leaves_no_series() -> None:
    """The next scrape has the pods of then."""
    node = Node(builders.snapshot(builders.gpu_status(builders.gpu(0), "hh")))
    assert len(node.series("share_assignment")) == 2
    node.snapshot = builders.snapshot(builders.gpu_status(builders.gpu(0), "fh"))
    [(container, namespace, pod, *_)] = node.series("share_assignment")
    assert (container, namespace, pod) == ("main", "team-a", "worker-0-1")


def test_shares_that_two_pods_have_are_counted() -> None:
    """By resource, 0 where all is well."""
    node = busy()
    assert node.snapshot is not None
    assert set(node.series("shares_handed_out_twice").values()) == {0}
    resource = node.snapshot.resources[0].resource
    twice = (SharedTwice(resource, "GPU-0::1", (("ml", "a"), ("ml", "b"))),)
    node.snapshot = replace(node.snapshot, shared_twice=twice)
    assert node.value("shares_handed_out_twice", resource=resource) == 1


def test_calls_of_pod_resources_are_counted() -> None:
    """By how they ended, from 0; and those that found no quiet window."""
    node = busy()
    assert node.value("pod_resources_calls_total", call="get", result="not_found") == 0
    node.metrics.pod_resources_call("get", "not_found")
    node.metrics.list_without_window()
    assert node.value("pod_resources_calls_total", call="get", result="not_found") == 1
    assert node.value("pod_resources_lists_without_window_total") == 1
    assert {call for call, _ in node.series("pod_resources_calls_total")} == {"list", "get", "get_allocatable"}


def test_registrations_are_told_as_the_kubelet_room_counts_them() -> None:
    """A resource that was never tried is at 0."""
    node = busy()
    assert node.value("kubelet_registrations_total", resource="nvidia.com/gpu", result="ok") == 3
    assert node.value("kubelet_registrations_total", resource="nvidia.com/gpu", result="failed") == 2
    assert node.value("kubelet_registrations_total", resource="nvidia.com/new", result="ok") == 0
    assert node.series("kubelet_streams") == {
        ("nvidia.com/gpu",): 0, ("nvidia.com/gpu.shared",): 1, ("nvidia.com/new",): 0
    }  # fmt: skip


def test_gpus_are_healthy_or_not() -> None:
    """By uuid, also those of which nothing is advertised."""
    assert [value for _, value in sorted(busy().series("gpu_healthy").items())] == [1, 1, 0, 1, 1]


def test_a_gpu_with_a_critical_xid_is_not_healthy() -> None:
    """The driver may have no quarrel with it. A MIG device has a verdict of its own, beside that of its GPU."""
    snapshot = builders.partitioned()
    healthy = Node(snapshot).series("gpu_healthy")
    assert healthy.keys() == {(status.gpu.uuid,) for status in snapshot.gpus}
    sick = {uuid for (uuid,), value in healthy.items() if not value}
    parts = {builders.mig(2, 1, "3g.20gb").uuid, *(builders.mig(4, instance).uuid for instance in (7, 8))}
    assert sick == {builders.a100(3).uuid, builders.a100(4).uuid, *parts}


def tallied(node: Node, tallies: dict[XidSource, int], *gpus: GpuStatus) -> dict[tuple[str, ...], float]:
    """What is counted of XIDs once these have come, on a node with these GPUs."""
    found = {source: XidTally(count, builders.AT) for source, count in tallies.items()}
    node.snapshot = builders.snapshot(*gpus, xids=XidLog(EventsReason.WATCHING, "", found))
    return node.series("gpu_xid_events_total")


def test_xids_are_counted_by_what_has_them() -> None:
    """The MIG device where its instances are named, else the GPU; several sources of one are added up."""
    node, one, seven, eight = Node(), builders.a100(1).uuid, builders.mig(1, 7), builders.mig(1, 8)
    gpus = (builders.through_mig(1), builders.mig_status(seven), builders.mig_status(eight))
    found = tallied(
        node,
        {
            XidSource(one, 79): 1,
            XidSource(one, 31, 7, 0): 4,
            XidSource(one, 31, 7): 2,
            XidSource(one, 94, 8, 0): 1,
            XidSource(one, 31, 13, 0): 3,
            XidSource(one, 31): 5,
        },
        *gpus,
    )
    assert found == {(one, "79"): 1, (one, "31"): 8, (seven.uuid, "31"): 6, (eight.uuid, "94"): 1}


def test_instances_that_are_given_away_take_no_counts_with_them() -> None:
    """The driver gives a number to another MIG device when the GPU is partitioned anew: what the first had went with
    it, and only what comes from then on is the second's.
    """
    node, one = Node(), builders.a100(1).uuid
    first = builders.mig(1, 7)
    second = replace(first, uuid="MIG-second")
    source = XidSource(one, 31, 7, 0)
    gpu = builders.through_mig(1)
    assert tallied(node, {source: 4}, gpu, builders.mig_status(first)) == {(first.uuid, "31"): 4}
    lost = replace(first, health=GpuHealth.LOST)
    parts = (builders.mig_status(lost, "U"), builders.mig_status(second))
    assert tallied(node, {source: 5}, gpu, *parts) == {(first.uuid, "31"): 4, ("MIG-second", "31"): 1}
    assert tallied(node, {source: 7}, gpu, builders.mig_status(second)) == {("MIG-second", "31"): 3}
    assert tallied(node, {source: 8}, gpu) == {(one, "31"): 1}


def test_xids_of_a_gpu_that_is_not_known_yet_are_not_lost() -> None:
    """They are counted as soon as it is; a count never goes back, and goes with its GPU."""
    node, zero = Node(), builders.gpu(0)
    source, unknown = XidSource(zero.uuid, 13), XidSource("GPU-unknown", 13)
    gpu, other = builders.gpu_status(zero, "f"), builders.gpu_status(builders.gpu(1), "f")
    assert tallied(node, {source: 2, unknown: 9}, other) == {}
    assert tallied(node, {source: 3, unknown: 9}, other, gpu) == {(zero.uuid, "13"): 3}
    assert tallied(node, {source: 2}, other, gpu) == {(zero.uuid, "13"): 3}
    assert tallied(node, {source: 4}, other) == {}


def test_daemons_are_up_or_not() -> None:
    """Every daemon that must run or is still there, 1 for one that answers with the limits of its contract."""
    node = Node(builders.sharing_by_mps())
    up = node.series("mps_daemon_up")
    uuids = [builders.gpu(index).uuid for index in range(8)]
    assert [up[uuid,] for uuid in uuids] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert node.value("drift", kind="mps") == 7
    assert node.value("drift_seconds", kind="mps") == 7


def test_what_daemons_went_through_is_counted() -> None:
    """Starts that nobody asked for, and limits set again; of a daemon that is not known there is no count to tell."""
    node = Node(builders.sharing_by_mps())
    uuids = [builders.gpu(index).uuid for index in range(8)]
    known = [uuid for uuid in uuids if uuid != uuids[5]]
    assert node.series("mps_daemon_restarts_total") == {(uuid,): 2 if uuid == uuids[2] else 0 for uuid in known}
    assert node.series("mps_limits_restored_total") == {(uuid,): 3 if uuid == uuids[1] else 0 for uuid in known}


def test_a_daemon_that_has_left_has_no_series() -> None:
    """A node that goes back to time-slicing has no daemon to alert on."""
    node = Node(builders.sharing_by_mps())
    node.snapshot = builders.snapshot()
    assert [name for name, _ in node.samples() if name.startswith("nodeagent_mps_")] == []


def test_names_from_outside_cannot_break_the_format() -> None:
    """A revision is any text: it is quoted."""
    text = 'a"b\\c\nd{}'
    base = builders.snapshot()
    desired = builders.document(revision=text)
    node = Node(replace(base, config=replace(base.config, desired=desired, applied=None, last_known_good=None)))
    assert [labels[3] for labels in node.series("config_info")] == [text]


def test_a_scrape_in_the_middle_of_allocations_is_whole() -> None:
    """The loop counts while another thread renders."""
    node = busy()
    stop = threading.Event()
    failures: list[BaseException] = []

    def scrape() -> None:
        try:
            while not stop.is_set():
                b"".join(node.metrics.render())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(300):
        node.metrics.allocation(f"nvidia.com/gpu{number % 40}", "ok", 0.0002)
    stop.set()
    thread.join()
    assert failures == []


DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>[a-z0-9_]+)` \| (?P<type>gauge|counter|histogram) \|(?P<labels>[^|]*)\|", re.MULTILINE)


def test_the_docs_have_every_metric_and_no_other() -> None:
    """Name, type and labels in docs/metrics.md are those of the program."""
    documented = {
        row["name"]: (row["type"], frozenset(re.findall(r"`([a-z0-9_]+)`", row["labels"])))
        for row in ROW.finditer(DOCS.read_text("utf-8"))
    }
    exported = {}
    rendered = [
        b"".join(node.metrics.render()).decode()
        for node in (busy(), Node(builders.sharing_by_mps()), Node(builders.partitioned()))
    ]
    for family in (family for text in rendered for family in text_string_to_metric_families(text) if family.samples):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        exported[name] = (family.type, labels)
    assert documented == exported
