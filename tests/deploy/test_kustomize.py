"""The manifests: what can be installed renders, is valid, keeps pools apart, and asks for no right that it can lack."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent import __version__, settings
from nodeagent.config.load import load
from nodeagent.devices.simulated import load_inventory
from nodeagent.model.config import Document
from nodeagent.settings import MPS_HOST_OPTIONS, OPTIONS, Option
from nodeagent.state.desired import resolve
from tests.conftest import ROOT
from tests.deploy.manifests import build, manifests, problems_of, render
from tests.deploy.pools import GPUS, OFFERED, POOLS, simulated_node
from tests.markdown import blocks
from tests.waiting import longer

Manifest = dict[str, Any]

KUSTOMIZE = ROOT / "kustomize"
LATE = ["driver-access/driver-root", "driver-access/runtime-class", "gpu-operator"]
"""Components that change what others have brought, so that they are listed after them."""

EARLY = [
    "handover-cdi",
    "kube-api",
    "labels-api",
    "labels-nfd",
    "mig",
    "mps",
    "monitoring",
    "network-policy",
    "presync-validate",
    "rollout-on-change",
    "selinux",
    "strict-readiness",
]
WITHIN = {"labels-api": "kube-api", "monitoring": "network-policy"}
"""Components that are part of another, so that nobody lists both."""

CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "Namespace"}
INSTANCE, POOL, NAME = "app.kubernetes.io/instance", "nodeagent.io/pool", "app.kubernetes.io/name"
IMAGE = f"ghcr.io/nodeagent/nodeagent:v{__version__}"


@pytest.fixture(scope="module")
def overlays() -> dict[str, list[Manifest]]:
    """Every pool, rendered."""
    return {pool: render(KUSTOMIZE / "overlays" / pool) for pool in POOLS}


def compose(folder: Path, *components: str, resource: str = "base") -> Path:
    """A kustomization of these components on top of the base, in a copy of everything."""
    tree = copied(folder)
    made = tree / "made"
    made.mkdir(exist_ok=True)
    document = {"resources": [f"../{resource}"], "components": [f"../components/{name}" for name in components]}
    (made / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return made


def copied(folder: Path) -> Path:
    """A copy of all manifests, to change; made once."""
    if not (folder / "kustomize").exists():
        shutil.copytree(KUSTOMIZE, folder / "kustomize")
    return folder / "kustomize"


def add_component(overlay: Path, name: str) -> None:
    """List one more component in an overlay."""
    file = overlay / "kustomization.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    document["components"].append(f"../../components/{name}")
    file.write_text(yaml.safe_dump(document), encoding="utf-8")


def validate(text: str | bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What `nodeagent validate -` says to this."""
    return subprocess.run(
        [sys.executable, "-m", "nodeagent", "validate", *arguments, "-"],
        input=text if isinstance(text, bytes) else text.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=longer(60),
        check=False,
    )


def assert_valid(objects: Iterable[Manifest]) -> None:
    """Fail with everything that a strict API server would say to these."""
    told = list(objects)
    found = {name(one): faults for one, faults in zip(told, problems_of(told), strict=True) if faults}
    assert not found


def name(manifest: Manifest) -> tuple[str, str, str]:
    """What no two objects of a cluster have in common."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def kind(objects: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Those of these kinds."""
    return [one for one in objects if one["kind"] in kinds]


def workloads(objects: Iterable[Manifest]) -> list[Manifest]:
    """Those that make pods."""
    return kind(objects, "DaemonSet", "Deployment", "Job", "StatefulSet")


def component(manifest: Manifest) -> str:
    """Which part of the whole it is."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pod(workload: Manifest) -> Manifest:
    """The spec of its pods."""
    return dict(workload["spec"]["template"]["spec"])


def containers(workload: Manifest) -> list[Manifest]:
    """All of a pod, those that run first too."""
    return [*pod(workload).get("initContainers", ()), *pod(workload)["containers"]]


def selectors(objects: Iterable[Manifest]) -> Iterator[tuple[Manifest, dict[str, str]]]:
    """Every selector of pods, with the object that has it."""
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] in {"DaemonSet", "PodMonitor", "Deployment", "StatefulSet"}:
            yield one, spec["selector"]["matchLabels"]
        elif one["kind"] == "NetworkPolicy":
            yield one, spec["podSelector"]["matchLabels"]
        elif one["kind"] == "Service":
            yield one, spec["selector"]


def sharing(objects: Iterable[Manifest]) -> Manifest:
    """The ConfigMap that agents mount."""
    (found,) = [one for one in kind(objects, "ConfigMap") if one["metadata"]["name"].split("-")[0] == "sharing"]
    return found


def mounted_config(objects: Iterable[Manifest]) -> str:
    """The name of the ConfigMap that the agent's pod asks for."""
    (agent,) = [one for one in kind(objects, "DaemonSet") if component(one) == "agent"]
    (volume,) = [one for one in pod(agent)["volumes"] if one["name"] == "config"]
    return str(volume["configMap"]["name"])


# --- it renders, and is valid ----------------------------------------------------------------------------------------


def test_the_base_is_valid() -> None:
    """The base alone is valid, and so is its config."""
    text = build(KUSTOMIZE / "base")

    assert_valid(manifests(text))
    assert validate(text).returncode == 0


@pytest.mark.parametrize("pool", POOLS)
def test_an_overlay_is_valid(overlays: dict[str, list[Manifest]], pool: str) -> None:
    """Every object of a pool is valid by the strictest reading of its schema."""
    assert_valid(overlays[pool])


def test_every_overlay_is_tested() -> None:
    """There is no pool, and no component of the agent itself, that these tests do not know."""
    assert {path.parent.name for path in KUSTOMIZE.glob("overlays/*/kustomization.yaml")} == set(POOLS)
    for known in (*EARLY, *LATE):
        assert (KUSTOMIZE / "components" / known / "kustomization.yaml").is_file()


def test_the_page_shows_a_pool_that_works(tmp_path: Path) -> None:
    """The overlay and the quota that docs/install.md shows are valid as they stand, and the accounts that it names for
    OpenShift are those of that overlay.
    """
    page = blocks((ROOT / "docs/install.md").read_text(encoding="utf-8"))
    texts = {manifests(one.text)[0].get("kind"): one.text for one in page if one.language == "yaml"}
    (kustomization,), (quota,) = manifests(texts["Kustomization"]), manifests(texts["ResourceQuota"])
    folder = copied(tmp_path) / "overlays" / kustomization["nameSuffix"].removeprefix("-")
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(texts["Kustomization"], encoding="utf-8")
    shutil.copy(KUSTOMIZE / "overlays/a100-inference/sharing.yaml", folder)
    made = render(folder)

    assert_valid([*made, quota])
    assert [component(one) for one in kind(made, "DaemonSet")] == ["agent", "mps-host"]
    assert {one["metadata"].get("namespace", "") for one in made} == {"", kustomization["namespace"]}
    assert quota["metadata"]["namespace"] == kustomization["namespace"]
    accounts = {(one["metadata"]["name"], one["metadata"]["namespace"]) for one in kind(made, "ServiceAccount")}
    commands = "\n".join(one.text for one in page if "add-scc-to-user" in one.text)
    assert set(re.findall(r"-z (\S+) -n (\S+)", commands)) == accounts


@pytest.mark.parametrize(
    "pair",
    list(combinations([*EARLY, *LATE], 2)),
    ids=" and ".join,
)
def test_components_compose(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Any two components work together on the base, one that is part of the other included, and the result is valid."""
    made = render(compose(tmp_path, *pair))

    names = [name(one) for one in made]
    assert len(names) == len({*names})
    assert_valid([one for one in made if not one["apiVersion"].startswith("monitoring.coreos.com/")])


def test_all_components_compose(tmp_path: Path) -> None:
    """All that do not exclude each other work together."""
    access = LATE[0]
    left_out = {access, *WITHIN.values()}
    made = render(compose(tmp_path, *(one for one in (*EARLY, *LATE) if one not in left_out)))

    assert_valid(made)
    agent, host = sorted(kind(made, "DaemonSet"), key=component)
    assert (component(agent), component(host)) == ("agent", "mps-host")
    for one in (agent, host):
        assert pod(one)["runtimeClassName"] == "nvidia"
        assert pod(one)["nodeSelector"] == {"nvidia.com/gpu.deploy.device-plugin": "true"}
        assert [init["name"] for init in pod(one)["initContainers"]] == ["wait-for-driver"]


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_what_an_overlay_renders_can_be_checked(tmp_path: Path, pool: str) -> None:
    """`kubectl kustomize | nodeagent validate -` passes, and fails when the config in it is broken."""
    assert validate(build(KUSTOMIZE / "overlays" / pool)).returncode == 0

    file = copied(tmp_path) / "overlays" / pool / "sharing.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("  rules:", "  rulez:"), encoding="utf-8")
    done = validate(build(file.parent))
    assert done.returncode == 1
    assert b'did you mean "rules"' in done.stdout


@pytest.mark.parametrize("pool", POOLS)
def test_a_config_fits_the_nodes_of_its_pool(tmp_path: Path, pool: str) -> None:
    """On a node of its pool a config has no mistake and no rule without a GPU, and offers what one would expect."""
    node = tmp_path / "node.yaml"
    node.write_text(simulated_node(GPUS[pool]), encoding="utf-8")
    file = ROOT / "examples/pools" / f"{pool}.yaml"

    done = validate(file.read_bytes(), "--driver", f"simulated:{node}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(b"note:") == done.stdout.count(b"cannot come under MPS here")
    assert planned(file, node) == OFFERED[pool]


def planned(config: Path, node: Path) -> dict[str, int]:
    """How many shares of each resource the agent would offer on this node."""
    loaded = load(Document(str(config), config.read_bytes()))
    assert loaded.config is not None
    found: Counter[str] = Counter()
    for want in resolve(loaded.config, load_inventory(node, "node-a").gpus).wants.values():
        if want.contract is not None:
            found[want.contract.resource] += want.count
    return dict(found)


def test_a_label_chooses_among_configs_that_are_there() -> None:
    """The example of configs by label is valid, has every file of its folder in one ConfigMap, and what lets the agent
    read the label.
    """
    folder = ROOT / "examples/config-by-label"
    made = render(folder)
    (config,) = kind(made, "ConfigMap")
    (agent,) = kind(made, "DaemonSet")

    assert_valid(made)
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    assert files.pop("kustomization.yaml")
    assert config["data"] == files
    assert "sharing.yaml" in files
    assert validate(build(folder)).stdout.count(b": valid: ") == len(files)
    assert mounted_config(made) == config["metadata"]["name"]
    assert speaks_to_the_api(agent)


@pytest.mark.parametrize("pool", POOLS)
def test_an_example_is_the_config_of_its_pool(overlays: dict[str, list[Manifest]], pool: str) -> None:
    """`examples/pools/POOL.yaml` is a link to the file that the overlay installs, to the byte."""
    example = ROOT / "examples/pools" / f"{pool}.yaml"

    assert example.is_symlink()
    assert not example.readlink().is_absolute()
    assert example.resolve() == KUSTOMIZE / "overlays" / pool / "sharing.yaml"
    assert sharing(overlays[pool])["data"] == {"sharing.yaml": example.read_text(encoding="utf-8")}


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{pool}" for pool in POOLS)])
def test_a_config_names_its_schema(folder: str) -> None:
    """An editor that opens the file finds the schema, from where the file is."""
    file = KUSTOMIZE / folder / "sharing.yaml"
    first, _, _ = file.read_text(encoding="utf-8").partition("\n")
    mark, _, path = first.partition("$schema=")

    assert mark == "# yaml-language-server: "
    assert (file.parent / path).resolve() == ROOT / "schemas/sharing-config-v1alpha1.json"


@pytest.mark.parametrize(
    "content",
    ["a: |\n  x  \n\n", "no newline at the end: 1", "# \u00e4 \t\n'a': \"b\"\n", "a: 1\r\nb: 2\r\n", "- x\n" * 400],
)
@pytest.mark.parametrize("on", ["base", "overlays/t4-dev"])
def test_the_presync_job_checks_the_same_file(tmp_path: Path, content: str, on: str) -> None:
    """The ConfigMap of the Job has the bytes of the one that agents mount, whatever they are."""
    made = compose(tmp_path, "presync-validate", resource=on)
    (made.parent / on / "sharing.yaml").write_bytes(content.encode())
    rendered = render(made)
    (job,) = kind(rendered, "Job")
    ours, to_validate = sorted(kind(rendered, "ConfigMap"), key=lambda one: len(one["metadata"]["name"]))

    assert to_validate["data"] == ours["data"] == {"sharing.yaml": content}
    (volume,) = pod(job)["volumes"]
    assert volume["configMap"]["name"] == to_validate["metadata"]["name"]
    assert job["metadata"]["namespace"] == to_validate["metadata"]["namespace"]


def test_the_presync_job_comes_first(tmp_path: Path) -> None:
    """Argo CD makes the Job's ConfigMap, then the Job, then everything else, and deletes both before the next time.
    Their namespace must be there before them, so that it is none of the objects that come after.
    """
    made = render(compose(tmp_path, "presync-validate", "mps"))
    hooks = {one["kind"]: one["metadata"]["annotations"] for one in made if "annotations" in one["metadata"]}

    assert hooks.keys() == {"ConfigMap", "Job"}
    for told in hooks.values():
        assert told["argocd.argoproj.io/hook"] == "PreSync"
        assert told["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    wave = "argocd.argoproj.io/sync-wave"
    assert int(hooks["ConfigMap"][wave]) < int(hooks["Job"][wave])
    assert not kind(made, "Namespace")


@pytest.mark.parametrize("order", list(permutations(["rollout-on-change", "presync-validate", "network-policy"])))
@pytest.mark.parametrize("pool", [None, "t4-dev"])
def test_a_change_rolls_only_where_it_is_wanted(tmp_path: Path, pool: str | None, order: tuple[str, ...]) -> None:
    """With rollout-on-change the name of the ConfigMap follows its content, and the pod's volume follows the name."""
    if pool is None:
        folder = compose(tmp_path, *order)
        file = copied(tmp_path) / "base/sharing.yaml"
    else:
        folder = copied(tmp_path) / "overlays" / pool
        for one in order:
            if one != "network-policy":
                add_component(folder, one)
        file = folder / "sharing.yaml"

    def rendered() -> tuple[str, str]:
        made = render(folder)
        assert not any("kustomize" in key for one in made for key in one["metadata"].get("annotations", {}))
        (config,) = [one for one in kind(made, "ConfigMap") if "hook" not in str(one["metadata"].get("annotations"))]
        assert mounted_config(made) == config["metadata"]["name"]
        return str(config["metadata"]["name"]), str(config["data"]["sharing.yaml"])

    before, _ = rendered()
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    after, content = rendered()

    assert content.endswith("# changed\n")
    assert before != after
    assert fnmatch(before, "sharing-*" if pool is None else f"sharing-{pool}-*")


def test_a_change_of_the_config_changes_the_config_map_alone(
    tmp_path: Path, overlays: dict[str, list[Manifest]]
) -> None:
    """In a pool as it is, another config is another content of one ConfigMap: no pod is replaced for it."""
    for pool in POOLS:
        folder = copied(tmp_path) / "overlays" / pool
        file = folder / "sharing.yaml"
        file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        before = {name(one): one for one in overlays[pool]}
        after = {name(one): one for one in render(folder)}

        assert before.keys() == after.keys()
        assert [key for key, one in after.items() if one != before[key]] == [name(sharing(overlays[pool]))]


# --- pools side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", list(combinations([None, *POOLS], 2)), ids=str)
def test_pools_never_clash(overlays: dict[str, list[Manifest]], pair: tuple[str | None, str]) -> None:
    """Two pools, or one and the base, have no object in common, and no selector of one is for pods of the other: in
    whatever namespace those are. Agents of two pools are never meant for one node.
    """
    first, second = (overlays[pool] if pool else render(KUSTOMIZE / "base") for pool in pair)

    assert not {name(one) for one in first} & {name(one) for one in second}
    for ours, theirs in ((first, second), (second, first)):
        labels = [one["spec"]["template"]["metadata"]["labels"] for one in workloads(theirs)]
        for owner, selector in selectors(ours):
            assert not any(selector.items() <= found.items() for found in labels), name(owner)
    if None not in pair:
        for one, other in product(kind(first, "DaemonSet"), kind(second, "DaemonSet")):
            assert exclude_each_other(terms(one), terms(other))


def terms(daemon_set: Manifest) -> list[dict[str, set[str]]]:
    """Of each term, any of which makes a node one for these pods: the values that it allows, by label."""
    required = pod(daemon_set)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    found = []
    for term in required["nodeSelectorTerms"]:
        assert all(one["operator"] == "In" for one in term["matchExpressions"])
        found.append({one["key"]: {*one["values"]} for one in term["matchExpressions"]})
    return found


def exclude_each_other(ours: list[dict[str, set[str]]], theirs: list[dict[str, set[str]]]) -> bool:
    """Whether no node can have the labels of a term of both."""
    return all(any(not one[key] & other[key] for key in one.keys() & other.keys()) for one in ours for other in theirs)


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_is_named_throughout(overlays: dict[str, list[Manifest]], pool: str) -> None:
    """Namespace, names, labels and node affinity of a pool are its own; selectors are of name and instance alone, and
    each is for pods of its own pool.
    """
    for one in overlays[pool]:
        metadata = one["metadata"]
        labels = metadata["labels"]
        assert (labels[INSTANCE], labels[POOL], labels["app.kubernetes.io/part-of"]) == (pool, pool, "nodeagent")
        assert metadata["name"].endswith(f"-{pool}")
        if one["kind"] == "Namespace":
            assert metadata["name"] == f"nodeagent-{pool}"
            assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
        assert metadata.get("namespace") == (None if one["kind"] in CLUSTER_SCOPED else f"nodeagent-{pool}")
    for one in workloads(overlays[pool]):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert (labels[INSTANCE], labels[POOL]) == (pool, pool)
        assert len(terms(one)) == 2
        assert all(term[POOL] == {pool} for term in terms(one))
    for owner, selector in selectors(overlays[pool]):
        assert selector.keys() == {NAME, INSTANCE}, name(owner)
        assert selector[INSTANCE] == pool


def test_agent_and_mps_host_are_told_apart(overlays: dict[str, list[Manifest]]) -> None:
    """Within a pool a selector is for the pods of one workload."""
    for objects in overlays.values():
        for owner, selector in selectors(objects):
            chosen = [
                one
                for one in workloads(objects)
                if selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert len(chosen) == 1, name(owner)
            assert owner in chosen or owner["kind"] not in {"DaemonSet", "Deployment", "StatefulSet"}


def test_who_uses_mps_has_a_host(overlays: dict[str, list[Manifest]]) -> None:
    """A pool has the component mps when, and only when, its config asks for it."""
    for objects in overlays.values():
        asks = " mps:" in sharing(objects)["data"]["sharing.yaml"]
        assert any(component(one) == "mps-host" for one in kind(objects, "DaemonSet")) is asks


def test_who_uses_mig_may_see_it(overlays: dict[str, list[Manifest]]) -> None:
    """A pool has the component mig when, and only when, its config speaks of MIG devices."""
    for objects in overlays.values():
        asks = "{mig:" in sharing(objects)["data"]["sharing.yaml"]
        (agent,) = [one for one in kind(objects, "DaemonSet") if component(one) == "agent"]
        assert monitors_mig(agent) is asks


def monitors_mig(workload: Manifest) -> bool:
    """Whether a pod asks the container toolkit for what MIG devices are seen by."""
    (container,) = pod(workload)["containers"]
    return {"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"} in container.get("env", ())


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(overlays: dict[str, list[Manifest]], tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Every workload of every pool, and of the base with what pools do not have."""
    more = ["handover-cdi", "kube-api", "labels-nfd", "mps", "presync-validate", "selinux", "strict-readiness"]
    made = render(compose(tmp_path_factory.mktemp("made"), *more))
    return [one for objects in (*overlays.values(), made) for one in workloads(objects)]


def test_only_the_mps_host_is_privileged(everything: list[Manifest]) -> None:
    """No other container has privilege, the processes of the node, or any capability but the one without which the
    toolkit keeps MIG devices from the agent; none has the node's network.
    """
    for one in everything:
        spec = pod(one)
        host = component(one) == "mps-host"
        assert spec.get("hostPID", False) is host
        assert not spec.get("hostNetwork", False)
        assert not spec.get("hostIPC", False)
        for container in containers(one):
            security = container["securityContext"]
            assert security["privileged"] is (host and container["name"] == "nodeagent")
            assert security["readOnlyRootFilesystem"] is True
            if not security["privileged"]:
                mig = container["name"] == "nodeagent" and component(one) == "agent" and monitors_mig(one)
                # Kubernetes takes no `false` beside that capability.
                assert security.get("allowPrivilegeEscalation") is (None if mig else False)
                assert security["capabilities"] == {"drop": ["ALL"], **({"add": ["SYS_ADMIN"]} if mig else {})}
                profile = {**spec.get("securityContext", {}), **security}["seccompProfile"]
                assert profile == {"type": "RuntimeDefault"}


def test_only_the_component_changes_the_type(overlays: dict[str, list[Manifest]], tmp_path: Path) -> None:
    """SELinux decides by itself, but for the agent of a pool that has the component: of all its containers, also those
    that run first.
    """
    for one in workloads(one for objects in overlays.values() for one in objects):
        assert "seLinuxOptions" not in pod(one).get("securityContext", {})
    made = render(compose(tmp_path, "mps", "driver-access/runtime-class", "gpu-operator", "selinux"))
    types = {component(one): pod(one).get("securityContext", {}).get("seLinuxOptions") for one in workloads(made)}
    assert types == {"agent": {"type": "spc_t"}, "mps-host": None}
    for one in workloads(made):
        assert all("seLinuxOptions" not in container["securityContext"] for container in containers(one))
        assert pod(one).get("securityContext", {}).get("seccompProfile") == (
            {"type": "RuntimeDefault"} if component(one) == "agent" else None
        )


PAGE_OF_INSTALL = ROOT / "docs" / "install.md"
VOLUMES = {"configMap", "hostPath", "projected"}


def constraints() -> Manifest:
    """The SecurityContextConstraints that the page shows."""
    found = re.search(
        r"```yaml\n(apiVersion: security.openshift.io/v1\n.+?)```", PAGE_OF_INSTALL.read_text(), re.DOTALL
    )
    assert found is not None
    return dict(yaml.safe_load(found[1]))


@pytest.mark.parametrize("chosen", ["", "labels-api", "labels-nfd", "handover-cdi", "gpu-operator", "mig"])
def test_the_constraints_of_the_page_admit_the_agent(tmp_path: Path, chosen: str) -> None:
    """What OpenShift is asked to allow is what the agent's pod asks for: not less with any component but those that the
    page names, and nothing that no pod needs.
    """
    allowed = constraints()
    parts = ["driver-access/runtime-class", "selinux", *([chosen] if chosen else [])]
    (agent,) = [one for one in workloads(render(compose(tmp_path, *parts))) if component(one) == "agent"]
    spec = pod(agent)

    used = {next(kind for kind in volume if kind != "name") for volume in spec["volumes"]}
    assert used <= set(allowed["volumes"]) == VOLUMES
    assert "hostPath" in used
    assert allowed["allowHostDirVolumePlugin"] is True
    for field, right in (("hostPID", "allowHostPID"), ("hostIPC", "allowHostIPC"), ("hostNetwork", "allowHostNetwork")):
        assert spec.get(field, False) is allowed[right] is False
    assert spec["securityContext"]["seLinuxOptions"] == allowed["seLinuxContext"]["seLinuxOptions"]
    assert allowed["seccompProfiles"] == ["runtime/default"]
    for container in containers(agent):
        security = container["securityContext"]
        assert security["privileged"] is allowed["allowPrivilegedContainer"] is False
        assert security["readOnlyRootFilesystem"] is allowed["readOnlyRootFilesystem"] is True
        assert "hostPort" not in {key for port in container.get("ports", ()) for key in port}
        # With `mig` it is what the comments of the page say.
        mig = chosen == "mig" and container["name"] == "nodeagent"
        assert security.get("allowPrivilegeEscalation", True) is (mig or allowed["allowPrivilegeEscalation"])
        assert security["capabilities"].get("add", []) == (["SYS_ADMIN"] if mig else allowed["allowedCapabilities"])
    assert "allowedCapabilities: []                     # [SYS_ADMIN] with mig" in PAGE_OF_INSTALL.read_text()


def speaks_to_the_api(workload: Manifest) -> bool:
    """Whether its pods are told to use the Kubernetes API."""
    (container,) = pod(workload)["containers"]
    return {"name": "NODEAGENT_KUBE_API", "value": "on"} in container.get("env", ())


def test_nobody_else_speaks_to_the_api(overlays: dict[str, list[Manifest]], everything: list[Manifest]) -> None:
    """Only the agent gets a token, and only where it is told to use the API; no account has one by itself, no pod has
    the addresses of services, and without the API there is no role.
    """
    for one in everything:
        assert pod(one)["automountServiceAccountToken"] is speaks_to_the_api(one)
        assert component(one) == "agent" or not speaks_to_the_api(one)
        assert pod(one)["enableServiceLinks"] is False
    for objects in overlays.values():
        speaks = any(speaks_to_the_api(one) for one in workloads(objects))
        roles = kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        assert len(roles) == (2 if speaks else 0)
        accounts = kind(objects, "ServiceAccount")
        assert all(one["automountServiceAccountToken"] is False for one in accounts)
        used = {pod(one)["serviceAccountName"] for one in workloads(objects)}
        assert used == {one["metadata"]["name"] for one in accounts}


@pytest.mark.parametrize("chosen", ["kube-api", "labels-api"])
def test_the_agent_may_do_what_it_has_to(tmp_path: Path, chosen: str) -> None:
    """The role is what the agent asks of the API and nothing else; labels by the API take no right more."""
    made = render(compose(tmp_path, chosen))
    (role,) = kind(made, "ClusterRole")

    allowed = {(group, resource, verb) for rule in role["rules"] for group, resource, verb in asked(rule)}
    assert allowed == {
        *(("", "nodes", verb) for verb in ("watch", "patch")),
        *(("", "events", verb) for verb in ("create", "patch")),
    }


def asked(rule: Manifest) -> Iterator[tuple[str, str, str]]:
    """What a rule allows, one by one. One for names of objects, or for paths, is none of ours."""
    assert rule.keys() == {"apiGroups", "resources", "verbs"}
    yield from product(rule["apiGroups"], rule["resources"], rule["verbs"])


@pytest.mark.parametrize("pool", ["base", "t4-dev"])
def test_a_role_is_bound_to_the_agent_of_its_pool(tmp_path: Path, pool: str) -> None:
    """The binding names the role and the account as they are called in the pool, and the pods use that account."""
    folder = compose(tmp_path, "labels-api") if pool == "base" else KUSTOMIZE / "overlays" / pool
    made = render(folder)
    (binding,), (role,) = kind(made, "ClusterRoleBinding"), kind(made, "ClusterRole")
    (agent,) = [one for one in kind(made, "DaemonSet") if component(one) == "agent"]
    (account,) = [
        one for one in kind(made, "ServiceAccount") if one["metadata"]["name"] == pod(agent)["serviceAccountName"]
    ]

    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(one["kind"], one["namespace"], one["name"]) for one in binding["subjects"]] == [name(account)]
    assert agent["metadata"]["namespace"] == account["metadata"]["namespace"]


def test_the_agent_reaches_the_api_server_alone(tmp_path: Path) -> None:
    """Where policies keep everything in, the agent gets to the ports of an API server, whatever is listed first."""
    for order in (["kube-api", "monitoring/pool"], ["monitoring/pool", "kube-api"]):
        made = render(compose(tmp_path, *order))
        out = [one for one in kind(made, "NetworkPolicy") if "Egress" in one["spec"]["policyTypes"]]
        (agent,) = kind(made, "DaemonSet")
        labels = agent["spec"]["template"]["metadata"]["labels"]
        assert all(one["spec"]["podSelector"]["matchLabels"].items() <= labels.items() for one in out)
        opened = [entry for one in out for entry in one["spec"]["egress"]]
        assert opened == [{"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}]


def test_the_policy_of_ones_own_node_is_about_every_pool(overlays: dict[str, list[Manifest]]) -> None:
    """It is valid by itself, belongs to no namespace, and knows the accounts of all agents that speak to the API."""
    made = render(KUSTOMIZE / "components/labels-api-own-node")
    assert_valid(made)
    assert not any("namespace" in one["metadata"] for one in made)
    policy, binding = sorted(made, key=lambda one: str(one["kind"]))
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    (condition,) = policy["spec"]["matchConditions"]
    _, pattern, _ = condition["expression"].split("'")
    speaking = [one for objects in overlays.values() for one in workloads(objects) if speaks_to_the_api(one)]
    assert speaking
    for one in speaking:
        assert re.search(
            pattern, f"system:serviceaccount:{one['metadata']['namespace']}:{pod(one)['serviceAccountName']}"
        )
    assert not re.search(pattern, "system:serviceaccount:kube-system:node-controller")
    resources = {
        resource for rule in policy["spec"]["matchConstraints"]["resourceRules"] for resource in rule["resources"]
    }
    assert resources == {"nodes", "events"}


def test_only_known_directories_of_the_node_are_mounted(everything: list[Manifest]) -> None:
    """Each volume is mounted; what is of the node is in this list, and what can be is read-only."""
    of_the_node = {
        "/var/lib/kubelet/device-plugins": False,
        "/var/lib/kubelet/pod-resources": True,
        "/sys/fs/cgroup": True,
        "/var/lib/nodeagent": False,
        "/run/nodeagent/mps": False,
        "/run/nvidia/validations": True,
        "/etc/kubernetes/node-feature-discovery/features.d": False,
        "/etc/cdi": True,
        "/var/run/cdi": True,
    }
    for one in everything:
        volumes = {volume["name"]: volume for volume in pod(one)["volumes"]}
        mounts = [mount for container in containers(one) for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == volumes.keys()
        for mount in mounts:
            volume = volumes[mount["name"]]
            assert "subPath" not in mount  # it would never be updated
            if "hostPath" in volume:
                path = volume["hostPath"]["path"]
                # The runtime mounts the container's own cgroups where the node's are on the node.
                assert mount["mountPath"] == (f"/host{path}" if path == "/sys/fs/cgroup" else path)
                assert mount.get("readOnly", False) is of_the_node[path]
                assert volume["hostPath"]["type"] in {"Directory", "DirectoryOrCreate"}
            else:
                assert mount["readOnly"] is True


# --- what the processes are told -------------------------------------------------------------------------------------


def test_options_are_those_of_the_program(everything: list[Manifest]) -> None:
    """Every argument, and every variable of ours, is an option of the command that is started."""
    seen = set()
    for one in everything:
        for container in containers(one):
            if "command" in container:
                continue
            command, *arguments = container["args"]
            seen.add(command)
            table: Mapping[str, Option] = {
                option.flag: option for option in {"run": OPTIONS, "mps-host": MPS_HOST_OPTIONS}.get(command, ())
            }
            if table:
                assert all(argument.partition("=")[0] in table for argument in arguments), arguments
            known = {option.environment for option in table.values()}
            ours = {entry["name"] for entry in container.get("env", ()) if entry["name"].startswith("NODEAGENT_")}
            assert ours <= known
    assert seen == {"run", "mps-host", "validate"}
    assert settings.ENVIRONMENT_PREFIX == "NODEAGENT_"


def test_agents_end_themselves_for_a_changed_driver(everything: list[Manifest]) -> None:
    """Once, so that their container is made anew; it is off in the program, since not everybody starts it again."""
    for one in everything:
        (environment,) = [
            container.get("env", []) for container in containers(one) if container["name"] != "wait-for-driver"
        ]
        chosen = {"name": "NODEAGENT_RESTART_ON_DRIVER_CHANGE", "value": "true"} in environment
        assert chosen is (component(one) == "agent")
    (option,) = [option for option in OPTIONS if option.flag == "--restart-on-driver-change"]
    assert option.default is None
    assert option.switch


def test_probes_ask_what_they_are_for(everything: list[Manifest]) -> None:
    """Only an agent that hangs is restarted, not one that is not ready; no probe ever restarts the MPS host."""
    for one in everything:
        (container,) = pod(one)["containers"]
        probes = {key: value for key, value in container.items() if key.endswith("Probe")}
        if component(one) != "agent":
            assert not probes
            continue
        paths = {key: value["httpGet"]["path"] for key, value in probes.items()}
        assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert {value["httpGet"]["port"] for value in probes.values()} == {"http"}
        assert container["ports"] == [{"name": "http", "containerPort": 9400}]


def test_a_daemon_set_is_updated_as_its_pods_bear(everything: list[Manifest]) -> None:
    """Agents are replaced some at a time, never two at once on a node; the pods of the MPS host by people alone, and
    they have no limit of memory. Both come before other pods, on nodes with the taint of GPUs too, and leave in time.
    """
    for one in everything:
        if one["kind"] != "DaemonSet":
            continue
        strategy = one["spec"]["updateStrategy"]
        (container,) = pod(one)["containers"]
        if component(one) == "agent":
            assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}}
            assert container["resources"]["limits"].keys() == {"memory"}
        else:
            assert strategy == {"type": "OnDelete"}
            assert "limits" not in container["resources"]
        assert pod(one)["priorityClassName"] == "system-node-critical"
        assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod(one)["tolerations"]
        assert pod(one)["terminationGracePeriodSeconds"] > 5


def test_there_is_one_image(everything: list[Manifest]) -> None:
    """Every container is of the image of this version."""
    images = {container["image"] for one in everything for container in containers(one)}

    assert images == {IMAGE}


@pytest.mark.parametrize("access", ["driver-access/runtime-class", "driver-access/driver-root"])
@pytest.mark.parametrize("mps", [False, True])
def test_the_driver_comes_to_whoever_needs_it(tmp_path: Path, access: str, mps: bool) -> None:
    """Agent and MPS host each get the library, and what they need of MPS; a runtime class gives nobody privilege, and
    without one the agent has it too.
    """
    made = kind(render(compose(tmp_path, *(["mps"] if mps else []), access)), "DaemonSet")

    assert {component(one) for one in made} == ({"agent", "mps-host"} if mps else {"agent"})
    for one in made:
        (container,) = pod(one)["containers"]
        values = {entry["name"]: entry.get("value") for entry in container["env"]}
        mounted = {
            mount["mountPath"] for mount in container["volumeMounts"] if mount["mountPath"].startswith("/driver/")
        }
        if access.endswith("runtime-class"):
            assert pod(one)["runtimeClassName"] == "nvidia"
            assert (values["NVIDIA_VISIBLE_DEVICES"], values["NVIDIA_DRIVER_CAPABILITIES"]) == (
                "all",
                "compute,utility",
            )
            assert container["securityContext"]["privileged"] is (component(one) == "mps-host")
            assert not mounted
            continue
        programs = {"/driver/bin/nvidia-cuda-mps-control"} if mps else set()
        if component(one) == "mps-host":
            programs |= {"/driver/bin/nvidia-cuda-mps-server", "/driver/lib/libcuda.so.1"}
        assert mounted == {"/driver/lib/libnvidia-ml.so.1", *programs}
        assert values["NODEAGENT_DRIVER_ROOT"] == "/driver"
        assert values.get("LD_LIBRARY_PATH") == ("/driver/lib" if component(one) == "mps-host" else None)
        assert ("NODEAGENT_MPS_CONTROL" in values) is mps
        assert container["securityContext"]["privileged"] is True
        assert "allowPrivilegeEscalation" not in container["securityContext"]


@pytest.mark.parametrize("order", list(permutations(["mig", "mps", "driver-access/driver-root"])), ids=" ".join)
def test_with_a_driver_root_mig_asks_for_nothing_more(tmp_path: Path, order: tuple[str, ...]) -> None:
    """A container with privilege may do and see all that MIG takes: nothing of what the component mig sets is in the
    way of it, whatever the order.
    """
    for one in kind(render(compose(tmp_path, *order)), "DaemonSet"):
        (container,) = pod(one)["containers"]
        assert container["securityContext"]["privileged"] is True
        assert "allowPrivilegeEscalation" not in container["securityContext"]
