"""Looking at the host's files: device nodes, capabilities of MIG, CDI specifications."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.devices import host_files
from nodeagent.devices.cdi_specs import LARGEST, MOST, SpecReader
from nodeagent.devices.host_files import HostLook, look, machine_type
from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HostFiles, ListStrategy
from tests.waiting import eventually

CDI = HandOver(strategies=frozenset({ListStrategy.CDI_CRI}))
TOOLKIT = """\
---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  hooks:
  - args:
    - nvidia-cdi-hook
    - update-ldcache
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, fileMode: 438, permissions: rw}
  name: GPU-0
- name: all
kind: nvidia.com/gpu
"""
"""As the container toolkit writes it."""


def spec(*names: str, kind: str = "nvidia.com/gpu") -> str:
    """A specification in JSON."""
    return json.dumps({"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": name} for name in names]})


class Host:
    """A driver root, and two directories for CDI specifications."""

    def __init__(self, path: Path) -> None:
        self.root = path / "driver"
        self.directories = path / "etc", path / "run"
        for directory in (self.root, *self.directories):
            directory.mkdir()
        self.reader = SpecReader(self.directories)

    def node(self, *paths: str) -> None:
        """Something where a device node would be."""
        for path in paths:
            place = self.root / path.removeprefix("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()

    def minors(self) -> Path:
        """Where the table of MIG capabilities is."""
        path = self.root / "proc/driver/nvidia-caps/mig-minors"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name: str, text: str | bytes, directory: int = 0) -> Path:
        """Replace a specification in one step."""
        path = self.directories[directory] / name
        fresh = path.with_suffix(".new")
        fresh.write_bytes(text.encode() if isinstance(text, str) else text)
        fresh.rename(path)
        return path

    def found(self) -> HostFiles:
        return look(self.root, self.reader)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host that has nothing yet."""
    return Host(tmp_path)


def test_nodes_are_those_below_the_driver_root(host: Host) -> None:
    """Where the driver root has a `dev` its nodes count, named as a container has them; a directory is no node."""
    host.node("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", IMEX_CHANNEL)
    (host.root / "dev/nvidia-modeset").mkdir()
    found = host.found()
    assert found.nodes == {"/dev/nvidiactl", "/dev/nvidia-uvm", IMEX_CHANNEL}
    assert (found.looked, found.dev, found.problem) == (True, f"{host.root}/dev", "")


def test_which_gpu_a_cdi_device_is(host: Host) -> None:
    """Its device nodes tell, those on the host where they are elsewhere there; the directory that comes last decides.
    What says nothing of nodes, or nonsense, tells nothing.
    """
    host.put(
        "nvidia.yaml",
        """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - {name: "0", containerEdits: {deviceNodes: [{path: /dev/nvidia1}, {path: /dev/nvidia-caps/nvidia-cap1}]}}
  - {name: "1", containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: /run/driver/dev/nvidia2}]}}
  - {name: all, containerEdits: {deviceNodes: [{path: /dev/nvidia1}, {path: /dev/nvidia2}]}}
  - {name: "2", containerEdits: {env: [A=B]}}
  - {name: "3", containerEdits: {deviceNodes: [7, {path: [1]}, {}]}}
  - {name: "4", containerEdits: 5}
  - {name: "5"}
  - {name: [6]}
""",
    )
    found = host.found()
    assert found.cdi == {"nvidia.com/gpu": frozenset({"0", "1", "2", "3", "4", "5", "all"})}
    assert found.cdi_minors == {
        "nvidia.com/gpu=0": frozenset({1}),
        "nvidia.com/gpu=1": frozenset({2}),
        "nvidia.com/gpu=all": frozenset({1, 2}),
    }
    newer = {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia9"}]}}
    host.put("newer.json", json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [newer]}), 1)
    assert host.found().cdi_minors["nvidia.com/gpu=0"] == {9}


def test_without_nodes_below_the_driver_root_the_own_ones_count(host: Host) -> None:
    """A driver root of single files has no `dev`: the nodes are those that the agent sees itself."""
    found = host.found()
    assert found.dev == "/dev"
    assert found.nodes == {node for node in (*CONTROL_NODES, IMEX_CHANNEL) if Path(node).exists()}


def test_capabilities_of_mig(host: Host) -> None:
    """The table says which node guards which instance; lines that are about something else are passed over."""
    host.minors().write_text(
        "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\ngpu7/gi9/ci3/access 920\n"
    )
    assert host.found().caps == {
        (0, 1, None): "/dev/nvidia-caps/nvidia-cap12",
        (0, 1, 0): "/dev/nvidia-caps/nvidia-cap13",
        (7, 9, 3): "/dev/nvidia-caps/nvidia-cap920",
    }


def test_a_table_that_cannot_be_read(host: Host) -> None:
    """It is told, and the rest is known all the same."""
    host.minors().mkdir()
    host.put("nvidia.yaml", TOOLKIT)
    found = host.found()
    assert found.problem.startswith("cannot read the capabilities of MIG: ")
    assert (found.caps, found.looked) == ({}, True)
    assert found.cdi == {"nvidia.com/gpu": frozenset({"0", "GPU-0", "all"})}


def test_specifications(host: Host) -> None:
    """Kinds and devices of all directories come together, from JSON and YAML; what no runtime reads is none."""
    host.put("nvidia.yaml", TOOLKIT)
    host.put("more.json", spec("GPU-1"), 1)
    host.put("gds.json", spec("all", kind="nvidia.com/gds"), 1)
    host.put("other.yml", TOOLKIT.replace("GPU-0", "GPU-7"))
    host.put("nvidia.yaml.bak", TOOLKIT.replace("GPU-0", "GPU-8"))
    (host.directories[0] / "directory.json").mkdir()
    found = host.found()
    assert found.cdi == {
        "nvidia.com/gpu": frozenset({"0", "GPU-0", "all", "GPU-1"}),
        "nvidia.com/gds": frozenset({"all"}),
    }
    assert found.problem == ""
    assert found.cdi_dirs == tuple(map(str, host.directories))


def test_directories_that_are_not_there(tmp_path: Path) -> None:
    """A host without CDI has no specification, which is no problem of its own."""
    found = look(tmp_path, SpecReader((tmp_path / "none",)))
    assert (found.cdi, found.problem) == ({}, "")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "{", "expected JSON, got something else: "),
        ("a.json", "[" * 100_000, "expected JSON, got something else: "),
        ("a.json", b"\xff\xfe{", "expected JSON, got something else: "),
        ("a.json", "[]", "expected a CDI specification, with cdiVersion, kind and devices, got something else"),
        (
            "a.json",
            '{"kind": "x/y"}',
            "expected a CDI specification, with cdiVersion, kind and devices, got something else",
        ),
        ("a.yaml", "kind: [\n", "line 1: expected ] to close this ["),
        ("a.yaml", "", "line 1: expected a document, got nothing"),
        ("a.yaml", "a: " + "[" * 40_000, "line 1: expected at most 32 levels of nesting, got more"),
        ("a.yaml", "kind: 3\ndevices: []\n", "expected a CDI specification, with cdiVersion, kind and devices"),
        ("a.json", " " * (LARGEST + 1), "expected at most 1,048,576 bytes, got more"),
    ],
)
def test_a_broken_specification(host: Host, name: str, text: str | bytes, problem: str) -> None:
    """It is told with its file, and does not stand in the way of the others."""
    path = host.put(name, text)
    host.put("nvidia.yaml", TOOLKIT)
    found = host.found()
    assert found.problem.startswith(f"cannot read {path}: {problem}")
    assert "GPU-0" in found.cdi["nvidia.com/gpu"]
    host.put(name, spec("GPU-1"))
    assert host.found().problem == ""


def test_a_device_that_is_there_twice(host: Host) -> None:
    """Where two files of one directory have it no runtime uses it, which is told; of two directories one counts."""
    first = host.put("a.json", spec("GPU-0", "GPU-1"))
    second = host.put("b.json", spec("GPU-0", "GPU-2"))
    host.put("c.json", spec("GPU-1"), 1)
    found = host.found()
    assert found.cdi == {"nvidia.com/gpu": frozenset({"GPU-1", "GPU-2"})}
    assert found.problem == f"{first} and {second} all have nvidia.com/gpu=GPU-0: no container runtime uses any of them"


def test_what_could_not_be_read_is_read_again(host: Host) -> None:
    """A fault of the disk, or a right that was missing, is forgotten when it is gone, though the file is the same."""
    path = host.put("nvidia.yaml", TOOLKIT)
    before = path.stat().st_mtime_ns
    elsewhere = path.rename(path.with_suffix(".bak"))
    path.symlink_to(path.name)  # a loop
    loop = "too many levels of symbolic links (ELOOP): it is a loop of links"
    assert host.found().problem == f"cannot read {path}: {loop}"
    path.unlink()
    elsewhere.rename(path)
    assert path.stat().st_mtime_ns == before
    assert host.found().problem == ""


def test_a_driver_root_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """It is as one that has no device nodes: nothing is raised."""
    found = look(Path("/" + "a" * 300), SpecReader((tmp_path,)))
    assert found.looked
    assert found.dev == "/dev"


def test_a_pipe_is_not_read(host: Host) -> None:
    """Opening one would block: what is no file is told as such."""
    os.mkfifo(host.directories[0] / "pipe.json")
    assert host.found().problem.endswith("pipe.json: it is not a file")


def test_too_many_files(host: Host) -> None:
    """What is read is bounded, and that is told."""
    for number in range(MOST + 1):
        host.put(f"{number:03}.json", spec(f"GPU-{number}"))
    found = host.found()
    assert f"expected at most {MOST} files, got {MOST + 1}" in found.problem
    assert len(found.cdi["nvidia.com/gpu"]) == MOST


def test_a_file_is_read_again_only_when_it_has_changed(host: Host) -> None:
    """Looking again costs a look at the directory, however large the files are; one that has gone is forgotten."""
    path = host.put("nvidia.json", spec("GPU-0"))
    assert host.found().cdi == {"nvidia.com/gpu": frozenset({"GPU-0"})}
    about = path.stat()
    path.write_text(spec("GPU-1"))  # as long as before
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert host.found().cdi == {"nvidia.com/gpu": frozenset({"GPU-0"})}
    host.put("nvidia.json", spec("GPU-2"))
    assert host.found().cdi == {"nvidia.com/gpu": frozenset({"GPU-2"})}
    path.unlink()
    assert host.found().cdi == {}


class Looking:
    """A HostLook at work, and how often it has woken."""

    def __init__(self, host: Host) -> None:
        self.wakes = 0
        self.look = HostLook(host.root, host.directories, wake=self._woken)

    def _woken(self) -> None:
        self.wakes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HostLook]:
        task = asyncio.create_task(self.look.run())
        yield self.look
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def looking(host: Host, monkeypatch: pytest.MonkeyPatch) -> Looking:
    """Looks often."""
    monkeypatch.setattr(host_files, "INTERVAL", 0.02)
    return Looking(host)


async def test_nothing_is_looked_at_while_nothing_needs_it(looking: Looking, host: Host) -> None:
    """By variables alone no thread is started and no file is touched; what is not needed any more is forgotten."""
    host.put("nvidia.yaml", TOOLKIT)
    threads = threading.active_count()
    async with looking.running() as found:
        found.need(HandOver(gds=True))
        await asyncio.sleep(0)
        assert (found.files, threading.active_count()) == (HostFiles(), threads)
        found.need(CDI)
        await eventually(lambda: found.files.looked)
        assert looking.wakes == 1
        found.need(HandOver())
        assert found.files == HostFiles()


@pytest.mark.parametrize("needs", [CDI, HandOver(device_specs=True), HandOver(imex_channels=(0,))])
async def test_what_changes_wakes_once(looking: Looking, host: Host, needs: HandOver) -> None:
    """What appears, changes and vanishes is noticed at one of the next looks, and nothing else wakes anybody."""
    async with looking.running() as found:
        found.need(needs)
        await eventually(lambda: found.files.looked)
        assert (found.files.cdi, looking.wakes) == ({}, 1)
        host.put("nvidia.json", spec("GPU-0"))
        await eventually(lambda: found.files.cdi == {"nvidia.com/gpu": {"GPU-0"}})
        host.node("/dev/nvidiactl")
        await eventually(lambda: found.files.nodes == {"/dev/nvidiactl"})
        assert looking.wakes == 3
        found.need(replace(needs, mofed=True))
        (host.directories[0] / "nvidia.json").unlink()
        await eventually(lambda: found.files.cdi == {})
        assert looking.wakes == 4


async def test_a_look_that_hangs(looking: Looking, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, what was known stays known, no second one is begun, and when it returns there is another look."""
    monkeypatch.setattr(host_files, "DEADLINE", 0.05)
    host.put("nvidia.yaml", TOOLKIT)
    async with looking.running() as found:
        found.need(CDI)
        await eventually(lambda: found.files.looked)
        threads = threading.active_count()
        pipe = host.minors()
        os.mkfifo(pipe)
        await eventually(lambda: found.files.problem)
        assert found.files.problem == "cannot look at the host's files: no answer within 0.05 s"
        assert found.files.cdi["nvidia.com/gpu"] == {"0", "GPU-0", "all"}
        assert threading.active_count() <= threads + 1
        end = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        pipe.unlink()
        os.close(end)
        await eventually(lambda: not found.files.problem)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("PowerEdge R750xa\n", "PowerEdge R750xa"),
        ("\nPowerEdge R750xa \nRack 3\n", "PowerEdge R750xa"),
        ("", "unknown"),
        (" \n", "unknown"),
        (None, "unknown"),
    ],
)
def test_machine_type(tmp_path: Path, content: str | None, told: str) -> None:
    """It is what the file says in its first line; where that is missing, empty or not asked for, nobody knows."""
    file = tmp_path / "product_name"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert machine_type(file) == told
    assert machine_type(None) == "unknown"


def test_machine_type_of_a_file_without_an_end() -> None:
    """No more is read than a name can have."""
    assert len(machine_type(Path("/dev/zero"))) <= 4096
