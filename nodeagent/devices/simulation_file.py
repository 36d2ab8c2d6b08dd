"""What a simulation file means: the document becomes the GPUs of a node, or a list of what is wrong with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, cast

from nodeagent.devices import simulated_links, simulated_mig, simulated_xids
from nodeagent.devices.simulated_xids import SimulatedXid
from nodeagent.documents.quantities import parse_quantity
from nodeagent.documents.schema import judge, load_schema
from nodeagent.documents.strict import Rejected, Tree, examine
from nodeagent.documents.tree import Path
from nodeagent.model.config import Stage, Violation
from nodeagent.model.inventory import ComputeMode, Gpu, GpuHealth, GpuProcess, Vgpu
from nodeagent.model.topology import Topology

MAX_GPUS = 64

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://nodeagent.io/simulated-node")


@dataclass(frozen=True, slots=True)
class Use:
    """How a simulated GPU is used: by which processes, and the compute mode that it has until another is set."""

    processes: tuple[GpuProcess, ...] = ()
    mode: ComputeMode = ComputeMode.DEFAULT


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A valid simulation file. The health of a GPU is the one that the file asks for.

    `gpus` are the whole GPUs; `parts`, their MIG devices in the order of the file, and `uses` are by uuid. `xids` are
    all that the file tells of, `silent` the GPUs that report none.
    """

    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    driver_load: str | None = None
    parts: Mapping[str, tuple[Gpu, ...]] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)
    xids: tuple[SimulatedXid, ...] = ()
    silent: tuple[Gpu, ...] = ()
    topology: Topology = field(default_factory=Topology)
    vgpu: Vgpu | None = None

    @property
    def everything(self) -> Iterator[Gpu]:
        """Each GPU, followed by its MIG devices."""
        for gpu in self.gpus:
            yield gpu
            yield from self.parts[gpu.uuid]


def parse(data: bytes, file: str, node_name: str) -> SimulatedNode:
    """The node that a document describes. `file` is named in violations. Raises Rejected with all of them."""
    tree = examine(data, file)
    violations = judge(tree, _schema())
    if violations:
        raise Rejected(_ordered(violations))
    document = cast("Mapping[str, Any]", tree.value)
    placed = tuple(_gpus(document["gpus"], node_name))
    violations = tuple(_violations(tree, document, placed))
    if violations:
        raise Rejected(_ordered(violations))
    gpus = tuple(gpu for _, gpu in placed)
    entries = [document["gpus"][number] for number, _ in placed]
    parts = [simulated_mig.mig_devices(gpu, entry) for gpu, entry in zip(gpus, entries, strict=True)]
    whole = list(zip(gpus, entries, parts, strict=True))
    return SimulatedNode(
        gpus=gpus,
        driver_version=document.get("driverVersion"),
        cuda_version=document.get("cudaVersion"),
        driver_load=str(document.get("driverLoads", 1)),
        parts={gpu.uuid: found for gpu, _, found in whole},
        uses={gpu.uuid: _use(entry) for gpu, entry, _ in whole},
        xids=tuple(xid for gpu, entry, found in whole for xid in simulated_xids.xids(gpu, found, entry)),
        silent=tuple(gpu for gpu, entry, _ in whole if not simulated_xids.reports(entry)),
        topology=simulated_links.topology(gpus, document.get("nvlink", ())),
        vgpu=_vgpu(document.get("virtualGpus")),
    )


def derived_uuid(node_name: str, index: int) -> str:
    """The uuid of a simulated GPU that is given none: the same for the same node and index, always."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{node_name}/{index}')}"


@cache
def _schema() -> Mapping[str, object]:
    return load_schema("simulated-node-v1alpha1")


def _gpus(entries: list[Mapping[str, Any]], node_name: str) -> Iterator[tuple[int, Gpu]]:
    """Each GPU with the number of the entry that it comes from."""
    entry_of_index = chain.from_iterable([number] * entry.get("count", 1) for number, entry in enumerate(entries))
    for index, number in enumerate(entry_of_index):
        entry = entries[number]
        capability = entry.get("computeCapability")
        yield (
            number,
            Gpu(
                uuid=entry.get("uuid") or derived_uuid(node_name, index),
                index=index,
                model=entry["model"],
                memory=parse_quantity(entry["memory"]),
                compute_capability=None if capability is None else _version(capability),
                minor=index,
                numa_node=entry.get("numaNode"),
                health=GpuHealth(entry.get("health", "ok")),
                mig_enabled=simulated_mig.enabled(entry),
                mig_capable="mig" in entry,
                pci_class=entry.get("pciClass"),
                clique=entry.get("clique"),
            ),
        )


def _use(entry: Mapping[str, Any]) -> Use:
    processes = (GpuProcess(one["pid"], one["name"], one.get("mps", False)) for one in entry.get("processes", ()))
    return Use(
        processes=tuple(sorted(processes, key=lambda one: one.pid)),
        mode=ComputeMode(entry.get("computeMode", "default")),
    )


def _vgpu(entry: Mapping[str, Any] | None) -> Vgpu | None:
    if entry is None:
        return None
    return Vgpu(entry["present"], entry.get("hostDriverVersion", ""), entry.get("hostDriverBranch", ""))


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _ordered(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    return tuple(sorted(violations, key=lambda one: (one.where.line, one.where.column)))


def _violations(tree: Tree, document: Mapping[str, Any], placed: tuple[tuple[int, Gpu], ...]) -> Iterator[Violation]:
    """What a schema cannot say."""
    for number, entry in enumerate(document["gpus"]):
        for path, message in chain(
            _contradictions(entry), simulated_mig.contradictions(entry), simulated_xids.contradictions(entry)
        ):
            yield _violation(tree, ("gpus", number, *path), message)
    for path, message in simulated_links.contradictions(document.get("nvlink", ()), len(placed)):
        yield _violation(tree, ("nvlink", *path), message)
    if len(placed) > MAX_GPUS:
        yield _violation(tree, ("gpus",), f"expected at most {MAX_GPUS} GPUs in all, got {len(placed)}")
    first: dict[str, int] = {}
    for number, gpu in placed:
        other = first.setdefault(gpu.uuid, number)
        if other != number:
            message = f"expected a uuid of its own, got that of gpus[{other}]"
            yield _violation(tree, ("gpus", number, "uuid"), message)


def _contradictions(entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What a schema cannot say of an entry alone: each thing with its place in the entry."""
    if "uuid" in entry and entry.get("count", 1) > 1:
        yield ("uuid",), f"expected no uuid for {entry['count']} GPUs, as it names one; remove it, or the count"
    pids: set[int] = set()
    for place, process in enumerate(entry.get("processes", ())):
        if process["pid"] in pids:
            yield ("processes", place, "pid"), f"expected each process once, got pid {process['pid']} again"
        pids.add(process["pid"])


def _violation(tree: Tree, path: Path, message: str) -> Violation:
    return Violation(tree.file, tree.where(path), message, Stage.SEMANTIC)
