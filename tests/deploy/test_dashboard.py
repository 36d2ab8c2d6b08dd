"""The dashboard: Grafana can draw it, and what its panels ask for exists."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.agent_metrics import pages
from tests.deploy.manifests import render
from tests.deploy.promql import Exported
from tests.deploy.test_monitoring import FLEET, check_expressions, unknown

TEXT = (FLEET / "dashboard.json").read_text("utf-8")
DASHBOARD: dict[str, Any] = json.loads(TEXT)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
WIDTH = 24


def expressions(values: dict[str, str]) -> list[tuple[str, str]]:
    """Every query with the title of its panel, with these values for the dashboard's variables."""
    found = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
    return [(title, substituted(expression, values)) for title, expression in found]


def substituted(text: str, values: dict[str, str]) -> str:
    """The text as Grafana sends it."""
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], text)


def test_every_panel_has_a_place_of_its_own() -> None:
    """No two panels overlap, none is wider than the page, and every id is there once."""
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0, panel["title"]
        assert at["x"] + at["w"] <= WIDTH, panel["title"]
        assert min(at["w"], at["h"]) > 0, panel["title"]
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} and {other['title']}"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_panel_says_what_it_shows() -> None:
    """A panel has a title of its own, a description, and queries with ids of their own, from the chosen data source."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    drawn = [panel for panel in PANELS if panel["type"] != "row"]
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == source, panel["title"]
        assert all(target["datasource"] == source for target in panel["targets"]), panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0, panel["title"]
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_a_fleet_and_a_node_can_be_chosen() -> None:
    """There is a row for the fleet, whose panels follow the pools, and one for a node, whose panels follow that."""
    assert list(VARIABLES) == ["datasource", "pool", "node"]
    rows = [index for index, panel in enumerate(PANELS) if panel["type"] == "row"]
    assert [PANELS[index]["title"] for index in rows] == ["Fleet", "Node $node"]
    for index, panel in enumerate(PANELS):
        for target in panel.get("targets", ()):
            wanted = 'pool=~"$pool"' if index < rows[1] else 'node="$node"'
            assert wanted in target["expr"], panel["title"]


def test_queries_are_valid(promtool: Path, tmp_path: Path) -> None:
    """Prometheus understands every query, and those that fill the variables."""
    queries = [text for _, text in expressions({"pool": ".*", "node": "gpu-node-7"})]
    queries += [substituted(text, {"pool": ".*"}) for text in (series for series, _ in variable_queries())]
    assert check_expressions(promtool, tmp_path, queries) == ""


def test_queries_speak_of_what_is_there(mps_control: Path) -> None:
    """Every metric, label and fixed value of a panel, of its legend and of a variable exists in a running agent's
    metrics, or is recorded by the rules.
    """
    exported = Exported(pages(mps_control))
    known = {"uuid", "pool", "node", "state", "result", "stage", "kind", "resource", "xid"}
    asked = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
    asked += [(series, series) for series, _ in variable_queries()]
    wrong = [f"{title}: {problem}" for title, text in asked for problem in unknown({"expr": text}, exported)]
    assert wrong == []
    for panel in PANELS:
        for target in panel.get("targets", ()):
            labels = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert labels <= known
            for label in labels:
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


@pytest.mark.parametrize("label", ["pool", "node"])
def test_a_variable_offers_the_values_of_its_label(label: str) -> None:
    """Pools and nodes are those of recorded series: quick to ask for in a large fleet."""
    ((series, wanted),) = [one for one in variable_queries() if one[1] == label]
    assert wanted == label
    assert ":" in series


def test_the_config_map_carries_the_dashboard_as_it_is() -> None:
    """Grafana's sidecar finds the ConfigMap, which holds the file; Flux is told to leave Grafana's variables alone."""
    (carrier,) = [manifest for manifest in render(FLEET) if manifest["kind"] == "ConfigMap"]
    assert carrier["data"] == {"nodeagent.json": TEXT}
    assert carrier["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert carrier["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/substitute"] == "disabled"


def variable_queries() -> list[tuple[str, str]]:
    """Series and label of each variable that is a query."""
    found = []
    for variable in VARIABLES.values():
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert match is not None, variable["definition"]
            assert variable["query"]["query"] == variable["definition"]
            found.append((match[1], match[2]))
    return found
