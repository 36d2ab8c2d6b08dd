"""What checks our manifests is held to its promise: it finds what is wrong in each family of kinds, and no more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import manifests, problems, problems_of, render

SAMPLES = {
    manifest["kind"]: manifest for manifest in manifests(Path(__file__).with_name("samples.yaml").read_text("utf-8"))
}
Path_ = tuple[str | int, ...]

REQUIRED: dict[str, list[Path_]] = {
    "DaemonSet": [
        ("spec", "selector"),
        ("spec", "template", "spec", "containers"),
        ("spec", "template", "spec", "containers", 0, "name"),
        ("spec", "template", "spec", "volumes", 0, "name"),
    ],
    "Job": [("spec", "template"), ("spec", "template", "spec", "containers", 0, "name")],
    "NetworkPolicy": [("kind",)],
    "RuntimeClass": [("handler",), ("apiVersion",)],
    "PodMonitor": [("spec",), ("spec", "selector")],
    "PrometheusRule": [("spec", "groups", 0, "name"), ("spec", "groups", 0, "rules", 0, "expr")],
    "AppProject": [("spec",), ("spec", "clusterResourceWhitelist", 0, "kind")],
    "Application": [("metadata",), ("spec", "project"), ("spec", "source", "repoURL"), ("spec", "destination")],
    "ApplicationSet": [("spec", "generators"), ("spec", "template", "spec", "project")],
    "GitRepository": [("spec", "interval"), ("spec", "url"), ("spec", "verify", "secretRef", "name")],
    "OCIRepository": [("spec", "interval"), ("spec", "url")],
    "Kustomization": [("spec", "prune"), ("spec", "sourceRef"), ("spec", "dependsOn", 0, "name")],
}
CHOSEN: dict[str, list[Path_]] = {
    "DaemonSet": [
        ("spec", "updateStrategy", "type"),
        ("spec", "template", "spec", "tolerations", 0, "effect"),
        ("spec", "template", "spec", "containers", 0, "imagePullPolicy"),
        ("spec", "template", "spec", "containers", 0, "ports", 0, "protocol"),
        ("spec", "template", "spec", "containers", 0, "securityContext", "seccompProfile", "type"),
    ],
    "Job": [("spec", "template", "spec", "restartPolicy")],
    "NetworkPolicy": [("spec", "policyTypes", 0), ("spec", "ingress", 0, "ports", 0, "protocol")],
    "PodMonitor": [
        ("spec", "podMetricsEndpoints", 0, "scheme"),
        ("spec", "podMetricsEndpoints", 0, "interval"),
        ("spec", "podMetricsEndpoints", 0, "relabelings", 0, "action"),
    ],
    "PrometheusRule": [("spec", "groups", 0, "rules", 0, "for"), ("spec", "groups", 0, "interval")],
    "AppProject": [("kind",)],
    "Application": [("apiVersion",)],
    "ApplicationSet": [("spec", "syncPolicy", "applicationsSync")],
    "GitRepository": [("spec", "provider"), ("spec", "verify", "mode"), ("spec", "interval")],
    "OCIRepository": [("spec", "provider"), ("spec", "layerSelector", "operation"), ("spec", "url")],
    "Kustomization": [("spec", "deletionPolicy"), ("spec", "sourceRef", "kind"), ("spec", "timeout")],
}
# Lost where the validators are made, so that not even its type is known; see check.mjs.
LOST = "description"
# The schema itself leaves these open: what a generator's elements hold is for the template to say.
OPEN: dict[str, Path_] = {"ApplicationSet": ("spec", "generators", 0, "list", "elements", 0)}


def test_what_is_right_is_left_alone() -> None:
    """A valid object of each kind has no problems."""
    found = problems_of(list(SAMPLES.values()))
    assert dict(zip(SAMPLES, found, strict=True)) == {kind: [] for kind in SAMPLES}


def test_a_key_that_no_schema_knows_is_found_wherever_it_stands() -> None:
    """An unknown key is a problem in every object at every depth, and none in a map whose keys anybody may choose."""
    places = [(kind, path) for kind in SAMPLES for path, value in parts(SAMPLES[kind]) if isinstance(value, dict)]
    for (kind, path), found in broken(places, add):
        free = "any-name" in at(SAMPLES[kind], path) or path == OPEN.get(kind)
        assert bool(found) is not free, f"{kind} {path}: {found}"


def test_a_value_of_a_wrong_type_is_found_wherever_it_stands() -> None:
    """A list of lists in the place of a plain value is a problem, for every value of every object."""
    leaves = [
        (kind, path) for kind in SAMPLES for path, value in parts(SAMPLES[kind]) if not isinstance(value, dict | list)
    ]
    known = [(kind, path) for kind, path in leaves if path[:-1] != OPEN.get(kind) and path[-1] != LOST]
    for place, found in broken(known, put([[]])):
        assert found, place


def test_what_is_missing_is_found() -> None:
    """An object without a required key is a problem."""
    for place, found in broken([(kind, path) for kind, paths in REQUIRED.items() for path in paths], drop):
        assert found, place


def test_a_value_that_is_not_among_those_allowed_is_found() -> None:
    """A string that is none of an enum's, or does not match a pattern, is a problem."""
    for place, found in broken([(kind, path) for kind, paths in CHOSEN.items() for path in paths], put("nonsense")):
        assert found, place


def test_a_problem_names_its_place() -> None:
    """A problem begins with the path of the value, or of the key, and goes on with what is wrong."""
    monitor = copy.deepcopy(SAMPLES["PodMonitor"])
    monitor["spec"]["podMetricsEndpoints"][0]["relabelings"][0] |= {"action": "replac", "targetLabl": "node"}
    wrong, unknown = problems(monitor)
    assert wrong.startswith("spec.podMetricsEndpoints.0.relabelings.0.action: enum: replace, ")
    assert unknown == "spec.podMetricsEndpoints.0.relabelings.0.targetLabl: unknown key"


@pytest.mark.parametrize(
    "manifest",
    [
        {"apiVersion": "apps.example.com/v1", "kind": "DaemonSet", "metadata": {"name": "x"}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitr", "metadata": {"name": "x"}},
        {"apiVersion": "v1", "kind": "DaemonSet", "metadata": {"name": "x"}},
        {"kind": "ConfigMap", "metadata": {"name": "x"}},
        {},
    ],
    ids=str,
)
def test_a_kind_without_a_schema_is_a_problem(manifest: dict[str, Any]) -> None:
    """What cannot be checked is not valid."""
    assert problems(manifest)


def test_what_kustomize_refuses_fails_with_its_words(tmp_path: Path) -> None:
    """A folder that does not render fails the test, and tells what kustomize said."""
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"absent\.yaml"):
        render(tmp_path)


def parts(value: object, path: Path_ = ()) -> Iterator[tuple[Path_, object]]:
    """Every value in an object, the object itself first."""
    yield path, value
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from parts(inner, (*path, key))


def at(manifest: dict[str, Any], path: Path_) -> Any:  # noqa: ANN401  # what stands there is anything
    """What stands at a path."""
    value: Any = manifest
    for key in path:
        value = value[key]
    return value


def add(manifest: dict[str, Any], path: Path_) -> None:
    """Write an unknown key into the object at a path; its value would do for a map of strings, or of quantities."""
    at(manifest, path)["nonsense"] = "1"


def put(value: object) -> Callable[[dict[str, Any], Path_], None]:
    """A way to replace what stands at a path."""

    def change(manifest: dict[str, Any], path: Path_) -> None:
        at(manifest, path[:-1])[path[-1]] = value

    return change


def drop(manifest: dict[str, Any], path: Path_) -> None:
    """Take away what stands at a path."""
    del at(manifest, path[:-1])[path[-1]]


def broken(
    places: list[tuple[str, Path_]], change: Callable[[dict[str, Any], Path_], None]
) -> Iterator[tuple[tuple[str, Path_], list[str]]]:
    """Each place, and the problems of the sample of that kind after this change at this path."""
    changed = [copy.deepcopy(SAMPLES[kind]) for kind, _ in places]
    for manifest, (_, path) in zip(changed, places, strict=True):
        change(manifest, path)
    yield from zip(places, problems_of(changed), strict=True)
