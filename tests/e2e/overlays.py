"""What is installed: a folder that is shipped, on GPUs from a simulation file that a ConfigMap brings.

What is added to the folder is the same for all of them: the image under test, the one node that may be touched, and in
the place of a driver the simulation file. A label on every object says that a run has made it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import render
from tests.deploy.pools import GPUS, OFFERED, Gpus, simulated_node

MADE_BY: Final = "nodeagent.io/made-by"
MADE_BY_E2E: Final = {MADE_BY: "e2e"}

PUBLISHED: Final = "ghcr.io/nodeagent/nodeagent"
CONTROL: Final = "nvidia-cuda-mps-control"
PRESENT: Final = {"nvidia.com/gpu.present": "true"}
OPERATOR: Final = {"nvidia.com/gpu.deploy.device-plugin": "true"}
"""What NVIDIA's GPU operator labels a node with, for which the component `gpu-operator` asks."""

_HARDWARE: Final = "/etc/nodeagent/simulated"
_BROUGHT: Final = "/etc/nodeagent/simulated-node"
_ON_NODE: Final = "/run/nodeagent/simulated"
_MPS: Final = "/opt/nvidia-mps"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One installation. `folder` is relative to the checkout, `pool` the value of `nodeagent.io/pool`, empty for the
    base; `offered` are the devices of each resource that its own config makes of `gpus`. `labels` are those of the
    Node without which no pod comes. `mps`: it wants NVIDIA's control program.
    """

    folder: str
    namespace: str
    pool: str
    gpus: Gpus
    offered: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    mps: bool = False

    @property
    def config_map(self) -> str:
        """The name of the ConfigMap with the sharing config."""
        return f"sharing-{self.pool}" if self.pool else "sharing"

    @property
    def node_labels(self) -> dict[str, str]:
        return {**PRESENT, **self.labels, **({"nodeagent.io/pool": self.pool} if self.pool else {})}

    @property
    def config(self) -> str:
        """The sharing config that it installs."""
        return (ROOT / self.folder / "sharing.yaml").read_text(encoding="utf-8")


def _pool(name: str, *, labels: Mapping[str, str] | None = None, mps: bool = False) -> Overlay:
    return Overlay(
        folder=f"kustomize/overlays/{name}",
        namespace=f"nodeagent-{name}",
        pool=name,
        gpus=GPUS[name],
        offered=OFFERED[name],
        labels=labels or {},
        mps=mps,
    )


T4_DEV: Final = _pool("t4-dev")
A100_INFERENCE: Final = _pool("a100-inference", mps=True)
BY_LABEL: Final = Overlay(
    folder="examples/config-by-label",
    namespace="nodeagent-by-label",
    pool="by-label",
    gpus=GPUS["t4-dev"],
    offered={"nvidia.com/gpu.shared": 8},
)
OVERLAYS: Final = {
    "base": Overlay(
        folder="kustomize/base",
        namespace="nodeagent",
        pool="",
        gpus=GPUS["t4-dev"],
        offered={"nvidia.com/gpu": 4},
    ),
    "a100-inference": A100_INFERENCE,
    "a100-mig": _pool("a100-mig"),
    "h100-training": _pool("h100-training", labels=OPERATOR),
    "mixed": _pool("mixed", mps=True),
    "t4-dev": T4_DEV,
    "config-by-label": BY_LABEL,
}
"""Every folder that installs an agent."""


def kustomization(overlay: Overlay, folder: Path, *, image: str, host: str, control: Path | None) -> Path:
    """Write into `folder` what `kubectl apply -k` takes: the overlay on the one node whose `kubernetes.io/hostname` is
    `host`. `control` is NVIDIA's control program, for an overlay that wants it.
    """
    mps = control is not None
    (folder / "node.yaml").write_text(simulated_node(overlay.gpus), encoding="utf-8")
    brought = [("simulated-node", ["node.yaml"])]
    if control is not None:
        (folder / CONTROL).write_bytes(control.read_bytes())
        brought.append((CONTROL, [CONTROL]))
    return write(
        folder,
        resources=[os.path.relpath(ROOT / overlay.folder, folder.resolve())],
        images=[renamed(image)],
        configMapGenerator=[
            {
                "name": name,
                "namespace": overlay.namespace,
                "files": files,
                "options": {"disableNameSuffixHash": True},
            }
            for name, files in brought
        ],
        patches=[
            {"target": {"kind": "DaemonSet"}, "patch": yaml.safe_dump(patch)}
            for patch in (_stand_in_for_the_driver(host, mps=mps), _mounts(mps=mps))
        ],
    )


def cluster_scoped() -> set[str]:
    """Every object without a namespace that a run makes of what is shipped, as `Kind/name`."""
    folders = [ROOT / overlay.folder for overlay in OVERLAYS.values()]
    folders.append(ROOT / "kustomize/components/labels-api-own-node")
    return {
        f"{one['kind']}/{one['metadata']['name']}"
        for folder in folders
        for one in render(folder)
        if "namespace" not in one["metadata"]
    }


def with_component(name: str, folder: Path) -> Path:
    """Write into `folder` what installs a component by itself."""
    return write(folder, components=[os.path.relpath(ROOT / "kustomize/components" / name, folder.resolve())])


def write(folder: Path, **fields: object) -> Path:
    """A kustomization with these fields, every object of which has the label of a run."""
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "labels": [{"pairs": MADE_BY_E2E}],
        **fields,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def renamed(image: str) -> dict[str, str]:
    """What kustomize makes of the published image: another one, named with a tag or by digest."""
    name, at, digest = image.partition("@")
    if at:
        return {"name": PUBLISHED, "newName": name, "digest": digest}
    before, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:  # a port of the registry is no tag
        return {"name": PUBLISHED, "newName": image, "newTag": "latest"}
    return {"name": PUBLISHED, "newName": before, "newTag": tag}


def _stand_in_for_the_driver(host: str, *, mps: bool) -> dict[str, Any]:
    """One node alone, no runtime class, which a node without GPUs has not, and the simulation file. With MPS that is a
    copy on the node: what the agent and the MPS host see of compute modes is written beside it.
    """
    copied = {
        "name": "simulated-node",
        "image": PUBLISHED,
        "command": [
            "sh",
            "-c",
            f"cp {_BROUGHT}/node.yaml {_HARDWARE}/$HOSTNAME && mv {_HARDWARE}/$HOSTNAME {_HARDWARE}/node.yaml",
        ],
        "volumeMounts": [
            {"name": "simulated-node", "mountPath": _BROUGHT, "readOnly": True},
            {"name": "simulated", "mountPath": _HARDWARE},
        ],
    }
    pod = {
        "runtimeClassName": None,
        "nodeSelector": {"kubernetes.io/hostname": host},
        **({"initContainers": [copied]} if mps else {}),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": pod}},
    }


def _mounts(*, mps: bool) -> list[dict[str, Any]]:
    """The simulation file instead of a driver, and with MPS what else a driver brings."""
    pod = "/spec/template/spec"
    container = f"{pod}/containers/0"

    def add(path: str, *values: object) -> list[dict[str, Any]]:
        return [{"op": "add", "path": f"{path}/-", "value": value} for value in values]

    brought = {"configMap": {"name": "simulated-node"}}
    hardware = {"name": "simulated", "mountPath": _HARDWARE}
    driver = f"--driver=simulated:{_HARDWARE}/node.yaml"
    if not mps:
        return [
            *add(f"{container}/args", driver),
            *add(f"{container}/volumeMounts", {**hardware, "readOnly": True}),
            *add(f"{pod}/volumes", {"name": "simulated", **brought}),
        ]
    return [
        *add(f"{container}/args", driver, f"--mps-control={_MPS}/{CONTROL}"),
        *add(f"{container}/volumeMounts", hardware, {"name": "mps-control", "mountPath": _MPS, "readOnly": True}),
        *add(
            f"{pod}/volumes",
            {"name": "simulated-node", **brought},
            {"name": "simulated", "hostPath": {"path": _ON_NODE, "type": "DirectoryOrCreate"}},
            {"name": "mps-control", "configMap": {"name": CONTROL, "defaultMode": 0o755}},
        ),
    ]
