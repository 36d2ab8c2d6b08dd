"""NVIDIA's `version: v1` file as it is written: its strategies, and the resources that it shares.

What they mean here is said in `nvidia_v1`, where NVIDIA's plugin would do otherwise in `nvidia_notes`. How the file is
read is how that plugin reads it (0.20: api/config/v1, `config.go` to `replicas.go`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final, cast

from nodeagent.documents.tree import Path, Tree, dotted
from nodeagent.model.config import DEFAULT_RESOURCE, MIG_RESOURCES, MIG_UUID, Mode, Placement
from nodeagent.model.handover import ListStrategy

SHARING_MODES: Final[Mapping[str, tuple[Mode, str]]] = {
    "timeSlicing": (Mode.TIME_SLICED, "time-slicing"),
    "mps": (Mode.MPS, "mps"),
}
"""NVIDIA's keys under `sharing` (the schema allows one at a time): our mode, and what the rules are called."""

_ATTRIBUTED: Final = "gb."
"""In the name of a resource a `+` of the profile, as in `1g.10gb+me`, is written as a dot."""

_DOMAIN: Final = "nvidia.com/"


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
        return in_domain(str(self.entry["name"]))

    @property
    def profile(self) -> str | None:
        """The profile of the MIG devices that it is, None for nvidia.com/gpu."""
        if self.name == DEFAULT_RESOURCE:
            return None
        return self.name.removeprefix(MIG_RESOURCES.removesuffix("*")).replace(_ATTRIBUTED, "gb+", 1)

    @property
    def rename(self) -> str | None:
        found = self.entry.get("rename")
        return None if found is None else in_domain(str(found))

    @property
    def devices(self) -> str | int | list[int | str]:
        found: str | int | list[int | str] = self.entry.get("devices", "all")
        return found

    @property
    def listed(self) -> list[int | str]:
        """The items of `devices`, where it is a list."""
        return self.devices if isinstance(self.devices, list) else []

    @property
    def uuids(self) -> frozenset[str]:
        """Those among the items."""
        return frozenset(str(item) for item in self.listed if str(item).startswith(("GPU-", MIG_UUID)))

    @property
    def indices(self) -> frozenset[int] | None:
        """The GPUs that `devices` counts or numbers; None where it is all."""
        if isinstance(self.devices, list):
            uuids = self.uuids
            return frozenset(int(item) for item in self.listed if str(item) not in uuids)
        return None if self.devices == "all" else frozenset(range(int(self.devices)))


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
        return resource.rename or self.would_be(resource)


@dataclass(frozen=True)
class NvidiaFile:
    """A tree that fits the schema. Keys without a value, which the schema allows where NVIDIA's plugin takes them for
    keys that are not there, are not there.
    """

    tree: Tree

    @cached_property
    def root(self) -> Mapping[str, Any]:
        return cast("dict[str, Any]", _given(self.tree.value))

    @property
    def flags(self) -> Mapping[str, Any]:
        return self._section("flags")

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
        return self._section("imex")

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
    def placement(self) -> Placement:
        """Of shares and of MIG devices; containers get those whole GPUs that are nearest to one another."""
        return Placement(self.plugin.get("sharedDevicesAllocationPolicy", Placement.DISTRIBUTED.value))

    @property
    def sharing(self) -> Sharing | None:
        found = self._section("sharing")
        return next((Sharing(key, found[key]) for key in SHARING_MODES if found.get(key)), None)

    def place(self, *path: str | int) -> str:
        """`line 4, sharing.mps`."""
        return f"line {self.tree.where(path).line}, {dotted(path)}"

    def _section(self, key: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.root.get(key, {})
        return found


def in_domain(name: str) -> str:
    """A name of a resource without a domain is one of NVIDIA's (resources.go, NewResourceName)."""
    return name if "/" in name else f"{_DOMAIN}{name}"


def is_part(item: int | str) -> bool:
    """Whether an item of `devices` is the UUID of a MIG device."""
    return isinstance(item, str) and item.startswith(MIG_UUID)


def _given(value: object) -> object:
    if isinstance(value, dict):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value
