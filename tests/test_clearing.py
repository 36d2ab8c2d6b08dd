"""What may be cleared by hand: a GPU, or a MIG device, that XIDs of its own stand against."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nodeagent.admin import CannotDo
from nodeagent.clearing import Clearing
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import AppliedGpu
from tests.state import make

SICK = replace(make.entry(0), xids={79: 1.0, 48: 2.0})
PART = AppliedGpu(make.mig(1, 7), xids={48: 3.0})
APPLIED = make.applied(
    SICK,
    AppliedGpu(make.with_mig(1)),
    PART,
    replace(AppliedGpu(make.with_mig(2)), xids={79: 1.0}),
    AppliedGpu(make.mig(2, 7), xids={79: 1.0}),
    make.entry(3),
    make.entry(4, health=GpuHealth.LOST),
)


async def test_it_is_asked_for_until_the_loop_has_done_it() -> None:
    """Whoever asks waits for the loop, which is woken; two who ask at once get the same answer."""
    woken: list[None] = []
    clearing = Clearing(wake=lambda: woken.append(None))
    asking = [asyncio.create_task(clearing.clear("GPU-0", APPLIED)) for _ in range(2)]
    await asyncio.sleep(0)
    assert clearing.asked == {"GPU-0"}
    assert woken
    assert not any(one.done() for one in asking)

    clearing.done(clearing.asked)
    told = "GPU 0 (GPU-0) is cleared of XID 48 (double-bit ECC error), XID 79 (GPU has fallen off the bus)"
    assert await asyncio.gather(*asking) == [told, told]
    assert clearing.asked == frozenset()


@pytest.mark.parametrize(
    ("uuid", "message"),
    [
        ("GPU-9", "cannot clear GPU-9: this node has no such GPU or MIG device"),
        ("GPU-3", "cannot clear GPU 3: there is nothing to clear, no XID stands against it"),
        ("GPU-4", "cannot clear GPU 4: no XID stands against it, but the driver says that it is lost: it is lost"),
        ("MIG-2-7", "cannot clear MIG device 2:7: the fault is that of GPU 2: clear GPU-2"),
    ],
)
async def test_what_cannot_be_cleared(uuid: str, message: str) -> None:
    """It is said why, and the loop is asked for nothing."""
    clearing = Clearing(wake=lambda: None)
    with pytest.raises(CannotDo) as refusal:
        await clearing.clear(uuid, APPLIED)
    assert str(refusal.value) == message
    assert clearing.asked == frozenset()
