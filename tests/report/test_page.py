"""The status page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nodeagent.model.config import THROUGH_MIG
from nodeagent.model.inventory import GpuHealth, Inventory
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Wait, WaitReason, Waves
from nodeagent.model.snapshot import ConfigState, Drift, DriftKind, Snapshot
from nodeagent.report.markup import Html, fill
from nodeagent.report.page import page
from nodeagent.report.page_script import SCRIPT
from nodeagent.report.times import ago
from tests.report import builders

NOW = builders.AT + 3
EMPTY = Snapshot(0, NOW, NOW, "new-node", None, "0.1.0", ConfigState("/c", problem="no such file"), Inventory())


class Reader(HTMLParser):
    """Reads a page: every tag is closed, all text, all classes, all that a browser would fetch."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.script = ""
        self.classes: list[str] = []
        self.labels: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.classes.append(facts.get("class") or "")
        self.labels += [text for name in ("aria-label", "title") if (text := facts.get(name))]
        self.outside += [name for name in facts if name in {"src", "srcset", "data", "action"} or name.startswith("on")]
        if tag in {"link", "iframe", "object", "img"} or (tag == "script" and facts != {"id": "script"}):
            self.outside.append(tag)
        if "style" in facts:
            self.outside.append("style that the policy forbids")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += f" {data}"
        elif self.open and self.open[-1] == "script":
            self.script += data


def test_a_node_in_sync_says_so_at_the_top() -> None:
    """One glance: the verdict, and which document the node is."""
    text = page(builders.snapshot(), NOW)
    reader = Reader(text)
    assert "<title>✓ gpu-node-1 - nodeagent</title>" in text
    assert "In sync The node is what Git says: h100-inference, blob 2e65efe2a145, revision main@sha1:0a1b2c3d." in (
        reader.text
    )
    assert "verdict ok" in reader.classes
    assert "newest, accepted, applied, last known good" in reader.text
    assert "All 18 are as they should be" in reader.text
    assert "errors" not in reader.text
    assert '<section id="plan">' not in text


def test_a_node_in_trouble_says_what_and_where() -> None:
    """Errors with their place, what the node goes on with, what it waits for, in words."""
    reader = Reader(page(builders.troubled(), NOW))
    for expected in (
        "Not ready nvidia.com/gpu is foreign: another plugin keeps taking it. Also: GPU 2 is lost",
        "the newest document is rejected, with 2 errors; the node goes on with h100-inference, blob",
        "/etc/nodeagent/sharing.yaml:12:17 spec.rules[0].timeSlicing.replicas expected an integer of at least 2, got 1",
        "GPU 0: waiting for the pods on 2 shares that Git no longer wants",
        "fence 4 free shares of GPU 1, so that no pod gets one",
        "lost the GPU fell off the bus",
        "Git wants 1 share, exclusive nvidia.com/gpu",
        "withheld",
        "foreign another plugin keeps taking it",
        "GPU 2 hardware ok lost 5 min",
        "accepted, last known good",
        "rule broken-riser withholds 1 GPU",
        "no space left on device",
    ):
        assert expected in reader.text, expected


@pytest.mark.parametrize(
    ("snapshot", "title"),
    [
        (EMPTY, "Not in sync yet"),
        (
            replace(
                EMPTY,
                conditions=builders.conditions(ConfigAccepted=(False, "Missing", "/c: no such file")),
                in_sync=False,
            ),
            "Not in sync: there is no valid document /c: no such file; nothing was ever accepted.",
        ),
        (
            builders.snapshot(conditions=builders.conditions(Ready=(False, "NoGpus", "the driver is missing"))),
            "Not ready the driver is missing",
        ),
        (
            builders.snapshot(conditions=builders.conditions(Suspended=(True, "ConfigSuspends", "kept"))),
            "In sync, and suspended kept",
        ),
        (
            builders.snapshot(
                conditions=builders.conditions(Draining=(True, "PodsHoldShares", "2 held shares drain")), in_sync=False
            ),
            "Draining: pods still hold shares that Git no longer wants 2 held shares drain",
        ),
        (
            builders.snapshot(conditions=builders.conditions(StateDirWritable=(False, "WriteFailed", "disk full"))),
            "In sync, with a fault disk full",
        ),
        (builders.snapshot(in_sync=False), "Not in sync yet the plan below is being carried out"),
    ],
)
def test_the_verdict_names_what_matters_most(snapshot: Snapshot, title: str) -> None:
    """What stops the node from following Git comes before what only slows it, and that before what only annoys."""
    assert title in Reader(page(snapshot, NOW)).text


@pytest.mark.parametrize(
    "snapshot",
    [
        EMPTY,
        builders.snapshot(),
        builders.troubled(),
        builders.sharing_by_mps(),
        builders.partitioned(),
        builders.large(),
    ],
)
def test_it_is_whole_and_loads_nothing(snapshot: Snapshot) -> None:
    """Every tag is closed; no script but its own, no image, nothing from elsewhere."""
    text = page(snapshot, NOW)
    reader = Reader(text)
    assert reader.outside == []
    assert reader.script == SCRIPT
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_a_share_is_a_cell_with_its_state_and_holder() -> None:
    """Hovering tells which share it is and who has it; a screen reader hears the counts."""
    reader = Reader(page(builders.troubled(), NOW))
    uuid = builders.gpu(0).uuid
    assert f"{uuid}::0: held, team-a/worker-0-0/main" in reader.labels
    assert f"{uuid}::6: fenced" in reader.labels
    assert "4 held, 2 draining, 4 fenced" in reader.labels
    # One of each in the legend.
    assert reader.classes.count("share draining") == 1 + 2
    assert reader.classes.count("share unhealthy") == 1 + 4


def test_a_gpu_under_mps_shows_its_limits_and_its_daemon() -> None:
    """Beside the shares: what each may use, whether the daemon is well, why not, and what it went through."""
    text = page(builders.sharing_by_mps(), NOW)
    reader = Reader(text)
    for expected in (
        "mps nvidia.com/gpu.mps 20480 MiB and 25 % each MPS daemon ready 2 free, 2 held",
        "MPS daemon ready a client has changed the limits: 40960 MiB, 100 % · limits restored 3 times",
        "MPS daemon failed exited with status 1 · 2 restarts 4 unhealthy",
        "MPS daemon starting its limits are being set rule batch Git wants 4 shares GPU 4",
        "MPS daemon occupied held by process 4242 (python)",
        "MPS daemon none it has not been started yet",
        "not advertised MPS daemon leaving it is asked to end",
        "MPS daemon outdated it still serves mps nvidia.com/gpu.mps (20480 MiB and 25 % each)",
        "GPU 4: waiting for its MPS daemon: held by process 4242 (python)",
    ):
        assert expected in reader.text, expected
    assert reader.classes.count("gpu bad") == 2
    assert "MPS daemon" not in Reader(page(builders.snapshot(), NOW)).text


def test_a_node_without_an_mps_host_says_so_at_its_gpus() -> None:
    """A GPU that is to be under MPS where nobody starts daemons shows why nothing of it is advertised."""
    off = MpsStatus(MpsReason.OFF, "no daemon can be started: this agent runs with --mps-host off")
    reader = Reader(page(builders.snapshot(builders.under_mps(0, "", None), mps=off), NOW))
    assert f"MPS daemon none {off.message}" in reader.text
    assert reader.classes.count("gpu bad") == 1


def test_a_gpu_names_the_pods_that_have_shares_of_it() -> None:
    """Each once, with how many it has; of very many the first ones, and how many more there are."""
    status = builders.gpu_status(builders.gpu(0), "hhhf")
    shares = tuple(replace(one, holder="team-a/train-0/main") if one.number < 2 else one for one in status.shares)
    text = page(builders.snapshot(replace(status, shares=shares)), NOW)
    assert (
        "1 free, 3 held · rule small-inference held by 2 pods team-a/train-0 x2, team-a/worker-0-2 "
        in Reader(text).text
    )
    crowded = Reader(page(builders.snapshot(builders.gpu_status(builders.gpu(0), "h" * 30)), NOW)).text
    assert "team-a/worker-0-11, 18 pods more " in crowded
    assert "held by" not in Reader(page(builders.snapshot(), NOW)).text.replace("held by a pod", "")


def test_a_change_in_waves_says_how_far_it_is() -> None:
    """And the first few of the pods that have to end before it goes on."""
    on = [builders.gpu_status(builders.gpu(index), states) for index, states in enumerate(("hhhhd", "ff"))]
    waves = Waves(2, 0, 1, (builders.gpu(0).uuid,), (builders.gpu(1).uuid,))
    plan = Plan(waits=(Wait(builders.gpu(1).uuid, WaitReason.WAVE),), waves=waves)
    text = Reader(page(builders.snapshot(*on, plan=plan), NOW)).text
    said = "0 of 2 devices as wanted, at most 1 at a time, waiting for their turn: 1, until pods have ended: team-a/"
    assert said in text
    assert "team-a/worker-0-2 and 2 more" in text


def test_labels_that_cannot_be_written_are_a_fault() -> None:
    """In the verdict, with each label under drift: what it should be and what it is."""
    reader = Reader(page(builders.mislabelled(), NOW))
    for expected in (
        "In sync, with a fault cannot write labels: nodes",
        "nodeagent.io/config.state labels applied draining",
        "nvidia.com/mps.capable labels no label true",
        "LabelsSynced ✗ false Forbidden",
    ):
        assert expected in reader.text, expected


@pytest.mark.parametrize("name", ["LabelsSynced", "HandOverReady"])
def test_labels_that_are_being_written_are_no_fault(name: str) -> None:
    """With each change they are on their way for a moment: the condition shows it, the verdict does not."""
    conditions = builders.conditions(**{name: (False, "Pending", "3 labels are to be written")})
    text = Reader(page(builders.snapshot(conditions=conditions), NOW)).text
    assert " ✓ In sync The node is what Git says" in text
    assert f"{name} ✗ false Pending 3 labels" in text


def test_mig_devices_are_in_the_card_of_their_gpu() -> None:
    """Those that are alike together: what they are offered as, once, and a cell for each share of each."""
    reader = Reader(page(builders.partitioned(), NOW))
    for expected in (
        "6 GPUs 12 MIG devices driver",
        "GPU 1 used through its MIG devices 7 x 1g.5gb exclusive nvidia.com/mig-1g.5gb",
        (
            "mig-1g.5gb 1:7 1:8 1:9 1:10 1:11 1:12 1:13 4 free, 3 held · rule (default)"
            " held by 3 pods team-a/worker-1-7-0, team-a/worker-1-8-0, team-a/worker-1-10-0 GPU 2"
        ),
        "2 x 3g.20gb time-sliced nvidia.com/gpu.slices",
        (
            "2:1 2:2 1 free, 1 held, 2 unhealthy · rule halves held by 1 pod team-a/worker-2-2-0 1g.5gb exclusive"
            " nvidia.com/mig-1g.5gb 2:9 1 free"
        ),
    ):
        assert expected in reader.text, expected
    assert builders.mig(1, 7).uuid in reader.labels
    assert f"{builders.mig(1, 8).uuid}: held, team-a/worker-1-8-0/main" in reader.labels
    assert "(mig)" not in reader.text


def test_a_gpu_that_the_driver_calls_otherwise_has_both_numbers() -> None:
    """So that nobody resets the wrong one; the verdict says so too."""
    reader = Reader(page(builders.renumbered(), NOW))
    assert "GPU 1 index 0 for the driver time-sliced" in reader.text
    assert "GPU 0 lost" in reader.text
    assert "Note: the driver, and nvidia-smi, count the GPUs otherwise" in reader.text


def test_an_unhealthy_gpu_has_a_badge_and_its_xids() -> None:
    """With when they came and what to do once; a MIG device has its own, and not those of its GPU again."""
    reader = Reader(page(builders.partitioned(), NOW))
    text = reader.text
    for expected in (
        "GPU 3 unhealthy XID 79 (GPU has fallen off the bus), 3 min ago mend it, then:",
        f"3 min ago mend it, then: nodeagent clear-health {builders.a100(3).uuid} time-sliced",
        "2:1 unhealthy XID 48 (double-bit ECC error), 1 h 6 min ago XID 94 (contained ECC error), 1 h 1 min ago",
        "lost the driver no longer lists it used through its MIG devices 2 x 1g.5gb",
        "GPU 4 is lost, MIG device 2:1 and GPU 3 are unhealthy GPU 4: lost: the driver no longer lists it; MIG device",
        "; MIG device 2:1: XID 48 (double-bit ECC error), XID 94 (contained ECC error); GPU 3: XID 79 (GPU has fallen",
    ):
        assert expected in text, expected
    assert reader.classes.count("gpu bad") == 3
    base = builders.snapshot(builders.through_mig(1), builders.mig_status(builders.mig(1, 7), "u"))
    both = {status.gpu.uuid: {79: NOW} for status in base.gpus}
    assert Reader(page(builders.unwell(base, both), NOW)).text.count("XID 79") == 1


def test_xids_that_are_no_fault_are_in_small_print() -> None:
    """How often a program of which GPU failed, and when last; what stands against a GPU is not told twice."""
    text = Reader(page(builders.partitioned(), NOW)).text
    assert "XID 13 (graphics engine exception): 41 times, last 23 s ago" in text
    assert "XID 31 (GPU memory page fault): 1 time, last 2 h ago" in text
    assert "2:9 1 free · rule (default) XID 31 (GPU memory page fault): 3 times, last 1 d ago" in text
    assert text.count("XID 94 (contained ECC error)") == 1 + 1 + 1


def test_many_shares_of_mig_devices_become_one_bar() -> None:
    """More than 64 cells in a card help nobody."""
    shared = builders.SLICES
    parts = [builders.mig_status(builders.mig(1, number), "f" * 10, contract=shared) for number in range(7, 14)]
    reader = Reader(page(builders.snapshot(builders.through_mig(1), *parts), NOW))
    assert "70 free" in reader.labels
    assert reader.classes.count("share free") == 1 + 1


def test_mig_devices_are_told_whatever_becomes_of_their_gpu() -> None:
    """Where it is whole, they are a part of it; where it is not known, they have cards of their own."""
    lone = builders.mig_status(builders.mig(1, 7), "h")
    told = Reader(page(builders.snapshot(lone), NOW)).text
    assert "GPUs 1g.5gb of NVIDIA A100-SXM4-40GB, 5 GiB " in told
    assert "MIG device 1:7 exclusive nvidia.com/mig-1g.5gb" in told
    gpu = builders.gpu_status(builders.a100(1, mig_enabled=True), "f", wanted=builders.WHOLE, contract=builders.WHOLE)
    hidden = replace(lone, wanted=None, contract=None, shares=(), rule=THROUGH_MIG.name)
    assert "1g.5gb part of a whole GPU" in Reader(page(builders.snapshot(gpu, hidden), NOW)).text
    waits = replace(gpu, wanted=None, rule=THROUGH_MIG.name)
    assert "Git wants its MIG devices" in Reader(page(builders.snapshot(waits, lone), NOW)).text


def test_very_many_shares_become_one_bar() -> None:
    """A node of 40,000 shares is a page of a few kilobytes."""
    text = page(builders.large(), NOW)
    assert len(text) < 40_000
    reader = Reader(text)
    assert reader.labels.count("3,333 free, 1,667 held") == 8
    assert reader.classes.count("share held") == 1 + 8
    few = builders.snapshot(builders.gpu_status(builders.gpu(0), "h" * 64))
    assert Reader(page(few, NOW)).classes.count("share held") == 1 + 64


def test_everything_from_outside_is_escaped() -> None:
    """Names, messages and documents are text, whatever they contain."""
    evil = '<script>alert("1")</script><b onmouseover=x>\'"&{0}{}'
    base = builders.troubled()
    part = builders.mig_status(builders.mig(9, 7))
    assert part.gpu.mig is not None
    gpus = tuple(
        replace(
            entry,
            gpu=replace(entry.gpu, model=evil, message=evil),
            rule=evil,
            shares=tuple(replace(share, holder=evil) for share in entry.shares),
            daemon=MpsDaemon(evil, builders.MPS, DaemonState.FAILED, evil),
        )
        for entry in (*base.gpus, replace(part, gpu=replace(part.gpu, mig=replace(part.gpu.mig, profile=evil))))
    )
    document = replace(builders.document(), revision=evil, name=evil, path=evil)
    text = page(
        replace(
            base,
            node=evil,
            pool=evil,
            version=evil,
            gpus=gpus,
            config=replace(
                base.config, newest=document, desired=document, path=evil, problem=evil, notes=(evil,),
                violations=(replace(base.config.violations[0], file=evil, message=evil),),
            ),
            conditions=tuple(replace(entry, type=evil, reason=evil, message=evil) for entry in base.conditions),
            drift=tuple(replace(entry, subject=evil, want=evil, have=evil) for entry in base.drift),
            reloads=tuple(replace(entry, message=evil) for entry in base.reloads),
            resources=tuple(replace(entry, resource=evil) for entry in base.resources),
        ),
        NOW,
    )  # fmt: skip
    assert Reader(text).outside == []
    assert text.count("<script") == 1
    assert "<b onmouseover" not in text
    assert text.count("&lt;script&gt;") > 30


def test_markup_is_escaped_unless_it_was_made_here() -> None:
    """Only `Html` passes; braces in a value are not a template."""
    assert fill("<p>{}{}</p>", "<&>\"'{}", Html("<br>")) == "<p>&lt;&amp;&gt;&quot;&#x27;{}<br></p>"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (270_000, "3 d 3 h"),
    ],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    """Two units at most."""
    assert ago(seconds) == text


def test_gpus_come_first_then_what_is_pending_then_the_rest() -> None:
    """Nothing stands between the verdict and the GPUs but the errors of a document; what is empty is not there."""
    order = ["errors", "gpus", "plan", "drift", "resources", "conditions", "documents", "reloads"]
    assert re.findall(r'<section [^>]*id="([a-z]+)"', page(builders.troubled(), NOW)) == order
    well = re.findall(r'<section [^>]*id="([a-z]+)"', page(builders.snapshot(), NOW))
    assert well == ["gpus", "resources", "conditions", "documents", "reloads"]


def test_a_model_is_named_once_where_all_are_alike() -> None:
    """And at each GPU where they are not."""
    alike = Reader(page(builders.snapshot(), NOW)).text
    assert "GPUs NVIDIA H100 80GB HBM3, 80 GiB each free" in alike
    assert alike.count("NVIDIA H100 80GB HBM3") == 1
    mixed = builders.snapshot(builders.gpu_status(builders.gpu(0), "f"), builders.gpu_status(builders.a100(1), "f"))
    text = Reader(page(mixed, NOW)).text
    assert "GPU 0 NVIDIA H100 80GB HBM3, 80 GiB time-sliced" in text
    assert "GPU 1 NVIDIA A100-SXM4-40GB, 40 GiB time-sliced" in text


@pytest.mark.parametrize("snapshot", [EMPTY, builders.troubled(), builders.partitioned()])
def test_a_table_says_what_it_is_and_of_what_each_cell_is(snapshot: Snapshot) -> None:
    """A caption, and a scope at each head, of columns and of rows; on a phone each cell names its column."""
    text = page(snapshot, NOW)
    tables = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    for table in tables:
        heads = re.findall(r"<th [^>]*>", table)
        assert re.match(r"<table><caption>[^<]+</caption><thead>", table)
        assert all('scope="col"' in head or 'scope="row"' in head for head in heads)
        columns = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', table)
        for row in re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2]):
            assert re.findall(r'data-label="([^"]*)"', row) == columns[1:]
            assert row.startswith('<th scope="row"')
    assert len(tables) == text.count("<table")
    assert text.count('<div class="scroll" role="region" tabindex="0" aria-label="') == len(tables)


def test_a_condition_that_is_as_it_should_be_has_no_mark() -> None:
    """A tick beside `Draining` would be read as if it did. The word says what it is, the place whether that is well."""
    text = page(builders.troubled(), NOW)
    reader = Reader(text)
    assert "✓" not in text.partition("<main")[2]
    odd, _, normal = reader.text.partition("12 of 18 are as they should be")
    assert "Draining ! true PodsHoldShares 2 held shares drain on GPU 0" in odd
    assert "Ready ✗ false NotRegistered" in odd
    assert "Suspended false NotSuspended" in normal
    assert "MpsReady true Idle" in normal
    assert "Draining false NothingDrains" in Reader(page(builders.snapshot(), NOW)).text


@pytest.mark.parametrize("states", ["u" * 100, "U" * 100, "f" * 100, "h" * 50 + "d" * 20 + "x" * 30])
def test_a_bar_has_one_part_for_each_state(states: str) -> None:
    """As wide as its part of the shares, and said in words."""
    text = page(builders.snapshot(builders.gpu_status(builders.gpu(0), states)), NOW)
    found = re.findall(r'<svg class="share ([a-z]+)" width="([0-9.]+)%"></svg>', text)
    assert sum(float(width) for _, width in found) == pytest.approx(100)
    (label,) = re.findall(r'<div class="bar" role="img" aria-label="([^"]+)">', text)
    assert label == ", ".join(f"{float(width):.0f} {state}" for state, width in found)


def test_many_mistakes_do_not_hide_the_gpus() -> None:
    """The first errors are shown, the others are folded up; so are messages of many lines, and long ones."""
    many = tuple(builders.violation(f"mistake {number} ") for number in range(50))
    base = builders.troubled()
    message = "\n".join(str(one) for one in many)
    text = page(
        replace(
            base,
            config=replace(base.config, violations=many),
            reloads=tuple(replace(one, message=message) for one in base.reloads),
            conditions=builders.conditions(ConfigAccepted=(False, "SchemaError", "y" * 5000)),
        ),
        NOW,
    )
    shown = re.sub(r"<details(?! [^>]*open).*?</details>", "", text, flags=re.DOTALL)
    assert "50 errors in the newest document" in shown
    assert [number for number in range(50) if f"mistake {number} " in shown] == [0, 1, 2]
    assert all(f"mistake {number} " in text for number in range(50))
    assert '<details id="errors-more"><summary>47 more</summary>' in text
    assert text.count("(49 lines more)</summary>") == len(base.reloads)
    assert "y" * 500 not in shown


def test_rows_are_known_again() -> None:
    """What the script shows anew stays in its place though rows come before it: each that can be opened has an id."""
    base = builders.troubled()
    text = page(base, NOW)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    later = page(replace(base, reloads=(replace(base.reloads[0], duration=0.7), *base.reloads)), NOW + 60)
    known = re.findall(r'<tr id="(reload-[^"]+)">', text)
    assert len(known) == 3
    assert re.findall(r'<tr id="(reload-[^"]+)">', later)[1:] == known


def test_a_rejected_document_does_not_hide_a_dead_gpu() -> None:
    """The title and the verdict name the GPU, and the document behind it."""
    lost = builders.gpu(2, health=GpuHealth.LOST, message="the GPU fell off the bus")
    base = builders.snapshot(builders.gpu_status(lost, "uu"), in_sync=False)
    text = page(
        replace(
            base,
            config=replace(base.config, violations=(builders.violation(),)),
            conditions=builders.conditions(
                ConfigAccepted=(False, "SchemaError", "x"), InventoryReady=(False, "GpuLost", "GPU 2 fell off the bus")
            ),
            drift=(Drift(DriftKind.HARDWARE, "GPU 2", "ok", "lost: the GPU fell off the bus"),),
        ),
        NOW,
    )
    assert "<title>✗ gpu-node-1 - nodeagent</title>" in text
    assert (
        "✗ GPU 2 is lost GPU 2: lost: the GPU fell off the bus. Also: the newest document is rejected, with 1 error"
        in (Reader(text).text)
    )
