"""What the node tells the cluster of itself: labels, annotations and events; and what it hears back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the Node object, or the file of Node Feature Discovery, should say. All of ours is in it: a label that is
    not there any more is taken away. `settled`: a config has been applied, so that pods may come.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    settled: bool = False


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """One event on the Node. `reason` is CamelCase; `warning` tells `Warning` from `Normal`."""

    reason: str
    message: str
    warning: bool = False


class SyncReason(Enum):
    """How it stands with the labels: reasons of the condition LabelsSynced."""

    OFF = "LabelsOff"
    PENDING = "Pending"
    SYNCED = "Synced"
    READ_FAILED = "NodeReadFailed"
    WRITE_FAILED = "LabelWriteFailed"
    FORBIDDEN = "Forbidden"
    UNREACHABLE = "Unreachable"


class LabelDifference(NamedTuple):
    """One label that is not as the last report wants it; None where there is, or should be, none."""

    key: str
    want: str | None
    have: str | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What is known of the Node, and what of its labels is still to be written. `message` explains a reason other than
    SYNCED and OFF. `api` tells whether the agent speaks to the Kubernetes API.
    """

    reason: SyncReason = SyncReason.OFF
    message: str = ""
    differences: tuple[LabelDifference, ...] = ()
    api: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which document of a directory the Node's labels select: that of `value`, which the label `key` has. Without them
    it is the one for every node, since none of the labels in question is on this one: `note` says which those are.
    """

    key: str | None = None
    value: str | None = None
    note: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class SelectionNote:
    """A selection as an agent has noted it down for the next one, and for whom it was made: the `identity` of that
    agent, which is its pool and the name of its config, and the `keys` of the labels that it went by. None where the
    note does not say.
    """

    selection: Selection
    identity: str | None = None
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class NodeObject:
    """A Node as the API server knows it. `version` is its resourceVersion; `taints` are the keys of its taints, in
    order; `own_labels` and `own_annotations` the keys that the agent has written and nobody has taken over since.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    version: str = ""
    taints: tuple[str, ...] = ()
    own_labels: frozenset[str] = frozenset()
    own_annotations: frozenset[str] = frozenset()
