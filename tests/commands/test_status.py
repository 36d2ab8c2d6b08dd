"""`nodeagent status`: a node at a glance, in 80 columns, and what its exit code says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodeagent.cli import main
from nodeagent.commands import status_report
from nodeagent.commands.terminal import Terminal
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, Drift, DriftKind, Snapshot
from nodeagent.report.status import to_json
from tests.commands.conftest import Serve, nodeagent
from tests.report import builders
from tests.report.builders import AT, gpu, gpu_status

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
gpu-node-1, pool inference: in sync
  nodeagent 0.1.0, up 60m, driver 550.163.01, http://127.0.0.1:9400

document
  mounted, accepted, applied: blob 2e65efe2a145, h100-inference, revision
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


def test_all_that_is_wrong_is_told() -> None:
    """Errors with line and column, conditions, shares in every state, drift, what is waited for, the last reload."""
    text = told(builders.troubled())
    assert text.startswith("gpu-node-1, pool inference: NOT in sync\n")
    for part in (
        "  mounted: blob 44d6628cdc69, h100-inference, revision main@sha1:ffff0000\n",
        "  accepted: blob 476e93d57141, h100-inference\n  applied: blob 4f29a0f716d1\n",
        "  /etc/nodeagent/sharing.yaml:12:17: spec.rules[0].timeSlicing.replicas:\n    expected an integer",
        "  not Ready, NotRegistered, for 65s: nvidia.com/gpu is foreign: another plugin\n",
        "  Draining, PodsHoldShares, for 65s: 2 held shares drain on GPU 0\n",
        "    0  H100 80GB HBM3  time-sliced  …gpu.shared     -     4      2      4      -\n",
        "    4  H100 80GB HBM3  withheld     -               -     -      -      -      -\n",
        "  GPU 2 is lost: the GPU fell off the bus\n",
        "  shares: GPU 1: want 1 x exclusive nvidia.com/gpu, have 6 time-sliced, for 105s\n",
        "  GPUs 0-1 each: waiting for the pods on 2 shares that Git no longer wants\n",
        "    (team-a/worker-0-4, team-a/worker-0-5, team-a/worker-1-3, team-a/worker-1-4)\n",
        "  failed, 35s ago, 200 ms\n    no space left on device\n",
    ):
        assert part in text


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
    assert "\033[31mNOT in sync\033[0m" in told(builders.troubled(), Terminal(80, colour=True))
    done = nodeagent("status", "--agent", serve(builders.troubled()).address, TERM="xterm")
    assert "\033" not in done.stdout


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
    assert status_report.age("2026-02-03T04:05:06.000Z", 1_770_091_506.0 + seconds) == said


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


def test_json_is_the_whole_status(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` prints what the agent said, and exits as the text does."""
    snapshot = builders.troubled()
    assert main(["status", "--agent", serve(snapshot).address, "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(to_json(snapshot)))


def test_a_node_with_very_many_shares(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """40,000 shares are still a line per GPU."""
    assert main(["status", "--agent", serve(builders.large()).address]) == 0
    assert "    7  H100 80GB HBM3  time-sliced  nvidia.com/gpu.shared  3333  1667\n" in capsys.readouterr().out
