"""The node that most tests of the whole agent run on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.agent.harness import Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """Eight GPUs, a running kubelet, an empty mount, no agent yet."""
    async with Node() as node:
        yield node
