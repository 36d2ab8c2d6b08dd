"""The processes, started as the rendered manifests start them, do what the manifests count on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.sim.pods import ContainerError
from tests.conftest import ROOT
from tests.deploy.manifests import render
from tests.deploy.rendered import HARDWARE, NODE_NAME, Container, Manifest, RenderedNode, find, require_containers
from tests.fakes.nvml.library import Controls, build
from tests.waiting import eventually

KUSTOMIZE = ROOT / "kustomize"
MPS, SHARED = "nvidia.com/gpu.mps", "nvidia.com/gpu.shared"
A100S = [{"model": "NVIDIA A100-SXM4-40GB", "memory": "40Gi", "computeCapability": "8.0", "count": 8}]
EXPECTED = {MPS: 6 * 4, SHARED: 2 * 8}
"""What the config of a100-inference makes of eight A100s."""

PROFILES = {"3g.20gb": 2, "2g.10gb": 2, "1g.5gb": 4}
"""How many MIG devices of which profile two GPUs have that are divided alike."""

SYS_ADMIN = 1 << 21

DRIVER = {"libnvidia-ml", "mps-control", "mps-server", "libcuda"}

WITHIN = 90.0
"""Seconds until an agent and six daemons have started on a busy machine."""


@pytest.fixture(scope="module", autouse=True)
def _containers() -> None:
    require_containers()


@pytest.fixture(scope="module")
def a100() -> list[Manifest]:
    """Pool a100-inference: an agent and an MPS host."""
    return [*render(KUSTOMIZE / "overlays/a100-inference")]


def composed(folder: Path, *components: str) -> list[Manifest]:
    """Render what a user makes of the base and these components."""
    document = {"resources": ["../base"], "components": [f"../components/{name}" for name in components]}
    (folder / "kustomize").mkdir()
    for name in ("base", "components"):
        (folder / "kustomize" / name).symlink_to(KUSTOMIZE / name)
    made = folder / "kustomize/made"
    made.mkdir()
    (made / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return [*render(made)]


def container_of(workload: Manifest) -> dict[str, Any]:
    """Its one container that is not an init container."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def grace_of(workload: Manifest) -> float:
    """Seconds between SIGTERM and SIGKILL."""
    return float(workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


async def succeeds(container: Container, probe: str) -> None:
    """Wait until a probe of the container has what it waits for."""

    async def seen() -> bool:
        assert container.runner.returncode is None, container.log
        return 200 <= await container.get(container.manifest[probe]["httpGet"]) < 400

    await eventually(seen, within=WITHIN)


async def says(container: Container, type_: str, reason: str, *, status: bool = False) -> str:
    """Wait until a condition has this reason; its message."""

    async def seen() -> str:
        assert container.runner.returncode is None, container.log
        found = await container.condition(type_)
        assert found["reason"] == reason, f"{found}\n{container.log}"
        assert found["status"] is status, found
        return f" {found['message']}"

    return await eventually(seen, within=WITHIN)


@pytest.mark.usefixtures("mps_control")
async def test_a_pool_works_as_it_is_rendered(a100: list[Manifest]) -> None:
    """Agent and MPS host, started with the rendered arguments, environment, mounts, user and capabilities, offer what
    the config says; every probe gets its answer at the port that it names; SIGTERM ends both within their grace.
    """
    agents, hosts = find(a100, "DaemonSet", "agent"), find(a100, "DaemonSet", "mps-host")
    async with RenderedNode(A100S) as node:
        agent = await node.start(a100, agents)
        await succeeds(agent, "startupProbe")
        host = await node.start(a100, hosts)

        def offered() -> bool:
            have = {name: node.kubelet.allocatable(name) for name in node.kubelet.resources()}
            assert have == EXPECTED, f"{have}\n{agent.log}\n{host.log}"
            return True

        await eventually(offered, within=WITHIN)
        await succeeds(agent, "readinessProbe")
        await succeeds(agent, "livenessProbe")
        assert await says(agent, "MpsReady", "DaemonsReady", status=True)
        _, metrics = await agent.fetch("/metrics", agent.port("http"))
        _, status = await agent.fetch("/status", agent.port("http"))
        assert json.loads(status)["node"] == NODE_NAME
        assert 'pool="a100-inference"' in metrics.decode()

        # Privilege is where the manifest says, and nowhere else.
        assert int(agent.status()["CapEff"], 16) == 0
        assert int(agent.status()["CapBnd"], 16) == 0
        assert agent.status()["NoNewPrivs"] == "1"
        assert int(host.status()["CapEff"], 16) != 0

        # What a pod under MPS is given is there on the node, and not in a container alone.
        with pytest.raises(ContainerError):  # the stand-in looks for it on this machine
            await node.kubelet.admit("service", containers={"main": {MPS: 1}})
        (pod,) = node.kubelet.pods
        mounts = pod.mounts("main")
        assert mounts.keys() == {"/mps/pipe", "/dev/shm"}
        assert node.path(mounts["/mps/pipe"]).joinpath("control").is_socket()
        assert node.path(mounts["/mps/pipe"]).parent.is_mount()
        assert node.path(mounts["/dev/shm"]).is_mount()
        await node.kubelet.end(pod)

        # Daemons outlive the agent, and a crash of the host; its container does as well.
        crashed = host.child
        assert crashed is not None
        daemons = host.processes() - {host.pid, crashed}
        assert len(daemons) >= EXPECTED[MPS] // 4
        os.kill(crashed, signal.SIGKILL)
        await eventually(lambda: host.log.count("hosting MPS daemons") == 2, within=WITHIN)
        assert await agent.stop(grace_of(agents)) == 0, agent.log
        assert daemons <= host.processes()
        assert await host.stop(grace_of(hosts)) == 0, host.log


async def test_nothing_waits_for_a_config_that_is_not_there(a100: list[Manifest]) -> None:
    """Without its ConfigMap the pod starts all the same and is alive, not ready, and becomes so when it comes."""
    without = [one for one in a100 if one["kind"] != "ConfigMap"]
    async with RenderedNode(A100S) as node:
        agent = await node.start(without, find(a100, "DaemonSet", "agent"))
        await succeeds(agent, "startupProbe")
        await says(agent, "ConfigAccepted", "Missing")
        assert await agent.get(container_of(find(a100, "DaemonSet", "agent"))["readinessProbe"]["httpGet"]) == 503
        await succeeds(agent, "livenessProbe")

        node.commit(a100)
        await succeeds(agent, "readinessProbe")


NEEDED = {
    "config": ("ConfigAccepted", "Missing"),
    "device-plugins": ("Registered", "KubeletAbsent"),
    "pod-resources": ("PodResourcesReady", "KubeletAbsent"),
    "state": None,
    "mps-root": ("MpsReady", "HostAbsent"),
}
"""What an agent says without a volume; None: it cannot start. An MPS host runs where it is about one."""

WRITTEN = {"device-plugins": ("Registered", "DirectoryUnwritable"), "state": None, "mps-root": ("MpsReady", "Unusable")}
"""What it says when it may not write there."""


def test_all_mounts_are_known(a100: list[Manifest]) -> None:
    """The tests below are about every mount of the agent, and about every one that it may write to."""
    mounts = container_of(find(a100, "DaemonSet", "agent"))["volumeMounts"]

    assert {mount["name"] for mount in mounts} == NEEDED.keys() | {"cgroups"}  # its test shows what that is for
    assert {mount["name"] for mount in mounts if not mount.get("readOnly")} == WRITTEN.keys()


async def hosted(node: RenderedNode, a100: list[Manifest], request: pytest.FixtureRequest) -> None:
    """An MPS host works on the node."""
    request.getfixturevalue("mps_control")
    host = await node.start(a100, find(a100, "DaemonSet", "mps-host"))
    await eventually(lambda: "hosting MPS daemons" in host.log, within=WITHIN)


@pytest.mark.parametrize("volume", NEEDED)
async def test_the_agent_needs_each_of_its_mounts(
    a100: list[Manifest], volume: str, request: pytest.FixtureRequest
) -> None:
    """An agent that lacks one of its mounts says what it cannot do: none of them is there for nothing."""
    async with RenderedNode(A100S) as node:
        if volume == "mps-root":
            await hosted(node, a100, request)
        await fails(await node.start(a100, find(a100, "DaemonSet", "agent"), without=volume), NEEDED[volume])


@pytest.mark.parametrize("volume", WRITTEN)
async def test_the_agent_writes_where_it_may(a100: list[Manifest], volume: str, request: pytest.FixtureRequest) -> None:
    """An agent that may not write to a mount which is not read-only says what it cannot do."""
    async with RenderedNode(A100S) as node:
        if volume == "mps-root":
            await hosted(node, a100, request)
        await fails(await node.start(a100, find(a100, "DaemonSet", "agent"), read_only=volume), WRITTEN[volume])


async def fails(agent: Container, symptom: tuple[str, str] | None) -> None:
    """Wait until an agent has this symptom."""
    if symptom is None:
        assert await agent.ended(WITHIN) == 1
        assert "cannot start" in agent.log
    else:
        await says(agent, *symptom)


@pytest.mark.usefixtures("mps_control")
async def test_the_mps_host_needs_its_mount(a100: list[Manifest]) -> None:
    """Without the MPS root on the node there is no host."""
    async with RenderedNode(A100S) as node:
        host = await node.start(a100, find(a100, "DaemonSet", "mps-host"), without="mps-root")
        await eventually(lambda: "cannot start" in host.log, within=WITHIN)


@pytest.mark.usefixtures("mps_control")
@pytest.mark.parametrize(("propagation", "seen"), [(None, True), ("HostToContainer", False)])
async def test_the_shared_memory_is_seen_by_the_kubelet(
    a100: list[Manifest], propagation: str | None, seen: bool
) -> None:
    """What the MPS host mounts below its root is mounted on the node, by the propagation that is rendered."""
    async with RenderedNode(A100S) as node:
        host = await node.start(a100, find(a100, "DaemonSet", "mps-host"), propagation=propagation)
        await eventually(lambda: "hosting MPS daemons" in host.log, within=WITHIN)

        assert node.path("/run/nodeagent/mps/shm").is_mount() is seen


@pytest.mark.usefixtures("mps_control")
@pytest.mark.parametrize(("propagation", "reason"), [(None, "DaemonsReady"), ("None", "DaemonFailed")])
async def test_the_agent_sees_what_the_mps_host_mounts_later(
    a100: list[Manifest], propagation: str | None, reason: str
) -> None:
    """The sockets of each daemon are in a file system that comes after the agent's container, which sees it by the
    propagation that is rendered.
    """
    async with RenderedNode(A100S) as node:
        agent = await node.start(a100, find(a100, "DaemonSet", "agent"), propagation=propagation)
        await succeeds(agent, "startupProbe")
        await node.start(a100, find(a100, "DaemonSet", "mps-host"))
        await says(agent, "MpsReady", reason, status=reason == "DaemonsReady")


async def test_a_second_pool_on_the_node_waits(a100: list[Manifest]) -> None:
    """Two pools that claim one node do it no harm: the second agent is alive and not ready until the first has left."""
    h100 = render(KUSTOMIZE / "overlays/h100-training")
    agents = find(a100, "DaemonSet", "agent")
    async with RenderedNode(A100S) as node:
        first = await node.start(a100, agents)
        await eventually(lambda: node.kubelet.allocatable(SHARED) == EXPECTED[SHARED], within=WITHIN)
        second = await node.start(h100, find(h100, "DaemonSet", "agent"))
        await eventually(lambda: "waiting until it is gone" in second.log, within=WITHIN)
        await succeeds(second, "livenessProbe")
        assert await second.get(container_of(agents)["readinessProbe"]["httpGet"]) == 503
        assert node.kubelet.allocatable(SHARED) == EXPECTED[SHARED]

        assert await first.stop(grace_of(agents)) == 0
        await succeeds(second, "readinessProbe")
        await eventually(lambda: node.kubelet.allocatable("nvidia.com/gpu") == 8, within=WITHIN)


async def test_a_strict_agent_is_not_ready_with_a_bad_config(tmp_path: Path) -> None:
    """A rejected config takes readiness away with strict-readiness, and does not without; never liveness."""
    strict = composed(tmp_path, "strict-readiness", "driver-access/runtime-class")
    h100: list[Manifest] = [*render(KUSTOMIZE / "overlays/h100-training")]
    for pool, code in ((strict, 503), (h100, 200)):
        agents = find(pool, "DaemonSet", "agent")
        async with RenderedNode(A100S) as node:
            agent = await node.start(pool, agents)
            await succeeds(agent, "readinessProbe")
            node.commit(broken(pool))
            await says(agent, "ConfigAccepted", "SchemaError")
            assert await agent.get(container_of(agents)["readinessProbe"]["httpGet"]) == code
            await succeeds(agent, "livenessProbe")


def broken(manifests: list[Manifest]) -> list[Manifest]:
    """The same, with a typo in every config."""
    text = json.dumps(manifests).replace("rules:", "rulez:")
    return list(json.loads(text))


async def test_with_the_gpu_operator_the_agent_waits_for_the_driver() -> None:
    """The init container ends when the operator has said that driver and toolkit are ready, and not before; it needs no
    privilege for it.
    """
    h100 = render(KUSTOMIZE / "overlays/h100-training")
    async with RenderedNode(A100S) as node:
        wait = await node.start(h100, find(h100, "DaemonSet", "agent"), container="wait-for-driver")
        await eventually(lambda: wait.pid is not None and "sh" in wait.status()["Name"])
        assert int(wait.status()["CapEff"], 16) == 0
        assert wait.runner.returncode is None, wait.log

        node.path("/run/nvidia/validations/toolkit-ready").touch()
        assert await wait.ended() == 0, wait.log


@pytest.mark.parametrize("valid", [True, False])
async def test_the_presync_job_checks_the_config(tmp_path: Path, valid: bool) -> None:
    """The Job succeeds with a valid config and fails with any other, as a user without rights."""
    made = composed(tmp_path, "presync-validate")
    manifests = made if valid else broken(made)
    async with RenderedNode(A100S) as node:
        job = await node.start(manifests, find(manifests, "Job", "validate"))
        assert await job.ended(WITHIN) == (0 if valid else 1), job.log
        assert ("1 valid" in job.log) is valid, job.log


@pytest.mark.parametrize(("text", "code"), [(None, 0), ("", 1), ("# emptied\n", 1), ("a: 1\n", 1)])
async def test_the_presync_job_checks_every_key(tmp_path: Path, text: str | None, code: int) -> None:
    """Where a label of a node chooses among configs the Job judges all of them: each is what some node gets."""
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize")
    folder = tmp_path / "examples/config-by-label"
    shutil.copytree(ROOT / "examples/config-by-label", folder)
    if text is not None:
        (folder / "whole.yaml").write_text(text, "utf-8")
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    kustomization["components"].append("../../kustomize/components/presync-validate")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
    manifests = render(folder)
    async with RenderedNode(A100S) as node:
        job = await node.start(manifests, find(manifests, "Job", "validate"))
        assert await job.ended(WITHIN) == code, job.log
        assert ("whole.yaml:1:1: expected" in job.log) is bool(code), job.log


async def test_a_driver_root_brings_library_and_programs(
    a100: list[Manifest], tmp_path: Path, gcc: Path, mps_control: Path
) -> None:
    """With driver-root agent and MPS host find what they need of the driver where it is mounted, and nowhere else: GPUs
    are seen through the node's libnvidia-ml.so.1, and come under MPS by the node's control program.
    """
    made = composed(tmp_path, "mps", "driver-access/driver-root")
    data = find(a100, "ConfigMap", "config")["data"]
    configured = [{**one, "data": data} if one["kind"] == "ConfigMap" else one for one in made]
    for workload in ("agent", "mps-host"):
        volumes = find(made, "DaemonSet", workload)["spec"]["template"]["spec"]["volumes"]
        assert {volume["hostPath"]["type"] for volume in volumes if volume["name"] in DRIVER} == {"File"}
    async with RenderedNode(A100S) as node:
        for path in ("/usr/lib/x86_64-linux-gnu", "/usr/bin"):
            node.path(path).mkdir(parents=True)
        build(gcc, node.path("/usr/lib/x86_64-linux-gnu"))
        node.path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").touch()
        for name in ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"):
            shutil.copy(mps_control.with_name(name), node.path("/usr/bin"))
        gpu = {"uuid": "GPU-1", "name": "NVIDIA A100", "memory": 40 << 30, "major": 8, "minor": 0, "mode": 0}
        lines = {f"gpu.0.{key}": value for key, value in {**gpu, "kept": f"{HARDWARE}/mode"}.items()}
        Controls(node.hardware / "nvml", node.hardware / "calls", tmp_path).write({"count": 1, **lines})

        agents = find(made, "DaemonSet", "agent")
        stand_in = {"FAKE_NVML": f"{HARDWARE}/nvml"}
        host = await node.start(configured, find(made, "DaemonSet", "mps-host"), environment=stand_in)
        agent = await node.start(configured, agents, environment=stand_in)
        await says(agent, "InventoryReady", "Found", status=True)
        await says(agent, "MpsReady", "DaemonsReady", status=True)
        await eventually(lambda: node.kubelet.allocatable(MPS) == 4, within=WITHIN)
        assert (node.hardware / "mode").read_text(encoding="ascii").strip() == "3", host.log
        assert await agent.stop(grace_of(agents)) == 0


async def test_a_pool_with_mig_works_as_it_is_rendered() -> None:
    """The agent has the one capability that the component mig gives it, works with it as with none, and offers MIG
    devices by their profiles beside whole GPUs.
    """
    mig = render(KUSTOMIZE / "overlays/a100-mig")
    agents = find(mig, "DaemonSet", "agent")
    divided = {"mig": {"devices": ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]}}
    async with RenderedNode([{**A100S[0], "count": 6}, {**A100S[0], "count": 2, **divided}]) as node:
        agent = await node.start(mig, agents)

        def offered() -> bool:
            have = {name: node.kubelet.allocatable(name) for name in node.kubelet.resources()}
            profiles = {f"nvidia.com/mig-{name}": count for name, count in PROFILES.items()}
            assert have == {"nvidia.com/gpu": 6, **profiles}, f"{have}\n{agent.log}"
            return True

        await eventually(offered, within=WITHIN)
        await succeeds(agent, "readinessProbe")
        assert int(agent.status()["CapEff"], 16) == SYS_ADMIN
        assert int(agent.status()["CapBnd"], 16) == SYS_ADMIN
        assert await agent.stop(grace_of(agents)) == 0, agent.log


async def test_a_node_with_cdi_says_whether_it_has_a_specification(tmp_path: Path) -> None:
    """With handover-cdi the agent sees the specifications of the node in both directories, writes in neither, and says
    what containers would be referred to and is not there.
    """
    made = composed(tmp_path, "handover-cdi", "driver-access/runtime-class")
    agents = find(made, "DaemonSet", "agent")
    async with RenderedNode(A100S) as node:
        agent = await node.start(made, agents)
        await succeeds(agent, "readinessProbe")
        await says(agent, "HandOverReady", "SpecMissing")

        _, status = await agent.fetch("/status", agent.port("http"))
        names = [gpu["uuid"] for gpu in json.loads(status)["gpus"]]
        specification = {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": name} for name in names]}
        node.path("/var/run/cdi/nvidia.json").write_text(json.dumps(specification), encoding="utf-8")
        await says(agent, "HandOverReady", "SpecFound", status=True)
        node.path("/var/run/cdi/nvidia.json").rename(node.path("/etc/cdi/nvidia.json"))
        await says(agent, "HandOverReady", "SpecFound", status=True)
        assert [*node.path("/var/run/cdi").iterdir()] == []
        assert await agent.stop(grace_of(agents)) == 0, agent.log


async def test_node_feature_discovery_finds_the_labels(tmp_path: Path) -> None:
    """With labels-nfd the node has, where NFD's worker looks, one file with the labels of what is applied."""
    made = composed(tmp_path, "labels-nfd", "driver-access/runtime-class")
    agents = find(made, "DaemonSet", "agent")
    async with RenderedNode(A100S) as node:
        agent = await node.start(made, agents)
        await says(agent, "LabelsSynced", "Synced", status=True)
        (file,) = node.path("/etc/kubernetes/node-feature-discovery/features.d").iterdir()
        assert "nvidia.com/gpu.count=8" in file.read_text(encoding="utf-8").splitlines()
        assert await agent.stop(grace_of(agents)) == 0, agent.log


async def test_a_person_clears_a_gpu_in_the_agents_container(a100: list[Manifest]) -> None:
    """What `kubectl exec` starts in the agent's container, as root without any capability and on a read-only root,
    reaches the agent by the socket in the state directory: a refusal comes back, and so does what was done.
    """
    async with RenderedNode(A100S) as node:
        agent = await node.start(a100, find(a100, "DaemonSet", "agent"))
        await succeeds(agent, "readinessProbe")
        code, said = await agent.run("clear-health", "GPU-unknown")
        assert code == 1, said
        assert "this node has no such GPU" in said
        assert stat.S_IMODE(node.path("/var/lib/nodeagent/admin.sock").stat().st_mode) == 0o600

        _, status = await agent.fetch("/status", agent.port("http"))
        sick = json.loads(status)["gpus"][7]["uuid"]
        node.simulate([{**A100S[0], "count": 7}, {**A100S[0], "count": 1, "xids": [{"code": 79, "seq": 1}]}])
        await eventually(lambda: node.kubelet.allocatable(SHARED) == EXPECTED[SHARED] // 2, within=WITHIN)
        code, said = await agent.run("clear-health", sick)
        assert code == 0, said
        assert "cleared of XID 79" in said
        await eventually(lambda: node.kubelet.allocatable(SHARED) == EXPECTED[SHARED], within=WITHIN)
