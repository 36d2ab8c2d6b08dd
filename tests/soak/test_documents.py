"""Documents by the hundred: good ones disturb nothing, malformed ones change nothing and are told at once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.agent.harness import Node
from tests.agent.stories import reject_each, reload_back_and_forth
from tests.config.anything import bytes_, judge, near
from tests.config.malformed import documents
from tests.conftest import Soak

RELOADS = 100
ANYTHING = 50_000
"""Of each of two kinds: a minute of computing for a tenth of them."""

TOLD_WITHIN = 0.5
"""Seconds from a malformed document in the mount to the metric that says so: a promise of the product."""


@pytest.mark.soak
async def test_reloads_disturb_nothing(soak: Soak) -> None:
    """Over a hundred reloads between ten and four shares on eight GPUs no stream ends, nothing registers after the
    first, and there are never fewer healthy shares than the smaller count asks for.
    """
    async with Node() as node:
        await reload_back_and_forth(node, soak.times(RELOADS))


@pytest.mark.soak
async def test_malformed_documents_are_told_in_time() -> None:
    """Each malformed document fails the reload metric within half a second, one after the other on one node."""
    async with Node() as node:
        slowest = await reject_each(node, documents(), within=TOLD_WITHIN)
    assert slowest <= TOLD_WITHIN


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [near(), bytes_()], ids=["nearly right", "other bytes"])
def test_the_reader_never_fails(soak: Soak, kind: st.SearchStrategy[bytes]) -> None:
    """Whatever it is given, there is a config, or what is wrong in words that can be printed, with its place."""

    @seed(soak.seed)
    @settings(max_examples=soak.times(ANYTHING), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(kind)
    def anything(data: bytes) -> None:
        judge(data)

    anything()
