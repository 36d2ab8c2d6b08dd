"""MIG devices of simulated GPUs: what a profile makes of them, and what they keep while others come and go.

A device is known by its GPU, its profile and which one of that profile it is, and by nothing else: re-partitioning a
GPU leaves uuid and instances of what stays as they were, as it does on a real one.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nodeagent.documents.tree import Path
from nodeagent.model.inventory import Gpu, MigAttributes, MigDevice

MOST_SLICES: Final = 7

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://nodeagent.io/simulated-mig-device")
_PROFILE: Final = re.compile(r"(?:([1-7])c\.)?([1-7])g\.([0-9]{1,3})gb(.*)", re.ASCII)
_VARIANTS: Final = ("", "+me", "+gfx", "-me", "+me.all")
_GIB: Final = 1 << 30
_MULTIPROCESSORS: Final = 14
"""Of each slice of an A100."""
_DECODERS: Final = {1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2, 7: 5}
"""By the slices of a GPU instance of an A100, which has none of 5 or 6."""


@dataclass(frozen=True, slots=True)
class _Profile:
    """`1c.3g.20gb+me`, taken apart. `compute` is 0 where the device has all compute slices of its GPU instance."""

    compute: int
    slices: int
    gigabytes: int
    variant: int

    def gpu_instance(self, number: int) -> int:
        """That of the device with this number, from 0, among those of the profile: memory, slices and number as
        digits, so 511 for the second `1g.5gb`; before them, for anything but a plain profile, what sets it apart.
        """
        kind = self.compute * len(_VARIANTS) + self.variant
        return kind * 100_000 + self.gigabytes * 100 + self.slices * 10 + number


def enabled(entry: Mapping[str, Any]) -> bool:
    """Whether the GPUs of this entry have MIG enabled."""
    return "mig" in entry and bool(entry["mig"].get("enabled", True))


def mig_devices(gpu: Gpu, entry: Mapping[str, Any]) -> tuple[Gpu, ...]:
    """The MIG devices of one GPU of this entry, in the order of the file."""
    before: Counter[str] = Counter()
    devices = []
    for profile in _profiles(entry):
        instance = _read(profile).gpu_instance(before[profile])
        part = MigDevice(gpu.uuid, profile, instance, 0, attributes(profile))
        devices.append(
            replace(
                gpu,
                uuid=f"MIG-{uuid.uuid5(_NAMESPACE, f'{gpu.uuid}/{profile}/{before[profile]}')}",
                memory=_read(profile).gigabytes * _GIB,
                mig_enabled=False,
                mig_capable=False,
                mig=part,
            )
        )
        before[profile] += 1
    return tuple(devices)


def attributes(profile: str) -> MigAttributes:
    """What a MIG device of this profile is made of: for whatever GPU, as on an A100."""
    read = _read(profile)
    computing = read.compute or read.slices
    media = _VARIANTS[read.variant].startswith("+me")
    return MigAttributes(
        memory=read.gigabytes * 1024,
        multiprocessors=_MULTIPROCESSORS * computing,
        slices_gi=read.slices,
        slices_ci=computing,
        engines_copy=read.slices,
        engines_decoder=max(_DECODERS[read.slices], int(media)),
        engines_encoder=0,
        engines_jpeg=int(media or read.slices == MOST_SLICES),
        engines_ofa=int(media or read.slices == MOST_SLICES),
    )


def contradictions(entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What a schema cannot say of an entry's MIG devices: each thing with its place in the entry."""
    profiles = _profiles(entry)
    if profiles and not enabled(entry):
        message = f"expected no MIG devices with `enabled: false`, got {len(profiles)}; remove them, or enable MIG"
        yield ("mig", "devices"), message
    slices = sum(_read(profile).slices for profile in profiles)
    if slices > MOST_SLICES:
        yield ("mig", "devices"), f"expected profiles of at most {MOST_SLICES} slices in all, got {slices}"
    for position, profile in enumerate(profiles):
        read = _read(profile)
        if read.compute > read.slices:
            message = f"expected at most {read.slices} compute slices of {read.slices}g, got {read.compute}c"
            yield ("mig", "devices", position), message


def _profiles(entry: Mapping[str, Any]) -> Sequence[str]:
    profiles: Sequence[str] = entry.get("mig", {}).get("devices", ())
    return profiles


def _read(profile: str) -> _Profile:
    found = _PROFILE.fullmatch(profile)
    if found is None:
        raise ValueError(f"not a MIG profile: {profile!r}")
    compute, slices, gigabytes, variant = found.groups()
    return _Profile(int(compute or 0), int(slices), int(gigabytes), _VARIANTS.index(variant))
