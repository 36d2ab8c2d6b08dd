"""What is known of who has which share: the memory from which `held` follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.model.kubelet import CheckpointEntry

ShareKey = tuple[str, str]
"""(resource, device id): one id may be held under the resource it had before."""


@dataclass(frozen=True, slots=True)
class Holds:
    """Saved to disk, except `granted`, `unnamed` and `cgroups`. All times are monotonic seconds: they outlive the
    process, not the boot.

    `kubelet` is the kubelet process that `listed` is from. `carried` maps what was held when the kubelet restarted, and
    has not been listed since, to when that was. `granted` maps what Allocate gave to when. The entries of the kubelet's
    checkpoint are of three kinds. `unnamed`: no `List` has been asked about them, mapped to when they were first seen.
    `unlisted`: a `List` did not show them, mapped to when they were first seen. `ended`: they prove nothing any more,
    since a `List` has shown them once, so that their pod is known by name, or since their pod has ended. `cgroups` maps
    the UIDs of their pods, if a cgroup of theirs was ever seen, to whether it is there now.
    """

    kubelet: str | None = None
    listed: frozenset[ShareKey] = frozenset()
    carried: Mapping[ShareKey, float] = field(default_factory=dict)
    granted: Mapping[ShareKey, float] = field(default_factory=dict)
    unnamed: Mapping[CheckpointEntry, float] = field(default_factory=dict)
    unlisted: Mapping[CheckpointEntry, float] = field(default_factory=dict)
    ended: frozenset[CheckpointEntry] = frozenset()
    cgroups: Mapping[str, bool] = field(default_factory=dict)
    draining: Mapping[str, float] = field(default_factory=dict)
    """Since when held shares of a GPU drain, by uuid: an agent restart does not make a drain young."""
