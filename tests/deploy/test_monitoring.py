"""Rules, alerts, runbooks and what connects Prometheus to a pool: each is held to what an agent really exports and to
what is really deployed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.state.status import Reason
from tests import markdown
from tests.conftest import ROOT
from tests.deploy.agent_metrics import pages
from tests.deploy.manifests import problems_of, render
from tests.deploy.promql import Exported, grouped, level, rules_of, selectors
from tests.waiting import longer

BASE = ROOT / "kustomize" / "base"
OVERLAYS = ROOT / "kustomize" / "overlays"
MONITORING = ROOT / "kustomize" / "components" / "monitoring"
FLEET = MONITORING / "fleet"
RULES = yaml.safe_load((FLEET / "rules.yaml").read_text("utf-8"))
TEST_FILES = ["rules.test.yaml", "rules.day.test.yaml"]
CASES = [case for name in TEST_FILES for case in yaml.safe_load((FLEET / name).read_text("utf-8"))["tests"]]
ALERTS = {rule["alert"]: rule for rule in rules_of(RULES, "alert")}
RECORDS = {rule["record"]: rule for rule in rules_of(RULES, "record")}
RUNBOOKS = "https://github.com/nodeagent/nodeagent/blob/main/"

TARGET = {"job", "instance", "node", "pool", "namespace", "pod", "container", "endpoint"}
"""What Prometheus adds to every series of a target that the PodMonitor has found."""
OF_OTHERS = {"up": set[str](), "ALERTS": {"alertname", "alertstate", "severity", "scope"}, "kube_node_info": {"node"}}
"""What is not the agent's: Prometheus' own series, and the one of kube-state-metrics that is used where it is there."""
MADE_HERE = set(re.findall(r'"state", "([\w-]+)"', (FLEET / "rules.yaml").read_text("utf-8")))
"""The states of nodes, which a rule makes."""

SERIES = re.compile(r"(\w+)\{(.*)\}")
LABEL = re.compile(r'(\w+)="([^"]*)"')


@pytest.fixture(scope="module")
def exported(mps_control: Path) -> Exported:
    """What a running agent exports, in sync and in trouble."""
    return Exported(pages(mps_control))


# --- the rules ---


def test_the_rules_are_valid(promtool: Path) -> None:
    """Prometheus accepts the rules, and its linter has nothing to say to them."""
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", FLEET / "rules.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", TEST_FILES)
def test_the_rules_do_what_their_cases_say(promtool: Path, file: str) -> None:
    """Each alert fires when it should, not before and not otherwise, and resolves; a restarted pod resets none."""
    done = subprocess.run(
        [promtool, "test", "rules", file], cwd=FLEET, capture_output=True, text=True, timeout=longer(100), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_cases(alert: str) -> None:
    """For every alert there is a case in which it does not fire yet, then fires, and then has resolved."""
    stories = [
        [bool(look["exp_alerts"]) for look in sorted(looks, key=lambda look: _minutes(look["eval_time"]))]
        for case in CASES
        if (looks := [look for look in case.get("alert_rule_test", ()) if look["alertname"] == alert])
    ]
    assert any(_fires_in_between(story) for story in stories), stories


def test_cases_speak_of_alerts_that_are_there() -> None:
    """No case is about an alert that has another name by now: such a case would be green for ever."""
    named = {look["alertname"] for case in CASES for look in case.get("alert_rule_test", ())}
    assert named == ALERTS.keys()


def test_each_recorded_series_has_a_use() -> None:
    """What is recorded is used by an alert, another rule or the dashboard, or has a case of its own."""
    text = (FLEET / "rules.yaml").read_text("utf-8") + (FLEET / "dashboard.json").read_text("utf-8")
    assert [record for record in RECORDS if text.count(record) < 2] == []


def test_no_rule_looks_at_what_a_new_pod_changes() -> None:
    """Rules aggregate by pool and node and what the agent says, and never by what differs from pod to pod."""
    for rule in (*ALERTS.values(), *RECORDS.values()):
        assert not grouped(rule["expr"]) & {"pod", "instance", "container", "endpoint", "namespace"}, rule
        assert "without" not in rule["expr"], rule
    for rule in ALERTS.values():
        raw = [selector.metric for selector in selectors(rule["expr"]) if ":" not in selector.metric]
        assert not raw or grouped(rule["expr"]) or rule["expr"].startswith("absent("), rule


def test_a_recorded_series_is_named_for_its_labels() -> None:
    """The level of a recorded name, `pool_node:…`, is made of the labels by which its rule aggregates."""
    for record, rule in RECORDS.items():
        by = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in labels.split(",")}
        assert level(record, by) is not None, record


# --- what they speak of ---


def test_rules_speak_of_what_an_agent_exports(exported: Exported) -> None:
    """Every metric, label and fixed value in a rule is one that a running agent has."""
    wrong = [f"{name}: {problem}" for name, rule in (ALERTS | RECORDS).items() for problem in unknown(rule, exported)]
    assert wrong == []


def test_cases_have_series_as_an_agent_exports_them(exported: Exported) -> None:
    """Input series of the cases have exactly the labels of the agent's, those of the target that matter, and values
    that exist wherever the agent's are from a fixed set.
    """
    fixed = {"type", "kind", "state", "result", "resource", "job"}
    wrong = []
    for series in (entry["series"] for case in CASES for entry in case["input_series"]):
        match = SERIES.fullmatch(series)
        assert match is not None, series
        metric, labels = match[1], dict(LABEL.findall(match[2]))
        if metric == "kube_node_info":
            continue
        own = OF_OTHERS[metric] if metric == "up" else set(exported.labels(metric)) if metric in exported else None
        if own is None or labels.keys() != own | {"job", "pool", "node", "pod"}:
            wrong.append(series)
        wrong += [
            f"{series}: {label}"
            for label in labels.keys() & fixed & (own or set())
            if labels[label] not in exported.all_values(label) | {"nvidia.com/gpu"}
        ]
        if labels.get("reason", Reason.SERVING) not in set(Reason):
            wrong.append(f"{series}: reason")
    assert wrong == []


def test_queries_in_the_docs_speak_of_what_an_agent_exports(promtool: Path, exported: Exported, tmp_path: Path) -> None:
    """Every query that a page shows is valid, and its metrics, labels and fixed values are there."""
    queries = [
        (f"{page.name}:{block.line}", block.text)
        for page in markdown.pages(ROOT)
        for block in markdown.blocks(page.read_text("utf-8"))
        if block.language == "promql"
    ]
    assert {place.partition(":")[0] for place, _ in queries} >= {"metrics.md", "monitoring.md", "config.md"}
    assert check_expressions(promtool, tmp_path, [text for _, text in queries]) == ""
    own = {"pool": {"a100-inference"}}
    wrong = [f"{place}: {problem}" for place, text in queries for problem in unknown({"expr": text}, exported, own)]
    assert wrong == []


def test_metrics_of_a_running_agent_pass_the_linter(promtool: Path, mps_control: Path) -> None:
    """Prometheus' linter objects to nothing that an agent exports, in sync, or with a drain and a rejected document."""
    for page in pages(mps_control):
        done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- what a person gets ---


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: str) -> None:
    """An alert has severity, scope, summary and description, and the address of its runbook's section."""
    rule = ALERTS[alert]
    assert re.fullmatch(r"Nodeagent[A-Z]\w+", alert)
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["labels"]["scope"] in {"fleet", "pool", "node"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    if rule["labels"]["scope"] != "fleet":
        assert f"$labels.{rule['labels']['scope']}" in rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook_url"].removeprefix(RUNBOOKS).partition("#")
    assert anchor == alert.lower()
    assert anchor in markdown.anchors((ROOT / page).read_text("utf-8"))


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_tells_all_that_a_person_needs(alert: str) -> None:
    """The section of an alert has its meaning, impact, diagnosis and mitigation, the last two with something to type or
    to look at.
    """
    section = runbook_sections()[alert]
    parts = re.split(r"^\*\*(Meaning|Impact|Diagnosis|Mitigation)\.\*\*", section, flags=re.MULTILINE)
    assert parts[1::2] == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert all(len(text.split()) >= 8 for text in parts[2::2]), alert
    assert "`" in parts[6]
    assert "`" in parts[6] + parts[8]


def test_runbooks_are_about_alerts_that_are_there() -> None:
    """No section tells of an alert that is gone, and the list of all alerts is that of the rules."""
    assert runbook_sections().keys() == ALERTS.keys()
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| \[(Nodeagent\w+)\]\([^)]*\) \| (\w+) \|", index, re.MULTILINE))
    assert listed == {alert: rule["labels"]["severity"] for alert, rule in ALERTS.items()}


def test_the_page_tells_of_every_recorded_series() -> None:
    """docs/monitoring.md says what each recorded series is for, and of none that is gone."""
    page = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w:]+:[\w:]+)` \|", page, re.MULTILINE)) == RECORDS.keys()


# --- what is deployed ---


def test_the_operators_rules_are_the_same() -> None:
    """The PrometheusRule holds rules.yaml, word for word."""
    (rule,) = [one for one in render(FLEET) if one["kind"] == "PrometheusRule"]
    assert rule["spec"] == RULES
    done = subprocess.run([ROOT / "hack" / "embed-rules", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_that_were_not_embedded_are_found(tmp_path: Path) -> None:
    """When rules.yaml has changed `hack/embed-rules --check` fails and tells how; without `--check` that is mended."""
    script = tmp_path / "hack" / "embed-rules"
    folder = tmp_path / FLEET.relative_to(ROOT)
    shutil.copytree(FLEET, folder)
    script.parent.mkdir()
    shutil.copy2(ROOT / "hack" / "embed-rules", script)
    rules = folder / "rules.yaml"
    rules.write_text(rules.read_text("utf-8").replace("for: 10m", "for: 11m"), "utf-8")

    checked = subprocess.run([script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "+          for: 11m" in checked.stdout
    subprocess.run([script], check=True)
    subprocess.run([script, "--check"], check=True)


def test_what_is_rendered_is_valid(tmp_path: Path) -> None:
    """With the component on top the base renders and has what it adds; everything is strictly valid, and so is what is
    there once.
    """
    manifests = on_top(tmp_path, BASE, components=[MONITORING])
    assert [problem for problem in problems_of([*render(FLEET), *manifests]) if problem] == []
    added = sorted(manifest["kind"] for manifest in manifests if manifest not in render(BASE))
    assert added == ["ConfigMap", "NetworkPolicy", "PodMonitor", "PrometheusRule"]


@pytest.mark.parametrize("pool", sorted(path.name for path in OVERLAYS.iterdir()))
def test_the_monitor_finds_the_agents_of_its_pool(tmp_path: Path, pool: str) -> None:
    """The PodMonitor selects the agents' pods and no others, in their namespace, at a port that they have; job, node
    and pool are those of the pod. The pool keeps its NetworkPolicy.
    """
    manifests = render(monitored(tmp_path, pool))
    assert [problem for problem in problems_of(manifests) if problem] == []
    added = [manifest["kind"] for manifest in manifests if manifest not in render(OVERLAYS / pool)]
    assert added == ["PodMonitor"]
    monitor = one(manifests, "PodMonitor")
    templates = [
        (manifest, manifest["spec"]["template"]) for manifest in manifests if manifest["kind"] in {"DaemonSet", "Job"}
    ]
    selected = [entry for entry in templates if selects(monitor["spec"]["selector"], entry[1]["metadata"]["labels"])]
    assert [manifest["metadata"]["labels"]["app.kubernetes.io/component"] for manifest, _ in selected] == ["agent"]
    agent, template = selected[0]
    assert monitor["metadata"]["namespace"] == agent["metadata"]["namespace"] == f"nodeagent-{pool}"

    labels = template["metadata"]["labels"]
    assert labels[monitor["spec"]["jobLabel"]] == "nodeagent"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert ports[endpoint["port"]] == 9400
    assert endpoint["honorLabels"] is True
    discovered = {"__meta_kubernetes_pod_node_name": "gpu-node-7"} | {
        f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}": value for label, value in labels.items()
    }
    relabeled = {entry["targetLabel"]: discovered[entry["sourceLabels"][0]] for entry in endpoint["relabelings"]}
    assert relabeled == {"node": "gpu-node-7", "pool": pool}


def test_only_prometheus_reaches_an_agent() -> None:
    """The NetworkPolicy selects the agents; it lets in one namespace, at the port of the metrics, and nothing out."""
    manifests = render(OVERLAYS / "a100-inference")
    policy = one(manifests, "NetworkPolicy")["spec"]
    agent, host = (
        next(
            manifest["spec"]["template"]
            for manifest in manifests
            if manifest["kind"] == "DaemonSet"
            and manifest["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == name
        )
        for name in ("nodeagent", "nodeagent-mps-host")
    )
    assert selects(policy["podSelector"], agent["metadata"]["labels"])
    assert not selects(policy["podSelector"], host["metadata"]["labels"])
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule == {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "ports": [{"protocol": "TCP", "port": agent["spec"]["containers"][0]["ports"][0]["containerPort"]}],
    }


def test_a_pool_can_be_applied_to_any_cluster() -> None:
    """No pool, and no example of one, has an object of a kind that Kubernetes itself does not know, so that none of
    them is refused where Prometheus' operator is not installed.
    """
    folders = [*OVERLAYS.iterdir(), *(path.parent for path in ROOT.glob("examples/*/**/kustomization.yaml"))]
    assert len(folders) > len(list(OVERLAYS.iterdir()))
    for folder in folders:
        groups = {str(manifest["apiVersion"]).rpartition("/")[0] for manifest in render(folder)}
        assert {group for group in groups if "." in group and not group.endswith(".k8s.io")} == set(), folder


def test_rules_are_there_once_however_many_pools_there_are(tmp_path: Path) -> None:
    """What a pool has of its own holds no rules, and what is there once is in a namespace of its own."""
    for pool in OVERLAYS.iterdir():
        kinds = {manifest["kind"] for manifest in render(monitored(tmp_path, pool.name))}
        assert "PodMonitor" in kinds
        assert "PrometheusRule" not in kinds
    fleet = {(manifest["kind"], manifest["metadata"]["namespace"]) for manifest in render(FLEET)}
    assert fleet == {("PrometheusRule", "monitoring"), ("ConfigMap", "monitoring")}


def test_what_differs_from_cluster_to_cluster_is_patched_as_the_page_says(tmp_path: Path) -> None:
    """The patches that docs/monitoring.md shows fit what is shipped: the label that Prometheus selects, and its
    namespace.
    """
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    blocks = [yaml.safe_load(block.text) for block in markdown.blocks(text) if block.language == "yaml"]
    patches = [patch for block in blocks for patch in block.get("patches", ())]
    assert len(patches) == 2
    pool = on_top(tmp_path, monitored(tmp_path, "mixed"), patches=patches)
    peer = one(pool, "NetworkPolicy")["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert peer == {"kubernetes.io/metadata.name": "observability"}
    fleet = on_top(tmp_path, FLEET, components=[FLEET], patches=patches[:1])
    for manifest in (one(pool, "PodMonitor"), one(fleet, "PrometheusRule")):
        assert manifest["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def monitored(folder: Path, pool: str) -> Path:
    """A pool, in a copy of all manifests, which opts into a monitor as docs/monitoring.md says."""
    tree = folder / "kustomize"
    if not tree.exists():
        shutil.copytree(OVERLAYS.parent, tree)
    overlay = tree / "overlays" / pool
    file = overlay / "kustomization.yaml"
    document = yaml.safe_load(file.read_text("utf-8"))
    document["components"] = [
        entry.replace("components/network-policy", "components/monitoring/pool") for entry in document["components"]
    ]
    file.write_text(yaml.safe_dump(document), "utf-8")
    return overlay


def check_expressions(promtool: Path, folder: Path, expressions: list[str]) -> str:
    """What promtool says against these expressions; nothing when all are valid."""
    file = folder / "expressions.yaml"
    rules = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(expressions)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}), "utf-8")
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def unknown(rule: dict[str, Any], exported: Exported, free: dict[str, set[str]] | None = None) -> list[str]:
    """What a rule, or a panel, speaks of that is not there. `free` are values that are anybody's own."""
    found = []
    labels_known = exported.all_labels() | TARGET | set().union(*OF_OTHERS.values())
    for selector in selectors(rule["expr"]):
        metric = selector.metric
        if metric in RECORDS:
            labels = level(metric, labels_known) or set()
        elif metric in exported:
            labels = set(exported.labels(metric)) | TARGET
        elif metric in OF_OTHERS:
            labels = OF_OTHERS[metric] | TARGET
        else:
            found.append(metric)
            continue
        found += [f"{metric}: {label}" for label in selector.labels.keys() - labels]
        found += [
            f'{metric}: {label}="{value}"'
            for label, values in selector.labels.items()
            for value in values
            if value not in values_of(metric, label, exported) | (free or {}).get(label, set())
        ]
    return found + sorted(grouped(rule["expr"]) - labels_known)


def values_of(metric: str, label: str, exported: Exported) -> set[str]:
    """The values that a label can have. Reasons are the program's own list: no single node has them all."""
    if label == "reason":
        return {*Reason}
    if label == "job":
        return {"nodeagent"}
    if metric == "ALERTS":
        return {"firing", "pending", *ALERTS}
    if metric in RECORDS:
        return exported.all_values(label) | MADE_HERE
    return set(exported.values(metric, label))


def runbook_sections() -> dict[str, str]:
    """The sections of the runbooks that bear an alert's name, with their text."""
    pages_ = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    parts = [re.split(r"^## (Nodeagent\w+)$", page.read_text("utf-8"), flags=re.MULTILINE) for page in pages_]
    return {name: text for part in parts for name, text in zip(part[1::2], part[2::2], strict=True)}


def on_top(folder: Path, of: Path, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a kustomization's fields
    """What is rendered with these fields, such as components and patches, on top of something that is shipped."""
    folder = folder / f"{of.name}-and-more"
    folder.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **({} if of == FLEET else {"resources": [os.path.relpath(of, folder)]}),
        "components": [os.path.relpath(component, folder) for component in (more.pop("components", []))],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
    return render(folder)


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only object of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector without expressions takes a pod with these labels."""
    assert selector.keys() == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


def _minutes(duration: str) -> int:
    assert duration.endswith("m"), duration
    return int(duration[:-1])


def _fires_in_between(story: list[bool]) -> bool:
    """Whether it does not fire at first, then does, then does not."""
    return len(story) >= 3 and not story[0] and not story[-1] and any(story)
