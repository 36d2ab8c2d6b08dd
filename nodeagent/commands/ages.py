"""How long ago something was, in as few characters as a glance needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def now(status: Mapping[str, Any]) -> float:
    """The moment that ages count to: when the agent told it, by the clock that all its times are of. An agent from
    before `reportedAt` is taken to have the clock of this machine.
    """
    told = status.get("reportedAt")
    return time.time() if told is None else datetime.fromisoformat(told).timestamp()


def age(since: str, now: float) -> str:
    """How long ago a time of the document was: `42s`, `3m`, `2h05m`, `4d`."""
    seconds = max(0, int(now - datetime.fromisoformat(since).timestamp()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172_800:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d"
