"""What holds for the distances between simulated GPUs, and for reloads of their driver."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from nodeagent.devices.simulated import load_inventory
from nodeagent.model.inventory import InventoryReason
from nodeagent.model.topology import NVLINK, Distance, Topology
from tests.devices.simulating import A100, HEAD, Looked, parsed


def scores(text: str) -> dict[tuple[int, int], int]:
    """The score of each pair that has one, by index."""
    node = parsed(text)
    return {
        (one.index, other.index): score
        for one, other in combinations(node.gpus, 2)
        if (score := node.topology.between(one.uuid, other.uuid))
    }


def test_numa_nodes() -> None:
    """Without NVLink GPUs are as near as their NUMA nodes; where a node is not told, nothing is known."""
    text = f"gpus:\n- {{{A100}, count: 2, numaNode: 0}}\n- {{{A100}, numaNode: 1}}\n- {{{A100}}}\n"
    assert scores(text) == {(0, 1): Distance.NODE, (0, 2): Distance.SYSTEM, (1, 2): Distance.SYSTEM}
    assert parsed(f"gpus:\n- {{{A100}, count: 8}}\n").topology == Topology()


def test_islands() -> None:
    """GPUs of one island score an NVLink more than others as far apart, whether their NUMA nodes are told or not."""
    text = f"gpus:\n- {{{A100}, count: 3, numaNode: 0}}\n- {{{A100}, numaNode: 1}}\n- {{{A100}, count: 2}}\n"
    assert scores(f"nvlink: [[0, 3], [5, 1, 4]]\n{text}") == {
        (0, 1): Distance.NODE,
        (0, 2): Distance.NODE,
        (1, 2): Distance.NODE,
        (0, 3): NVLINK + Distance.SYSTEM,
        (1, 3): Distance.SYSTEM,
        (2, 3): Distance.SYSTEM,
        (1, 4): NVLINK,
        (1, 5): NVLINK,
        (4, 5): NVLINK,
    }


def test_whole_gpus_only() -> None:
    """Distances are between GPUs, never between MIG devices, and each pair is there once."""
    text = f'gpus:\n- {{{A100}, count: 3, numaNode: 0, mig: {{devices: ["1g.5gb", "1g.5gb"]}}}}\n'
    pairs = parsed(text).topology.scores
    assert len(pairs) == 3
    assert all(one < other and one.startswith("GPU-") and other.startswith("GPU-") for one, other in pairs)


async def test_made_once(tmp_path: Path) -> None:
    """The topology is made once per version of the file: looks that find it unchanged have the very same one."""
    looked = Looked(tmp_path / "node.yaml")
    first = await looked.look(f"nvlink: [[0, 1]]\ngpus:\n- {{{A100}, count: 2}}\n")
    assert (await looked.look()).topology is first.topology
    after = await looked.look(f"gpus:\n- {{{A100}, count: 2}}\n")
    assert (after.topology, looked.wakes) == (Topology(), 2)
    assert (await looked.look("gpus: 2\n")).topology is after.topology


async def test_driver_reload(tmp_path: Path) -> None:
    """Raising `driverLoads` is a reload of the driver, and all that differs; a bad edit is none."""
    looked = Looked(tmp_path / "node.yaml")
    before = await looked.look(f"gpus:\n- {{{A100}}}\n")
    after = await looked.look(f"driverLoads: 2\ngpus:\n- {{{A100}}}\n")
    assert (before.driver_load, after.driver_load, looked.wakes) == ("1", "2", 2)
    assert after.gpus == before.gpus
    bad = await looked.look(f"driverLoads: 0\ngpus:\n- {{{A100}}}\n")
    assert (bad.driver_load, bad.reason) == ("2", InventoryReason.INVALID_FILE)


@pytest.mark.parametrize("health", ["ok", "lost", "hang"])
def test_offline(tmp_path: Path, health: str) -> None:
    """A single reading has topology and driver load as well, whatever is wrong with a GPU."""
    file = tmp_path / "node.yaml"
    text = f"driverLoads: 3\nnvlink: [[0, 1]]\ngpus:\n- {{{A100}, health: {health}}}\n- {{{A100}}}\n"
    file.write_text(f"{HEAD}{text}", encoding="utf-8")
    found = load_inventory(file, "node")
    assert found.driver_load == "3"
    assert found.topology.between(*(gpu.uuid for gpu in found.gpus)) == NVLINK
