"""The labels that NVIDIA's gpu-feature-discovery gives a node, with its keys, values and rules, of what is applied.

The rules are those of https://github.com/NVIDIA/k8s-device-plugin, folder `internal/lm`. Where they define nothing,
since a node has several models or modes, which its config cannot express, one GPU stands for the node: the first that
is offered as nvidia.com/gpu, else the first that is offered, else the first; those with MIG enabled come last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from nodeagent.model.config import DEFAULT_RESOURCE, MIB, LabelTerms, Mode, mig_resource
from nodeagent.model.inventory import GpuHealth, Inventory, MigDevice, Vgpu
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.drift import share_count

MAX_VALUE: Final = 63
"""Characters that the value of a label has at most."""

_FAMILIES: Final = {
    1: "tesla", 2: "fermi", 3: "kepler", 5: "maxwell", 6: "pascal", 9: "hopper", 10: "blackwell", 12: "blackwell",
    13: "rubin",
}  # fmt: skip
_MODES: Final = {"0x030000": "graphics", "0x030200": "compute"}
_STRATEGIES: Final = {Mode.TIME_SLICED: "time-slicing", Mode.MPS: "mps"}
_NO_WORD: Final = re.compile(r"[^A-Za-z0-9\-_. ]")


def value(text: str, suffix: str = "") -> str:
    """The text as the value of a label: what cannot be in one is left out, blanks are dashes. Where it is too long it
    ends before the `suffix`, which tells shares and MIG devices from others.
    """
    end = "-".join(_NO_WORD.sub("", suffix).split())
    room = MAX_VALUE - len(end) - 1 if end else MAX_VALUE
    begin = "-".join(_NO_WORD.sub("", text).split())[:room].strip("-_.")
    return f"{begin}-{end}".strip("-_.")[:MAX_VALUE].rstrip("-_.")


def present(applied: Applied) -> list[AppliedGpu]:
    """The GPUs and MIG devices that are there, in order: not those that are lost, or not seen since a reboot."""
    return [entry for entry in applied.ordered() if entry.gpu.health is not GpuHealth.LOST and not entry.unseen]


def gpu_labels(applied: Applied, inventory: Inventory, terms: LabelTerms, machine: str) -> dict[str, str]:
    """All but the timestamp; none where there is no GPU."""
    there = present(applied)
    whole = [entry for entry in there if entry.gpu.mig is None]
    if not whole:
        return {}
    parts = [entry for entry in there if entry.gpu.mig is not None]
    classes = {entry.gpu.pci_class or "" for entry in whole}
    return {
        "nvidia.com/gpu.machine": value(machine) or "unknown",
        "nvidia.com/gpu.mode": _MODES.get(classes.pop(), "unknown") if len(classes) == 1 else "unknown",
        "nvidia.com/mig.capable": _flag(any(entry.gpu.mig_capable for entry in whole)),
        "nvidia.com/mps.capable": _flag(any(_offers(entry, Mode.MPS) for entry in whole)),
        **_versions(inventory),
        **_of_gpus(whole),
        **_of_mig(whole, parts, terms.mig_strategy or _strategy(parts)),
        **_of_fabric(whole),
    }


def _of_fabric(whole: Sequence[AppliedGpu]) -> dict[str, str]:
    """The clique that all GPUs are in which are attached to a fabric; none where they are in several (lm/imex.go)."""
    cliques = {entry.gpu.clique for entry in whole if entry.gpu.clique is not None}
    return {f"{DEFAULT_RESOURCE}.clique": cliques.pop()} if len(cliques) == 1 else {}


def vgpu_labels(vgpu: Vgpu | None) -> dict[str, str]:
    """Of a virtual machine; none where nobody may know."""
    if vgpu is None:
        return {}
    host = {"version": vgpu.host_version, "branch": vgpu.host_branch}
    found = {f"nvidia.com/vgpu.host-driver-{key}": value(text) for key, text in host.items() if text}
    return {"nvidia.com/vgpu.present": _flag(vgpu.present), **found}


def _of_gpus(whole: Sequence[AppliedGpu]) -> dict[str, str]:
    """Of the GPU that stands for the node; `count` is that of its model."""
    one = standing(whole)
    gpu = one.gpu
    count = sum(entry.gpu.model == gpu.model for entry in whole)
    found = _sharing(DEFAULT_RESOURCE, "", one, 0 if gpu.mig_enabled else share_count(one), count)
    if gpu.memory:
        found |= {f"{DEFAULT_RESOURCE}.memory": str(gpu.memory // MIB)}
    if gpu.compute_capability is not None:
        major, minor = gpu.compute_capability
        found |= {
            f"{DEFAULT_RESOURCE}.family": family(major, minor),
            f"{DEFAULT_RESOURCE}.compute.major": str(major),
            f"{DEFAULT_RESOURCE}.compute.minor": str(minor),
        }
    return found


def standing(whole: Sequence[AppliedGpu]) -> AppliedGpu:
    """The GPU that stands for the node. Whole ones go before those that have MIG enabled, of which NVIDIA's labels tell
    no sharing, also where they are offered as whole ones (lm/mig-strategy.go, newGPULabelers).
    """
    undivided = [entry for entry in whole if not entry.gpu.mig_enabled] or list(whole)
    offered = [entry for entry in undivided if entry.contract is not None and share_count(entry)]
    named = [entry for entry in offered if entry.contract is not None and entry.contract.resource == DEFAULT_RESOURCE]
    return next(iter((*named, *offered, *undivided)))


def _of_mig(whole: Sequence[AppliedGpu], parts: Sequence[AppliedGpu], strategy: str) -> dict[str, str]:
    if strategy == "none":
        return {}
    found = {"nvidia.com/mig.strategy": strategy}
    profiles: dict[str, list[tuple[AppliedGpu, MigDevice]]] = {}
    for entry in parts:
        if entry.gpu.mig is not None:
            profiles.setdefault(entry.gpu.mig.profile, []).append((entry, entry.gpu.mig))
    if strategy == "mixed":
        for profile, alike in profiles.items():
            found |= _of_profile(mig_resource(profile), alike)
        return found
    divided = [entry for entry in whole if entry.gpu.mig_enabled]
    if not divided:
        return found
    used = {entry.gpu.physical for entry in parts}
    if len(divided) < len(whole) or len(profiles) != 1 or any(entry.gpu.uuid not in used for entry in divided):
        return found | {
            f"{DEFAULT_RESOURCE}.product": value(divided[0].gpu.model, "MIG INVALID"),
            f"{DEFAULT_RESOURCE}.sharing-strategy": "",
            **{f"{DEFAULT_RESOURCE}.{name}": "0" for name in ("count", "replicas", "memory")},
        }
    return found | _of_profile(DEFAULT_RESOURCE, *profiles.values())


def _of_profile(resource: str, alike: Sequence[tuple[AppliedGpu, MigDevice]]) -> dict[str, str]:
    """Of the MIG devices of one profile. What they are made of is left out where the driver does not say."""
    one, part = alike[0]
    profile = f"MIG {part.profile.replace('+', '.')}"
    return _sharing(resource, profile, one, share_count(one), len(alike)) | {
        f"{resource}.{name}": str(number) for name, number in _attributes(part).items()
    }


def _attributes(part: MigDevice) -> Mapping[str, int]:
    found = part.attributes
    if found is None:
        return {}
    return {
        "memory": found.memory,
        "multiprocessors": found.multiprocessors,
        "slices.gi": found.slices_gi,
        "slices.ci": found.slices_ci,
        "engines.copy": found.engines_copy,
        "engines.decoder": found.engines_decoder,
        "engines.encoder": found.engines_encoder,
        "engines.jpeg": found.engines_jpeg,
        "engines.ofa": found.engines_ofa,
    }


def _sharing(resource: str, profile: str, one: AppliedGpu, replicas: int, count: int) -> dict[str, str]:
    """Product, count, replicas and strategy. What is shared says so in the product, unless its resource's name does."""
    mode = one.contract.mode if one.contract is not None else Mode.WITHHELD
    shared = replicas > 1
    renamed = one.contract is not None and one.contract.resource != resource
    suffix = f"{profile} SHARED" if shared and not renamed else profile
    return {
        f"{resource}.product": value(one.gpu.model, suffix),
        f"{resource}.count": str(count),
        f"{resource}.replicas": str(replicas),
        f"{resource}.sharing-strategy": _STRATEGIES.get(mode, "none") if shared else "none",
    }


def _strategy(parts: Sequence[AppliedGpu]) -> str:
    """The strategy of NVIDIA's plugin that MIG devices are offered as if by."""
    offered = {entry.contract.resource for entry in parts if entry.contract is not None}
    if not offered:
        return "none"
    return "single" if offered == {DEFAULT_RESOURCE} else "mixed"


def _versions(inventory: Inventory) -> dict[str, str]:
    found: dict[str, str] = {}
    driver = (inventory.driver_version or "").split(".")
    if 2 <= len(driver) <= 3:
        major, minor, revision = (*driver, "")[:3]
        for key, number in (("major", major), ("minor", minor), ("revision", revision)):
            found[f"nvidia.com/cuda.driver-version.{key}"] = number
            found[f"nvidia.com/cuda.driver.{'rev' if key == 'revision' else key}"] = number
        found["nvidia.com/cuda.driver-version.full"] = ".".join(driver)
    cuda = (inventory.cuda_version or "").split(".")
    if len(cuda) == 2:
        for key, number in zip(("major", "minor"), cuda, strict=True):
            found[f"nvidia.com/cuda.runtime-version.{key}"] = number
            found[f"nvidia.com/cuda.runtime.{key}"] = number
        found["nvidia.com/cuda.runtime-version.full"] = ".".join(cuda)
    return found


def family(major: int, minor: int) -> str:
    """The architecture of a compute capability."""
    if major == 7:
        return "volta" if minor < 5 else "turing"
    if major == 8:
        return "ampere" if minor < 9 else "ada-lovelace"
    return _FAMILIES.get(major, "undefined")


def _offers(entry: AppliedGpu, mode: Mode) -> bool:
    return entry.contract is not None and entry.contract.mode is mode


def _flag(true: bool) -> str:  # noqa: FBT001 - the value of a label
    return "true" if true else "false"
