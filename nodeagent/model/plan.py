"""The plan as a value: what would be done, in order, and what each thing that is not yet possible waits for.

The same plan feeds the executor, `nodeagent plan`, the log, the metrics and the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from nodeagent.model.config import Contract
from nodeagent.model.inventory import Gpu


@dataclass(frozen=True, slots=True)
class Remember:
    """Take a GPU into the applied contract, or take over its newest facts and health; its shares stay as they are.

    `seen` is False for a GPU that the driver does not list: the verdict is ours.
    """

    gpu: Gpu
    seen: bool = True


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a GPU that is gone and of which nothing is advertised out of the applied contract."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Take over what is known of a GPU's MPS daemon: with a `fault` all its shares are sent as Unhealthy."""

    uuid: str
    fault: str


@dataclass(frozen=True, slots=True)
class Diagnose:
    """Take over which XIDs make a GPU unhealthy, with when each came last: with one, all its shares are sent as
    Unhealthy. `driver_load` is the loading of the driver in which that was found.
    """

    uuid: str
    xids: Mapping[int, float]
    driver_load: str | None


@dataclass(frozen=True, slots=True)
class Start:
    """Give a GPU without a contract one under MPS: its daemon is started, and nothing is advertised yet."""

    uuid: str
    contract: Contract


@dataclass(frozen=True, slots=True)
class Advertise:
    """Put shares on the list, under a contract that the GPU has already or, with no share left, takes now."""

    uuid: str
    contract: Contract
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Put shares that pods have and that are not on the list back on it, under the contract that their ids tell."""

    uuid: str
    contract: Contract
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Fence:
    """Send free shares as Unhealthy, so that nothing new gets them, before they may be dropped. `leaving`: the GPU
    leaves its contract; otherwise it has too many shares of it.
    """

    uuid: str
    numbers: frozenset[int]
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Restore:
    """Send fenced shares as Healthy again: they are wanted after all, and the GPU keeps its contract. `leaving`: it
    leaves its contract all the same, and the shares are those of pods.
    """

    uuid: str
    numbers: frozenset[int]
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Take fenced shares, which the kubelet can no longer hand out, off the list."""

    uuid: str
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Release:
    """End the contract of a GPU that has no share left, and with it its MPS daemon."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Limit:
    """Set how many shares of this GPU's resource one container may ask for (None: any number)."""

    uuid: str
    max_shares_per_container: int | None


ShareAction = (
    Remember | Forget | Diagnose | Verdict | Adopt | Start | Advertise | Fence | Restore | Drop | Release | Limit
)


@dataclass(frozen=True, slots=True)
class Register:
    """Serve a resource and keep it registered with the kubelet."""

    resource: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop serving a resource of which nothing is advertised and nothing is held."""

    resource: str


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the list of a resource again: the kubelet's view differs from it."""

    resource: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """End our stream and register again: sending the list again did not mend the kubelet's view."""

    resource: str


KubeletAction = Register | Retire | Resend | Reconnect
Action = ShareAction | KubeletAction


class WaitReason(Enum):
    """What an action that is not yet possible waits for."""

    PODS = "pods"  # shares are held; they drain
    KUBELET = "kubelet"  # fenced, but the kubelet has not been seen to know it
    POD_RESOURCES = "pod-resources"  # who holds what cannot be read, so all shares count as held
    FRESH_LIST = "fresh-list"  # a look at PodResources begun after the decision is on its way
    RESTART = "restart"  # the agent has just started: what the one before gave away last may not be listed yet
    DAEMON = "daemon"  # an MPS daemon is not verified yet, or has not left yet
    MIG = "mig"  # the GPU is still on the list as a whole one, or its MIG devices are
    LIST_SIZE = "list-size"  # no room before others have left: a list has 4 MiB at most, a node a number of shares
    WAVE = "wave"  # as many other devices as may be unavailable at a time are on their way
    LAST = "last"  # no other device offers its resource name yet, which is still wanted
    DISK = "disk"  # the state directory cannot be written, so nothing can be begun


@dataclass(frozen=True, slots=True)
class Wait:
    """Shares of one GPU that hold something up. `numbers` are the shares waited for, `detail` says why in words where
    the reason alone does not.
    """

    uuid: str
    reason: WaitReason
    numbers: frozenset[int] = frozenset()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One GPU, with its MIG devices, that stays as it is since what was planned would break an invariant: a fault of
    ours, which must not cost the others anything.
    """

    uuid: str
    message: str


@dataclass(frozen=True, slots=True)
class Waves:
    """How far a change of contracts is, in devices (a GPU, or a MIG device): `changed` of `total` have the contract
    that is wanted and offer it. At most `limit` may be unavailable at a time; `under_way` and `waiting` are the uuids
    of those that are, and of those that wait for their turn.
    """

    total: int = 0
    changed: int = 0
    limit: int = 0
    under_way: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered actions that are possible now, and waits for what is not; `refused` are the GPUs of which nothing can be
    planned. Empty, without waits and refusals: converged.
    """

    actions: tuple[Action, ...] = ()
    waits: tuple[Wait, ...] = ()
    refused: tuple[Refusal, ...] = ()
    waves: Waves = field(default_factory=Waves)

    @property
    def converged(self) -> bool:
        return not self.actions and not self.waits and not self.refused
