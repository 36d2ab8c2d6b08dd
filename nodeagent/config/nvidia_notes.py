"""What the author of an NVIDIA file should know: where NVIDIA's plugin would do otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nodeagent.config.nvidia_file import MigStrategy, NvidiaFile, Sharing
from nodeagent.model.config import Mode
from nodeagent.model.handover import HandOver, ListStrategy

_PREFIX: Final = HandOver().annotation_prefix


def notes(file: NvidiaFile) -> Iterator[str]:
    """A note for each difference, with its line."""
    if file.flags.get("failOnInitError", False):
        yield (
            f"{file.place('flags', 'failOnInitError')}: NVIDIA's plugin would exit without a driver; this agent"
            " stays up, is not ready and says why, and picks the GPUs up when they appear"
        )
    yield from _read_otherwise(file)
    yield from _handing_over(file)
    sharing = file.sharing
    if sharing is None:
        return
    if sharing.mode is Mode.MPS:
        yield from _under_mps(file, sharing)
    for resource in sharing.resources():
        things = "GPUs" if resource.profile is None else "MIG devices"
        if resource.devices != "all":
            place = file.place(*resource.path, "devices")
            if resource.profile is not None and sharing.called(resource) == resource.name:
                yield (
                    f"{place}: a node with other MIG devices of this profile refuses this file, since those would be"
                    f" {resource.name} too, not shared; give the shares another `rename`"
                )
            yield (f"{place}: only these {things} are shared; NVIDIA's plugin would ignore this and share them all")
        if (name := sharing.called(resource)) != sharing.would_be(resource):
            yield (
                f"{file.place(*resource.path, 'rename')}: the shares are called {name}; NVIDIA's"
                f" plugin would ignore this and call them {sharing.would_be(resource)}"
            )


def _read_otherwise(file: NvidiaFile) -> Iterator[str]:
    """What is not there, or has no effect."""
    if not file.root.get("version"):
        yield 'line 1: no version, which is read as v1, as NVIDIA\'s plugin does; write "version: v1"'
    if file.flags.get("mpsRoot"):
        yield (
            f"{file.place('flags', 'mpsRoot')}: has no effect: the option --mps-root says where the MPS daemons have"
            " their directories"
        )
    if file.flags.get("useNodeFeatureAPI"):
        yield (
            f"{file.place('flags', 'useNodeFeatureAPI')}: has no effect: the option --labels says where labels go, and"
            " the agent makes no NodeFeature"
        )
    if any(file.root.get("resources", {}).values()):
        yield f"{file.place('resources')}: has no effect, as with NVIDIA's plugin, which adds them itself"
    sharing = file.tree.value.get("sharing") if isinstance(file.tree.value, dict) else None
    if isinstance(sharing, dict) and not sharing.get("timeSlicing", True):
        yield (
            f"{file.place('sharing', 'timeSlicing')}: nothing is shared by it; NVIDIA's plugin logs it so, and would"
            " refuse to read it; remove it"
        )


def _handing_over(file: NvidiaFile) -> Iterator[str]:
    """What other words of the file, or options of the agent, decide."""
    flags, plugin, imex = file.flags, file.plugin, file.imex
    if file.list_strategies is not None and any(strategy.cdi for strategy in file.list_strategies):
        yield (
            f"{file.place('flags', 'plugin', 'deviceListStrategy')}: containers are referred to a specification that"
            " the container toolkit makes, of the vendor that --cdi-vendor names; NVIDIA's plugin would make one of its"
            " own, of the vendor k8s.device-plugin.nvidia.com"
        )
    only_cdi = bool(file.list_strategies) and all(strategy.cdi for strategy in file.list_strategies or ())
    passes = plugin.get("passDeviceSpecs")
    if passes and only_cdi:
        yield (
            f"{file.place('flags', 'plugin', 'passDeviceSpecs')}: has no effect, as with NVIDIA's plugin: where every"
            " strategy is one of CDI, the specification brings the device nodes"
        )
    for key in ("nvidiaDriverRoot", "nvidiaDevRoot"):
        if flags.get(key, "/") not in {"", "/"} and not passes:
            yield (
                f"{file.place('flags', key)}: has an effect only where device nodes are passed: plugin.passDeviceSpecs,"
                " or --pass-device-specs; the driver's library is found by --driver-root"
            )
    if plugin.get("cdiAnnotationPrefix", _PREFIX) != _PREFIX and ListStrategy.CDI_ANNOTATIONS not in (
        file.list_strategies or ()
    ):
        yield (
            f"{file.place('flags', 'plugin', 'cdiAnnotationPrefix')}: has an effect only with the strategy"
            " cdi-annotations: deviceListStrategy, or --device-list-strategy"
        )
    if imex.get("required") and not imex.get("channelIDs"):
        yield f"{file.place('imex', 'required')}: has an effect only with a channel: channelIDs, or --imex-channel-ids"


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
