"""What kustomize renders without a word and does not work is noted by `validate`; what can compose does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from nodeagent.commands import findings
from nodeagent.commands.checking import check_bytes
from nodeagent.config.mounted import mounted
from nodeagent.config.rendered import notes
from nodeagent.config.workloads import Manifest, processes
from tests.deploy.manifests import build, render
from tests.deploy.pools import POOLS
from tests.deploy.test_kustomize import KUSTOMIZE, component, compose, kind, pod

RUNTIME, ROOT = "driver-access/runtime-class", "driver-access/driver-root"
AGENT, HOST = "DaemonSet nodeagent/nodeagent", "DaemonSet nodeagent/nodeagent-mps-host"
UNDER_MPS = "exclusive: {}", "mps: {replicas: 4}\n      resource: nvidia.com/gpu.mps"
FOR_MIG = "exclusive: {}", "match: {mig: ['*']}\n      exclusive: {}"
"""What the base's config says, and what instead of it."""


def told(folder: Path, *components: str, config: tuple[str, str] | None = None) -> list[str]:
    """The notes on what these components make of the base, whose config is changed so."""
    made = compose(folder, *components)
    if config is not None:
        file = made.parent / "base/sharing.yaml"
        file.write_text(file.read_text("utf-8").replace(*config), encoding="utf-8")
    checked = check_bytes(build(made).encode(), "stdin")
    assert not checked.violations
    return list(checked.notes)


def test_what_we_show_works_together() -> None:
    """No pool, no example has anything to be noted."""
    for folder in [*(KUSTOMIZE / "overlays" / pool for pool in POOLS), KUSTOMIZE.parent / "examples/config-by-label"]:
        assert check_bytes(build(folder).encode(), "stdin").notes == ()
    for pool in POOLS:
        for tool in ("argocd", "flux"):
            text = build(KUSTOMIZE.parent / "examples" / tool / "pools" / pool)
            assert check_bytes(text.encode(), "stdin").notes == ()


@pytest.mark.parametrize(
    ("components", "config", "expected"),
    [
        ([], None, [f"{AGENT} has no access to the driver: list {RUNTIME} (or {ROOT})"]),
        (
            [RUNTIME],
            UNDER_MPS,
            [f"the config of {AGENT} shares GPUs by MPS, and there is no MPS host"],
        ),
        ([RUNTIME, "mps"], UNDER_MPS, []),
        (
            [ROOT, RUNTIME],
            None,
            [f"{AGENT} has access to the driver by the runtime class nvidia and the driver's files"],
        ),
        ([RUNTIME, "labels-api", "labels-nfd"], None, [f"{AGENT} has labels-api and labels-nfd"]),
        ([RUNTIME, "labels-nfd", "labels-api"], None, [f"{AGENT} has labels-api and labels-nfd"]),
        ([RUNTIME, "labels-nfd", "kube-api"], None, []),
        ([RUNTIME, "kube-api", "labels-api"], None, []),
        (
            [RUNTIME],
            FOR_MIG,
            [f"the config of {AGENT} speaks of MIG"],
        ),
        ([RUNTIME, "mig"], FOR_MIG, []),
        ([ROOT], FOR_MIG, []),
        ([ROOT, "gpu-operator"], None, [f"{AGENT} waits for the driver of the GPU operator and has the node's"]),
        ([RUNTIME, "gpu-operator"], None, []),
        ([RUNTIME, "canary-wait"], None, ["Job nodeagent/nodeagent-canary-wait waits for labels of nodes"]),
        ([RUNTIME, "canary-wait", "labels-api"], None, []),
        ([RUNTIME, "network-policy", "canary-check"], None, []),
        ([RUNTIME, "canary-check", "network-policy"], None, ["Job nodeagent/nodeagent-canary-check may not reach"]),
        ([RUNTIME, "network-policy", "canary-check", "monitoring"], None, ["Job nodeagent/nodeagent-canary-check may"]),
        ([RUNTIME, "rollout-on-change", "argocd-revision"], None, ["has a revision in it, and a name that follows"]),
        ([RUNTIME, "rollout-on-change"], None, []),
        (["mps"], None, [f"{AGENT} has no access", f"{HOST} has no access"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_work_together(
    tmp_path: Path, components: Sequence[str], config: tuple[str, str] | None, expected: Sequence[str]
) -> None:
    """Each composition that renders and does not work has its note, and each that does work has none."""
    found = told(tmp_path, *components, config=config)
    assert len(found) == len(expected), found
    for note, beginning in zip(found, expected, strict=True):
        assert beginning in note


def rendered(folder: Path, *components: str) -> list[dict[str, Any]]:
    """What these components make of the base, in whatever order it comes."""
    folder.mkdir()
    made = in_order(render(compose(folder, *components)))
    assert isinstance(made, list)
    return made


def in_order(value: object) -> object:
    """The same with all lists sorted, but those of words."""
    if isinstance(value, dict):
        return {key: in_order(one) for key, one in value.items()}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return sorted((in_order(one) for one in value), key=str)
    return value


@pytest.mark.parametrize("access", [RUNTIME, ROOT])
def test_an_mps_host_has_what_its_agent_has(tmp_path: Path, access: str) -> None:
    """Whichever of mps, driver access and gpu-operator is listed first, the same is rendered."""
    orders = list(permutations(["mps", access, "gpu-operator"]))
    first, *others = [rendered(tmp_path / str(number), *order) for number, order in enumerate(orders)]
    for other in others:
        assert other == first
    agent, host = sorted(kind(first, "DaemonSet"), key=component)
    for one in (agent, host):
        assert pod(one).get("runtimeClassName") == ("nvidia" if access == RUNTIME else None)
        assert [init["name"] for init in pod(one)["initContainers"]] == ["wait-for-driver"]
    if access == ROOT:
        assert {"libcuda", "mps-server", "mps-control"} <= {volume["name"] for volume in pod(host)["volumes"]}
        assert "mps-control" in {volume["name"] for volume in pod(agent)["volumes"]}


def test_mig_beside_privilege(tmp_path: Path) -> None:
    """Whichever of mig and driver-root is listed first, the agent is privileged, and has no capabilities beside it."""
    first, second = (rendered(tmp_path / str(n), *order) for n, order in enumerate(permutations(["mig", ROOT])))
    assert first == second
    (agent,) = kind(first, "DaemonSet")
    (container,) = pod(agent)["containers"]
    assert container["securityContext"]["privileged"] is True
    assert "capabilities" not in container["securityContext"]
    assert "NVIDIA_MIG_MONITOR_DEVICES" in {one["name"] for one in container["env"]}


@pytest.mark.parametrize("order", list(permutations(["kube-api", "labels-api"])))
def test_a_pool_may_list_what_another_component_brings(tmp_path: Path, order: Sequence[str]) -> None:
    """kube-api beside labels-api, which is that and more, is labels-api; nothing is there twice."""
    assert rendered(tmp_path / "both", *order) == rendered(tmp_path / "one", "labels-api")
    assert kind(render(compose(tmp_path / "plain", "kube-api")), "ClusterRole")


def test_a_pool_keeps_its_own_beside_another_component(tmp_path: Path) -> None:
    """What is listed on top of a pool takes nothing away that the pool has brought in itself."""
    made = compose(tmp_path, "network-policy", resource="overlays/t4-dev")
    names = [one["metadata"]["name"] for one in kind(render(made), "NetworkPolicy")]
    assert "nodeagent-t4-dev" in names


def pools(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Agents that differ by what is changed in the specs of their pods."""
    made = []
    for number, change in enumerate(changes):
        arguments = ["run", "--config=/c", "--driver=simulated:x"]
        container = {"name": "nodeagent", "image": "nodeagent:1", "args": arguments}
        spec = {"containers": [container], **change}
        metadata = {"name": f"pool-{number}", "namespace": "gpu"}
        made.append({"kind": "DaemonSet", "metadata": metadata, "spec": {"template": {"spec": spec}}})
    return made


def noted(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """What is noted of manifests without a config."""
    ours = processes(manifests)
    return notes(manifests, (), ours, mounted(ours))


def test_two_agents_for_one_node() -> None:
    """Pools whose agents are for the same nodes are noted; those that a label tells apart are not."""
    (note,) = noted(pools({}, {}))
    assert note.startswith("DaemonSet gpu/pool-0 and DaemonSet gpu/pool-1 are for the same nodes")
    assert noted(pools({"nodeSelector": {"a": "b"}}, {"nodeSelector": {"a": "c"}})) == ()


RUN = {"image": "nodeagent", "args": ["run"]}
WITH_CONFIG = {**RUN, "args": ["run", "--config", "/c"], "volumeMounts": [{"mountPath": "/c", "name": "v"}]}
STRANGE: list[Any] = [
    {},
    {"kind": "DaemonSet"},
    {"kind": "DaemonSet", "metadata": None, "spec": {"template": {"spec": {"containers": "x"}}}},
    {"kind": "DaemonSet", "metadata": {"labels": []}, "spec": {"template": {"spec": {"containers": [None, RUN]}}}},
    {"kind": "Pod", "metadata": {"name": 3}, "spec": {"containers": [{**RUN, "args": ["run", "--config"]}]}},
    {"kind": "Pod", "spec": {"containers": [{**RUN, "env": {}, "volumeMounts": [1], "securityContext": "x"}]}},
    {"kind": "Pod", "spec": {"containers": [WITH_CONFIG], "volumes": [{"name": "v", "configMap": []}]}},
    {"kind": "Pod", "spec": {"containers": [WITH_CONFIG], "volumes": [{"name": "v", "projected": {"sources": [{}]}}]}},
]


@pytest.mark.parametrize("manifest", STRANGE)
def test_manifests_may_hold_anything(manifest: dict[str, Any]) -> None:
    """What is not as Kubernetes would have it counts as not there, and fails nothing."""
    assert isinstance(noted([manifest]), tuple)
    assert check_bytes(yaml.safe_dump(manifest).encode(), "stdin").problem is None


ODD: list[object] = [
    None,
    3,
    [],
    {},
    [None],
    "x",
    {"a": None},
    True,
    [{}],
    {"kind": "ConfigMap"},
    "kind: SharingConfig",
]


def mutated(value: object, chance: Random) -> object:
    """The same with some of it left out, and some replaced by what nobody expects there."""
    if chance.random() < 0.03:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {key: mutated(one, chance) for key, one in value.items() if chance.random() > 0.02}
    return [mutated(one, chance) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("overlay", ["overlays/mixed", "overlays/t4-dev"])
def test_what_is_rendered_may_be_anything(overlay: str) -> None:
    """Manifests with anything anywhere are judged, and what is said of them can be printed."""
    chance = Random(overlay)
    whole = render(KUSTOMIZE / overlay)
    for _ in range(150):
        text = "---\n".join(yaml.safe_dump(mutated(one, chance)) for one in whole)
        checked = check_bytes(text.encode(), "stdin")
        assert checked.violations or checked.bundle.found
        assert all(line.isprintable() for line in findings.text([checked]))


MOUNTED = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: gpu}
spec:
  template:
    spec:
      runtimeClassName: nvidia
      containers:
        - name: nodeagent
          image: nodeagent:1
          args: [run, --config=CONFIG]
          env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]
          volumeMounts: [{name: config, mountPath: /config}]
      volumes:
        - {name: config, configMap: {name: sharing}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sharing, namespace: gpu}
data:
"""
GOOD = "'version: v1'"
"""A whole config, in the format of NVIDIA's plugin."""


@pytest.mark.parametrize(
    ("config", "keys", "wrong", "noted"),
    [
        ("/config", {"sharing.yaml": GOOD}, "", ""),
        ("/config/", {"sharing.yaml": GOOD}, "", ""),
        ("/config", {"a100.yaml": GOOD}, "", ""),
        ("/config", {"a100": GOOD, "t4": GOOD}, 'expected the key "sharing.yaml", which DaemonSet gpu/agent reads', ""),
        ("/config --config-default=t4", {"a100": GOOD, "t4": GOOD}, "", "DaemonSet gpu/agent reads t4 of ConfigMap"),
        ("/config/a100.yaml", {"a100.yaml": GOOD}, "", ""),
        ("/config/a100.yaml", {"sharing.yaml": GOOD}, 'expected the key "a100.yaml", which DaemonSet gpu/agent', ""),
        ("/config", {"sharing.yaml": GOOD, "t4.yaml": GOOD}, "", "DaemonSet gpu/agent reads sharing.yaml of ConfigMap"),
        ("/config", {"sharing.yaml": GOOD, "motd": "hello"}, "", "passed over, since nothing in it is meant for"),
        ("/elsewhere", {"sharing.yaml": GOOD}, "", ""),
    ],
)
def test_the_agent_beside_a_config_map_shows_what_is_read(
    config: str, keys: dict[str, str], wrong: str, noted: str
) -> None:
    """Where the DaemonSet is rendered as well it is known which key its agents read, and that others are not."""
    words = config.replace(" ", ", ")
    text = MOUNTED.replace("CONFIG", words) + "".join(f"  {key}: {value}\n" for key, value in keys.items())
    checked = check_bytes(text.encode(), "stdin")
    assert bool(checked.violations) is bool(wrong)
    assert wrong in "".join(map(str, checked.violations))
    assert noted in "".join(checked.notes)
    assert bool(checked.notes) is bool(noted)


def test_a_mount_that_never_changes_or_is_of_nothing() -> None:
    """subPath, and a ConfigMap that is not there beside one that nobody has."""
    by_sub_path = MOUNTED.replace("mountPath: /config", "mountPath: /config, subPath: sharing.yaml")
    text = by_sub_path.replace("CONFIG", "/config") + f"  sharing.yaml: {GOOD}\n"
    (note,) = check_bytes(text.encode(), "x").notes
    assert "by subPath, so that no change ever reaches it" in note
    text = MOUNTED.replace("CONFIG", "/config").replace("configMap: {name: sharing}", "configMap: {name: other}")
    (note,) = check_bytes(f"{text}  sharing.yaml: {GOOD}\n".encode(), "x").notes
    assert note == "DaemonSet gpu/agent has the ConfigMap gpu/other, which is not among these; nobody has gpu/sharing"


@pytest.mark.parametrize("order", [["network-policy", "monitoring/pool", "mine"], ["monitoring/pool", "mine"]])
def test_a_patch_comes_after_what_it_changes(tmp_path: Path, order: Sequence[str]) -> None:
    """A component of a user's that is listed after the last one that brings an object in keeps its word."""
    made = compose(tmp_path, *order)
    mine = made.parent / "components/mine"
    mine.mkdir()
    peer = [{"op": "add", "path": "/spec/ingress/0/from/-", "value": {"podSelector": {"matchLabels": {"app": "mine"}}}}]
    patches = [{"target": {"kind": "NetworkPolicy", "name": "nodeagent"}, "patch": yaml.safe_dump(peer)}]
    head = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": patches}
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(head), encoding="utf-8")
    (policy,) = kind(render(made), "NetworkPolicy")
    assert len(policy["spec"]["ingress"][0]["from"]) == 2
