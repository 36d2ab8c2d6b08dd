"""NVIDIA's `version: v1` file as it is written: its strategies, and the resources that it shares.

What they mean here is told in `nvidia_v1`, where NVIDIA's plugin would do otherwise in `nvidia_notes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast

from nodeagent.documents.tree import Path, Tree, dotted
from nodeagent.model.config import DEFAULT_RESOURCE, MIG_RESOURCES, MIG_UUID, Mode
from nodeagent.model.handover import ListStrategy

SHARING_MODES: Final[Mapping[str, tuple[Mode, str]]] = {
    "timeSlicing": (Mode.TIME_SLICED, "time-slicing"),
    "mps": (Mode.MPS, "mps"),
}
"""NVIDIA's keys under `sharing` (the schema allows one at a time): our mode, and what the rules are called."""

_ATTRIBUTED: Final = "gb."
"""In the name of a resource a `+` of the profile, as in `1g.10gb+me`, is written as a dot."""


class MigStrategy(Enum):
    """NVIDIA's strategies for MIG."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Resource:
    """One entry of `resources`; `path` leads to it."""

    entry: Mapping[str, Any]
    path: Path

    @property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def profile(self) -> str | None:
        """The profile of the MIG devices that it is, None for nvidia.com/gpu."""
        if self.name == DEFAULT_RESOURCE:
            return None
        return self.name.removeprefix(MIG_RESOURCES.removesuffix("*")).replace(_ATTRIBUTED, "gb+", 1)

    @property
    def devices(self) -> str | int | list[int | str]:
        found: str | int | list[int | str] = self.entry.get("devices", "all")
        return found

    @property
    def listed(self) -> list[int | str]:
        """The items of `devices`, where it is a list."""
        return self.devices if isinstance(self.devices, list) else []


@dataclass(frozen=True, slots=True)
class Sharing:
    """The part of the file that says how devices are shared: `key` is NVIDIA's, `body` what stands under it."""

    key: str
    body: Mapping[str, Any]

    @property
    def mode(self) -> Mode:
        return SHARING_MODES[self.key][0]

    @property
    def name(self) -> str:
        """What its rules are called."""
        return SHARING_MODES[self.key][1]

    @property
    def fails_above_one(self) -> bool:
        found: bool = self.body.get("failRequestsGreaterThanOne", self.mode is Mode.MPS)
        return found

    def resources(self) -> Iterator[Resource]:
        for position, entry in enumerate(self.body["resources"]):
            yield Resource(entry, ("sharing", self.key, "resources", position))

    def would_be(self, resource: Resource) -> str:
        """What NVIDIA's plugin calls the shares."""
        return f"{resource.name}.shared" if self.body.get("renameByDefault", False) else resource.name

    def called(self, resource: Resource) -> str:
        """What they are called here."""
        return str(resource.entry.get("rename", self.would_be(resource)))


@dataclass(frozen=True, slots=True)
class NvidiaFile:
    """A tree that fits the schema."""

    tree: Tree

    @property
    def flags(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = cast("dict[str, Any]", self.tree.value).get("flags", {})
        return found

    @property
    def plugin(self) -> Mapping[str, Any]:
        """Its flags for the device plugin alone."""
        found: Mapping[str, Any] = self.flags.get("plugin", {})
        return found

    @property
    def gfd(self) -> Mapping[str, Any]:
        """Its flags for gpu-feature-discovery alone."""
        found: Mapping[str, Any] = self.flags.get("gfd", {})
        return found

    @property
    def imex(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = cast("dict[str, Any]", self.tree.value).get("imex", {})
        return found

    @property
    def list_strategies(self) -> frozenset[ListStrategy] | None:
        """None where it names none."""
        found = self.plugin.get("deviceListStrategy")
        if found is None:
            return None
        return frozenset(map(ListStrategy, found if isinstance(found, list) else [found]))

    @property
    def strategy(self) -> MigStrategy:
        return MigStrategy(self.flags.get("migStrategy", MigStrategy.NONE.value))

    @property
    def sharing(self) -> Sharing | None:
        found = cast("dict[str, Any]", self.tree.value).get("sharing", {})
        return next((Sharing(key, found[key]) for key in SHARING_MODES if key in found), None)

    def place(self, *path: str | int) -> str:
        """`line 4, sharing.mps`."""
        return f"line {self.tree.where(path).line}, {dotted(path)}"


def is_part(item: int | str) -> bool:
    """Whether an item of `devices` is the UUID of a MIG device."""
    return isinstance(item, str) and item.startswith(MIG_UUID)
