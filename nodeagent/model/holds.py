"""What is known of who has which share: the memory from which `held` follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.model.kubelet import CheckpointEntry

ShareKey = tuple[str, str]
"""(resource, device id): one id may be held under the resource it had before."""


@dataclass(frozen=True, slots=True)
class Holds:
    """Durable but for the grants. All times but those of `draining` are monotonic seconds: they outlive the process,
    not the boot.

    `kubelet` is the kubelet process that `listed` is from. `carried` was held when the kubelet restarted and has not
    been listed since. `granted` maps what Allocate gave to when. `unlisted` maps checkpoint entries that were never
    listed to when they were first seen; `ended` are checkpoint entries that have been listed once, and so prove nothing
    any more.
    """

    kubelet: str | None = None
    listed: frozenset[ShareKey] = frozenset()
    carried: frozenset[ShareKey] = frozenset()
    granted: Mapping[ShareKey, float] = field(default_factory=dict)
    unlisted: Mapping[CheckpointEntry, float] = field(default_factory=dict)
    ended: frozenset[CheckpointEntry] = frozenset()
    draining: Mapping[str, float] = field(default_factory=dict)
    """Since when held shares of a GPU drain, by uuid, in Unix seconds: an agent restart does not make a drain young."""
