"""What is known of who has which share: the memory from which `held` follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.model.kubelet import CheckpointEntry

ShareKey = tuple[str, str]
"""(resource, device id): one id may be held under the resource it had before."""


@dataclass(frozen=True, slots=True)
class Holds:
    """Saved to disk, except `granted` and `unnamed`. All times are monotonic seconds: they outlive the process, not the
    boot.

    `kubelet` is the kubelet process that `listed` is from. `carried` was held when the kubelet restarted and has not
    been listed since. `granted` maps what Allocate gave to when. The entries of the kubelet's checkpoint are of three
    kinds. `unnamed`: no `List` has been asked about them, mapped to when they were first seen. `unlisted`: a `List` did
    not show them, mapped to when they were first seen. `ended`: a `List` has shown them once, so that their pod is
    known by name and they prove nothing any more.
    """

    kubelet: str | None = None
    listed: frozenset[ShareKey] = frozenset()
    carried: frozenset[ShareKey] = frozenset()
    granted: Mapping[ShareKey, float] = field(default_factory=dict)
    unnamed: Mapping[CheckpointEntry, float] = field(default_factory=dict)
    unlisted: Mapping[CheckpointEntry, float] = field(default_factory=dict)
    ended: frozenset[CheckpointEntry] = frozenset()
    draining: Mapping[str, float] = field(default_factory=dict)
    """Since when held shares of a GPU drain, by uuid: an agent restart does not make a drain young."""
