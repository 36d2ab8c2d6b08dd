"""Commands that ask an agent, against a real one: it follows a real mount and serves a real socket of the kubelet."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from nodeagent.model.config import Document
from tests.agent.documents import GPU, MPS, SHARED, exclusive, mps, shares, sharing, time_sliced
from tests.agent.harness import Node, uuid
from tests.agent.mps_node import MpsNode
from tests.commands.conftest import nodeagent
from tests.waiting import eventually


async def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Type a command while the node goes on."""
    return await asyncio.to_thread(nodeagent, *arguments)


async def test_a_commit_from_plan_to_applied() -> None:
    """What plan foretells is what happens: status and wait tell it step by step, and at last nothing is left to do."""
    async with Node(gpus=2) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 20})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        pods = await node.fill(0, 6)

        new = node.directory / "new.yaml"
        new.write_bytes(sharing(time_sliced(4, at=[0]), exclusive()))
        blob = Document("", new.read_bytes()).git_blob
        # A share that was let go counts as held for a while after its grant: until then the plan is a careful one.
        plan = await ask("plan", "--config", new, *where, "-o", "json")
        assert plan.returncode == 0, plan.stderr
        first = json.loads(plan.stdout)["gpus"][0]
        assert (first["before"]["shares"], first["after"]["shares"], len(first["draining"])) == (10, 4, 2)

        node.commit(new.read_bytes())
        done = await ask("wait", "--blob", blob, *where, "--timeout", "30s")
        assert done.returncode == 0, done.stderr
        assert (await ask("wait", "--blob", blob, *where, "--applied", "--timeout", "500ms")).returncode == 1
        status = await ask("status", *where)
        assert status.returncode == 1
        assert "Draining, PodsHoldShares" in status.stdout

        for pod in pods:
            await node.kubelet.end(pod)
        done = await ask("wait", "--blob", blob[:12], *where, "--applied", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
        await node.advertises({SHARED: 4, GPU: 1})
        assert (await ask("status", *where)).returncode == 0
        plan = await ask("plan", "--config", new, *where)
        assert plan.returncode == 0, plan.stdout
        assert "nothing would change" in plan.stdout


async def test_a_rejected_commit() -> None:
    """A rejection ends `wait` at once, with the errors of the document; `status` shows them, exit code 1."""
    async with Node(gpus=1) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 10})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        bad = shares(10).replace(b"replicas", b"replica")
        node.commit(bad)
        done = await ask("wait", "--blob", Document("", bad).git_blob, *where, "--timeout", "1h")
        assert done.returncode == 1
        assert 'got "replica"; did you mean "replicas"?' in done.stderr
        status = await ask("status", *where)
        assert status.returncode == 1
        assert 'got "replica"; did you mean "replicas"?' in " ".join(status.stdout.split())
        await node.advertises({SHARED: 10})


async def test_a_commit_that_needs_an_mps_host_that_is_off() -> None:
    """The plan foretells the wait, the node waits, and everything that is asked of it says why."""
    async with Node(gpus=2) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 20})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        new = node.directory / "new.yaml"
        new.write_bytes(sharing(mps(4, at=[0]), time_sliced(10)))
        why = "no daemon can be started: this agent runs with --mps-host off"
        plan = await ask("plan", "--config", new, *where, "-o", "json")
        assert plan.returncode == 0, plan.stderr
        first = json.loads(plan.stdout)["gpus"][0]
        assert first["waitsFor"] == f"MPS: {why}"
        assert (len(first["removed"]), len(first["added"]), len(first["addedLater"])) == (0, 0, 4)

        node.commit(new.read_bytes())
        await eventually(lambda: agent.snapshot.plan.waits)
        blob = Document("", new.read_bytes()).git_blob
        done = await ask("wait", "--blob", blob, *where, "--applied", "--timeout", "2s")
        assert done.returncode == 1
        assert f"GPU 0: waiting for MPS: {why}" in done.stderr
        status = await ask("status", *where)
        assert status.returncode == 1
        said = " ".join(status.stdout.split())
        assert f"MPS daemon of GPU 0: {why}, for " in said
        assert "not MpsReady, HostOff, for " in said
        again = await ask("plan", "--config", new, *where, "-o", "json")
        left = json.loads(again.stdout)["gpus"][0]
        assert (left["waitsFor"], len(left["addedLater"])) == (f"MPS: {why}", 4)
        await node.advertises({SHARED: 20})
        node.commit(shares(10))
        await eventually(lambda: agent.snapshot.in_sync)


async def test_a_commit_to_mps_from_plan_to_applied(mps_control: Path) -> None:
    """With real daemons: what plan foretells of a way into MPS, through other limits and out of it is what comes."""
    async with MpsNode(mps_control, gpus=2) as node:
        await node.host()
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 20})
        where = ["--agent", f"127.0.0.1:{agent.port}"]

        async def hosted() -> bool:
            status = json.loads((await ask("status", *where, "-o", "json")).stdout)
            return bool(status["mps"]["reason"] == "Running")

        await eventually(hosted)
        new = node.directory / "new.yaml"
        for rules, advertised, daemons, comes in (
            ([mps(4, "9Gi", 25, at=[0]), time_sliced(10)], {SHARED: 10, MPS: 4}, [0], 4),
            ([mps(3, "12Gi", 30, at=[0]), time_sliced(10)], {SHARED: 10, MPS: 3}, [0], 3),
            ([exclusive(at=[0]), time_sliced(10)], {SHARED: 10, GPU: 1, MPS: 0}, [], 1),
        ):
            new.write_bytes(sharing(*rules))
            plan = await ask("plan", "--config", new, *where, "-o", "json")
            assert plan.returncode == 0, plan.stderr
            first = json.loads(plan.stdout)["gpus"][0]
            assert (len(first["added"]), first["addedLater"], first["waitsFor"]) == (comes, [], None)
            node.commit(new.read_bytes())
            blob = Document("", new.read_bytes()).git_blob
            done = await ask("wait", "--blob", blob, *where, "--applied", "--timeout", "30s")
            assert done.returncode == 0, done.stderr
            await node.advertises(advertised)
            await node.runs(*daemons)
            status = await ask("status", *where)
            assert status.returncode == 0, status.stdout
            assert "MpsReady" not in status.stdout
            again = await ask("plan", "--config", new, *where)
            assert again.returncode == 0, again.stdout


async def test_a_gpu_that_somebody_else_computes_on(mps_control: Path) -> None:
    """It waits for MPS, and everything that is asked says for whom."""
    async with MpsNode(mps_control, gpus=2) as node:
        await node.host()
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 20})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        node.simulate(2, processes={0: [{"pid": 4242, "name": "python"}]})
        new = sharing(mps(4, at=[0]), time_sliced(10))
        node.commit(new)
        await node.advertises({SHARED: 10})

        async def told() -> str:
            status = (await ask("status", *where)).stdout
            assert "GPU 0: waiting for its MPS daemon: held by process 4242 (python)" in status
            return status

        assert "not MpsReady, Occupied, for " in await eventually(told)
        path = node.directory / "new.yaml"
        path.write_bytes(new)
        plan = await ask("plan", "--config", path, *where)
        assert "    ! waits for its MPS daemon: held by process 4242 (python)\n    + 4 added after that" in plan.stdout
        node.simulate(2)
        await node.advertises({SHARED: 10, MPS: 4})
        assert (await ask("plan", "--config", path, *where)).returncode == 0


async def test_a_node_with_mig_devices_and_an_unhealthy_gpu() -> None:
    """What plan foretells of them is what comes; status names the XID and what clears it, which then does so."""
    async with Node(gpus=3) as node:
        node.simulate(3, mig={1: ["3g.40gb", "1g.10gb", "1g.10gb"]})
        node.commit(sharing(exclusive()))
        agent = await node.agent()
        small, large = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
        await node.advertises({GPU: 2, small: 2, large: 1})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        node.simulate(3, mig={1: ["3g.40gb", "1g.10gb", "1g.10gb"]}, xids={2: [79], 0: [13]})

        async def told() -> str:
            status = await ask("status", *where)
            assert status.returncode == 1
            assert ": GPU 2 is unhealthy\n" in status.stdout
            assert "GPU 2: XID 79 (GPU has fallen off the bus), " in status.stdout
            return status.stdout

        status = await eventually(told)
        assert " 2 x 1g.10gb " in status
        assert f" nodeagent clear-health {uuid(2)}\n" in status
        assert "XID 13" not in status
        whole = json.loads((await ask("status", *where, "-o", "json")).stdout)
        assert {(one["uuid"], one["xid"]) for one in whole["xids"]["counts"]} == {(uuid(0), 13), (uuid(2), 79)}

        slices = "nvidia.com/gpu.slices"
        rule: dict[str, object] = {
            "name": "slices",
            "match": {"mig": ["1g.*"]},
            "resource": slices,
            "timeSlicing": {"replicas": 3},
        }
        new = node.directory / "new.yaml"
        new.write_bytes(sharing(rule, exclusive()))
        plan = await ask("plan", "--config", new, *where)
        assert plan.returncode == 0, plan.stderr
        assert "GPU 1: used through MIG devices\n" in plan.stdout
        assert "    ! unhealthy: XID 79 (GPU has fallen off the bus)\n" in plan.stdout
        said = " ".join(plan.stdout.split())
        assert f" -> time-sliced {slices} x3 - 1 removed + 3 added (::0 to ::2) " in said
        assert "0 of 3 GPUs and 2 of 3 MIG devices change; shares: 6 added, 2 removed, 0 draining" in said
        node.commit(new.read_bytes())
        await node.allocatable(6, slices)
        await node.allocatable(0, small)
        done = await ask("wait", "--blob", Document("", new.read_bytes()).git_blob, *where, "--applied")
        assert done.returncode == 0, done.stderr
        again = await ask("plan", "--config", new, *where)
        assert again.returncode == 0, again.stdout

        cleared = await ask("clear-health", uuid(2), "--state-dir", node.state_dir)
        assert cleared.returncode == 0, cleared.stderr

        async def well() -> bool:
            return "XID" not in (await ask("status", *where)).stdout

        await eventually(well)
        await node.advertises({GPU: 2, slices: 6, large: 1, small: 0})
