"""A stand-in kubelet that runs, and plugins that are stopped when a test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from nodeagent.sim.kubelet import StandInKubelet
from tests.sim.plugin import RESOURCE, TinyPlugin

MakePlugin = Callable[..., Awaitable[TinyPlugin]]


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[StandInKubelet]:
    """A kubelet that has just started, in an empty directory."""
    async with StandInKubelet(tmp_path) as running:
        yield running


@pytest.fixture
async def plugin(kubelet: StandInKubelet) -> AsyncIterator[MakePlugin]:
    """Makes plugins that serve, have these healthy ids on their list, and are registered unless told otherwise."""
    made: list[TinyPlugin] = []

    async def make(*ids: str, resource: str = RESOURCE, register: bool = True, preference: bool = True) -> TinyPlugin:
        tiny = TinyPlugin(kubelet.device_plugins, resource=resource, preference=preference)
        made.append(tiny)
        await tiny.serve()
        await tiny.send(ids)
        if register:
            await tiny.register()
        return tiny

    yield make
    for tiny in made:
        await tiny.stop()
