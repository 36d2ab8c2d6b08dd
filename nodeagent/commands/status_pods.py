"""The pods of a status document for people: who has shares of which GPU, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from nodeagent.commands.client import Status
from nodeagent.commands.status_names import named
from nodeagent.commands.terminal import Terminal
from nodeagent.model.inventory import Gpu
from nodeagent.state.naming import gpus as gpu_list

_LINES: Final = 6
"""Of one GPU on a terminal, at most: hundreds of pods are not told at a glance."""

Holders = tuple[tuple[str, int], ...]


def lines(status: Status, terminal: Terminal) -> Iterator[str]:
    """The pods of each GPU by the numbers of their shares, GPUs that have the same pods together."""
    found: dict[Holders, list[Gpu]] = {}
    for gpu in status["gpus"]:
        if holders := _holders(gpu["shares"]):
            found.setdefault(holders, []).append(named(gpu))
    for holders, alike in found.items():
        told = ", ".join(f"{who} x{count}" if count > 1 else who for who, count in holders)
        every = terminal.wrap(f"{gpu_list(alike)}{' each' if len(alike) > 1 else ''}: {told}", "  ", "    ")
        yield from terminal.few(every, _LINES)


def _holders(shares: Iterable[dict[str, Any]]) -> Holders:
    """Each `namespace/pod` with its shares, at the end those of which the kubelet does not say who has them."""
    pods: Counter[str] = Counter()
    nameless = 0
    for share in shares:
        if share["holder"]:
            pods[share["holder"].rpartition("/")[0]] += 1
        elif share["held"]:
            nameless += 1
    return (*pods.items(), *([("a pod not known yet", nameless)] if nameless else []))
