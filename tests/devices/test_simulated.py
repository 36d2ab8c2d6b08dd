"""What holds for simulation files alone: how they are read, what is refused, and what a bad edit does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.devices.driver import open_driver, read_once
from nodeagent.devices.simulated import SimulatedDriver, load_inventory
from nodeagent.devices.simulation_file import Use, parse
from nodeagent.documents.strict import Rejected
from nodeagent.model.inventory import (
    ComputeMode,
    DriverError,
    Gpu,
    GpuHealth,
    GpuProcess,
    Inventory,
    InventoryReason,
)
from tests.devices.worlds import SimulatedWorld, gpu
from tests.waiting import eventually

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
    pytest.param("gpus:\n- {model: A, memory: 1Gi, pciClass: 0x030200}\n", ["gpus[0].pciClass: "], id="pci class"),
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
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, computeMode: exclusive}\n",
        ["gpus[0].computeMode: ", '"exclusive-process"'],
        id="compute mode",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: {}}\n", ["gpus[0].processes: ", "a list"], id="no process"
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: [{pid: 1}, {name: a}]}\n",
        ["gpus[0].processes[0]: ", '"name"', "gpus[0].processes[1]: ", '"pid"'],
        id="half a process",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: [{pid: 0, name: a}, {pid: 4194305, name: b}]}\n",
        ["gpus[0].processes[0].pid: ", "gpus[0].processes[1].pid: ", "from 1 to 4194304"],
        id="pid",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: [{pid: 1, name: /bin/a}, {pid: 2, name: ''}]}\n",
        ["gpus[0].processes[0].name: ", "gpus[0].processes[1].name: ", "without directories"],
        id="name",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: [{pid: 1, name: a, mps: 1}]}\n",
        ["gpus[0].processes[0].mps: ", "true or false"],
        id="mps",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, processes: [{pid: 7, name: a}, {pid: 8, name: a}, {pid: 7, name: b}]}\n",
        ["node.yaml:4:83: gpus[0].processes[2].pid: expected each process once, got pid 7 again"],
        id="process twice",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, mig: [1g.5gb]}\n", ["gpus[0].mig: ", "an object"], id="mig without devices"
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, mig: {enabled: 1, profiles: []}}\n",
        ["gpus[0].mig.enabled: ", "true or false", "gpus[0].mig.profiles: expected one of the keys enabled or devices"],
        id="mig keys",
    ),
    pytest.param(
        'gpus:\n- {model: A, memory: 1Gi, mig: {devices: ["1g.5GB", "8g.80gb", "1g.0gb", "1g.5gb+x", 5, "2g.10gb"]}}\n',
        [f"gpus[0].mig.devices[{position}]: expected a quoted MIG profile such as" for position in range(5)],
        id="mig profiles",
    ),
    pytest.param(
        'gpus:\n- {model: A, memory: 1Gi, mig: {devices: ["4g.20gb", "2g.10gb", "1c.2g.10gb"]}}\n',
        ["node.yaml:4:42: gpus[0].mig.devices: expected profiles of at most 7 slices in all, got 8"],
        id="mig slices",
    ),
    pytest.param(
        'gpus:\n- {model: A, memory: 1Gi, mig: {devices: ["3c.3g.20gb", "4c.3g.20gb"]}}\n',
        ["node.yaml:4:57: gpus[0].mig.devices[1]: expected at most 3 compute slices of 3g, got 4c"],
        id="mig compute slices",
    ),
    pytest.param(
        'gpus:\n- {model: A, memory: 1Gi, mig: {enabled: false, devices: ["1g.5gb"]}}\n',
        ["node.yaml:4:58: gpus[0].mig.devices: expected no MIG devices with `enabled: false`, got 1"],
        id="mig not enabled",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, events: 0, xids: {}}\n",
        ["gpus[0].events: ", "true or false", "gpus[0].xids: ", "a list"],
        id="events",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, xids: [{code: 0, seq: 1}, {code: 1000, seq: 0}, {seq: 1}, {code: 1}]}\n",
        [
            "gpus[0].xids[0].code: expected a whole number from 1 to 999, got 0",
            "gpus[0].xids[1].code: ",
            "gpus[0].xids[1].seq: ",
            'gpus[0].xids[2]: expected the key "code"',
            'gpus[0].xids[3]: expected the key "seq"',
        ],
        id="xids",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, xids: [{code: 1, seq: 7}, {code: 2, seq: 8}, {code: 3, seq: 7}]}\n",
        ["node.yaml:4:87: gpus[0].xids[2].seq: expected each seq once, got 7 again"],
        id="seq twice",
    ),
    pytest.param(
        'gpus:\n- {model: A, memory: 1Gi, mig: {devices: ["1g.5gb"]}, xids: [{code: 1, seq: 7, migDevice: 1}]}\n'
        "- {model: A, memory: 1Gi, xids: [{code: 1, seq: 7, migDevice: 0}]}\n",
        [
            "gpus[0].xids[0].migDevice: expected a position, from 0, in mig.devices, which has 1, got 1",
            "gpus[1].xids[0].migDevice: expected a position, from 0, in mig.devices, which has 0, got 0",
        ],
        id="no such mig device",
    ),
    pytest.param(
        "gpus:\n- {model: A, memory: 1Gi, events: false, xids: [{code: 1, seq: 7}]}\n",
        ["node.yaml:4:48: gpus[0].xids: expected no XIDs of a GPU with `events: false`, got 1"],
        id="xids without events",
    ),
    pytest.param(
        "nvlink: [[0], [0, 0], [64, 1], 5]\ngpus:\n- {model: A, memory: 1Gi, count: 8}\n",
        [
            "node.yaml:3:10: nvlink[0]: expected the indices of at least 2 GPUs, got a list of 1",
            "nvlink[1][1]: expected each item once, got 0 again",
            "nvlink[2][0]: expected a whole number from 0 to 63, got 64",
            "nvlink[3]: expected the indices of at least 2 GPUs, got 5",
        ],
        id="islands",
    ),
    pytest.param(
        "nvlink: [[0, 1], [2, 8], [3, 1]]\ngpus:\n- {model: A, memory: 1Gi, count: 8}\n",
        [
            "node.yaml:3:22: nvlink[1][1]: expected an index below 8, the number of GPUs, got 8",
            "node.yaml:3:30: nvlink[2][1]: expected each GPU in one island, got GPU 1 again (first in nvlink[0])",
        ],
        id="gpus of islands",
    ),
    pytest.param("gpus: []\ndriverLoads: 0\n", ["node.yaml:4:14: driverLoads: ", "from 1 to "], id="driver loads"),
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


def test_all_contradictions_at_once() -> None:
    """So is everything that contradicts itself."""
    uuid = f"- {{model: A, memory: 1Gi, uuid: {UUID}}}\n"
    mig = '- {model: A, memory: 1Gi, mig: {devices: ["7g.40gb", "1g.5gb"]}, xids: [{code: 1, seq: 1, migDevice: 2}]}\n'
    with pytest.raises(Rejected) as caught:
        gpus(f"{uuid}{mig}{uuid}nvlink: [[0, 4]]\n")
    assert [one.where.path for one in caught.value.violations] == [
        "gpus[1].mig.devices",
        "gpus[1].xids[0].migDevice",
        "gpus[2].uuid",
        "nvlink[0][1]",
    ]


def test_other_kind() -> None:
    """A file of another kind, such as a sharing config, is refused."""
    text = HEAD.replace("SimulatedNode", "SharingConfig") + "gpus: []\n"
    with pytest.raises(Rejected, match=r'node.yaml:2:7: kind: expected "SimulatedNode", got "SharingConfig"'):
        parse(text.encode(), "node.yaml", "node")


@pytest.mark.parametrize("example", sorted((ROOT / "examples/simulated").glob("*.yaml")), ids=lambda path: path.stem)
async def test_examples(example: Path) -> None:
    """Every example is valid and has GPUs."""
    assert (await read_once(f"simulated:{example}", node_name="node")).gpus


def undescribed(schema: Mapping[str, Any]) -> Iterator[str]:
    """The keys that an editor could say nothing of."""
    if "items" in schema:
        yield from undescribed(schema["items"])
    for name, key in schema.get("properties", {}).items():
        if not key.get("description"):
            yield name
        yield from undescribed(key)


def test_schema() -> None:
    """The published schema is one, and describes every key."""
    schema = json.loads((ROOT / "schemas/simulated-node-v1alpha1.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert list(undescribed(schema)) == []


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
    assert after.message == f"cannot read {simulated.file}: No such file or directory (ENOENT)"


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


def test_use_of_several() -> None:
    """With a count, each of the GPUs is used by the processes of the entry and comes with its compute mode."""
    used_by = "computeMode: prohibited, processes: [{pid: 7, name: a}]"
    node = parse(f"{HEAD}gpus:\n- {H100}, count: 2, {used_by}}}\n- {H100}}}\n".encode(), "node.yaml", "node")
    used = Use((GpuProcess(7, "a", mps=False),), ComputeMode.PROHIBITED)
    assert [node.uses[one.uuid] for one in node.gpus] == [used, used, Use((), ComputeMode.DEFAULT)]


DAMAGE = [b"", b"{", b"[]", b"null", b"\xff", b'{"%s": "exclusive"}', b'{"%s": 3}', b'{"%s": {}}', b"[" * 100_000]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: repr(damage[:20]))
async def test_damaged_compute_modes(simulated: SimulatedWorld, damage: bytes) -> None:
    """A file of compute modes that is damaged is as if it were not there, and the next one that is set mends it."""
    simulated.follows = False
    simulated.has(gpu(0), modes={gpu(0).uuid: ComputeMode.PROHIBITED})
    kept = simulated.file.with_name("node.yaml.compute-modes.json")
    kept.write_bytes(damage.replace(b"%s", gpu(0).uuid.encode()))
    await simulated.start()
    assert await simulated.compute_mode(gpu(0).uuid) is ComputeMode.PROHIBITED
    await simulated.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert await simulated.compute_mode(gpu(0).uuid) is ComputeMode.EXCLUSIVE_PROCESS
    assert json.loads(kept.read_bytes()) == {gpu(0).uuid: "exclusive-process"}


async def test_stuck_call_ends(simulated: SimulatedWorld) -> None:
    """The thread that is stuck in a GPU that hangs ends when the GPU does not hang any more, without a look."""
    driver = SimulatedDriver(
        simulated.file, node_name="node", subscribe=lambda _directory, _wake: None, wake=lambda: None
    )

    before = set(threading.enumerate())

    def stuck() -> list[str]:
        return [one.name for one in set(threading.enumerate()) - before if gpu(0).uuid in one.name]

    simulated.has(gpu(0, health=GpuHealth.HANG))
    with pytest.raises(DriverError):
        await driver.processes(gpu(0).uuid)
    assert len(stuck()) == 1
    simulated.has(gpu(0))
    assert await driver.processes(gpu(0).uuid) == ()
    await eventually(lambda: not stuck())


async def test_compute_modes_are_forgotten(simulated: SimulatedWorld) -> None:
    """Without the file of compute modes each GPU has again the one that the simulation file gives it."""
    simulated.has(gpu(0))
    await simulated.start()
    await simulated.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    simulated.file.with_name("node.yaml.compute-modes.json").unlink()
    assert await simulated.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT


async def test_compute_mode_cannot_be_kept(simulated: SimulatedWorld) -> None:
    """A compute mode that cannot be kept was not set, and nothing half written stays."""
    simulated.has(gpu(0))
    simulated.file.with_name("node.yaml.compute-modes.json").mkdir()
    await simulated.start()
    with pytest.raises(
        DriverError, match=r"^cannot set the compute mode of GPU-0.*: .*compute-modes.*: Is a directory"
    ):
        await simulated.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert await simulated.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    assert [one.name for one in simulated.directory.iterdir() if one.name.endswith(".tmp")] == []


def test_compute_modes_set_at_once(tmp_path: Path) -> None:
    """Whoever sets the compute mode of one GPU loses none that another one sets in the meantime."""
    uuids = [gpu(index).uuid for index in range(8)]

    def keep(uuid: str) -> None:
        for mode in [*ComputeMode] * 5:
            ComputeModes(tmp_path / "node.yaml").keep(uuid, mode, ComputeMode.DEFAULT)

    with ThreadPoolExecutor(len(uuids)) as pool:
        list(pool.map(keep, uuids))
    assert ComputeModes(tmp_path / "node.yaml").read() == dict.fromkeys(uuids, ComputeMode.PROHIBITED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "node.yaml: No such file or directory", id="no file"),
        pytest.param(f"{HEAD}gpus: 8\n", "node.yaml:3:7: gpus: expected a list", id="no list"),
    ],
)
async def test_asked_with_a_bad_file(simulated: SimulatedWorld, text: str | None, words: str) -> None:
    """While the file cannot be read, or is wrong, what is asked of a GPU is an error that tells what is wrong."""
    simulated.has(gpu(0))
    await simulated.start()
    await simulated.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    if text is None:
        simulated.file.unlink()
    else:
        simulated.write(text)
    with pytest.raises(DriverError, match=re.escape(words)):
        await simulated.compute_mode(gpu(0).uuid)


def test_broken_gpus_once(tmp_path: Path) -> None:
    """A single reading tells what is lost and what hangs without waiting for it."""
    file = tmp_path / "node.yaml"
    file.write_text(f"{HEAD}gpus:\n- {H100}, health: lost}}\n- {H100}, health: hang}}\n- {H100}}}\n", encoding="utf-8")
    inventory = load_inventory(file, "node")
    assert [one.health for one in inventory.gpus] == [GpuHealth.LOST, GpuHealth.HANG, GpuHealth.OK]
    assert inventory.reason is InventoryReason.GPU_LOST


def test_a_file_without_an_end() -> None:
    """It is read until it is known to be too large, and refused as any other document of that size."""
    with pytest.raises(Rejected, match="expected at most 1,048,576 bytes"):
        load_inventory(Path("/dev/zero"), "node")


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
