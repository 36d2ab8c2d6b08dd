"""`nodeagent plan`: what a commit would do, share by share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.commands.preview import GpuPreview, Terms, preview
from nodeagent.commands.rehearsal import Node
from nodeagent.model.config import MIB, Contract, Document, Match, MaxUnavailable, MpsTerms, Rule, SharingConfig
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.shares import Applied, AppliedGpu, share_id
from nodeagent.model.snapshot import ChangeClass
from nodeagent.report.status import to_json
from nodeagent.report.status_reader import applied_from_status, mps_from_status
from nodeagent.state.desired import resolve
from nodeagent.store.state_dir import StateDir, boot_id
from tests.commands.conftest import H100X8, NVIDIAS, SHARED_BY_TEN, WRONG_TWICE, Serve, config_map, nodeagent
from tests.fakes.nvml.library import Controls, build
from tests.report import builders
from tests.report.builders import MPS, SHARED, SMALL, WHOLE, gpu, gpu_status, mps_daemon, under_mps
from tests.waiting import longer

OTHER = Contract("nvidia.com/gpu.other", SHARED.mode)


def want(contract: Contract | None, replicas: int, limit: int | None = None) -> SharingConfig:
    """A config that wants this of every GPU."""
    if contract is None or contract.limits is None:
        return SharingConfig("wanted", (Rule("all", Match(), contract, replicas, limit),))
    terms = MpsTerms(contract.limits.memory * MIB, contract.limits.threads)
    bare = replace(contract, limits=None)
    return SharingConfig("wanted", (Rule("all", Match(), bare, replicas, contract.limits.most, terms),))


def node(contract: Contract, shares: int, *held: int, limit: int | None = None) -> Node:
    """A node of one GPU with these shares, of which those with the numbers `held` are."""
    one = gpu(0)
    ids = {number: share_id(one.uuid, contract.mode, number) for number in held}
    daemons = [mps_daemon(0, contract=contract)] if contract.limits is not None else []
    return Node(
        gpus=(one,),
        applied=Applied({one.uuid: AppliedGpu(one, contract, frozenset(range(shares)), {}, limit)}),
        mps=MpsStatus(MpsReason.RUNNING, daemons={daemon.uuid: daemon for daemon in daemons}),
        held=frozenset((contract.resource, share) for share in ids.values()),
        holders={share: f"team-a/pod-{number}/main" for number, share in ids.items()},
        resources=frozenset({contract.resource}),
    )


def foresee(config: SharingConfig, on: Node) -> GpuPreview:
    """What becomes of the one GPU of a node."""
    return preview(resolve(config, on.gpus), on).gpus[0]


def numbers(ids: tuple[str, ...]) -> list[int]:
    """The numbers of shares."""
    return [int(share.partition("::")[2] or 0) for share in ids]


def nothing(*ids: tuple[str, ...]) -> bool:
    """Whether none of these have a share."""
    return not any(ids)


@pytest.mark.parametrize("held", [(), (1, 2), (0, 1, 2, 3)])
def test_more_shares_come_at_once(held: tuple[int, ...]) -> None:
    """4 -> 10: six are added, four kept, whoever holds what."""
    found = foresee(want(SHARED, 10), node(SHARED, 4, *held))
    assert (numbers(found.added), numbers(found.kept)) == ([4, 5, 6, 7, 8, 9], [0, 1, 2, 3])
    assert nothing(found.removed, found.draining, found.later, found.holders)


def test_fewer_shares_keep_the_held_ones_first() -> None:
    """10 -> 4 with six held: the four free ones go at once, two of the six drain, and all six are named."""
    found = foresee(want(SHARED, 4), node(SHARED, 10, 0, 1, 2, 7, 8, 9))
    assert numbers(found.removed) == [3, 4, 5, 6]
    assert numbers(found.kept) == [0, 1, 2, 7]
    assert numbers(found.draining) == [8, 9]
    assert len(found.holders) == 6
    assert nothing(found.added, found.later)


def test_another_mode_waits_for_every_holder() -> None:
    """A GPU changes its mode when the last share is free: free ones go at once, the new ones come after that."""
    found = foresee(want(WHOLE, 1), node(SHARED, 4, 2))
    assert (numbers(found.removed), numbers(found.draining)) == ([0, 1, 3], [2])
    assert found.later == (gpu(0).uuid,)
    assert found.holders == ("team-a/pod-2/main",)
    assert nothing(found.added, found.kept)


def test_another_name_for_the_same_ids_is_another_share() -> None:
    """A renamed resource takes every share of the old name away, though the ids are the same."""
    found = foresee(want(OTHER, 4), node(SHARED, 4))
    assert (numbers(found.removed), numbers(found.added), found.kept) == ([0, 1, 2, 3], [0, 1, 2, 3], ())


def test_a_withheld_gpu_has_nothing_left() -> None:
    """Withholding a free GPU removes all of it, and retires a resource that nothing else has."""
    on = node(SHARED, 4)
    found = preview(resolve(want(None, 0), on.gpus), on)
    assert numbers(found.gpus[0].removed) == [0, 1, 2, 3]
    assert found.gpus[0].after == Terms()
    assert found.retired == ("nvidia.com/gpu.shared",)


def test_a_limit_is_a_change_without_shares() -> None:
    """Another `maxSharesPerContainer` is told, though no share comes or goes."""
    found = preview(resolve(want(SHARED, 4, 2), (gpu(0),)), node(SHARED, 4, 0))
    assert found.changes
    assert (found.gpus[0].before.limit, found.gpus[0].after.limit) == (None, 2)
    assert found.kind is ChangeClass.NONE


def test_a_converged_node_has_nothing_to_do() -> None:
    """The config that a node runs changes nothing on it."""
    on = node(SHARED, 4, 0, 3, limit=2)
    found = preview(resolve(want(SHARED, 4, 2), on.gpus), on)
    assert not found.changes
    assert found.kind is ChangeClass.NONE
    assert not preview(None, on).changes


def test_what_is_not_known_counts_as_held() -> None:
    """A node that cannot tell who holds what takes nothing away before it can."""
    found = foresee(want(SHARED, 4), replace(node(SHARED, 10), readable=False))
    assert not found.removed
    assert len(found.draining) == 6


OFF = MpsStatus(MpsReason.OFF, "no daemon can be started: this agent runs with --mps-host off")


def test_a_free_gpu_comes_under_mps_at_once() -> None:
    """Where the MPS host works its shares follow: the daemon is started and verified on the way."""
    found = foresee(want(MPS, 4), node(SHARED, 10))
    assert (len(found.removed), numbers(found.added)) == (10, [0, 1, 2, 3])
    assert found.after == Terms(MPS, 4, 1)
    assert nothing(found.kept, found.draining, found.later)
    assert not found.obstacle


def test_a_gpu_in_use_comes_under_mps_when_its_pods_have_ended() -> None:
    """The daemon cannot be started beside them: the shares under MPS come after that."""
    found = foresee(want(MPS, 4), node(SHARED, 10, 3, 4))
    assert (len(found.removed), numbers(found.draining), numbers(found.later)) == (8, [3, 4], [0, 1, 2, 3])
    assert found.holders == ("team-a/pod-3/main", "team-a/pod-4/main")
    assert nothing(found.added, found.kept)


@pytest.mark.parametrize("contract", [SHARED, WHOLE])
def test_a_gpu_leaves_mps(contract: Contract) -> None:
    """What comes after MPS comes when the daemon has gone, which it does once its last share has left."""
    found = foresee(want(contract, 1), node(MPS, 4))
    assert (len(found.removed), len(found.added), found.obstacle) == (4, 1, "")
    held = foresee(want(contract, 1), node(MPS, 4, 0))
    assert (len(held.removed), len(held.draining), len(held.later)) == (3, 1, 1)


def test_other_limits_are_other_shares() -> None:
    """The ids are the same, and what they stand for is not: every share leaves, and comes with the new limits."""
    found = foresee(want(SMALL, 4), node(MPS, 4, 1))
    assert (numbers(found.removed), numbers(found.draining)) == ([0, 2, 3], [1])
    assert numbers(found.later) == [0, 1, 2, 3]
    assert (found.before, found.after) == (Terms(MPS, 4), Terms(SMALL, 4, 2))


def test_the_same_limits_change_nothing() -> None:
    """More or fewer shares with the limits that they have need no other daemon, and none ends."""
    assert not foresee(want(MPS, 4), node(MPS, 4, 1, limit=1)).changes
    assert numbers(foresee(want(MPS, 6), node(MPS, 4, 1)).added) == [4, 5]


@pytest.mark.parametrize("reason", [MpsReason.OFF, MpsReason.ABSENT, MpsReason.UNUSABLE, MpsReason.PENDING])
def test_without_an_mps_host_there_is_a_wait(reason: MpsReason) -> None:
    """What is there stays before somebody sees to the host: the plan says what for, and what comes then."""
    mps = MpsStatus(reason, "there is none")
    found = foresee(want(MPS, 4), replace(node(SHARED, 10), mps=mps))
    assert (len(found.kept), numbers(found.later), found.obstacle) == (10, [0, 1, 2, 3], "MPS: there is none")
    assert nothing(found.added, found.removed, found.draining)


def test_without_an_mps_host_daemons_stay() -> None:
    """Nobody stops the daemon of a GPU that is to leave MPS: what comes after it waits for the host."""
    on = node(MPS, 4)
    found = foresee(want(SHARED, 4), replace(on, mps=replace(on.mps, reason=MpsReason.ABSENT, message="it is away")))
    assert (len(found.removed), len(found.later), found.obstacle) == (
        4,
        4,
        "MPS: its MPS daemon has not left yet: it is away",
    )


@pytest.mark.parametrize("wanted", [MPS, SMALL])
def test_a_daemon_in_trouble_stays_in_trouble(wanted: Contract) -> None:
    """Processes that hold the GPU keep the next daemon out as well: the plan names them, and counts on nobody."""
    on = node(MPS, 0)
    daemon = mps_daemon(0, DaemonState.OCCUPIED, "held by process 4242 (python)")
    found = foresee(want(wanted, 4), replace(on, mps=replace(on.mps, daemons={daemon.uuid: daemon})))
    assert (found.obstacle, len(found.later)) == ("its MPS daemon: held by process 4242 (python)", 4)
    assert nothing(found.added, found.removed)


@pytest.mark.parametrize(("wanted", "shares"), [(WHOLE, 0), (SMALL, 0), (MPS, 4)])
def test_a_daemon_that_cannot_be_ended_is_in_the_way(wanted: Contract, shares: int) -> None:
    """Of all but its own contract; a node says so, and what is read of it is played."""
    daemon = replace(mps_daemon(0, DaemonState.STOPPING, "cannot be ended"), hindered=True)
    one = gpu_status(gpu(0), "", wanted=None, contract=None, daemon=daemon)
    mps = MpsStatus(MpsReason.RUNNING, daemons={daemon.uuid: daemon})
    status: dict[str, object] = json.loads(json.dumps(to_json(builders.snapshot(one, mps=mps))))
    applied, _ = applied_from_status(status)
    found = foresee(want(wanted, max(shares, 1)), Node((gpu(0),), applied, mps=mps_from_status(status)))
    assert (len(found.added), bool(found.obstacle)) == (shares, not shares)


def test_a_daemon_on_its_way_is_expected() -> None:
    """One that is being started, or that still has another contract, becomes what the host is asked for."""
    on = node(MPS, 0)
    for daemon in (
        mps_daemon(0, DaemonState.STARTING, "its limits are being set"),
        MpsDaemon(gpu(0).uuid, SMALL, DaemonState.READY),
    ):
        found = foresee(want(MPS, 4), replace(on, mps=replace(on.mps, daemons={daemon.uuid: daemon})))
        assert (len(found.added), found.obstacle) == (4, "")


def of(gpus_there: int, contract: Contract, shares: int, *held: str) -> Node:
    """A node of so many GPUs with these shares, of which those with the ids `held` are."""
    gpus = tuple(gpu(index) for index in range(gpus_there))
    return Node(
        gpus=gpus,
        applied=Applied({one.uuid: AppliedGpu(one, contract, frozenset(range(shares))) for one in gpus}),
        held=frozenset((contract.resource, share) for share in held),
        holders={share: f"team-a/pod-{number}/main" for number, share in enumerate(held)},
        resources=frozenset({contract.resource}),
    )


def test_every_wave_is_foreseen() -> None:
    """What becomes of each GPU in the end, though they change one after the other: all that drain are named."""
    on = of(4, SHARED, 4, *(f"{gpu(index).uuid}::0" for index in (0, 1, 3)))
    found = preview(resolve(want(WHOLE, 1), on.gpus), on)
    assert (found.at_a_time, found.moving) == (1, 4)
    assert [len(one.draining) for one in found.gpus] == [1, 1, 0, 1]
    assert [one.after for one in found.gpus] == [Terms(WHOLE, 1)] * 4
    assert [len(one.later) for one in found.gpus] == [1, 1, 0, 1]
    assert [(len(one.removed), len(one.kept)) for one in found.gpus] == [(3, 0), (3, 0), (4, 0), (3, 0)]


def test_as_many_waves_as_there_are_gpus_are_foreseen() -> None:
    """Thirty that change one at a time, half of them in use."""
    on = of(30, SHARED, 4, *(f"{gpu(index).uuid}::0" for index in range(15)))
    found = preview(resolve(replace(want(WHOLE, 1), max_unavailable=MaxUnavailable(number=1)), on.gpus), on)
    assert (found.at_a_time, found.moving) == (1, 30)
    assert [one.after for one in found.gpus] == [Terms(WHOLE, 1)] * 30


def test_waves_are_said(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """How many change at a time, where not all do; a config that lets all change at once says nothing of it."""
    agent = serve(builders.snapshot(*(gpu_status(gpu(index), "f" * 10) for index in range(4))))
    config = tmp_path / "sharing.yaml"
    for at_most, said in (("2", "in waves: at most 2 of 4 at a time, free ones first\n"), ("100%", "")):
        rules = "rules: [{name: all, exclusive: {}}]"
        head = "apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: x}\n"
        config.write_text(f"{head}spec: {{{rules}, transition: {{maxUnavailable: {at_most}}}}}\n", encoding="utf-8")
        assert main(["plan", "--config", str(config), "--agent", agent.address]) == 0
        told = capsys.readouterr().out
        assert said in told
        assert ("in waves" in told) is bool(said)
        assert ("class live: all of it at once" in told) is not bool(said)


def test_every_gpu_is_told_once_and_in_order() -> None:
    """A GPU that the node does not have in its contract yet is told as one without anything."""
    on = replace(node(SHARED, 2), gpus=(gpu(2), gpu(0), gpu(1)))
    found = preview(resolve(want(SHARED, 2), on.gpus), on)
    assert [one.gpu.index for one in found.gpus] == [0, 1, 2]
    assert [one.before.shares for one in found.gpus] == [2, 0, 0]
    assert [len(one.added) for one in found.gpus] == [0, 2, 2]


def written(tmp_path: Path, replicas: int) -> Path:
    """A file that wants so many shares of every GPU."""
    path = tmp_path / "sharing.yaml"
    text = SHARED_BY_TEN.replace("replicas: 10}", f"replicas: {replicas}}}\n      maxSharesPerContainer: 2")
    path.write_text(text, encoding="utf-8")
    return path


def test_a_node_without_an_agent(tmp_path: Path) -> None:
    """With a driver the plan is of a node on which nothing is applied: all of it is added, at once."""
    done = nodeagent("plan", "--config", written(tmp_path, 10), "--driver", f"simulated:{H100X8}")
    assert done.returncode == 0
    assert "GPUs 0-7: not advertised -> time-sliced nvidia.com/gpu.shared x10" in done.stdout
    assert "    + 10 added (::0 to ::9)" in done.stdout
    assert "registers nvidia.com/gpu.shared" in done.stdout
    assert "8 of 8 GPUs change; shares: 80 added, 0 removed, 0 draining\nclass live" in done.stdout


BY_INDEX = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: by-index}
spec:
  rules:
    - {name: second, match: {indices: [1]}, resource: nvidia.com/gpu.shared, timeSlicing: {replicas: 4}}
"""
UUIDS = [f"GPU-{number:08x}-0000-4000-8000-000000000000" for number in range(3)]


def simulation(tmp_path: Path, *uuids: str) -> str:
    """A driver that lists these GPUs, in this order."""
    path = tmp_path / "node.yaml"
    gpus = "".join(f"  - {{model: NVIDIA H100 80GB HBM3, memory: 80Gi, uuid: {uuid}}}\n" for uuid in uuids)
    path.write_text(f"apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\ngpus:\n{gpus}", encoding="utf-8")
    return f"simulated:{path}"


def state_of(tmp_path: Path, boot: str, *uuids: str) -> Path:
    """The state directory of an agent that knew these GPUs, in this order."""
    state = StateDir(tmp_path / "state", identity="", boot_id=boot)
    assert state.acquire()
    known = [Gpu(uuid, index, "NVIDIA H100 80GB HBM3", 80 << 30) for index, uuid in enumerate(uuids)]
    state.save_applied(Applied({one.uuid: AppliedGpu(one, WHOLE, frozenset({0})) for one in known}))
    state.release()
    return tmp_path / "state"


def test_a_driver_without_its_agents_numbers_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule by index means the GPU that the agent of the state directory would take: the one that was the second of
    three. The driver calls it by 0 now, which is told.
    """
    config = tmp_path / "by-index.yaml"
    config.write_text(BY_INDEX, encoding="utf-8")
    plan = ["plan", "--config", str(config), "--driver", simulation(tmp_path, *UUIDS[1:])]
    assert main([*plan, "-o", "json"]) == 0
    alone = {one["uuid"]: (one["index"], one["after"]["mode"]) for one in json.loads(capsys.readouterr().out)["gpus"]}
    assert alone == {UUIDS[1]: (0, "exclusive"), UUIDS[2]: (1, "time-sliced")}
    plan += ["--state-dir", str(state_of(tmp_path, boot_id(), *UUIDS))]
    assert main([*plan, "-o", "json"]) == 0
    found = [
        (one["uuid"], one["index"], one["driverIndex"], one["after"]["mode"])
        for one in json.loads(capsys.readouterr().out)["gpus"]
    ]
    assert found[1:] == [(UUIDS[1], 1, 0, "time-sliced"), (UUIDS[2], 2, 1, "exclusive")]
    assert found[0][:3] == (UUIDS[0], 0, None), "it is lost: the node still has it"
    assert main(plan) == 0
    text = capsys.readouterr().out
    assert "; for the driver GPU 1 has index 0, GPU 2 has index 1 " in " ".join(text.split())
    assert "GPU 1: not advertised -> time-sliced nvidia.com/gpu.shared x4\n" in text


def test_a_state_directory_of_another_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a reboot what is not listed was taken out, as for the agent; the others keep their numbers."""
    config = tmp_path / "by-index.yaml"
    config.write_text(BY_INDEX, encoding="utf-8")
    state = state_of(tmp_path, "another", *UUIDS)
    plan = ["plan", "--config", str(config), "--driver", simulation(tmp_path, *UUIDS[1:]), "--state-dir", str(state)]
    assert main([*plan, "-o", "json"]) == 0
    assert [one["index"] for one in json.loads(capsys.readouterr().out)["gpus"]] == [1, 2]
    before = (state / "applied.json").read_bytes()
    (state / "applied.json").write_bytes(before[:-1])
    assert main(plan) == 4
    assert "cannot read what the agent of" in capsys.readouterr().err
    assert (state / "applied.json").read_bytes() == before[:-1], "what is damaged is the agent's to set aside"


def test_a_state_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is named must be there, and belongs to a driver."""
    config = tmp_path / "by-index.yaml"
    config.write_text(BY_INDEX, encoding="utf-8")
    plan, absent = ["plan", "--config", str(config)], ["--state-dir", str(tmp_path / "absent")]
    assert main([*plan, "--driver", simulation(tmp_path, *UUIDS), *absent]) == 4
    assert f"cannot read {tmp_path}/absent: expected the state directory of an agent" in capsys.readouterr().err
    assert main([*plan, *absent]) == 64
    assert "--state-dir goes with --driver" in capsys.readouterr().err


def test_this_machines_gpus_have_the_numbers_of_its_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, gcc: Path
) -> None:
    """With `nvml` the agent of this machine is meant; where its memory cannot be read that is said, and the numbers are
    the driver's.
    """
    config = tmp_path / "by-index.yaml"
    config.write_text(BY_INDEX, encoding="utf-8")
    controls = Controls(tmp_path / "nvml.conf", tmp_path / "calls", tmp_path / "sys")
    controls.answer(tuple(Gpu(uuid, 0, "NVIDIA H100 80GB HBM3", 80 << 30) for uuid in UUIDS[1:]))
    library = build(gcc, tmp_path)
    state = state_of(tmp_path, boot_id(), *UUIDS)
    environment = {
        "FAKE_NVML": str(controls.path),
        "NODEAGENT_NVML_LIBRARY": str(library),
        "NODEAGENT_STATE_DIR": str(state),
    }
    done = nodeagent("plan", "--config", config, "--driver", "nvml", **environment)
    assert "GPU 1: not advertised -> time-sliced" in done.stdout, done.stderr
    assert "GPU 1 has index 0" in done.stdout
    assert done.stderr == ""
    (state / "applied.json").write_bytes(b"{}")
    done = nodeagent("plan", "--config", config, "--driver", "nvml", **environment)
    assert "GPU 1: not advertised -> time-sliced" in done.stdout
    assert "index 0" not in done.stdout
    assert done.stderr == (
        "nodeagent plan: the GPUs have the driver's numbers, which the agent may count otherwise: cannot read"
        f" {state}: it has no header\n"
    )


def test_an_agent_is_asked_for_its_numbers(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule by index means the agent's GPU, and the plan says by what the driver calls it."""
    config = tmp_path / "by-index.yaml"
    config.write_text(BY_INDEX, encoding="utf-8")
    where = ["--agent", serve(builders.renumbered()).address, "-o", "json"]
    assert main(["plan", "--config", str(config), *where]) == 0
    found = json.loads(capsys.readouterr().out)["gpus"]
    assert [(one["index"], one["driverIndex"], one["after"]["mode"]) for one in found] == [
        (0, None, "exclusive"),
        (1, 0, "time-sliced"),
        (9, 1, "exclusive"),
    ]


def test_a_node_that_runs_something(tmp_path: Path, serve: Serve) -> None:
    """An agent is asked for what is applied and held: pods that must end are named, exit code 2 if asked."""
    gpus = (builders.gpu_status(gpu(0), "hhhhhhffff"), builders.gpu_status(gpu(1), "f" * 10))
    agent = serve(builders.snapshot(*gpus))
    done = nodeagent("plan", "--detailed-exitcode", "--config", written(tmp_path, 4), "--agent", agent.address)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("gpu-node-1 (http://127.0.0.1:")
    assert "GPU 0: time-sliced nvidia.com/gpu.shared x10 -> x4" in done.stdout
    assert "    ~ 2 drain: any 2 of the 6 held by team-a/worker-0-0" in done.stdout
    assert "GPU 1: time-sliced nvidia.com/gpu.shared x10 -> x4\n    - 6 removed (::4 to ::9)" in done.stdout
    assert "class drained" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_node_that_has_it_already(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would change: exit code 0."""
    agent = serve(builders.snapshot())
    assert main(["plan", "--config", str(written(tmp_path, 10)), "--agent", agent.address]) == 0
    assert "nothing would change\n" in capsys.readouterr().out


def test_a_suspended_config_changes_nothing(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """`suspend: true` keeps what is applied, whatever the rules say, and the plan says so."""
    path = written(tmp_path, 4)
    path.write_text(path.read_text("utf-8").replace("spec:\n", "spec:\n  suspend: true\n"), "utf-8")
    assert main(["plan", "--config", str(path), "--agent", serve(builders.snapshot()).address]) == 0
    assert "spec.suspend is true: what is applied is kept" in capsys.readouterr().out


def test_a_node_that_cannot_tell_who_holds_what(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """While PodResources cannot be read the plan warns, and counts every share as held."""
    blind = builders.conditions(PodResourcesReady=(False, "Timeout", "no answer"))
    agent = serve(builders.snapshot(conditions=blind))
    assert main(["plan", "--config", str(written(tmp_path, 4)), "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    assert "the node cannot tell which pods use what" in told
    assert "~ 6 drain" in told


def test_a_rejected_config(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A config that is wrong in itself, or on this very node, exits with 1, its mistakes on stderr."""
    agent = serve(builders.snapshot())
    path = tmp_path / "bad.yaml"
    path.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["plan", "--config", str(path), "--agent", agent.address]) == 1
    told = capsys.readouterr()
    assert f"{path}:4:9: metadata.name" in told.err
    assert "the config is rejected: a node that has it keeps what is applied" in told.err
    assert told.out == ""
    assert main(["plan", "--config", str(written(tmp_path, 90_000)), "--agent", agent.address]) == 1
    assert "the kubelet's limit" in capsys.readouterr().err


def test_a_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path without a config exits with 4."""
    assert main(["plan", "--config", str(tmp_path), "--driver", f"simulated:{H100X8}"]) == 4
    assert f"cannot read config: there is no such file: {tmp_path}/sharing.yaml" in capsys.readouterr().err


def test_an_agent_that_is_not_there(good: Path) -> None:
    """An agent that cannot be reached exits with 3 and is named with the reason."""
    done = nodeagent("plan", "--config", good, "--agent", "127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr == "nodeagent plan: cannot reach the agent at http://127.0.0.1:1: connection refused\n"


def test_the_config_may_come_from_a_pipe(serve: Serve) -> None:
    """`kubectl kustomize … | nodeagent plan --config -` finds the one config in the stream; two are one too many."""
    agent = serve(builders.snapshot())
    one = config_map(SHARED_BY_TEN, "one")
    done = nodeagent("plan", "--config", "-", "--agent", agent.address, stdin=one)
    assert done.returncode == 0, done.stderr
    assert "requests: at most 2 -> any number of shares per container" in done.stdout
    done = nodeagent("plan", "--config", "-", "--agent", agent.address, stdin=f"{one}---\n{config_map(NVIDIAS, 'two')}")
    assert done.returncode == 1
    assert "cannot plan with 2 sharing configs at once" in done.stderr


def test_the_config_may_be_what_a_shell_makes_of_a_pipe(serve: Serve, good: Path) -> None:
    """`--config <(…)` is read as well."""
    command = f"{sys.executable} -m nodeagent plan --config <(cat {good}) --agent {serve(builders.snapshot()).address}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=longer(60), check=False)
    assert done.returncode == 0, done.stderr


def test_json_names_every_share(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` has every share by its id, and the documents that are compared."""
    gpus = (builders.gpu_status(gpu(0), "hhhhhhffff"),)
    path = written(tmp_path, 4)
    agent = serve(builders.snapshot(*gpus))
    assert main(["plan", "--config", str(path), "--agent", agent.address, "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["document"]["gitBlob"] == Document("", path.read_bytes()).git_blob
    assert told["running"]["gitBlob"] == builders.document().git_blob
    assert (told["class"], told["changes"], told["holdsKnown"]) == ("drained", True, True)
    (one,) = told["gpus"]
    assert one["draining"] == [f"{gpu(0).uuid}::4", f"{gpu(0).uuid}::5"]
    assert one["removed"] == [f"{gpu(0).uuid}::{number}" for number in (6, 7, 8, 9)]
    assert len(one["heldBy"]) == 6


def test_json_of_a_rejected_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` of a rejected config is the list of its mistakes."""
    path = tmp_path / "bad.yaml"
    path.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["plan", "--config", str(path), "--driver", f"simulated:{H100X8}", "-o", "json"]) == 1
    told: Mapping[str, list[Mapping[str, object]]] = json.loads(capsys.readouterr().out)
    assert [one["line"] for one in told["violations"]] == [4, 9]


def test_a_status_that_planning_cannot_rely_on(
    good: Path, serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status in which something is not as expected stops the plan: it would be a guess."""
    status = to_json(builders.snapshot())
    status["inventory"] = {"gpus": "none"}
    monkeypatch.setattr("nodeagent.commands.client.fetch_status", lambda _: status)
    assert main(["plan", "--config", str(good)]) == 3
    assert "cannot read the status of http://127.0.0.1:9400: inventory.gpus: expected list" in capsys.readouterr().err


UNDER_MPS = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: batch
spec:
  rules:
    - name: batch
      match: {indices: [0, 1]}
      resource: nvidia.com/gpu.mps
      mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 25}
      maxSharesPerContainer: 2
    - name: small-inference
      resource: nvidia.com/gpu.shared
      timeSlicing: {replicas: 10}
      maxSharesPerContainer: 2
"""


@pytest.fixture
def under(tmp_path: Path) -> str:
    """The path of a config that has GPUs 0 and 1 under MPS."""
    path = tmp_path / "mps.yaml"
    path.write_text(UNDER_MPS, encoding="utf-8")
    return str(path)


def test_a_gpu_on_its_way_to_mps_is_told(under: str, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """What it becomes, with which limits, for which pods it waits."""
    agent = serve(builders.snapshot(gpu_status(gpu(0), "hhffffffff"), gpu_status(gpu(1), "f" * 10)))
    assert main(["plan", "--config", under, "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    assert (
        """\
GPU 0: time-sliced nvidia.com/gpu.shared x10 -> mps nvidia.com/gpu.mps x4:
  waits for 2 pods
    limits: 9216 MiB and 25 % each, at most 2 per container
    - 8 removed (::2 to ::9)
    ~ 2 drain, held by team-a/worker-0-0, team-a/worker-0-1
    + 4 added after that (::0 to ::3)
GPU 1: time-sliced nvidia.com/gpu.shared x10 -> mps nvidia.com/gpu.mps x4
    limits: 9216 MiB and 25 % each, at most 2 per container
    - 10 removed (::0 to ::9)
    + 4 added (::0 to ::3)
"""
        in told
    )
    assert max(map(len, told.splitlines())) <= 80


def test_other_limits_are_told(under: str, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """From which to which, in lines that fit a terminal; a GPU that stays says them too."""
    agent = serve(
        builders.snapshot(
            under_mps(0, "hhff", mps_daemon(0)), under_mps(1, "ffff", mps_daemon(1, contract=SMALL), contract=SMALL)
        )
    )
    assert main(["plan", "--config", under, "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    assert (
        """\
GPU 0: mps nvidia.com/gpu.mps x4 -> x4 with other limits: waits for 2 pods
    limits: 20480 MiB and 25 % each -> 9216 MiB and 25 % each, at most 2 per
      container
    - 2 removed (::2 to ::3)
    ~ 2 drain, held by team-a/worker-0-0, team-a/worker-0-1
    + 4 added after that (::0 to ::3)
GPU 1: stays mps nvidia.com/gpu.mps (9216 MiB and 25 % each, at most 2 per
  container) x4
"""
        in told
    )


def test_an_agent_without_an_mps_host_is_told_of(under: str, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan says that what is under MPS will wait, and why, and does not call that at once."""
    agent = serve(builders.snapshot(gpu_status(gpu(0), "f" * 10), gpu_status(gpu(1), "f" * 10), mps=OFF))
    assert main(["plan", "--config", under, "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    assert (
        """\
    = 10 kept until then (::0 to ::9)
    ! waits for MPS: no daemon can be started: this agent runs with --mps-host
      off
    + 4 added after that (::0 to ::3)
"""
        in told
    )
    assert "class live: no pod has to end, but something waits for MPS\n" in told
    assert main(["plan", "--config", under, "--agent", agent.address, "-o", "json"]) == 0
    one = json.loads(capsys.readouterr().out)["gpus"][0]
    assert one["waitsFor"] == f"MPS: {OFF.message}"
    assert one["after"] == {
        "mode": "mps",
        "resource": "nvidia.com/gpu.mps",
        "limits": {"memoryMiB": 9216, "threadPercentage": 25, "maxSharesPerContainer": 2},
        "shares": 4,
        "maxSharesPerContainer": 2,
    }


def test_a_node_without_an_agent_is_taken_to_have_an_mps_host(under: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--driver` tells what the config would do to a node that works."""
    assert main(["plan", "--config", under, "--driver", f"simulated:{H100X8}"]) == 0
    told = capsys.readouterr().out
    assert (
        """\
GPUs 0-1: not advertised -> mps nvidia.com/gpu.mps x4
    limits: 9216 MiB and 25 % each, at most 2 per container
    + 4 added (::0 to ::3)
"""
        in told
    )
    assert "class live: all of it at once\n" in told


SLICED_MIG = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: slices
spec:
  rules:
    - name: small
      match: {mig: ["1g.*"]}
      resource: nvidia.com/gpu.small
      timeSlicing: {replicas: 2}
    - name: halves
      match: {mig: ["3g.*"]}
      resource: nvidia.com/gpu.slices
      timeSlicing: {replicas: 2}
    - name: small-inference
      match: {indices: [3]}
      resource: nvidia.com/gpu.shared
      timeSlicing: {replicas: 10}
      maxSharesPerContainer: 2
"""


def sliced(tmp_path: Path, health: str = "") -> str:
    """The path of a config that shares MIG devices; `health` is its policy, if any."""
    path = tmp_path / "slices.yaml"
    path.write_text(SLICED_MIG + health, encoding="utf-8")
    return str(path)


def test_mig_devices_are_planned_for(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """As GPUs are, alike ones together; what is wrong with any of them is told."""
    agent = serve(builders.partitioned())
    assert main(["plan", "--config", sliced(tmp_path), "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    assert (
        """\
GPUs 0, 5: stays exclusive nvidia.com/gpu
GPUs 1-2: used through MIG devices
MIG device 1:7: exclusive nvidia.com/mig-1g.5gb -> time-sliced
  nvidia.com/gpu.small x2: waits for 1 pod
    ~ 1 drains, held by team-a/worker-1-7-0
    + 2 added after that (::0 to ::1)
"""
        in told
    )
    for part in (
        "MIG devices 1:9, 1:11-13, 2:9: exclusive nvidia.com/mig-1g.5gb -> time-sliced\n  nvidia.com/gpu.small x2\n",
        "MIG device 2:1: stays time-sliced nvidia.com/gpu.slices x2\n    ! unhealthy: XID 48 (double-bit ECC error), ",
        "GPU 3: stays time-sliced nvidia.com/gpu.shared x10\n    ! unhealthy: XID 79 (GPU has fallen off the bus)\n",
        "GPU 4: used through MIG devices\n    ! unhealthy: lost: the driver no longer lists it\n",
        "0 of 6 GPUs and 10 of 12 MIG devices change; shares: ",
    ):
        assert part in told, part
    assert max(map(len, told.splitlines())) <= 80


def test_json_tells_which_mig_device(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """By label, profile and uuid, and why it is unhealthy."""
    agent = serve(builders.partitioned())
    assert main(["plan", "--config", sliced(tmp_path), "--agent", agent.address, "-o", "json"]) == 0
    found = {one["label"]: one for one in json.loads(capsys.readouterr().out)["gpus"]}
    assert (found["1:7"]["profile"], found["1:7"]["uuid"]) == ("1g.5gb", builders.mig(1, 7).uuid)
    assert (found["1"]["profile"], found["1"]["unhealthy"], found["1"]["changes"]) == (None, None, False)
    assert found["3"]["unhealthy"] == "XID 79 (GPU has fallen off the bus)"


def test_a_policy_that_heals_is_a_change(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """XIDs that the new config does not take for critical, or lets a GPU recover from, stand against it no more."""
    snapshot = builders.unwell(builders.snapshot(gpu_status(gpu(3), "u" * 10)), {gpu(3).uuid: {79: builders.AT - 90}})
    where = ["--agent", serve(snapshot).address]
    stays = "    ! unhealthy: XID 79 (GPU has fallen off the bus)\n"
    heals = "    ! no longer held against it: XID 79 (GPU has fallen off the bus)\n"
    for health, code, expected in (
        ("", 0, stays),
        ("  health: {criticalXids: [48]}\n", 2, heals),
        ("  health: {recovery: {after: 1m, xids: [79]}}\n", 2, heals),
        ("  health: {recovery: {after: 2m, xids: [79]}}\n", 0, stays),
    ):
        assert main(["plan", "--detailed-exitcode", "--config", sliced(tmp_path, health), *where]) == code
        told = capsys.readouterr().out
        assert expected in told
        assert ("class none: no share comes or goes\n" in told) == (code == 2)


def test_a_gpu_on_its_way_to_mig_is_told(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last share as a whole leaves first; MIG devices that were destroyed are wanted of nobody."""
    whole = gpu_status(builders.a100(1, mig_enabled=True), "h", wanted=None, contract=WHOLE, rule="(mig)")
    gone = builders.mig_status(builders.mig(1, 5, "2g.10gb"), "h")
    fresh = builders.mig(1, 7)
    base = builders.snapshot(whole, gone)
    found = replace(base.inventory, gpus=(whole.gpu, fresh))
    agent = serve(replace(base, inventory=found))
    assert main(["plan", "--config", sliced(tmp_path), "--agent", agent.address]) == 0
    told = capsys.readouterr().out
    for part in (
        "GPU 1: exclusive nvidia.com/gpu -> used through MIG devices: waits for 1 pod\n",
        "MIG device 1:5: exclusive nvidia.com/mig-2g.10gb -> not advertised:\n  waits for 1 pod\n",
        "MIG device 1:7: not advertised -> time-sliced nvidia.com/gpu.small x2\n    + 2 added",
    ):
        assert part in told, told


def test_the_mig_devices_of_a_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A simulated node with MIG and nothing on it."""
    spec = f"simulated:{H100X8.with_name('mig.yaml')}"
    assert main(["plan", "--config", sliced(tmp_path), "--driver", spec]) == 0
    told = capsys.readouterr().out
    assert "used through MIG devices\n" in told
    assert " -> time-sliced nvidia.com/gpu.small x2\n" in told
