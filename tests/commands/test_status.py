"""`nodeagent status`: a node at a glance, in 80 columns, and what its exit code says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodeagent.cli import main
from nodeagent.commands import ages, status_report
from nodeagent.commands.ages import age
from nodeagent.commands.status_verdict import situation
from nodeagent.commands.terminal import Terminal
from nodeagent.model.config import Contract, Mode, MpsLimits, Stage
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Wait, WaitReason, Waves
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, Drift, DriftKind, Snapshot
from nodeagent.report.status import to_json
from nodeagent.report.verdict import judge, of, stopped
from tests.commands import shown
from tests.commands.conftest import SHARED_BY_TEN, Serve, nodeagent
from tests.report import builders
from tests.report.builders import AT, WHOLE, gpu, gpu_status, mps_daemon, under_mps
from tests.report.test_page import EMPTY
from tests.waiting import WITHIN, longer

NOW = AT + 5.0


def told(snapshot: Snapshot, terminal: Terminal | None = None) -> str:
    """What a person sees of a snapshot."""
    status: Any = json.loads(json.dumps(to_json(snapshot)))
    lines = status_report.text(status, "http://127.0.0.1:9400", terminal or Terminal(), NOW)
    return "\n".join(lines) + "\n"


def test_a_node_in_sync_is_soon_told() -> None:
    """Where nothing is wrong there is nothing but who, what, and the shares."""
    assert (
        told(builders.snapshot())
        == """\
gpu-node-1, pool inference: In sync
  nodeagent 0.1.0, up 60m, driver 550.163.01, http://127.0.0.1:9400

document
  newest, accepted, applied: blob 2e65efe2a145, h100-inference, revision
    main@sha1:0a1b2c3d

GPUs
  GPU  MODEL           MODE         RESOURCE               FREE  HELD
    0  H100 80GB HBM3  time-sliced  nvidia.com/gpu.shared    10     -
    1  H100 80GB HBM3  time-sliced  nvidia.com/gpu.shared    10     -

last reload
  accepted, 30m ago, blob 2e65efe2a145, live, 43 ms
    20 shares offered
"""
    )


def test_how_far_a_change_is_and_for_whom_it_waits() -> None:
    """Where not all GPUs change at once: how many have, how many still have to, and the pods that have to end first."""
    on = [gpu_status(gpu(0), "dd"), gpu_status(gpu(1), "hf"), gpu_status(gpu(2), "ff"), gpu_status(gpu(3), "h")]
    waves = Waves(4, 1, 1, (gpu(0).uuid,), (gpu(1).uuid, gpu(2).uuid))
    waits = (Wait(gpu(0).uuid, WaitReason.PODS, frozenset({0, 1})), Wait(gpu(1).uuid, WaitReason.WAVE))
    text = " ".join(told(builders.snapshot(*on, plan=Plan(waits=waits, waves=waves))).split())
    said = "1 of 4 devices as wanted, at most 1 at a time, waiting for their turn: 2, until pods have ended: team-a/"
    assert said in text


def test_all_that_is_wrong_is_told() -> None:
    """Errors with line and column, conditions, shares in every state, drift, what is waited for, the last reload."""
    text = told(builders.troubled())
    assert text.startswith(
        """\
gpu-node-1, pool inference: Not ready
  nvidia.com/gpu is foreign: another plugin keeps taking it. Also: GPU 2 is
    lost; the newest document is rejected, with 2 errors; the node goes on with
    h100-inference, blob 476e93d57141, which is not settled yet; not in sync: a
    drain takes too long; and 1 more.
  nodeagent 0.1.0, up 60m,"""
    )
    for part in (
        "  newest: blob 44d6628cdc69, h100-inference, revision main@sha1:ffff0000\n",
        "  accepted: blob 476e93d57141, h100-inference\n  applied: blob 4f29a0f716d1\n",
        "  /etc/nodeagent/sharing.yaml:12:17: spec.rules[0].timeSlicing.replicas:\n    expected an integer",
        "  not Ready, NotRegistered, for 65s: nvidia.com/gpu is foreign: another plugin\n",
        "  Draining, PodsHoldShares, for 65s: 2 held shares drain on GPU 0\n",
        "    0  H100 80GB HBM3  time-sliced  …gpu.shared     -     4      2      4      -\n",
        "    4  H100 80GB HBM3  withheld     -               -     -      -      -      -\n",
        "  GPU 2 is lost, for 5m: the GPU fell off the bus\n",
        "  shares: GPU 1: want 1 x exclusive nvidia.com/gpu, have 6 time-sliced, for 105s\n",
        "  GPUs 0-1 each: waiting for the pods on 2 shares that Git no longer wants\n",
        "    (team-a/worker-0-4, team-a/worker-0-5, team-a/worker-1-3, team-a/worker-1-4)\n",
        "  failed, 35s ago, 200 ms\n    no space left on device\n",
    ):
        assert part in text
    assert "hardware" not in text


def test_a_config_that_the_gpus_do_not_fit_is_told() -> None:
    """What keeps the accepted document from being applied stands with the errors."""
    base = builders.snapshot()
    fault = replace(builders.violation("expected nvidia.com/gpu to be one kind of device"), stage=Stage.SEMANTIC)
    text = told(replace(base, config=replace(base.config, obstacles=(fault,)), in_sync=False))
    assert (
        "\nerrors\n  accepted, and at odds with these GPUs: expected nvidia.com/gpu to be one kind\n    of device\n"
        in text
    )


def test_notes_are_told() -> None:
    """What a config says in vain on this node, before what is wrong with the node."""
    base = builders.snapshot()
    hint = 'rule "some": no GPU of this node has the index 9; there are GPUs 0-7'
    text = told(replace(base, config=replace(base.config, notes=(hint,))))
    assert f"\nnotes\n  {hint}\n\nGPUs\n" in text
    assert text.startswith("gpu-node-1, pool inference: In sync\n")


def test_gpus_under_mps_are_told_with_their_limits_and_daemons() -> None:
    """A line per GPU with what a share may use; below it what is wrong with daemons, once, and for how long."""
    text = told(builders.sharing_by_mps())
    for part in (
        "  not MpsReady, DaemonFailed, for 65s: GPUs 1-7, see below\n",
        "    2  H100 80GB HBM3  mps 20Gi 25%  nvidia.com/gpu.mps     -     -      4\n",
        "    7  H100 80GB HBM3  mps 9Gi 25%   nvidia.com/gpu.mps     -     -      -\n",
        "  MPS daemon of GPU 1: a client has changed the limits: 40960 MiB, 100 %, for 6s\n",
        "  MPS daemon of GPU 2: exited with status 1 (2 restarts), for 7s\n",
        "  MPS daemon of GPU 6: it is asked to end, for 11s\n",
        "  GPU 4: waiting for its MPS daemon: held by process 4242 (python)\n",
    ):
        assert part in text
    assert "\ndrift\n" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_daemons_in_the_same_trouble_are_told_together() -> None:
    """Two GPUs that nobody starts daemons for are one line, beside a condition that says why in full."""
    off = MpsStatus(MpsReason.OFF, "no daemon can be started: this agent runs with --mps-host off")
    wanting = (under_mps(index, "", None) for index in range(2))
    text = told(
        builders.snapshot(
            *wanting,
            mps=off,
            conditions=builders.conditions(MpsReady=(False, "HostOff", f"GPU 0, GPU 1: {off.message}")),
            drift=tuple(Drift(DriftKind.MPS, f"GPU {index}", "an MPS daemon", off.message, AT) for index in range(2)),
        )
    )
    assert "  MPS daemon of GPUs 0-1: no daemon can be started: this agent runs with\n" in text
    assert "  not MpsReady, HostOff, for 65s: GPU 0, GPU 1: no daemon can be started: this\n" in text


def test_trouble_with_daemons_catches_the_eye() -> None:
    """What somebody must do something about is red, what is on its way is yellow."""
    text = told(builders.sharing_by_mps(), Terminal(80, colour=True))
    assert "\033[31m  MPS daemon of GPU 4: held by process 4242 (python), for 9s\033[0m" in text
    assert "\033[33m  MPS daemon of GPU 3: its limits are being set, for 8s\033[0m" in text


def test_the_widest_table_fits() -> None:
    """Long limits and shares in every state still fit 80 columns."""
    odd = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(20_479, 25))
    snapshot = builders.snapshot(
        *(under_mps(index, "hdfx", mps_daemon(index, contract=odd), odd) for index in range(2)),
        gpu_status(gpu(2), "uuuu"),
    )
    text = told(snapshot)
    assert "    0  H100 80GB…  mps 20479Mi 25%  …om/gpu.mps     1     1      1      1      -\n" in text
    assert max(map(len, text.splitlines())) <= 80


def test_mig_devices_are_rows_under_their_gpu() -> None:
    """Those of one profile that are offered alike are one row, with their shares added up; their GPU has no other
    mode.
    """
    text = told(builders.partitioned())
    assert (
        """\
GPUs
  GPU     MODEL           MODE         RESOURCE               FREE  HELD  FAULT
  0       A100-SXM4-40GB  exclusive    nvidia.com/gpu            -     1      -
  1       A100-SXM4-40GB  MIG          -                         -     -      -
  1:7-13  7 x 1g.5gb      exclusive    nvidia.com/mig-1g.5gb     4     3      -
  2       A100-SXM4-40GB  MIG          -                         -     -      -
  2:1-2   2 x 3g.20gb     time-sliced  nvidia.com/gpu.slices     1     1      2
  2:9     1g.5gb          exclusive    nvidia.com/mig-1g.5gb     1     -      -
  3       A100-SXM4-40GB  time-sliced  nvidia.com/gpu.shared     -     -     10
"""
        in text
    )
    assert max(map(len, text.splitlines())) <= 80


def test_mig_devices_in_any_order_are_told_apart() -> None:
    """By instance; a compute instance where it is not the first; and by what they are offered as."""
    parts = [builders.mig(1, 5), builders.mig(1, 3), builders.mig(1, 3, compute=1), builders.mig(1, 6)]
    other = builders.mig_status(builders.mig(1, 4), contract=builders.SLICES)
    statuses = [builders.through_mig(1), *map(builders.mig_status, parts), other]
    text = told(builders.snapshot(*statuses))
    assert "\n  1:3,5-6,3:1  4 x 1g.5gb      exclusive    nvidia.com/mig-1g.5gb     4     -\n" in text
    assert "\n  1:4          1g.5gb          time-sliced  nvidia.com/gpu.slices     1     -\n" in text


def test_a_gpu_with_mig_may_be_whole_or_withheld() -> None:
    """Then it has a mode like any other; its MIG devices are told as long as they are there, and offer nothing."""
    whole = gpu_status(builders.a100(1, mig_enabled=True), "f", wanted=WHOLE, contract=WHOLE)
    hidden = replace(builders.mig_status(builders.mig(1, 7)), contract=None, wanted=None, shares=(), rule="(mig)")
    withheld = replace(builders.through_mig(2), rule="broken-riser")
    text = told(builders.snapshot(whole, hidden, withheld))
    assert "  1    A100-SXM4-40GB  exclusive  nvidia.com/gpu     1     -\n" in text
    assert "  1:7  1g.5gb          -          -                  -     -\n" in text
    assert "  2    A100-SXM4-40GB  withheld   -                  -     -\n" in text


def test_an_unhealthy_gpu_is_told_with_its_xids_and_what_to_do() -> None:
    """What they mean, when they came, and the command that clears them, in one line to be copied."""
    text = told(builders.partitioned())
    assert (
        """\
  GPU 4 is lost, for 6m: the driver no longer lists it
  MIG device 2:1: XID 48 (double-bit ECC error), 66m ago, and XID 94 (contained
    ECC error), 61m ago; all its shares are unhealthy; mend it, then:
    nodeagent clear-health MIG-00000002-0001-5000-8000-000000000000
  GPU 3: XID 79 (GPU has fallen off the bus), 3m ago; all its shares are
    unhealthy; mend it, then:
    nodeagent clear-health GPU-00000003-0000-4000-8000-000000000003
"""
        in text
    )
    assert "\ndrift\n" not in text
    assert "XID 13" not in text
    assert "\033[31m    nodeagent clear-health MIG-" in told(builders.partitioned(), Terminal(80, colour=True))


def test_the_faults_of_a_gpu_are_not_told_again_of_its_mig_devices() -> None:
    """They all have them; what one of them has beside is told."""
    gpu_, seven, eight = builders.through_mig(1), builders.mig(1, 7), builders.mig(1, 8)
    base = builders.snapshot(gpu_, builders.mig_status(seven, "u"), builders.mig_status(eight, "u"))
    xids = {79: AT}
    sick = builders.unwell(base, {gpu_.gpu.uuid: xids, seven.uuid: xids, eight.uuid: {**xids, 999: AT}})
    faults = " ".join(told(sick).split())
    assert "GPU 1: XID 79 (GPU has fallen off the bus), 5s ago; all its MIG devices are unhealthy; mend it" in faults
    assert "MIG device 1:8: XID 999, 5s ago; it is unhealthy; mend it, then: nodeagent clear-health MIG-" in faults
    assert faults.count("XID") == 2


def test_mig_devices_that_were_destroyed_are_named_together() -> None:
    """While pods still hold shares of them."""
    gone = [
        builders.mig_status(
            replace(builders.mig(1, number), health=GpuHealth.LOST, message="its instance was destroyed"), "U"
        )
        for number in (7, 8)
    ]
    text = told(builders.snapshot(builders.through_mig(1), *gone))
    assert "\n  MIG devices 1:7-8 are each lost: its instance was destroyed\n" in text


@pytest.mark.parametrize(("number", "said"), [(1, "GPU 0 hangs: no answer"), (2, "GPUs 0-1 each hang: no answer")])
def test_what_a_gpu_does_is_a_sentence(number: int, said: str) -> None:
    """Of one and of several; `hang` is the state's name in the document."""
    stuck = [
        gpu_status(replace(gpu(index), health=GpuHealth.HANG, message="no answer"), "u") for index in range(number)
    ]
    assert f"\n  {said}\n" in told(builders.snapshot(*stuck))


def test_mig_devices_wait_and_differ_by_their_names() -> None:
    """In drift and waits they are named as GPUs are, alike ones together."""
    parts = [builders.mig_status(builders.mig(1, number), "d") for number in (7, 8, 9)]
    snapshot = builders.snapshot(
        builders.through_mig(1),
        *parts,
        gpu_status(gpu(0), "d"),
        drift=tuple(Drift(DriftKind.SHARES, one.gpu.name, "gone", "x1", AT) for one in parts),
        plan=Plan((), tuple(Wait(one.gpu.uuid, WaitReason.PODS, frozenset({0})) for one in (*parts[:2], parts[2]))),
        in_sync=False,
    )
    text = told(snapshot)
    assert "  shares: MIG devices 1:7-9: want gone, have x1, for 5s\n" in text
    assert "  MIG devices 1:7-9 each: waiting for the pods on 1 share that Git no longer\n" in text


def test_gpus_that_the_driver_calls_otherwise_are_told_with_both_numbers() -> None:
    """A column more, only where a number differs; and what that means."""
    text = told(builders.renumbered())
    assert (
        """\
  GPU  DRIVER  MODEL           MODE         RESOURCE           FREE  HELD  FAULT
    0       -  H100 80GB HBM3  time-sliced  …a.com/gpu.shared     -     -     10
    1       0  H100 80GB HBM3  time-sliced  …a.com/gpu.shared    10     -      -
    9       1  H100 80GB HBM3  time-sliced  …a.com/gpu.shared    10     -      -
"""
        in text
    )
    assert "  GpusRenumbered, NumbersDiffer, for 65s: the driver, and nvidia-smi, count the" in text
    assert "DRIVER" not in told(builders.snapshot())


def test_ages_end_when_the_agent_reported_them() -> None:
    """By its own clock, which may be another one than that of who asks; an older agent does not say when that was."""
    status: Any = json.loads(json.dumps(to_json(builders.snapshot(), NOW)))
    assert ages.now(status) == NOW
    assert ages.age(status["observedAt"], ages.now(status)) == "5s"
    del status["reportedAt"]
    assert abs(ages.now(status) - time.time()) < longer(WITHIN)


def test_an_older_agent_is_understood() -> None:
    """One that says nothing of MIG and XIDs yet."""
    status: Any = json.loads(json.dumps(to_json(builders.troubled())))
    del status["xids"]
    for facts in status["gpus"]:
        del facts["label"], facts["mig"], facts["migEnabled"], facts["driverIndex"], facts["applied"]["xids"]
    text = "\n".join(status_report.text(status, "http://127.0.0.1:9400", Terminal(), NOW)) + "\n"
    assert text == told(builders.troubled())


def test_who_has_shares_of_each_gpu_is_told() -> None:
    """Each pod once, with how many it has; GPUs that have the same pods are one line, those without pods none."""
    train = builders.held_by(gpu_status(gpu(2), "hh"), "team-b/train-0/main", "team-b/train-0/loader")
    both = [builders.held_by(gpu_status(gpu(index), "h"), "team-b/big-0/main") for index in (3, 4)]
    text = told(builders.snapshot(gpu_status(gpu(0), "hfd"), gpu_status(gpu(1), "ff"), train, *both))
    assert (
        """
pods
  GPU 0: team-a/worker-0-0, team-a/worker-0-2
  GPU 2: team-b/train-0 x2
  GPUs 3-4 each: team-b/big-0

"""
        in text
    )


def test_a_share_whose_pod_is_not_known_is_told_as_such() -> None:
    """The kubelet has given it away and does not name the pod yet, or never does."""
    text = told(builders.snapshot(builders.held_by(gpu_status(gpu(0), "hhh"), None, "team-a/worker-1/main", None)))
    assert "\n  GPU 0: team-a/worker-1, a pod not known yet x2\n" in text


def test_very_many_pods_do_not_hide_the_rest() -> None:
    """A GPU has six lines at most."""
    text = told(builders.snapshot(gpu_status(gpu(0), "h" * 100)))
    _, _, pods = text.partition("\npods\n")
    assert pods.partition("\n\n")[0].splitlines()[6:] == ["    … 27 lines more: -o json"]


def test_labels_that_differ_are_told() -> None:
    """Why stands with the conditions, each label with the drift; of very many the first ones."""
    text = told(builders.mislabelled())
    for part in (
        "  not LabelsSynced, Forbidden, for 65s: cannot write labels: nodes",
        "  labels: nodeagent.io/config.state: want applied, have draining, for 10m\n",
        "  labels: nvidia.com/gpu.replicas: want 10, have none, for 10m\n",
        "  labels: nvidia.com/mps.capable: want no label, have true, for 10m\n",
    ):
        assert part in text
    many = tuple(Drift(DriftKind.LABELS, f"nvidia.com/{number}", "x", "none", AT) for number in range(30))
    drift = told(builders.snapshot(drift=many)).partition("\ndrift\n")[2].partition("\n\n")[0].splitlines()
    assert drift[4:] == ["  labels: nvidia.com/4: want x, have none, for 5s", "  labels: … 25 more: -o json"]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_the_terminal(width: int) -> None:
    """No line is wider than the terminal, whatever is wrong; a wide terminal shows names in full."""
    text = told(builders.troubled(), Terminal(width))
    assert max(map(len, text.splitlines())) <= width
    assert ("nvidia.com/gpu.shared  " in text) == (width > 90)


def test_gpus_that_are_alike_are_told_together() -> None:
    """Eight GPUs that differ from Git in the same way are one line of drift and one of what is waited for."""
    gpus = tuple(gpu_status(gpu(index), "hhhhddf", wanted_shares=4) for index in range(8))
    snapshot = builders.snapshot(
        *gpus,
        drift=tuple(Drift(DriftKind.SHARES, f"GPU {index}", "x4", "x6", AT - index) for index in range(8)),
        plan=Plan((), tuple(Wait(one.gpu.uuid, WaitReason.PODS, frozenset({4, 5})) for one in gpus)),
        in_sync=False,
    )
    text = told(snapshot)
    assert "  shares: GPUs 0-7: want x4, have x6, for 12s\n" in text
    assert "  GPUs 0-7 each: waiting for the pods on 2 shares that Git no longer wants\n" in text


def test_colour_is_for_those_who_look(serve: Serve) -> None:
    """A terminal gets colour where something is out of the ordinary; a pipe gets none."""
    assert "\033[31mNot ready\033[0m" in told(builders.troubled(), Terminal(80, colour=True))
    done = nodeagent("status", "--agent", serve(builders.troubled()).address, TERM="xterm")
    assert "\033" not in done.stdout


def test_the_last_known_good_document_is_called_so() -> None:
    """Where it is in force, since the newest is not accepted."""
    base = builders.snapshot()
    config = replace(base.config, newest=builders.document("bad"), using_last_known_good=True)
    text = told(replace(base, config=config, in_sync=False))
    assert "document\n  newest: blob " in text
    assert "\n  accepted, applied, last known good: blob 2e65efe2a145" in text


def test_no_document_at_all() -> None:
    """A node without a document says why."""
    config = ConfigState(path="/etc/nodeagent/sharing.yaml", problem="cannot read config: there is no such file")
    text = told(builders.snapshot(config=config, reloads=(), in_sync=False))
    assert "document\n  none\n  /etc/nodeagent/sharing.yaml: cannot read config: there is no such file\n" in text
    assert "last reload" not in text


def test_no_gpus() -> None:
    """A node without GPUs has no table."""
    assert "\nGPUs\n" not in told(builders.snapshot(applied=Applied(), gpus=()))


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7500, "2h05m"), (172_800, "2d")]
)
def test_ages_are_short(seconds: int, said: str) -> None:
    """An age is told in the unit in which a person would."""
    assert age("2026-02-03T04:05:06.000Z", 1_770_091_506.0 + seconds) == said


def test_the_exit_code_is_the_verdict(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """0 in sync, 1 not, 3 when nobody answers or the agent has nothing to say yet."""
    assert main(["status", "--agent", serve(builders.snapshot()).address]) == 0
    assert main(["status", "--agent", serve(builders.troubled()).address]) == 1
    capsys.readouterr()
    assert main(["status", "--agent", "127.0.0.1:1"]) == 3
    told_ = capsys.readouterr()
    assert told_.err == "nodeagent status: cannot reach the agent at http://127.0.0.1:1: connection refused\n"
    assert told_.out == ""
    assert main(["status", "--agent", serve(None).address]) == 3
    assert "503 Service Unavailable: not serving yet" in capsys.readouterr().err


WORLDS = {
    "in sync": builders.snapshot(),
    "troubled": builders.troubled(),
    "under MPS": builders.sharing_by_mps(),
    "with MIG": builders.partitioned(),
    "mislabelled": builders.mislabelled(),
    "renumbered": builders.renumbered(),
    "empty": EMPTY,
    "draining": shown.draining(),
    "occupied": shown.under_mps(),
    "stopped": stopped(builders.snapshot(), "the loop has stopped"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_first_line_is_the_verdict_of_the_page(name: str) -> None:
    """Out of a snapshot and out of its status document comes the same, whether the agent is of this version or not."""
    status: Any = json.loads(json.dumps(to_json(WORLDS[name])))
    assert judge(situation(status)) == judge(of(WORLDS[name]))
    text = told(WORLDS[name], Terminal(1000))
    pool = f", pool {status['pool']}" if status["pool"] else ""
    assert text.startswith(f"{status['node']}{pool}: {judge(of(WORLDS[name])).title}\n")
    del status["settled"], status["config"]["obstacles"], status["plan"]["refused"], status["plan"]["waves"]
    assert judge(situation(status)).title == judge(of(WORLDS[name])).title


@pytest.mark.parametrize(
    ("snapshot", "plain", "detailed"),
    [
        (builders.snapshot(), 0, 0),
        (builders.snapshot(conditions=builders.conditions(Suspended=(True, "ConfigSuspends", "kept"))), 0, 0),
        (builders.partitioned(), 1, 1),
        (builders.mislabelled(), 1, 1),
        (builders.snapshot(conditions=builders.conditions(Ready=(False, "NotRegistered", "no socket"))), 1, 1),
        (shown.draining(), 1, 2),
        (builders.snapshot(in_sync=False), 1, 2),
        (shown.under_mps(), 1, 1),
        (builders.troubled(), 1, 1),
    ],
)
def test_the_flag_tells_a_change_from_a_fault(
    snapshot: Snapshot, plain: int, detailed: int, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it a node is in sync and well, or it is not; with it a change that is under way is 2."""
    where = ["status", "--agent", serve(snapshot).address]
    assert main(where) == plain
    assert main([*where, "--detailed-exitcode"]) == detailed
    assert main([*where, "--detailed-exitcode", "-o", "json"]) == detailed
    capsys.readouterr()


def test_a_pipe_finds_all(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no terminal gets every name in full and each thing in one line, however long and however many."""
    monkeypatch.delenv("COLUMNS")
    pods = [
        builders.held_by(gpu_status(gpu(index), "h" * 10), *(f"ns/pod-{index}-{n}/c" for n in range(10)))
        for index in range(10)
    ]
    many = tuple(Drift(DriftKind.LABELS, f"nvidia.com/{number}", "x", "none", AT) for number in range(30))
    message = "; ".join(f"GPU {number}: something is wrong with it" for number in range(40))
    snapshot = builders.snapshot(
        *pods, drift=many, conditions=builders.conditions(StateDirWritable=(False, "WriteFailed", message))
    )
    lines = nodeagent("status", "--agent", serve(snapshot).address).stdout.splitlines()
    assert sum("nvidia.com/gpu.shared" in line for line in lines) == 10
    assert sum(any(f"ns/pod-{index}-9" in line for line in lines) for index in range(10)) == 10
    assert sum("labels: nvidia.com/" in line for line in lines) == 30
    assert any(message in line for line in lines)
    assert not any("…" in line for line in lines[2:])  # but for the verdict, which is short
    wide = nodeagent("status", "--agent", serve(snapshot).address, COLUMNS="60").stdout.splitlines()
    assert sum("nvidia.com/gpu.shared" in line for line in wide) == 10
    assert max(len(line) for line in wide if "nvidia.com" not in line and "MODEL" not in line) <= 60


def test_a_pipe_finds_every_pod_of_a_plan(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a status: those that a change waits for are all named, in one line."""
    monkeypatch.delenv("COLUMNS")
    held = builders.held_by(gpu_status(gpu(0), "h" * 20), *(f"team-a/worker-{number}/main" for number in range(20)))
    config = tmp_path / "sharing.yaml"
    config.write_text(SHARED_BY_TEN, encoding="utf-8")
    done = nodeagent("plan", "--config", config, "--agent", serve(builders.snapshot(held)).address)
    (line,) = [line for line in done.stdout.splitlines() if "held by" in line]
    assert all(f"team-a/worker-{number}" in line for number in range(20))


def test_json_is_the_whole_status(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` prints what the agent said, and exits as the text does."""
    snapshot = builders.troubled()
    assert main(["status", "--agent", serve(snapshot).address, "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(to_json(snapshot)))


def test_a_node_with_very_many_shares(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """40,000 shares are still a line per GPU."""
    assert main(["status", "--agent", serve(builders.large()).address]) == 0
    assert "    7  H100 80GB HBM3  time-sliced  nvidia.com/gpu.shared  3333  1667\n" in capsys.readouterr().out
