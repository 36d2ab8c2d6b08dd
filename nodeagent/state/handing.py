"""Whether the host has what containers are referred to: device nodes, an IMEX channel, CDI specifications.

Allocate answers by CDI whether a specification is there or not, as NVIDIA's plugin does: the specification may come
before the container is created, and where it does not the runtime says which device it could not resolve. That is told
late and on one pod after the other; here it is told of the node, with what mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HandOverReason, HostFiles
from nodeagent.model.inventory import Gpu
from nodeagent.state.grants import cdi_devices, channels_found, device_id, gpu_nodes, is_outdated
from nodeagent.state.naming import gpus as named

_Verdict = tuple[HandOverReason, str]


def readiness(handover: HandOver, host: HostFiles, gpus: Iterable[Gpu]) -> _Verdict:
    """Reason and message of the condition; `gpus` are those, and the MIG devices, that containers may get."""
    offered = sorted(gpus, key=lambda gpu: gpu.place)
    if unnamed := [gpu for gpu in offered if device_id(gpu, handover.id_strategy) is None]:
        return _by_index(unnamed)
    if not handover.needs_files:
        return HandOverReason.NOTHING_NEEDED, ""
    if not host.looked:
        return HandOverReason.PENDING, host.problem or "the host's files have not been looked at yet"
    return (
        _channel(handover, host)
        or _nodes(handover, host, offered)
        or _specifications(handover, host, offered)
        or (HandOverReason.SPEC_FOUND if handover.cdi else HandOverReason.NODES_FOUND, host.problem)
    )


def _by_index(unnamed: Sequence[Gpu]) -> _Verdict:
    """GPUs without an index. MIG devices never have one, and come first: that does not pass by itself."""
    if parts := [gpu for gpu in unnamed if gpu.mig is not None]:
        return HandOverReason.MIG_BY_INDEX, (
            f"{named(parts)}: MIG devices cannot be handed over by index, and containers that ask for them are"
            " refused; set the device id strategy to uuid"
        )
    return HandOverReason.INDEX_UNKNOWN, (
        f"the driver does not report the current index of {named(unnamed)}, and until it does containers are refused"
    )


def _channel(handover: HandOver, host: HostFiles) -> _Verdict | None:
    if not handover.imex_required or not handover.imex_channels or channels_found(handover, host):
        return None
    return HandOverReason.CHANNEL_MISSING, (
        f"no {_leaf(IMEX_CHANNEL)} is below {host.dev}: an IMEX channel is required, and containers are refused; load"
        " the driver with NVreg_CreateImexChannel0=1, or do not require it"
    )


def _nodes(handover: HandOver, host: HostFiles, gpus: Sequence[Gpu]) -> _Verdict | None:
    if not handover.passes_nodes:
        return None
    control = CONTROL_NODES[0]
    if control not in host.nodes:
        return HandOverReason.DEVICES_MISSING, (
            f"no {_leaf(control)} is below {host.dev}: containers get the nodes of their GPUs without those that belong"
            " to all; let the agent see the host's device nodes"
        )
    if unknown := [gpu for gpu in gpus if gpu_nodes(gpu, host) is None]:
        why = f": {host.problem}" if host.problem else ""
        return HandOverReason.DEVICES_MISSING, (
            f"the device nodes of {named(unknown)} are not known, and containers that ask for them are refused{why}"
        )
    return None


def _specifications(handover: HandOver, host: HostFiles, gpus: Sequence[Gpu]) -> _Verdict | None:
    if not handover.cdi:
        return None
    vendor, where = handover.cdi_vendor, " or ".join(host.cdi_dirs) or "no directory"
    why = f" ({host.problem})" if host.problem else ""
    kind = f"{vendor}/gpu"
    if kind not in host.cdi:
        return HandOverReason.SPEC_MISSING, (
            f"no CDI specification of {kind} is in {where}{why}: no container with a GPU can be created; "
            f"{_make(handover, host)}"
        )
    missing = [gpu for gpu in gpus if device_id(gpu, handover.id_strategy) not in host.cdi[kind]]
    if missing:
        return HandOverReason.DEVICES_MISSING, (
            f"the CDI specification of {kind} in {where} lacks {named(missing)} by {handover.id_strategy.value}{why}; "
            f"{_make(handover, host)}"
        )
    if outdated := [gpu for gpu in gpus if is_outdated(gpu, handover, host)]:
        return HandOverReason.SPEC_OUTDATED, (
            f"the CDI specification of {kind} in {where} gives other GPUs by the names of {named(outdated)}, and"
            f" containers that ask for them are refused: it is from before the driver's numbers changed; "
            f"{_make(handover, host)}"
        )
    others = [name for name in cdi_devices((), channels_found(handover, host), handover) if not _resolves(name, host)]
    if others:
        return HandOverReason.DEVICES_MISSING, (
            f"no CDI specification in {where} has {', '.join(others)}{why}: no container with a GPU can be created;"
            " make one, or do not ask for it"
        )
    return None


def _resolves(name: str, host: HostFiles) -> bool:
    kind, _, device = name.partition("=")
    return device in host.cdi.get(kind, ())


def _make(handover: HandOver, host: HostFiles) -> str:
    """How to have the specification of GPUs."""
    directory = host.cdi_dirs[0] if host.cdi_dirs else "/etc/cdi"
    vendor = "" if handover.cdi_vendor == "nvidia.com" else f" --vendor={handover.cdi_vendor}"
    strategy = f" --device-name-strategy={handover.id_strategy.value}"
    return f"make it with `nvidia-ctk cdi generate --output={directory}/nvidia.yaml{vendor}{strategy}`"


def _leaf(node: str) -> str:
    return node.removeprefix("/dev/")
