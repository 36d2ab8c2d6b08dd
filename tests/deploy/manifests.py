"""What a cluster would say to our manifests, without one: rendered by kustomize, checked by the schemas of their kinds.

Two opinions are asked for: PyPI's kubernetes-validate on the built-in kinds, for the newest Kubernetes that it knows,
and npm's kubernetes-models (`schemas/check.mjs`) on these and on custom resources, whose CRDs as their projects publish
them they are made from. The second knows what values an enum has. Both are stricter than the API server, which lets an
unknown key pass: here it is a problem.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import yaml

from tests.conftest import tool
from tests.waiting import longer

# The folder of the interpreter that runs the tests: pip puts kubectl there.
KUBECTL = Path(sys.executable).parent / "kubectl"

# It would read megabytes of schemas anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def render(path: Path) -> list[dict[str, Any]]:
    """Give what `kubectl kustomize` makes of a folder."""
    return manifests(build(path))


def build(path: Path) -> str:
    """Give what `kubectl kustomize` prints for a folder."""
    done = subprocess.run([KUBECTL, "kustomize", path], capture_output=True, text=True, timeout=longer(60), check=False)
    assert done.returncode == 0, f"kubectl kustomize {path}: {done.stderr}"
    return done.stdout


def manifests(text: str) -> list[dict[str, Any]]:
    """Give the objects in a stream of YAML documents, the empty ones left out."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document is not None]


def problems(manifest: dict[str, Any]) -> list[str]:
    """Tell what is wrong with one object; nothing is, if the list is empty."""
    return problems_of([manifest])[0]


def problems_of(several: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Tell what is wrong with each of these objects: as `problems`, with one start of node for all of them.

    Where node cannot be had the test that asks is skipped; in CI it fails.
    """
    first = [_ask_kubernetes_validate(manifest) if _is_built_in(manifest) else [] for manifest in several]
    return [second or told for told, second in zip(first, _ask_kubernetes_models(several), strict=True)]


def _is_built_in(manifest: dict[str, Any]) -> bool:
    """Tell whether Kubernetes itself has the API group: `v1`, `apps/v1`, `rbac.authorization.k8s.io/v1`."""
    group, slash, _ = str(manifest.get("apiVersion")).partition("/")
    return not slash or "." not in group or group.endswith(".k8s.io")


def _ask_kubernetes_validate(manifest: dict[str, Any]) -> list[str]:
    """The first fault that it comes upon."""
    if not all(isinstance(manifest.get(key), str) for key in ("apiVersion", "kind")):
        return ["the manifest: expected apiVersion and kind"]
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as fault:
        path = ".".join(map(str, fault.absolute_path)) or "the manifest"
        return [f"{path}: {fault.message}"]
    except kubernetes_validate.SchemaNotFoundError as fault:
        return [f"the manifest: {fault.message}"]
    return []


def _ask_kubernetes_models(several: Sequence[dict[str, Any]]) -> list[list[str]]:
    done = subprocess.run(
        [tool("check-manifests")],
        input=json.dumps(several),
        capture_output=True,
        text=True,
        timeout=longer(60),
        check=False,
    )
    assert done.returncode == 0, f"check-manifests: {done.stderr}"
    found: list[list[str]] = json.loads(done.stdout)
    return found
