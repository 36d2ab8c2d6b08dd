"""What a simulation file means: the document becomes the GPUs of a node, or a list of what is wrong with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, cast

from nodeagent.documents.quantities import parse_quantity
from nodeagent.documents.schema import check, load_schema
from nodeagent.documents.strict import Rejected, Tree, examine
from nodeagent.model.config import Stage, Violation
from nodeagent.model.inventory import Gpu, GpuHealth

MAX_GPUS = 64

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://nodeagent.io/simulated-node")


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A valid simulation file. The health of a GPU is the one that the file asks for."""

    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None


def parse(data: bytes, file: str, node_name: str) -> SimulatedNode:
    """The node that a document describes. `file` is named in violations. Raises Rejected with all of them."""
    tree = examine(data, file)
    violations = (*tree.problems, *check(tree, _schema()))
    if violations:
        raise Rejected(tuple(sorted(violations, key=lambda one: (one.where.line, one.where.column))))
    document = cast("Mapping[str, Any]", tree.value)
    placed = tuple(_gpus(document["gpus"], node_name))
    violations = tuple(_contradictions(tree, document["gpus"], placed))
    if violations:
        raise Rejected(violations)
    return SimulatedNode(
        gpus=tuple(gpu for _, gpu in placed),
        driver_version=document.get("driverVersion"),
        cuda_version=document.get("cudaVersion"),
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
            ),
        )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _contradictions(
    tree: Tree, entries: list[Mapping[str, Any]], placed: tuple[tuple[int, Gpu], ...]
) -> Iterator[Violation]:
    """What a schema cannot say."""

    def violation(path: tuple[str | int, ...], message: str) -> Violation:
        return Violation(tree.file, tree.where(path), message, Stage.SEMANTIC)

    if len(placed) > MAX_GPUS:
        yield violation(("gpus",), f"expected at most {MAX_GPUS} GPUs in all, got {len(placed)}")
    for number, entry in enumerate(entries):
        if "uuid" in entry and entry.get("count", 1) > 1:
            message = f"expected no uuid for {entry['count']} GPUs, as it names one; remove it, or the count"
            yield violation(("gpus", number, "uuid"), message)
    first: dict[str, int] = {}
    for number, gpu in placed:
        other = first.setdefault(gpu.uuid, number)
        if other != number:
            yield violation(("gpus", number, "uuid"), f"expected a uuid of its own, got that of gpus[{other}]")
