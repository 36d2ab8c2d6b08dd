"""A label of the Node that chooses among the configs of its pool: the example of it, installed."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.conftest import Install
from tests.e2e.overlays import BY_LABEL
from tests.e2e.patience import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SHARED = "nvidia.com/gpu.shared"


def test_a_label_of_the_node_chooses_its_config(install: Install, cluster: Cluster) -> None:
    """A Node that is labelled gets the config of that name, at once, and the pool's own when the label goes."""
    with install(BY_LABEL) as pool:
        until(lambda: cluster.capacity() == BY_LABEL.offered)
        cluster.label({"nodeagent.io/config": "whole"})
        until(lambda: cluster.capacity() == {"nvidia.com/gpu": 4})
        cluster.label({"nodeagent.io/config": "eighths"})
        until(lambda: cluster.capacity() == {SHARED: 32})
        cluster.label({"nodeagent.io/config": "there-is-none"})
        until(lambda: pool.condition("ConfigAccepted")["status"] is False)
        assert cluster.capacity() == {SHARED: 32}
        cluster.label({"nodeagent.io/config": None})
        until(lambda: cluster.capacity() == BY_LABEL.offered)
