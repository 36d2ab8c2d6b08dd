"""The GitOps examples, as Argo CD and Flux read them: valid, in line with the folders they name; no commit rolls a pod.

What each of the tools does to a folder before it renders it is done here to a copy: Argo CD adds `commonLabels` to the
`labels` of its kustomization.yaml (`kustomize edit add label --without-selector`), CI writes the files `revision`.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from nodeagent.model.config import Document
from nodeagent.model.snapshot import ConfigState, Snapshot
from nodeagent.report.http import HttpServer
from nodeagent.report.metrics import Metrics
from tests.conftest import ROOT
from tests.deploy.manifests import manifests, problems_of, render
from tests.report import builders
from tests.waiting import longer

ARGOCD, FLUX = ROOT / "examples" / "argocd", ROOT / "examples" / "flux"
POOLS = ("t4-dev", "a100-inference", "a100-mig", "h100-training", "mixed")
CANARY = POOLS[0]
FOLDERS = [ROOT / "examples" / tool / "pools" / pool for tool in ("argocd", "flux") for pool in POOLS]
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "Namespace"}
COMMIT = "d3ab6e1f0c9b8a7d6e5f4a3b2c1d0e9f8a7b6c5d"
# Commits that YAML would take for numbers.
NUMBERS = ["1234567890123456789012345678901234567890", "1234567890123456789012345678901234567e10"]


def of(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind in a file, by name."""
    found = manifests(path.read_text(encoding="utf-8"))
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def one(rendered: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of that kind and name."""
    (found,) = [each for each in rendered if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods(rendered: list[dict[str, Any]]) -> list[str]:
    """What decides whether pods of DaemonSets are replaced, byte by byte; and the selectors, which cannot change."""
    return [
        json.dumps([each["metadata"]["name"], each["spec"]["selector"], each["spec"]["template"]])
        for each in rendered
        if each["kind"] == "DaemonSet"
    ]


plain = functools.cache(render)  # of a folder that nobody changes


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one's own, to change things in."""
    for folder in ("kustomize", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    return tmp_path


class Sync(Protocol):
    """Render a pool as Argo CD does at a commit."""

    def __call__(self, pool: str, commit: str = COMMIT, **more: bool) -> list[dict[str, Any]]: ...


@pytest.fixture
def argocd_syncs(checkout: Path) -> Sync:
    """Render with what the pool's Application says about kustomize, and `more` about the label."""

    def sync(pool: str, commit: str = COMMIT, **more: bool) -> list[dict[str, Any]]:
        options = of(ARGOCD / "applications.yaml", "Application")[f"nodeagent-{pool}"]["spec"]["source"]["kustomize"]
        assert options["labelWithoutSelector"] is True
        pairs = {key: value.replace("$ARGOCD_APP_REVISION", commit) for key, value in options["commonLabels"].items()}
        file = checkout / "examples" / "argocd" / "pools" / pool / "kustomization.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}labels: {json.dumps([{'pairs': pairs, **more}])}\n", encoding="utf-8")
        rendered = render(file.parent)
        file.write_text(text, encoding="utf-8")
        return rendered

    return sync


# --- the examples are valid, and fit what they name ----------------------------------------------------------------


@pytest.mark.parametrize(
    "file", [*sorted(ARGOCD.glob("*.yaml")), *sorted(FLUX.glob("*.yaml"))], ids=lambda file: file.name
)
def test_every_object_is_valid(file: Path) -> None:
    """Argo CD's and Flux' own objects fit their published schemas, without a key that these do not know."""
    found = manifests(file.read_text(encoding="utf-8"))
    assert problems_of(found) == [[] for _ in found] != []


def test_every_pool_renders_and_is_valid() -> None:
    """Each pool's folder renders to valid objects in the pool's own namespace, and `nodeagent validate` accepts it."""
    for folder in FOLDERS:
        for each in plain(folder):
            space = each["metadata"].get("namespace")
            assert space == (None if each["kind"] in CLUSTER_SCOPED else f"nodeagent-{folder.name}")
            assert each["kind"] != "Namespace" or each["metadata"]["name"] == f"nodeagent-{folder.name}"
        names = [(each["kind"], each["metadata"]["name"]) for each in plain(folder)]
        assert len(names) == len(set(names))
    everything = [each for folder in (*FOLDERS, FLUX / "canary") for each in plain(folder)]
    assert [found for found in problems_of(everything) if found] == []
    done = subprocess.run(
        [sys.executable, "-m", "nodeagent", "validate", "-"],
        input=yaml.safe_dump_all(everything),
        capture_output=True,
        text=True,
        timeout=longer(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_application_names_a_pool() -> None:
    """Each Application, written or made by the ApplicationSet, names a folder and namespace; each pool has one."""
    applications = of(ARGOCD / "applications.yaml", "Application")
    assert set(applications) == {f"nodeagent-{pool}" for pool in POOLS}
    (template,) = [each["spec"] for each in of(ARGOCD / "applicationset.yaml", "ApplicationSet").values()]
    elements = template["generators"][0]["list"]["elements"]
    assert {element["pool"] for element in elements} == set(POOLS)
    for element in elements:
        text = json.dumps(template["template"])
        for key, value in element.items():
            text = text.replace("{{.%s}}" % key, value)  # noqa: UP031  # braces are what it looks for
        made, written = json.loads(text), applications[f"nodeagent-{element['pool']}"]
        assert made["metadata"]["name"] == written["metadata"]["name"]
        for spec in (made["spec"], written["spec"]):
            assert spec["source"]["path"] == f"examples/argocd/pools/{element['pool']}"
            assert spec["destination"]["namespace"] == f"nodeagent-{element['pool']}"
            assert spec["source"]["kustomize"] == written["spec"]["source"]["kustomize"]
            assert spec["syncPolicy"]["syncOptions"] == ["CreateNamespace=true"]
            labels = spec["syncPolicy"]["managedNamespaceMetadata"]["labels"]
            assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_project_allows_what_the_pools_consist_of() -> None:
    """Argo CD refuses a kind that the project does not name: it names every kind of every pool."""
    (project,) = [each["spec"] for each in of(ARGOCD / "project.yaml", "AppProject").values()]
    everything = [each for pool in POOLS for each in plain(ARGOCD / "pools" / pool)]
    for of_cluster, key in ((True, "clusterResourceWhitelist"), (False, "namespaceResourceWhitelist")):
        allowed = {(each["group"], each["kind"]) for each in project[key]}
        used = [each for each in everything if (each["kind"] in CLUSTER_SCOPED) is of_cluster]
        assert {(each["apiVersion"].rpartition("/")[0], each["kind"]) for each in used} <= allowed
    sources = {each["spec"]["source"]["repoURL"] for each in of(ARGOCD / "applications.yaml", "Application").values()}
    assert sources == set(project["sourceRepos"])


def test_the_canary_pool_is_first() -> None:
    """Argo CD: the canary pool follows `main`, or is the first step. Flux: what asks its nodes depends on it, and the
    others on that, all of one source.
    """
    for name, each in of(ARGOCD / "applications.yaml", "Application").items():
        follows = "main" if name == f"nodeagent-{CANARY}" else "stable"
        assert each["spec"]["source"]["targetRevision"] == follows
    (spec,) = [each["spec"] for each in of(ARGOCD / "applicationset.yaml", "ApplicationSet").values()]
    stages = [step["matchExpressions"][0]["values"] for step in spec["strategy"]["rollingSync"]["steps"]]
    pools = {element["pool"]: element["stage"] for element in spec["generators"][0]["list"]["elements"]}
    assert [pool for pool, stage in pools.items() if stage in stages[0]] == [CANARY]
    assert set(pools.values()) == {stage for (stage,) in stages}
    assert "automated" not in spec["template"]["spec"]["syncPolicy"]

    kustomizations = of(FLUX / "pools.yaml", "Kustomization")
    assert set(kustomizations) == {"nodeagent-canary", *(f"nodeagent-{pool}" for pool in POOLS)}
    (source,) = of(FLUX / "source.yaml", "GitRepository")
    assert set(of(FLUX / "artifact.yaml", "OCIRepository")) == {source}
    for name, each in kustomizations.items():
        after = {f"nodeagent-{CANARY}": [], "nodeagent-canary": [f"nodeagent-{CANARY}"]}.get(name, ["nodeagent-canary"])
        assert [before["name"] for before in each["spec"].get("dependsOn", [])] == after
        assert each["spec"]["sourceRef"] == {"kind": "GitRepository", "name": source}
        folder = name.removeprefix("nodeagent-")
        assert each["spec"]["path"] == f"./examples/flux/{folder if folder == 'canary' else f'pools/{folder}'}"


def test_flux_waits_for_what_can_come_true() -> None:
    """Flux takes a DaemonSet of OnDelete for unfinished until people have replaced its pods: it is never waited for.

    A health check names an object that is there.
    """
    for each in of(FLUX / "pools.yaml", "Kustomization").values():
        rendered = plain(ROOT / each["spec"]["path"])
        by_hand = [
            found["metadata"]["name"]
            for found in rendered
            if found["kind"] == "DaemonSet" and found["spec"]["updateStrategy"]["type"] == "OnDelete"
        ]
        checks = each["spec"].get("healthChecks", [])
        assert each["spec"].get("wait", False) is not bool(by_hand)
        assert bool(checks) is bool(by_hand)
        for check in checks:
            assert check["name"] not in by_hand
            assert one(rendered, check["kind"], check["name"])["metadata"]["namespace"] == check["namespace"]


# --- the commit reaches the nodes, and no pod is replaced for it ---------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_argocd_carries_the_commit_and_rolls_nothing(argocd_syncs: Sync, pool: str) -> None:
    """Commits differ in `revision` and in labels of objects; pod templates and selectors are the same, byte by byte."""
    before = plain(ARGOCD / "pools" / pool)
    for commit in (COMMIT, *NUMBERS):
        after = argocd_syncs(pool, commit)
        config, was = (one(each, "ConfigMap", f"sharing-{pool}") for each in (after, before))
        assert config["data"] == {**was["data"], "revision": commit}
        assert config["metadata"]["labels"]["nodeagent.io/revision"] == commit
        assert pods(after) == pods(before)


def test_what_argocd_makes_is_valid(argocd_syncs: Sync) -> None:
    """A commit is a valid value of a label."""
    assert [found for found in problems_of(argocd_syncs(CANARY)) if found] == []


def test_without_argocd_the_commit_is_unknown() -> None:
    """Whoever renders the folder without Argo CD gets what is valid, and does not claim a commit."""
    for pool in POOLS:
        assert one(plain(ARGOCD / "pools" / pool), "ConfigMap", f"sharing-{pool}")["data"]["revision"] == "unknown"


def test_a_label_in_pod_templates_would_roll_them(argocd_syncs: Sync) -> None:
    """Why the label is kept out of templates: with `labelIncludeTemplates` each commit would replace every agent."""
    other = COMMIT[::-1]
    assert pods(argocd_syncs(CANARY, includeTemplates=True)) != pods(argocd_syncs(CANARY, other, includeTemplates=True))


@pytest.mark.parametrize("pool", POOLS)
def test_flux_carries_the_commit_and_rolls_nothing(checkout: Path, pool: str) -> None:
    """What CI writes into `revision` is what the ConfigMap has, and pod templates do not change with it."""
    folder = checkout / "examples" / "flux" / "pools" / pool
    before = plain(FLUX / "pools" / pool)
    for commit in (COMMIT, *NUMBERS):
        (folder / "revision").write_text(f"{commit}\n", encoding="utf-8")
        after = render(folder)
        assert one(after, "ConfigMap", f"sharing-{pool}")["data"]["revision"].strip() == commit
        assert pods(before) == pods(after)
    assert one(before, "ConfigMap", f"sharing-{pool}")["data"]["revision"].strip() == "unknown"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.parent.name}-{folder.name}")
def test_the_bytes_of_the_config_are_those_in_git(folder: Path) -> None:
    """What `git hash-object` says of the file in Git is the blob id that the nodes tell."""
    file = ROOT / "kustomize" / "overlays" / folder.name / "sharing.yaml"
    data = one(plain(folder), "ConfigMap", f"sharing-{folder.name}")["data"]["sharing.yaml"]
    in_git = subprocess.run(
        ["git", "hash-object", "--no-filters", file], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert Document("", data.encode()).git_blob == in_git.stdout.strip()


# --- what holds the other pools back ---------------------------------------------------------------------------------

SHARING = (ROOT / "kustomize" / "overlays" / CANARY / "sharing.yaml").read_text(encoding="utf-8")


def accepted(text: str) -> Snapshot:
    """A node that has accepted this document."""
    document = builders.document(text)
    return builders.snapshot(config=ConfigState("/etc/nodeagent/config", document, document, document, document))


def _said(snapshot: Snapshot) -> Snapshot:
    return snapshot


@pytest.fixture
def agents() -> Iterator[Callable[..., int]]:
    """Serve what two agents of a pool say, at two addresses and one port, which is given."""
    servers: list[HttpServer] = []

    def serve(*snapshots: Snapshot) -> int:
        for number, snapshot in enumerate(snapshots, start=1):
            server = HttpServer(
                f"127.0.0.{number}:{servers[0].port if servers else 0}",
                snapshot=functools.partial(_said, snapshot),
                alive=lambda: True,
                metrics=Metrics(functools.partial(_said, snapshot), version="0.1.0"),
                strict_readiness=False,
            )
            server.start()
            servers.append(server)
        return servers[0].port

    yield serve
    for server in servers:
        server.close()


def asking_agents(checkout: Path, tool: str = "argocd") -> list[dict[str, Any]]:
    """Render the canary pool with the Job that asks the agents, for those whose nodes have no labels."""
    file = checkout / "examples" / tool / "pools" / CANARY / "kustomization.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    others = [each for each in document.get("components", []) if not each.endswith("canary-wait")]
    document["components"] = [*others, "../../../../kustomize/components/canary-check"]
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return render(file.parent)


def canary_check(checkout: Path, port: int, addresses: str) -> subprocess.CompletedProcess[str]:
    """Run the Job's container as it is rendered, with these addresses for the agents, and with less patience."""
    rendered = asking_agents(checkout)
    (container,) = one(rendered, "Job", "nodeagent-canary-check")["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    service = one(rendered, "Service", environment["AGENTS"])
    assert service["spec"]["ports"][0]["port"] == int(environment["PORT"])
    names = checkout / "bin" / "getent"
    names.parent.mkdir()
    answer = "".join(f"{address}  {kind}\\n" for address in addresses.split() for kind in ("STREAM", "DGRAM", "RAW"))
    names.write_text(f"#!/bin/sh\ntest \"$*\" = 'ahostsv4 {environment['AGENTS']}' && printf '{answer}'\n", "utf-8")
    names.chmod(0o755)
    script = container["args"][0]
    assert "--timeout 5m" in script
    return subprocess.run(
        [*container["command"], script.replace("--timeout 5m", "--timeout 1s")],
        env={
            **environment,
            "PORT": str(port),
            "PATH": f"{names.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=longer(60),
        check=False,
    )


def test_the_canary_check_asks_every_agent(agents: Callable[..., int], checkout: Path) -> None:
    """It succeeds when each agent of the pool has accepted the rendered config."""
    done = canary_check(checkout, agents(accepted(SHARING), accepted(SHARING)), "127.0.0.1 127.0.0.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"accepted {Document('', SHARING.encode()).git_blob}") == 2


def test_one_agent_that_has_it_not_holds_the_others_back(agents: Callable[..., int], checkout: Path) -> None:
    """An agent with yesterday's config fails the Job, wherever it is in the list."""
    done = canary_check(checkout, agents(accepted(SHARING), accepted("older")), "127.0.0.1 127.0.0.2")
    assert done.returncode == 1
    assert "not within 1 s" in done.stderr


def test_one_agent_that_rejects_it_holds_the_others_back(agents: Callable[..., int], checkout: Path) -> None:
    """An agent that rejects the config fails the Job at once, with what it says."""
    document = builders.document(SHARING)
    config = ConfigState("/etc/nodeagent/config", document, None, None, None, violations=(builders.violation(),))
    rejects = replace(builders.snapshot(), config=config)
    done = canary_check(checkout, agents(rejects, accepted(SHARING)), "127.0.0.1 127.0.0.2")
    assert done.returncode == 1
    assert "expected an integer of at least 2" in done.stderr


def test_a_pool_without_agents_is_no_canary(checkout: Path) -> None:
    """Where there is nobody to ask, nobody has accepted anything."""
    done = canary_check(checkout, 1, "")
    assert done.returncode == 1
    assert "no agent has an address" in done.stderr


@pytest.mark.parametrize("tool", ["argocd", "flux"])
def test_the_canary_check_may_ask_the_agents(checkout: Path, tool: str) -> None:
    """It is valid, and the pool's NetworkPolicy lets the Job's pods in, beside Prometheus; nothing keeps them in."""
    rendered = asking_agents(checkout, tool)
    assert [found for found in problems_of(rendered) if found] == []
    (policy,) = [
        each for each in rendered if each["kind"] == "NetworkPolicy" and "Ingress" in each["spec"]["policyTypes"]
    ]
    labels = one(rendered, "Job", "nodeagent-canary-check")["spec"]["template"]["metadata"]["labels"]
    (entry,) = policy["spec"]["ingress"]
    (others,) = [peer for peer in entry["from"] if "namespaceSelector" not in peer]
    assert others["podSelector"]["matchLabels"].items() <= labels.items()
    assert not policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    selector = one(rendered, "Service", "nodeagent-agents")["spec"]["selector"]
    agent = one(rendered, "DaemonSet", f"nodeagent-{CANARY}")["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= agent.items()
    assert not selector.items() <= labels.items()


JOB = "nodeagent-canary-wait"
JOBS = {"argocd": Path("examples/argocd/pools") / CANARY, "flux": Path("examples/flux/canary")}
"""Where each tool has the Job that holds the other pools back."""


@pytest.mark.parametrize("tool", JOBS)
def test_what_holds_the_others_back_is_of_this_very_config(checkout: Path, tool: str) -> None:
    """The Job carries the config itself, and changes with it: what was asked about last time is never asked again."""
    folder = JOBS[tool]
    before = one(render(checkout / folder), "Job", JOB)
    sharing = checkout / "kustomize" / "overlays" / CANARY / "sharing.yaml"
    sharing.write_text(sharing.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    after = one(render(checkout / folder), "Job", JOB)
    assert before["spec"]["template"] != after["spec"]["template"]
    assert environment_of(after)["SHARING"] == sharing.read_text(encoding="utf-8")
    assert environment_of(after)["POOL"] == CANARY


def environment_of(job: dict[str, Any]) -> dict[str, str]:
    """What the Job's container has in its environment."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("tool", JOBS)
def test_what_holds_the_others_back_asks_for_the_blob_of_the_pool(tmp_path: Path, tool: str) -> None:
    """The Job's script asks for the git blob id of the file in Git, of every node of the pool: what it ends in is one
    command, seen here by standing in its way.
    """
    job = one(plain(ROOT / JOBS[tool]), "Job", JOB)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    real = Path(sys.executable).parent / "nodeagent"
    seen = tmp_path / "nodeagent"
    seen.write_text(f'#!/bin/sh\ntest "$1" = wait && exec echo "$@"\nexec {real} "$@"\n', encoding="utf-8")
    seen.chmod(0o755)
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={**environment_of(job), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=longer(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    blob = Document("", SHARING.encode()).git_blob
    assert done.stdout.split() == ["wait", "--pool", CANARY, "--blob", blob, *environment_of(job)["OPTIONS"].split()]


@pytest.mark.parametrize("tool", JOBS)
def test_what_holds_the_others_back_may_list_nodes_and_nothing_else(tool: str) -> None:
    """The Job has an account of its own, a token for it, one right, and no rights on its machine."""
    rendered = plain(ROOT / JOBS[tool])
    spec = one(rendered, "Job", JOB)["spec"]["template"]["spec"]
    account = one(rendered, "ServiceAccount", spec["serviceAccountName"])
    binding, role = (one(rendered, kind, JOB) for kind in ("ClusterRoleBinding", "ClusterRole"))

    assert spec["automountServiceAccountToken"] is True
    assert account["automountServiceAccountToken"] is False
    subject = {"kind": "ServiceAccount", **{key: account["metadata"][key] for key in ("name", "namespace")}}
    assert binding["subjects"] == [subject]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumes" not in spec


def test_the_job_alone_stands_between_the_pools() -> None:
    """What Flux applies there is the Job and its rights: the pool is applied, and pruned, by its own Kustomization."""
    rendered = plain(FLUX / "canary")
    assert {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in rendered} == {"canary-wait"}
    assert not {(each["kind"], each["metadata"]["name"]) for each in rendered} & {
        (each["kind"], each["metadata"]["name"]) for each in plain(FLUX / "pools" / CANARY)
    }


@pytest.mark.parametrize("tool", JOBS)
def test_nobody_gives_up_before_the_job(tool: str) -> None:
    """The Job may run for longer than it waits for the nodes, Flux waits for longer than that, and a Job that has ended
    is made anew by both tools.
    """
    job = one(plain(ROOT / JOBS[tool]), "Job", JOB)
    options = environment_of(job)["OPTIONS"].split()
    patience = int(options[options.index("--timeout") + 1].removesuffix("m")) * 60
    assert patience < job["spec"]["activeDeadlineSeconds"]
    kustomization = of(FLUX / "pools.yaml", "Kustomization")["nodeagent-canary"]["spec"]
    assert kustomization["wait"] is True
    assert job["spec"]["activeDeadlineSeconds"] < int(kustomization["timeout"].removesuffix("m")) * 60
    assert job["metadata"]["annotations"] == {
        "argocd.argoproj.io/hook": "PostSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
        "kustomize.toolkit.fluxcd.io/force": "enabled",
    }
    assert job["spec"]["ttlSecondsAfterFinished"] >= 600


@pytest.mark.parametrize("tool", JOBS)
def test_the_nodes_that_are_asked_have_labels(tool: str) -> None:
    """The canary pool labels its nodes, and its agents run on those that have the label by which the Job chooses."""
    pool = environment_of(one(plain(ROOT / JOBS[tool]), "Job", JOB))["POOL"]
    rendered = plain(ROOT / "examples" / tool / "pools" / CANARY)
    template = one(rendered, "DaemonSet", f"nodeagent-{CANARY}")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert {"name": "NODEAGENT_LABELS", "value": "api"} in container["env"]
    terms = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    for term in terms["nodeSelectorTerms"]:
        assert {"key": "nodeagent.io/pool", "operator": "In", "values": [pool]} in term["matchExpressions"]
