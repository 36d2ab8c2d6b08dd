"""What `plan` and `validate` say of rules under MPS where a driver, and no agent, is asked: could they hold here?

A GPU comes under MPS when the MPS host of its node has said that it can prepare that. Who checks a config on the node
itself, as in the agent's container, is told before the commit. On another machine there is no host, which is said too.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodeagent import settings
from nodeagent.model.config import Rule, SharingConfig
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.mps.disk import reason
from nodeagent.mps.files import Layout
from nodeagent.mps.look import look
from nodeagent.state.daemons import missing
from nodeagent.state.desired import resolve
from nodeagent.state.naming import gpus as named


def notes(config: SharingConfig, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """A note for each rule whose GPUs cannot come under MPS on this machine now, and for each reason."""
    under = [
        want for want in resolve(config, gpus).wants.values() if want.contract is not None and want.contract.limits
    ]
    if not under:
        return ()
    mps = _host()
    found: dict[tuple[Rule, str], list[Gpu]] = {}
    for want in under:
        if want.contract is not None and (why := missing(want.contract, want.gpu, mps)):
            found.setdefault((want.rule, why), []).append(want.gpu)
    return tuple(
        f"{rule.called}: {named(those)} cannot come under MPS here, and would stay as before: {why}"
        for (rule, why), those in found.items()
    )


def _host() -> MpsStatus:
    """What the MPS host of this machine says of itself, if there is one."""
    root = settings.read_mps_root()
    try:
        seen = look(Layout(root))
    except OSError as error:
        return MpsStatus(MpsReason.UNUSABLE, reason(error))
    if not seen.runs:
        return MpsStatus(MpsReason.ABSENT, f"no MPS host runs at {root}")
    if seen.observed is not None and seen.observed.problem:
        return MpsStatus(MpsReason.UNUSABLE, seen.observed.problem)
    return MpsStatus(MpsReason.RUNNING, means=seen.means)
