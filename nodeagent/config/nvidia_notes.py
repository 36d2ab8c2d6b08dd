"""What the author of an NVIDIA file should know: where NVIDIA's plugin would do otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.config.nvidia_file import MigStrategy, NvidiaFile, Sharing
from nodeagent.model.config import Mode


def notes(file: NvidiaFile) -> Iterator[str]:
    """A note for each difference, with its line."""
    if file.flags.get("failOnInitError", False):
        yield (
            f"{file.place('flags', 'failOnInitError')}: NVIDIA's plugin would exit without a driver; this agent"
            " stays up, is not ready and says why, and picks the GPUs up when they appear"
        )
    sharing = file.sharing
    if sharing is None:
        return
    if sharing.mode is Mode.MPS:
        yield from _under_mps(file, sharing)
    for resource in sharing.resources():
        things = "GPUs" if resource.profile is None else "MIG devices"
        if resource.devices != "all":
            yield (
                f"{file.place(*resource.path, 'devices')}: only these {things} are shared; NVIDIA's plugin would ignore"
                " this and share them all"
            )
        if (name := sharing.called(resource)) != sharing.would_be(resource):
            yield (
                f"{file.place(*resource.path, 'rename')}: the shares are called {name}; NVIDIA's"
                f" plugin would ignore this and call them {sharing.would_be(resource)}"
            )


def _under_mps(file: NvidiaFile, sharing: Sharing) -> Iterator[str]:
    if file.strategy is MigStrategy.MIXED:
        yield (
            f"{file.place('flags', 'migStrategy')}: whole GPUs are shared under MPS, MIG devices are not; NVIDIA's"
            " plugin would refuse mixed beside sharing.mps"
        )
    if not sharing.fails_above_one:
        yield (
            f"{file.place('sharing', sharing.key, 'failRequestsGreaterThanOne')}: a container may have several shares"
            " of one GPU, with as many times the limits; NVIDIA's plugin would give it shares of any GPUs, with the"
            " limits of one share (older ones refuse)"
        )
