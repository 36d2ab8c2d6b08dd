"""What the real kubelet shows that the agent does not do yet. Each case states the rule, and is expected to fail: one
that passes fails the run, so that it is turned round by the change that makes it true.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, metadata
from tests.e2e.figures import Figures
from tests.e2e.options import Options
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import Probe
from tests.e2e.workload import Pods, shared

SHARED = "nvidia.com/gpu.shared"
GPUS = 4


class NotKeptError(AssertionError):
    """The rule that a case is about is broken. What goes wrong otherwise is a failure of the case."""


def not_yet(reason: str) -> pytest.MarkDecorator:
    """A case that fails today, by its own rule and by nothing else."""
    return pytest.mark.xfail(raises=NotKeptError, strict=True, reason=reason)


def keep(kept: bool, broken: str) -> None:
    """Raises NotKeptError."""
    if not kept:
        raise NotKeptError(broken)


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@not_yet("a drain where pods queue hands draining shares to new pods")
def test_a_drain_where_pods_queue(pool: Pool, pods: Pods, figures: Figures) -> None:
    """While pods queue for a resource of which there is too much, a share that drains is not given to the next one
    when its pod ends.
    """
    running = pods.several(GPUS * 8, SHARED)
    pods.running(*running)
    until(lambda: len(pool.held()) == len(running))
    queue = pods.several(GPUS * 6, SHARED)
    pool.commit(shared(2))
    until(lambda: sum(share["state"] == "draining" for share in pool.shares().values()) == len(queue))
    draining = {id_ for id_, share in pool.shares().items() if share["state"] == "draining"}
    holders = {pod: id_ for id_, pod in pool.held().items()}
    tried, taken = 0, 0
    # Which one comes first, the kubelet or the agent, is chance: of eight one is nearly always given away.
    for name in [name for name in running if holders[name] in draining]:
        if taken and tried >= 8:
            break
        pods.end(name)
        tried += 1
        _comes(lambda before=taken: len(_new_on(pool, queue, draining)) > before, within=3.0)  # type: ignore[misc]
        taken = len(_new_on(pool, queue, draining))
    figures.add(
        "drain where pods queue: draining shares given to new pods",
        f"{taken} of {tried}",
        f"{GPUS * 8} pods, 8 shares of each GPU to 2",
    )
    keep(taken == 0, f"{taken} of {tried} shares that drained were given to new pods")


@not_yet("deleting the agent's pod leaves 2.4 to 4.5 s without devices")
def test_the_agents_pod_is_replaced_without_a_gap(
    pool: Pool, probe: Probe, cluster: Cluster, options: Options, figures: Figures
) -> None:
    """The kubelet has devices to hand out all the time while the agent's pod is replaced."""
    gaps = []
    for _ in range(options.times(6)):
        old = str(metadata(pool.pod()).name)
        with probe.watching() as seen:
            cluster.kubectl("delete", "pod", "--namespace", pool.overlay.namespace, old)
            until(pool.ready)
            until(lambda: pool.registered(SHARED))
        gaps.append(sum(seen.at_zero(SHARED)))
    figures.add(
        "agent's pod deleted: without devices",
        f"{min(gaps):.1f} to {max(gaps):.1f} s",
        f"{len(gaps)} times",
    )
    keep(not any(gaps), f"without devices for {min(gaps):.1f} to {max(gaps):.1f} s")


def _new_on(pool: Pool, queue: list[str], draining: set[str]) -> list[str]:
    """The shares among these that pods of the queue have."""
    return [id_ for id_, pod in pool.held().items() if id_ in draining and pod in queue]


def _comes(check: Callable[[], object], *, within: float) -> bool:
    """Whether it becomes true in that time: what may or may not happen."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.1)
    return False
