"""What holds for simulation files alone: how they are read, what is refused, and what a bad edit does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from nodeagent.devices.driver import open_driver, read_once
from nodeagent.devices.simulated import load_inventory
from nodeagent.devices.simulation_file import parse
from nodeagent.documents.strict import Rejected
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from tests.devices.worlds import SimulatedWorld, gpu

ROOT = Path(__file__).resolve().parents[2]
HEAD = "apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\n"
H100 = '{model: NVIDIA H100 80GB HBM3, memory: 80Gi, computeCapability: "9.0"'
UUID = "GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"


def gpus(text: str, node_name: str = "node") -> tuple[Gpu, ...]:
    """The GPUs of the list `text`."""
    return parse(f"{HEAD}gpus:\n{text}".encode(), "node.yaml", node_name).gpus


def invalid(inventory: Inventory) -> bool:
    """The file is not usable."""
    return inventory.reason is InventoryReason.INVALID_FILE


def test_count() -> None:
    """An entry with a count stands for that many GPUs with consecutive indices."""
    found = gpus(f"  - {H100}, count: 3, numaNode: 1}}\n  - {{model: A100, memory: 40960Mi}}\n")
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert {one.model for one in found[:3]} == {"NVIDIA H100 80GB HBM3"}
    assert [one.numa_node for one in found] == [1, 1, 1, None]
    assert (found[0].memory, found[3].memory) == (80 << 30, 40 << 30)
    assert (found[0].compute_capability, found[3].compute_capability) == ((9, 0), None)


def test_derived_uuids() -> None:
    """Uuids that are not given follow from node name and index alone: pinned, as configs and held shares name them."""
    found = gpus(f"  - {H100}, count: 2}}\n", "node-a")
    assert [one.uuid for one in found] == [
        "GPU-c7ca8caa-5b71-5ee8-b0b0-0ce1e5aad673",
        "GPU-55b7fbf4-d4a1-5569-b583-b1b2b02728c6",
    ]
    again = gpus("  - {model: A100, memory: 40Gi}\n", "node-a")
    assert again[0].uuid == found[0].uuid
    other = gpus(f"  - {H100}, count: 2}}\n", "node-b")
    assert len({one.uuid for one in (*found, *other)}) == 4
    assert all(
        re.fullmatch(r"GPU-[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one.uuid)
        for one in found
    )


REFUSED = [
    pytest.param("", ["node.yaml:1:1: ", 'the key "gpus", got none'], id="no gpus"),
    pytest.param("gpu: []\n", ["node.yaml:3:1: gpu: ", 'did you mean "gpus"?'], id="near-miss key"),
    pytest.param("gpus: {}\n", ["node.yaml:3:7: gpus: ", "a list"], id="no list"),
    pytest.param("gpus:\n- {model: A, memory: 80GB}\n", ["node.yaml:4:22: gpus[0].memory: ", "80Gi"], id="unit"),
    pytest.param("gpus:\n- {model: A, memory: 80}\n", ["gpus[0].memory: ", "80Gi"], id="no unit"),
    pytest.param("gpus:\n- {model: A}\n", ["node.yaml:4:3: gpus[0]: ", '"memory"'], id="no memory"),
    pytest.param("gpus:\n- {memory: 1Gi}\n", ["gpus[0]: ", '"model"'], id="no model"),
    pytest.param("gpus:\n- {model: '', memory: 1Gi}\n", ["gpus[0].model: "], id="empty model"),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, computeCapability: 9.0}\n",
        ["gpus[0].computeCapability: ", 'quoted version such as "9.0"'],
        id="number for a version",
    ),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, count: 0}\n", ["gpus[0].count: ", "from 1 to 64"], id="none"),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, count: 65}\n", ["gpus[0].count: ", "from 1 to 64"], id="many"),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, count: '2'}\n", ["gpus[0].count: ", "remove the quotes"], id="text"),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, count: 40}\n- {model: B, memory: 1Gi, count: 40}\n",
        ["gpus: expected at most 64 GPUs in all, got 80"],
        id="many in all",
    ),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, health: dead}\n", ["gpus[0].health: ", '"hang"'], id="health"),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, numaNode: -1}\n", ["gpus[0].numaNode: "], id="numa node"),
    pytest.param("gpus:\n- {model: A, memory: 1Gi, uuid: GPU-1}\n", ["gpus[0].uuid: ", UUID], id="uuid"),
    pytest.param(
        f"gpus:\n- {{model: A, memory: 1Gi, uuid: {UUID.upper()}}}\n", ["gpus[0].uuid: ", "lower case"], id="upper case"
    ),
    pytest.param(
        f"gpus:\n- {{model: A, memory: 1Gi, uuid: {UUID}, count: 2}}\n",
        ["node.yaml:4:33: gpus[0].uuid: expected no uuid for 2 GPUs"],
        id="uuid for several",
    ),
    pytest.param(
        f"gpus:\n- {{model: A, memory: 1Gi, uuid: {UUID}}}\n- {{model: B, memory: 1Gi, uuid: {UUID}}}\n",
        ["node.yaml:5:33: gpus[1].uuid: expected a uuid of its own, got that of gpus[0]"],
        id="uuid twice",
    ),
    pytest.param("gpus: []\ngpus: []\n", ["node.yaml:4:1: "], id="key twice"),
    pytest.param("gpus: []\ncudaVersion: 12.4\n", ["node.yaml:4:14: cudaVersion: ", '"12.4"'], id="cuda version"),
    pytest.param("gpus: []\ndriverVersion: new\n", ["driverVersion: ", '"550.163.01"'], id="driver version"),
    pytest.param("gpus: [\n", ["node.yaml:"], id="no yaml"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_refused(text: str, words: list[str]) -> None:
    """What does not fit is refused, with its place and what was expected."""
    with pytest.raises(Rejected) as caught:
        parse(f"{HEAD}{text}".encode(), "node.yaml", "node")
    told = str(caught.value)
    assert [word for word in words if word not in told] == [], told


def test_all_at_once() -> None:
    """Everything that is wrong is told together, in the order of the file."""
    with pytest.raises(Rejected) as caught:
        gpus("- {model: A, memory: 1Gi, health: dead}\n- {model: B, memory: 1, count: 0}\n")
    assert [one.where.path for one in caught.value.violations] == ["gpus[0].health", "gpus[1].memory", "gpus[1].count"]


def test_other_kind() -> None:
    """A file of another kind, such as a sharing config, is refused."""
    text = HEAD.replace("SimulatedNode", "SharingConfig") + "gpus: []\n"
    with pytest.raises(Rejected, match=r'node.yaml:2:7: kind: expected "SimulatedNode", got "SharingConfig"'):
        parse(text.encode(), "node.yaml", "node")


@pytest.mark.parametrize("example", sorted((ROOT / "examples/simulated").glob("*.yaml")), ids=lambda path: path.stem)
async def test_examples(example: Path) -> None:
    """Every example is valid and has GPUs."""
    assert (await read_once(f"simulated:{example}", node_name="node")).gpus


def test_schema() -> None:
    """The published schema is one, and describes every key."""
    schema = json.loads((ROOT / "schemas/simulated-node-v1alpha1.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    keys = {**schema["properties"], **schema["properties"]["gpus"]["items"]["properties"]}
    assert [name for name, key in keys.items() if not key.get("description")] == []


async def test_bad_edit(simulated: SimulatedWorld) -> None:
    """A bad edit keeps the last inventory and tells the first mistake and how many more; a good one mends it."""
    simulated.has(gpu(0))
    await simulated.start()
    before = await simulated.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    simulated.write(f"{HEAD}gpus:\n- {{model: A, memory: lots, count: 0, health: dead}}\n")
    after = await simulated.inventory(invalid)
    assert (after.gpus, after.driver_version, after.complete) == (before.gpus, before.driver_version, True)
    assert after.message.startswith(f"{simulated.file}:4:22: gpus[0].memory: expected a quantity")
    assert after.message.endswith("(and 2 more)")
    simulated.has(gpu(0), gpu(1))
    await simulated.inventory(lambda newest: len(newest.gpus) == 2 and newest.reason is InventoryReason.FOUND)


async def test_file_is_removed(simulated: SimulatedWorld) -> None:
    """A file that is gone keeps the last inventory too: nobody said that the GPUs are gone."""
    simulated.has(gpu(0))
    await simulated.start()
    before = await simulated.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    simulated.file.unlink()
    after = await simulated.inventory(invalid)
    assert after.gpus == before.gpus
    assert after.message == f"cannot read {simulated.file}: No such file or directory"


async def test_bad_from_the_start(simulated: SimulatedWorld) -> None:
    """A file that was never good gives no GPUs, and no claim that these are all."""
    simulated.write("gpus: 8\n")
    await simulated.start()
    inventory = await simulated.inventory(invalid)
    assert (inventory.gpus, inventory.complete) == ((), False)


def rewrite(file: Path, text: str) -> None:
    """Truncates and writes."""
    file.write_text(text, encoding="utf-8")


def rename(file: Path, text: str) -> None:
    """Keeps the old file as a backup."""
    file.rename(file.with_name("node.yaml~"))
    rewrite(file, text)


@pytest.mark.parametrize("save", [rewrite, rename])
async def test_saved_by_an_editor(simulated: SimulatedWorld, save: Callable[[Path, str], None]) -> None:
    """However an editor saves the file, the change is followed."""
    simulated.has(gpu(0))
    await simulated.start()
    await simulated.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    text = simulated.file.read_text(encoding="utf-8")
    save(simulated.file, text.replace('"ok"', '"lost"'))
    inventory = await simulated.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [one.health for one in inventory.gpus] == [GpuHealth.LOST]


def test_broken_gpus_once(tmp_path: Path) -> None:
    """A single reading tells what is lost and what hangs without waiting for it."""
    file = tmp_path / "node.yaml"
    file.write_text(f"{HEAD}gpus:\n- {H100}, health: lost}}\n- {H100}, health: hang}}\n- {H100}}}\n", encoding="utf-8")
    inventory = load_inventory(file, "node")
    assert [one.health for one in inventory.gpus] == [GpuHealth.LOST, GpuHealth.HANG, GpuHealth.OK]
    assert inventory.reason is InventoryReason.GPU_LOST


async def test_read_once_fails(tmp_path: Path) -> None:
    """A single reading raises what a following driver would show."""
    file = tmp_path / "node.yaml"
    with pytest.raises(FileNotFoundError):
        await read_once(f"simulated:{file}", node_name="node")
    file.write_text("gpus: 8\n", encoding="utf-8")
    with pytest.raises(Rejected):
        await read_once(f"simulated:{file}", node_name="node")


@pytest.mark.parametrize("spec", ["", "nvm", "nvml:", "simulated", "simulated:", "fake:node.yaml"])
def test_unknown_driver(spec: str) -> None:
    """A driver that does not exist is refused with the forms that do."""
    with pytest.raises(ValueError, match=r"cannot open driver .*(nvml|simulated:)"):
        open_driver(spec, node_name="node", subscribe=lambda _directory, _wake: None, wake=lambda: None)
