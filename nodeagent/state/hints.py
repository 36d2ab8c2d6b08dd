"""What is worth a word on the config in force on this very node, though nothing of it is wrong: what its rules say in
vain, and that it is called as if it were another pool's.

A hint is a note in the reports and, once, a line of the log. It keeps no config from being followed: one file may serve
nodes of several kinds, and what a config is called decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nodeagent.model.config import Document, Loaded
from nodeagent.model.inventory import Gpu
from nodeagent.state import unmatched


@dataclass(frozen=True, slots=True)
class Hints:
    """What was found last: of which document, and on which GPUs."""

    found: tuple[str, ...] = ()
    document: Document | None = None
    on: tuple[object, ...] = ()


def look(before: Hints, accepted: Loaded | None, gpus: Iterable[Gpu], pool: str | None, *, complete: bool) -> Hints:
    """The hints on the accepted document on a node of this pool with exactly these GPUs; what was found before where
    neither has changed. Unless the driver's list is `complete` it is not known what is in vain.
    """
    if accepted is None or accepted.config is None:
        return Hints()
    if not complete:
        return before if before.document == accepted.document else Hints()
    every = tuple(gpus)
    on = tuple((gpu.uuid, gpu.index, gpu.model, gpu.memory, gpu.mig_enabled, gpu.mig) for gpu in every)
    if (before.document, before.on) == (accepted.document, on):
        return before
    named = other_pool(accepted.config.name, pool, accepted.document.path)
    in_vain = (str(remark) for remark in unmatched.remarks(accepted.config, every))
    return Hints((*named, *in_vain), accepted.document, on)


def fresh(before: Hints, after: Hints) -> tuple[str, ...]:
    """Those that were not there before: all of them for another document."""
    return tuple(hint for hint in after.found if after.document != before.document or hint not in before.found)


_GENERAL: Final = frozenset({"all", "base", "config", "default", "gpu", "gpus", "nodeagent", "sharing"})
"""Words by which no pool is meant."""


def other_pool(name: str, pool: str | None, path: str) -> tuple[str, ...]:
    """That a config has the name of neither this pool nor the file that a label selects, as one that was copied from
    another pool has. One that says more than the pool, or less, such as `inference` in `h100-inference`, is the pool's;
    one of general words, such as `gpu-sharing`, is no other's.
    """
    if not name or not pool or name == path.rpartition("/")[2].removesuffix(".yaml"):
        return ()
    called, own = _words(name), _words(pool)
    joined, whole = ("".join(re.findall("[a-z0-9]+", one.lower())) for one in (name, pool))
    if called <= own or own <= called or called <= _GENERAL or joined in whole or whole in joined:
        return ()
    return (f'the config is called "{name}", and this node is of the pool "{pool}": was it meant for another pool?',)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall("[a-z0-9]+", name.lower()))
