"""The parts of the suite that need no cluster: what it installs, what it refuses, what it makes of what it has seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightkube import KubeConfig
from lightkube.resources.core_v1 import Node

from tests.conftest import ROOT
from tests.deploy.manifests import problems_of, render
from tests.e2e import bench, holders, overlays
from tests.e2e.cluster import configured, made_of
from tests.e2e.figures import Figures
from tests.e2e.options import Options, WrongOptionsError, read
from tests.e2e.overlays import MADE_BY_E2E, OVERLAYS
from tests.e2e.probe import Seen

IMAGE = "registry.test:5000/nodeagent:try"


# --- options ---------------------------------------------------------------------------------------------------------


def test_without_a_word_the_full_counts_are_done() -> None:
    """Nothing that is given is the full suite, on the image that docs/e2e.md builds."""
    options = read({})
    assert options == Options(image="localhost/nodeagent:e2e", node="", restart_kubelet=(), real_gpus=False, scale=1)
    assert options.times(100) == 100


def test_a_part_of_the_counts_is_never_none() -> None:
    """However small the scale is, something that is repeated is repeated."""
    assert read({"NODEAGENT_E2E_SCALE": "0.001"}).times(100) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCALE", "much"), ("SCALE", "0"), ("SCALE", "-1"), ("REAL_GPUS", "yes"), ("RESTART_KUBELET", "a 'b")],
)
def test_an_option_without_sense_is_refused(name: str, value: str) -> None:
    """It is named, with what was expected."""
    with pytest.raises(WrongOptionsError, match=f"{name}: expected"):
        read({f"NODEAGENT_E2E_{name}": value})


# --- what is installed -----------------------------------------------------------------------------------------------


def rendered(name: str, folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would get."""
    overlay = OVERLAYS[name]
    control = folder / "program"
    control.write_bytes(b"\x7fELF\x00\xff")
    made = folder / "made"
    made.mkdir()
    overlays.kustomization(overlay, made, image=IMAGE, host="gpu-node-7", control=control if overlay.mps else None)
    return render(made)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_installed_on_simulated_gpus_alone(name: str, tmp_path: Path) -> None:
    """What is applied is valid; every pod is for the one node, runs the image under test on the simulation file and
    without a runtime class; and every object has the label of a run, by which it is found again.
    """
    made = rendered(name, tmp_path)
    assert [found for found in problems_of(made) if found] == []
    for one in made:
        assert one["metadata"]["labels"].items() >= MADE_BY_E2E.items(), one["metadata"]
    for one in made:
        if one["kind"] != "DaemonSet":
            continue
        pod = one["spec"]["template"]["spec"]
        assert "runtimeClassName" not in pod
        assert pod["nodeSelector"]["kubernetes.io/hostname"] == "gpu-node-7"
        assert {each["image"] for each in (*pod["containers"], *pod.get("initContainers", ()))} == {IMAGE}
        assert "--driver=simulated:/etc/nodeagent/simulated/node.yaml" in pod["containers"][0]["args"]
        assert not MADE_BY_E2E.items() & one["spec"]["selector"]["matchLabels"].items()


def test_every_folder_that_installs_an_agent_is_installed() -> None:
    """There is no overlay that the suite does not know."""
    shipped = {
        f"kustomize/overlays/{path.parent.name}" for path in ROOT.glob("kustomize/overlays/*/kustomization.yaml")
    }
    assert {one.folder for one in OVERLAYS.values()} == {*shipped, "kustomize/base", "examples/config-by-label"}


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("nodeagent", "nodeagent", "latest"),
        ("localhost/nodeagent:e2e", "localhost/nodeagent", "e2e"),
        ("registry.test:5000/nodeagent", "registry.test:5000/nodeagent", "latest"),
    ],
)
def test_an_image_is_taken_by_its_name(image: str, name: str, tag: str) -> None:
    """A tag is what comes after the last colon, unless that is a port."""
    assert overlays.renamed(image) == {"name": overlays.PUBLISHED, "newName": name, "newTag": tag}


def test_an_image_can_be_named_by_digest() -> None:
    """As a registry names it."""
    renamed = overlays.renamed("registry.test/nodeagent@sha256:0123")
    assert renamed == {"name": overlays.PUBLISHED, "newName": "registry.test/nodeagent", "digest": "sha256:0123"}


# --- which node ------------------------------------------------------------------------------------------------------


def node(name: str, *, ready: bool = True, taint: str = "", cordoned: bool = False) -> Node:
    """A Node, as far as it is looked at."""
    return made_of(
        Node,
        metadata={"name": name},
        spec={"unschedulable": cordoned, "taints": [{"key": "t", "effect": taint}] if taint else []},
        status={"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    )


def test_the_only_node_that_takes_pods_is_used() -> None:
    """Control planes, nodes that are not ready and nodes that are cordoned are none to choose from."""
    others = [node("plane", taint="NoSchedule"), node("down", ready=False), node("full", cordoned=True)]
    assert bench.choose([*others, node("worker", taint="PreferNoSchedule")], "") == "worker"


def test_of_several_nodes_one_must_be_named() -> None:
    """A run never chooses among nodes; one that is named must be there."""
    nodes = [node("a"), node("b")]
    with pytest.raises(bench.RefusedError, match="a, b: name one with NODE="):
        bench.choose(nodes, "")
    with pytest.raises(bench.RefusedError, match="no node c: expected one of a, b"):
        bench.choose(nodes, "c")
    assert bench.choose(nodes, "b") == "b"


def test_what_is_named_as_ours_is_looked_for() -> None:
    """Every object without a namespace that would be applied is one that must not be there before: `apply` would take
    it over, and the end of the run remove it.
    """
    named = overlays.cluster_scoped()
    assert named >= {f"Namespace/{one.namespace}" for one in OVERLAYS.values()}
    assert named >= {"ClusterRole/nodeagent-t4-dev", "ValidatingAdmissionPolicy/nodeagent-own-node"}
    assert {name.partition("/")[0].lower() for name in named} <= {kind.rstrip("s") for kind in bench.CLUSTER_KINDS} | {
        "validatingadmissionpolicy"
    }


def test_an_old_kubernetes_is_refused() -> None:
    """One that lacks what is tried is named; a minor version with a sign, as clouds have it, is understood."""
    with pytest.raises(bench.RefusedError, match=r"1\.30 or newer, got v1\.29\.9"):
        bench.refuse_old({"major": "1", "minor": "29", "gitVersion": "v1.29.9"})
    bench.refuse_old({"major": "1", "minor": "30+", "gitVersion": "v1.30.1-cloud"})


def test_without_a_cluster_nothing_is_run() -> None:
    """Without KUBECONFIG the run ends at once, and says what is missing; it never takes the cluster that kubectl
    happens to be set up for.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("KUBECONFIG", "NODEAGENT"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "e2e", "tests/e2e"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "set KUBECONFIG" in done.stdout + done.stderr


def test_the_cluster_is_that_of_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a pod with a service account, which may well be of another cluster: kubectl installs in the one of
    KUBECONFIG, and that is the one that is looked at.
    """
    account = tmp_path / "account"
    account.mkdir()
    for name, text in {"token": "t", "ca.crt": "c", "namespace": "n"}.items():
        (account / name).write_text(text, encoding="utf-8")
    file = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://named.test:6443"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    document = {
        "clusters": [cluster],
        "contexts": [context],
        "users": [{"name": "u", "user": {}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "in-cluster.test")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    there = KubeConfig.from_service_account(account).get()
    assert there is not None
    assert "in-cluster.test" in there.cluster.server
    assert configured().cluster.server == "https://named.test:6443"


def test_a_node_is_given_back_as_it_was() -> None:
    """Labels and annotations that came are removed, those that were changed or went are put back, and those of others
    are not touched.
    """
    was = {"nvidia.com/gpu.present": "true", "nodeagent.io/pool": "a"}
    before = bench.changeable(made_of(Node, metadata={"name": "n", "labels": {**was, "zone": "1"}}))
    labels = {"nodeagent.io/pool": "b", "nvidia.com/x": "y"}
    now = bench.changeable(made_of(Node, metadata={"name": "n", "labels": labels}))
    assert bench.difference(now, before) == {"labels": {**was, "nvidia.com/x": None}, "annotations": {}}


# --- what was seen ---------------------------------------------------------------------------------------------------

A, B = "GPU-a", "GPU-b"


def having(**pods: str) -> Mapping[str, frozenset[str]]:
    """Pods with the shares that they have."""
    return {pod: frozenset(shares.split()) for pod, shares in pods.items()}


def over(
    seen: Sequence[tuple[float, Mapping[str, frozenset[str]]]], wanted: Sequence[tuple[float, int]]
) -> list[holders.Over]:
    """Of what pods were given."""
    return holders.over([(at, holders.taken(found)) for at, found in seen], seen, wanted)


def test_what_drains_may_be_more_than_wanted_but_not_become_more() -> None:
    """Of a GPU that three pods have when two are wanted three may have it, and never four."""
    three = having(p=f"{A}::0", q=f"{A}::1", r=f"{A}::2")
    seen = [(0.0, three), (3.0, having(p=f"{A}::0", q=f"{A}::1", s=f"{A}::2"))]
    assert over(seen, [(1.0, 2)]) == []
    four = {**three, "s": frozenset({f"{A}::3"})}
    assert over([*seen, (4.0, four)], [(1.0, 2)]) == [holders.Over(4.0, A, wanted=2, drained=3, found=4)]


def test_what_drains_is_what_pods_had_a_moment_before() -> None:
    """A pod that ended shortly before fewer came to be wanted, or meanwhile, may leave its share to another one; one
    that ended long before may not.
    """
    two = having(p=f"{A}::0", q=f"{A}::1")
    three = {**two, "r": frozenset({f"{A}::2"})}
    again = {**two, "s": frozenset({f"{A}::2"})}
    assert over([(0.0, three), (9.5, two), (12.0, again)], [(10.0, 2)]) == []
    assert over([(0.0, three), (10.5, two), (12.0, again)], [(10.0, 2)]) == []
    assert len(over([(0.0, three), (7.0, two), (12.0, again)], [(10.0, 2)])) == 1


def test_what_is_offered_is_counted_as_well() -> None:
    """A share that nobody has stays on offer beyond those that are wanted: that is too many, too."""
    seen = [(0.0, having(p=f"{A}::0", q=f"{A}::1"))]
    offered = [(3.0, frozenset({f"{A}::0", f"{A}::1", f"{A}::2"}))]
    assert [found.found for found in holders.over(offered, seen, [(1.0, 2)])] == [3]
    assert holders.over(offered, seen, [(1.0, 3)]) == []


def test_each_gpu_counts_for_itself() -> None:
    """What drains on one GPU allows nothing on another."""
    seen = [(0.0, having(p=f"{A}::0", q=f"{A}::1", r=f"{A}::2")), (3.0, having(p=f"{B}::0", q=f"{B}::1", r=f"{B}::2"))]
    assert [found.gpu for found in over(seen, [(1.0, 2)])] == [B]


def test_more_is_wanted_again() -> None:
    """From the moment on at which more are wanted more may have it; and as long as nobody knows what the kubelet has
    heard of a change.
    """
    four = having(p=f"{A}::0", q=f"{A}::1", r=f"{A}::2", s=f"{A}::3")
    assert over([(0.0, {}), (1.5, four)], [(1.0, 2)]) == []
    assert over([(0.0, {}), (9.0, four)], [(1.0, 2), (5.0, 4)]) == []
    assert len(over([(0.0, {}), (3.0, four)], [(1.0, 2), (5.0, 4)])) == 1


def test_a_share_that_two_pods_have() -> None:
    """It is found, with both."""
    seen = [(0.0, having(p=f"{A}::0")), (1.0, having(p=f"{A}::0", q=f"{A}::0")), (2.0, having(q=f"{A}::0"))]
    assert holders.handed_out_twice(seen) == {(f"{A}::0", "p", "q")}
    assert holders.admissions(seen) == 1


def test_how_long_there_was_nothing() -> None:
    """Each time without a device is there with its length, one at the end up to the end of the watch."""
    seen = Seen()
    seen.read(
        '{"at": 1.0, "devices": {"r": ["a", "b"]}}\n'
        '{"at": 2.0, "devices": {}}\n'
        '{"at": 2.5, "devices": {"s": ["c"]}}\n'
        '{"at": 3.5, "devices": {"r": ["a"]}}\n'
        '{"at": 4.0, "kubelet": 7}\n'
        '{"at": 4.0, "checkpoint": [["uid", "r", ["a"]], ["uid", "s", ["c"]]]}\n'
        '{"at": 5.0, "devices": {}}\n'
        '{"at": 6.0, "polls": 50, "longest_gap": 0.03, "limited": 0}\n'
    )
    assert seen.counts("r") == [2, 0, 1, 0]
    assert seen.at_zero("r") == [1.5, 1.0]
    assert seen.polls == 50
    assert seen.kubelets == [7]
    assert seen.holders == [(4.0, {"uid": frozenset({"a", "c"})})]


def test_the_table() -> None:
    """Figures come as a table that docs/benchmarks.md can take, under what it is a table of."""
    figures = Figures(where=["Kubernetes v1"])
    figures.seconds("a", 0.0312)
    figures.seconds("b", 73.84, "mounted")
    assert figures.report() == (
        "- Kubernetes v1\n\n"
        "| what | measured | note    |\n"
        "| ---- | -------- | ------- |\n"
        "| a    | 31 ms    |         |\n"
        "| b    | 73.8 s   | mounted |\n"
    )
