"""Configs that are still to be rendered are judged where they stand: values of charts, patches and literals."""

from __future__ import annotations

import pytest

from nodeagent.config.bundle import load_bundle
from tests.config.support import TIME_SLICED
from tests.config.test_bundle import BAD
from tests.config.test_configmap import block, config_map, wrong

HELM_RELEASE = (
    "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: gpu, namespace: flux}\nspec:\n"
)
APPLICATION = (
    "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: gpu}\nspec:\n  source:\n    helm:\n"
)
FLUX = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: gpu}\nspec:\n  patches:\n"
KUSTOMIZE = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
GENERATOR = "configMapGenerator:\n  - name: sharing\n    literals:\n      - "
OURS = config_map({"sharing.yaml": block(BAD)})
SOURCES = "kind: Application\nspec:\n  sources:\n    - helm:\n"
APPLICATION_SET = "kind: ApplicationSet\nspec:\n  template:\n    spec:\n      source:\n        helm:\n"
PATCH = f"- op: add\n  path: /data/x\n  value: {block(BAD)}"
VALUES = f"image: x\nconfig:\n  default: {block(BAD)}\n"


def shifted(text: str, indent: int) -> str:
    """A text further to the right."""
    return "".join(" " * indent + line + "\n" for line in text.splitlines())


FILES = {
    "values in a HelmRelease": f"{HELM_RELEASE}  values:\n    map:\n      any: {block(BAD, 8)}\n",
    "a config as values": f"{HELM_RELEASE}  values:\n    sharing:\n{shifted(BAD, 6)}",
    "values as text": f"{APPLICATION}      values: {block(VALUES, 8)}\n",
    "values as an object": f"{APPLICATION}      valuesObject:\n        any: {block(BAD, 10)}\n",
    "values of one source of several": f"{SOURCES}        values: {block(VALUES, 10)}\n",
    "an ApplicationSet": f"{APPLICATION_SET}          values: {block(VALUES, 12)}\n",
    "values.yaml": VALUES,
    "values.yaml with an object": f"image: x\nconfig:\n{shifted(BAD, 2)}",
    "objects in values": f"extra:\n{shifted(OURS, 4).replace('    apiVersion: v1', '  - apiVersion: v1', 1)}",
    "a patch of Flux": f"{FLUX}    - patch: {block(OURS, 8)}\n",
    "a patch": f"{KUSTOMIZE}patches:\n  - patch: {block(OURS, 6)}\n",
    "a JSON patch": f"{KUSTOMIZE}patches:\n  - patch: {block(PATCH, 6)}\n",
    "a literal": f"{KUSTOMIZE}{GENERATOR}|-\n{shifted('sharing.yaml=' + BAD, 8)}",
    "a literal without a kind": f"{GENERATOR}|-\n{shifted('sharing.yaml=' + BAD, 8)}",
    "values in a ConfigMap": config_map({"values.yaml": block(VALUES)}),
}

OBJECT = "kind: ConfigurationPolicy\nspec:\n  object-templates:\n    - objectDefinition:\n"
WRAPPED = {
    "a ConfigurationPolicy": f"{OBJECT}{shifted(OURS, 8)}",
    "a policy in a policy": f"kind: Policy\nspec:\n  policy-templates:\n    -\n{shifted(OBJECT + shifted(OURS, 8), 6)}",
    "a Template": f"kind: Template\nobjects:\n{shifted(OURS, 4).replace('    apiVersion', '  - apiVersion', 1)}",
    "an Object of Crossplane": f"kind: Object\nspec:\n  forProvider:\n    manifest:\n{shifted(OURS, 6)}",
    "a config alone": f"kind: ManifestWork\nspec:\n  workload:\n    manifests:\n      -\n{shifted(BAD, 8)}",
}


@pytest.mark.parametrize("text", [*FILES.values(), *WRAPPED.values()], ids=[*FILES, *WRAPPED])
def test_it_is_judged_where_it_stands(text: str) -> None:
    """The mistake is told at its line and column of the file, and what is right is valid."""
    (line,) = wrong(text)
    number, column = (int(part) for part in line.split(":")[1:3])
    assert text.split("\n")[number - 1][column - 1 :].startswith("0"), line
    assert "spec.rules[0].timeSlicing.replicas: expected" in line
    bundle = load_bundle(text.replace("replicas: 0", "replicas: 9").encode(), "f.yaml")
    assert bundle.all_violations == ()
    (loaded,) = bundle.configs
    assert loaded.config is not None


def test_a_text_in_quotes_has_its_place_inside() -> None:
    """As in a ConfigMap."""
    quoted = TIME_SLICED.replace("replicas: 10", "replicas: 0").replace("\n", "\\n")
    (line,) = wrong(f'{KUSTOMIZE}{GENERATOR}"sharing.yaml={quoted}"\n')
    assert line.startswith("f.yaml:6:9: configMapGenerator[0].literals[0]: in its line 5, column 80: spec.rules[0]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HELM_RELEASE}  valuesFrom: [{{kind: ConfigMap, name: x}}]\n", "`helm template ... | nodeagent validate -`"),
        (f"{APPLICATION}      version: v3\n", "`argocd app manifests ... | nodeagent validate -`"),
        (f"{KUSTOMIZE}resources: [../base]\n", "`kubectl kustomize ... | nodeagent validate -`"),
    ],
)
def test_what_holds_none_says_how_to_take_one_out(text: str, expected: str) -> None:
    """A config that only comes in when it is rendered can be checked then."""
    (line,) = wrong(text)
    assert "without one; if one comes in when it is rendered, check that: " in line
    assert expected in line


def test_other_objects_are_not_searched() -> None:
    """Where a Job has the config as a variable it is no second config; a name in an argument is none at all."""
    job = f"kind: Job\nspec:\n  template:\n    env: {block(BAD, 6)}\n"
    assert wrong(f"{job}---\n{config_map({'sharing.yaml': block(TIME_SLICED)})}") == []
    assert "got Job without one" in wrong(job)[0]


@pytest.mark.parametrize(
    "inside", ["ref: {kind: ConfigMap, name: sharing}", "kind: ConfigMap", "data: {sharing.yaml: hello}"]
)
def test_the_name_of_a_config_map_is_none(inside: str) -> None:
    """Objects of others refer to ConfigMaps, and hold parts of them."""
    other = f"kind: Other\nspec:\n  x:\n    {inside}\n"
    assert wrong(f"{other}---\n{config_map({'sharing.yaml': block(TIME_SLICED)})}") == []
    assert "got Other without one" in wrong(other)[0]


def test_a_document_has_only_so_many_configs() -> None:
    """Of one with thousands the first are judged, and it is an error, or noted where it is not known, that the others
    are not.
    """
    head = "kind: HelmRelease\nspec:\n  values:\n"
    texts = "".join(f"    k{number}: 'apiVersion: nodeagent.io/v1alpha1'\n" for number in range(1200))
    bundle = load_bundle((head + texts).encode(), "f")
    assert [note for note in bundle.notes if "only 1,000 texts before this one were looked into" in note]
    objects = "".join(f"    k{number}: {{apiVersion: nodeagent.io/v1alpha1}}\n" for number in range(200))
    bundle = load_bundle((head + objects).encode(), "f")
    (violation,) = bundle.violations
    assert violation.where.line == 104
    assert "expected at most 1,000 configs in a document, got more" in violation.message
