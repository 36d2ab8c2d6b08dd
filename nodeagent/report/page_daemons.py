"""The MPS daemons on the status page: how it stands with that of a GPU, in one line."""

from __future__ import annotations

from typing import NamedTuple

from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.snapshot import GpuStatus
from nodeagent.model.words import count
from nodeagent.report.markup import Html, fill

_TONES = {
    DaemonState.STARTING: "warn",
    DaemonState.READY: "ok",
    DaemonState.OCCUPIED: "bad",
    DaemonState.FAILED: "bad",
    DaemonState.STOPPING: "warn",
}


class Standing(NamedTuple):
    """How it stands with the MPS daemon of a GPU."""

    tone: str
    state: str
    message: str
    history: str = ""


def standing(status: GpuStatus, mps: MpsStatus) -> Standing | None:
    """The daemon that the contract needs, or one that nobody wants; None where there is neither."""
    daemon, contract = status.daemon, status.contract
    needed = contract if contract is not None and contract.limits is not None else None
    if daemon is None:
        if needed is None:
            return None
        tone = "warn" if mps.reason is MpsReason.RUNNING else "bad"
        return Standing(tone, "none", mps.trouble(status.gpu.uuid, needed))
    if needed is None:
        tone, state, message = "warn", "leaving", daemon.message
    elif daemon.contract != needed:
        tone, state, message = "warn", "outdated", mps.trouble(status.gpu.uuid, needed)
    elif daemon.altered and daemon.state is DaemonState.READY:
        tone, state, message = "warn", daemon.state.value, f"a client has changed the limits: {daemon.altered}"
    else:
        tone, state, message = _TONES[daemon.state], daemon.state.value, daemon.message
    history = (
        count(daemon.restarts, "restart") if daemon.restarts else "",
        f"limits restored {count(daemon.restored, 'time')}" if daemon.restored else "",
    )
    return Standing(tone, state, message, " · ".join(filter(None, history)))


def daemon_line(found: Standing) -> Html:
    """It in one line."""
    return fill(
        '<p class="small">MPS daemon <span class="tag {}">{}</span> {}</p>',
        found.tone,
        found.state,
        " · ".join(filter(None, (found.message, found.history))),
    )
