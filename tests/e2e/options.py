"""The options of a run: variables of the environment that `make e2e` sets from its own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "NODEAGENT_E2E_"


class WrongOptionsError(ValueError):
    """An option has no sense; the message says which, and what was expected."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run.

    `image` is the agent's, by the name that the node knows it by. `node` is the one to use, where there are several.
    `restart_kubelet` is a command that restarts the kubelet of that node; empty: the cases that need it are skipped.
    `real_gpus` allows a node that has GPUs. `scale` is the part of the full counts that is done. `report` is a file
    that the figures are written to.
    """

    image: str
    node: str = ""
    restart_kubelet: tuple[str, ...] = ()
    real_gpus: bool = False
    scale: float = 1.0
    report: Path | None = None

    def times(self, full: int) -> int:
        """As many of `full` repetitions as this run does, at least two."""
        return max(2, round(full * self.scale))


def read(environment: Mapping[str, str] = os.environ) -> Options:
    """The options of this run. Raises WrongOptionsError."""

    def value(name: str) -> str:
        return environment.get(PREFIX + name, "").strip()

    try:
        scale = float(value("SCALE") or 1)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 10:
        raise WrongOptionsError(f"SCALE: expected a number above 0 and up to 10, got {value('SCALE')!r}")
    if value("REAL_GPUS") not in {"", "0", "1"}:
        raise WrongOptionsError(f"REAL_GPUS: expected 1 or nothing, got {value('REAL_GPUS')!r}")
    try:
        restart = tuple(shlex.split(value("RESTART_KUBELET")))
    except ValueError as error:
        raise WrongOptionsError(f"RESTART_KUBELET: expected a command line: {error}") from None
    return Options(
        image=value("IMAGE") or "localhost/nodeagent:e2e",
        node=value("NODE"),
        restart_kubelet=restart,
        real_gpus=value("REAL_GPUS") == "1",
        scale=scale,
        report=Path(value("REPORT")) if value("REPORT") else None,
    )
