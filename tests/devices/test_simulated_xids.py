"""What holds for the XIDs of simulated GPUs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nodeagent.devices.simulated_xids import MOST_KNOWN, SimulatedXid, XidNews
from nodeagent.model.health import EventsReason, XidLog, XidSource
from nodeagent.model.inventory import GpuHealth, InventoryReason
from tests.devices.simulating import A100, Looked


@pytest.fixture
def looked(tmp_path: Path) -> Looked:
    """A driver on a file of its own."""
    return Looked(tmp_path / "node.yaml")


def one(xids: str, more: str = "") -> str:
    """A node of one GPU with these XIDs."""
    return f"gpus:\n- {{{A100}{more}, xids: [{xids}]}}\n"


def counts(looked: Looked) -> dict[XidSource, int]:
    """How often each was reported."""
    return {source: tally.count for source, tally in looked.driver.xids.tallies.items()}


async def test_the_past(looked: Looked) -> None:
    """What is in the file at the first look has happened before anybody listened: it is not reported."""
    assert looked.driver.xids.reason is EventsReason.PENDING
    await looked.look(one("{code: 79, seq: 1}, {code: 48, seq: 2}"))
    log = looked.driver.xids
    assert (log.reason, log.message, log.tallies, looked.wakes) == (EventsReason.WATCHING, "", {}, 1)


async def test_once(looked: Looked) -> None:
    """An XID is reported when its seq is new, once, and wakes once; the next of its code counts on."""
    gpu = (await looked.look(one("{code: 79, seq: 1}"))).gpus[0]
    began = time.monotonic()
    await looked.look(one("{code: 79, seq: 1}, {code: 48, seq: 2}"))
    await looked.look()
    first = looked.driver.xids.tallies[XidSource(gpu.uuid, 48)]
    assert (counts(looked), looked.wakes) == ({XidSource(gpu.uuid, 48): 1}, 2)
    assert began <= first.last <= time.monotonic()
    await looked.look(one("{code: 48, seq: 3}, {code: 48, seq: 4}, {code: 13, seq: 5}"))
    assert counts(looked) == {XidSource(gpu.uuid, 48): 3, XidSource(gpu.uuid, 13): 1}
    assert looked.driver.xids.tallies[XidSource(gpu.uuid, 48)].last >= first.last
    assert looked.wakes == 3


async def test_a_seq_is_used_up(looked: Looked) -> None:
    """A seq that was seen is not news again, whatever was edited in between."""
    await looked.look(one(""))
    await looked.look(one("{code: 48, seq: 1}"))
    await looked.look(one(""))
    await looked.look(one("{code: 48, seq: 1}, {code: 62, seq: 1000000000}"))
    assert sorted((source.xid, count) for source, count in counts(looked).items()) == [(48, 1), (62, 1)]


async def test_each_of_several(looked: Looked) -> None:
    """With a count, an XID is that of each of the GPUs; other entries have seqs of their own."""
    text = "gpus:\n- {{{}, count: 2, xids: [{}]}}\n- {{{}, xids: [{}]}}\n"
    gpus = (await looked.look(text.format(A100, "", A100, "{code: 74, seq: 1}"))).gpus
    await looked.look(text.format(A100, "{code: 74, seq: 1}", A100, "{code: 74, seq: 1}"))
    assert counts(looked) == {XidSource(gpu.uuid, 74): 1 for gpu in gpus[:2]}


async def test_a_new_gpu(looked: Looked) -> None:
    """The XIDs of a GPU that appears while the driver runs are news."""
    await looked.look(one("{code: 48, seq: 1}"))
    gpus = (await looked.look(f"{one('{code: 48, seq: 1}')}- {{{A100}, xids: [{{code: 48, seq: 1}}]}}\n")).gpus
    assert (counts(looked), looked.wakes) == ({XidSource(gpus[1].uuid, 48): 1}, 2)


async def test_of_a_mig_device(looked: Looked) -> None:
    """An XID of a MIG device names the instances of the one at that position in the file; another, none."""
    mig = ', mig: {devices: ["3g.20gb", "2g.10gb"]}'
    gpu = (await looked.look(one("", mig))).gpus[0]
    await looked.look(
        one("{code: 94, seq: 1, migDevice: 0}, {code: 94, seq: 2, migDevice: 1}, {code: 48, seq: 3}", mig)
    )
    assert counts(looked) == {
        XidSource(gpu.uuid, 94, 2030, 0): 1,
        XidSource(gpu.uuid, 94, 1020, 0): 1,
        XidSource(gpu.uuid, 48): 1,
    }


@pytest.mark.parametrize("health", [GpuHealth.LOST, GpuHealth.HANG])
async def test_of_a_broken_gpu(looked: Looked, health: GpuHealth) -> None:
    """A GPU that is lost or hangs reports its XIDs all the same, with one wake for both."""
    gpu = (await looked.look(one(""))).gpus[0]
    inventory = await looked.look(one("{code: 79, seq: 1}", f", health: {health.value}"))
    assert inventory.gpus[0].health is health
    assert (counts(looked), looked.wakes) == ({XidSource(gpu.uuid, 79): 1}, 2)
    await looked.look(one("{code: 79, seq: 1}"))


async def test_not_supported(looked: Looked) -> None:
    """A GPU without events is told, by its uuid, and those of the others are reported."""
    silent, well = f"- {{{A100}, events: false}}\n", "- {{{}, events: true, xids: [{}]}}\n"
    await looked.look(f"gpus:\n{silent}{well.format(A100, '')}{silent}")
    log = looked.driver.xids
    assert log.reason is EventsReason.NOT_SUPPORTED
    silenced = (looked.driver.inventory.gpus[index].uuid for index in (0, 2))
    assert log.message == "; ".join(f"{uuid}: this GPU does not report XIDs" for uuid in silenced)
    gpus = (await looked.look(f"gpus:\n{silent}{well.format(A100, '{code: 48, seq: 1}')}{silent}")).gpus
    assert counts(looked) == {XidSource(gpus[1].uuid, 48): 1}
    await looked.look(f"gpus:\n- {{{A100}, count: 3}}\n")
    log = looked.driver.xids
    assert (log.reason, log.message, len(log.tallies), looked.wakes) == (EventsReason.WATCHING, "", 1, 3)


async def test_bad_edit(looked: Looked) -> None:
    """A bad edit reports nothing and forgets nothing; what is new in the good one that follows is news."""
    await looked.look(one("{code: 48, seq: 1}"))
    assert (await looked.look(one("{code: 0, seq: 2}"))).reason is InventoryReason.INVALID_FILE
    assert counts(looked) == {}
    gpu = (await looked.look(one("{code: 48, seq: 1}, {code: 62, seq: 2}"))).gpus[0]
    assert counts(looked) == {XidSource(gpu.uuid, 62): 1}


async def test_bad_from_the_start(looked: Looked) -> None:
    """Until the file has been read once nobody listens, and what the first good one holds is the past."""
    await looked.look(one("{code: 0, seq: 1}"))
    assert looked.driver.xids.reason is EventsReason.PENDING
    await looked.look(one("{code: 48, seq: 1}"))
    assert (looked.driver.xids.reason, counts(looked)) == (EventsReason.WATCHING, {})


def test_memory_of_seqs_is_bounded() -> None:
    """Of seqs that are in the file no more the newest are remembered, and all that are in it."""
    news, log = XidNews(), XidLog()

    def after(*seqs: int) -> int:
        """How many are counted once these are in the file."""
        nonlocal log
        log = news.after(log, [SimulatedXid(XidSource("GPU-0", 31), seq) for seq in seqs], (), 1.0)
        return sum(tally.count for tally in log.tallies.values())

    assert after() == 0
    assert after(*range(1, 11)) == 10
    assert after(1, *range(11, MOST_KNOWN + 1)) == MOST_KNOWN
    assert after(1, MOST_KNOWN + 1) == MOST_KNOWN + 1
    assert after(1, 3, 4) == MOST_KNOWN + 1
    assert after(2) == MOST_KNOWN + 2
