"""Every folder that installs an agent does so, on a real node."""

from __future__ import annotations

import time

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.conftest import Install
from tests.e2e.figures import Figures
from tests.e2e.overlays import OPERATOR, OVERLAYS
from tests.e2e.patience import until
from tests.e2e.probe import Probe

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_becomes_ready_with_capacity(
    name: str, install: Install, cluster: Cluster, probe: Probe, figures: Figures
) -> None:
    """`kubectl apply -k` ends with 0 without anything else in the cluster, its pods become ready, and the scheduler
    sees the devices that its config makes of the node's GPUs.
    """
    overlay = OVERLAYS[name]
    if overlay.labels == OPERATOR:
        probe.toolkit_is_ready()
    begun = time.monotonic()
    with install(overlay) as pool:
        until(pool.ready)
        ready = time.monotonic() - begun
        until(lambda: cluster.capacity() == overlay.offered)
        seen = time.monotonic() - begun
        assert pool.status()["inSync"] is True
    figures.seconds(f"{name}: kubectl apply to Ready", ready)
    figures.seconds(f"{name}: kubectl apply to capacity of the Node", seen)
