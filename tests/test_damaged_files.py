"""Whatever a file of ours holds, its reader gives a value, or refuses it in the way that its callers know.

A file is cut off, edited, written by another version or by somebody else. Each kind is tried with bytes that are
anything, and, where it is sealed, with trees in which one part is odd although the seal is right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodeagent.devices import simulation_file
from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.documents.strict import Rejected
from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.contracts import decode_contract, encode_contract
from nodeagent.durable.envelope import parse, seal, unseal, version_of
from nodeagent.durable.formats import FORMATS, Format
from nodeagent.kubelet import checkpoint
from nodeagent.model.config import Document
from nodeagent.model.inventory import ComputeMode
from nodeagent.model.node import Selection
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import Snapshot
from nodeagent.mps import files, host_file
from nodeagent.report.status import render
from nodeagent.report.status_reader import (
    applied_from_status,
    inventory_from_status,
    moment_from_status,
    mps_from_status,
)
from nodeagent.store import StateDir, codec
from tests.mps.test_files import CONTRACT, DAEMON, UUID
from tests.mps.test_preparation import WORD
from tests.report import builders
from tests.store.test_state_dir import APPLIED, HOLDS


@dataclass(frozen=True)
class Raw:
    """Text that stands in JSON as it is."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """A JSON object as pairs: a key may be there twice."""

    pairs: tuple[tuple[str, object], ...]


def to_json(tree: object) -> str:
    """JSON of a tree, in which anything may stand."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, dict):
        tree = Pairs(tuple(tree.items()))
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(value)}" for key, value in tree.pairs) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(to_json, tree)) + "]"
    return json.dumps(tree)


ODD: list[object] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**64), 0.0, 0.5, -0.5, 1e300, 5e-324),
    *map(Raw, ("1e400", "-1e400", "9" * 400, "-" + "9" * 400, "9" * 5_000, "1e" + "9" * 400, "NaN", "Infinity", "-0")),
    *("", "x", " ", "\0", "\ud800", "\udfff\ud800", "GPU-é", "٣", "007", "-1", "1e3", "0-1000001", "9" * 5_000),
    *("GPU-0::2000000", "::", "a::b::0", "../x", "2026-02-03T04:05:06Z", "0001-01-01T00:00:00+23:59"),
    *([], [[]], {}, {"": {}}, [None], [0, 0], {"ids": [], "shares": {}}, {"shares": {"GPU-0": "0-9"}}),
    *(Raw("[" * depth + "]" * depth) for depth in (50, 900, 100_000)),
    Raw('{"a":' * 900 + "0" + "}" * 900),
    Pairs((("a", 1), ("a", 2))),
]


def places(tree: object) -> Iterator[tuple[str | int, ...]]:
    """The paths of everything in a tree, itself first."""
    yield ()
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        for path in places(value):
            yield (key, *path)


def changed(tree: Any, path: tuple[str | int, ...], change: Callable[[Any], object]) -> object:  # noqa: ANN401 - JSON
    """A copy of the tree in which one part is other."""
    if not path:
        return change(tree)
    first, *rest = path
    if isinstance(tree, dict):
        return {key: changed(value, tuple(rest), change) if key == first else value for key, value in tree.items()}
    return [changed(value, tuple(rest), change) if at == first else value for at, value in enumerate(tree)]


def damages(odd: object) -> list[Callable[[Any], object]]:
    """What can become of a part: something odd, one member more, twice or under an odd key, or one less."""
    key = odd if isinstance(odd, str) else "odd"

    def more(part: Any) -> object:  # noqa: ANN401 - JSON
        if isinstance(part, dict):
            return {**part, key: odd}
        return [*part, odd] if isinstance(part, list) else odd

    def twice(part: Any) -> object:  # noqa: ANN401 - JSON
        pairs = tuple(part.items()) if isinstance(part, dict) else ()
        return Pairs((*pairs, *pairs[:1])) if pairs else more(part)

    def fewer(part: Any) -> object:  # noqa: ANN401 - JSON
        if isinstance(part, dict):
            return dict(list(part.items())[1:])
        return part[1:] if isinstance(part, list) else odd

    return [lambda part: odd, more, twice, fewer]


@dataclass(frozen=True)
class Kind:
    """One kind of sealed file: a good one, and how it is read and written again."""

    form: Format
    data: bytes
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]

    @property
    def tree(self) -> object:
        """What stands in the good one."""
        return json.loads(unseal(self.form, self.data)[1])

    def sealed(self, tree: object) -> bytes:
        """A file with something else in it."""
        return seal(self.form, {"bootId": "boot"}, to_json(tree).encode("utf-8", "surrogatepass"))


TWO = ("GPU-2", "MIG-0")


def applied_of(data: bytes) -> Any:  # noqa: ANN401 - what the codec makes of it
    """The applied contract of a sealed file, as far as it can be read."""
    return codec.decode_each(unseal(FORMATS.applied, data)[1], 50.0)[0]


KINDS = {
    "applied": Kind(
        FORMATS.applied,
        seal(FORMATS.applied, {}, codec.encode_applied(Applied({uuid: APPLIED.gpus[uuid] for uuid in TWO}))),
        applied_of,
        lambda value: seal(FORMATS.applied, {}, codec.encode_applied(value)),
    ),
    "holds": Kind(
        FORMATS.holds,
        seal(FORMATS.holds, {}, codec.encode_holds(HOLDS)),
        lambda data: codec.decode_holds(unseal(FORMATS.holds, data)[1], 200.0, same_boot=True),
        lambda value: seal(FORMATS.holds, {}, codec.encode_holds(value)),
    ),
    "desired": Kind(
        FORMATS.desired, files.encode_desired({UUID: CONTRACT}), files.decode_desired, files.encode_desired
    ),
    "observed": Kind(
        FORMATS.observed,
        files.encode_observed(files.Observed(1, "/dev/shm", daemons={UUID: DAEMON}, life="a", reads=(1, 2))),
        files.decode_observed,
        files.encode_observed,
    ),
    "record": Kind(
        FORMATS.daemon,
        files.encode_record(files.Record(CONTRACT, verified=True)),
        files.decode_record,
        files.encode_record,
    ),
    "modes": Kind(
        FORMATS.compute_modes,
        files.encode_compute_modes({UUID: ComputeMode.DEFAULT}),
        files.decode_compute_modes,
        files.encode_compute_modes,
    ),
    "host": Kind(FORMATS.host, host_file.encode_host(WORD), host_file.decode_host, host_file.encode_host),
}

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
def test_a_sealed_tree_with_an_odd_part(kind: Kind) -> None:
    """Each odd thing in each place: what is read can be written, and is read again as it was; else it is Untrusted."""
    for path in places(kind.tree):
        for damage in [*(damages(odd)[0] for odd in ODD), *damages(1), *damages("::"), *damages({"odd": []})]:
            data = kind.sealed(changed(kind.tree, path, damage))
            told = ""
            try:
                value = kind.read(data)
            except Untrusted as error:
                told = str(error)
            else:
                assert kind.read(kind.write(value)) == value
            assert len(told) < 2_000, "what is told fits in a log"
            assert told.isprintable()


@kinds
@settings(max_examples=40)
@given(data=st.data())
def test_a_sealed_tree_with_several_odd_parts(kind: Kind, data: st.DataObject) -> None:
    """As with one, in any combination, and with values that nobody thought of."""
    leaves = st.sampled_from(ODD) | st.floats() | st.integers() | st.text(max_size=9)
    odd = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
    tree = kind.tree
    for _ in range(data.draw(st.integers(1, 4))):
        found = data.draw(odd)
        tree = changed(tree, data.draw(st.sampled_from(list(places(tree)))), data.draw(st.sampled_from(damages(found))))
    try:
        value = kind.read(kind.sealed(tree))
    except Untrusted:
        return
    assert kind.read(kind.write(value)) == value


@kinds
def test_what_a_later_writer_adds_is_passed_over(kind: Kind) -> None:
    """More keys in any object, and more members of any row, change nothing of what is read: so may a version grow."""
    rows = {"granted", "unlisted", "ended", "computeCapability"}
    maps = {"xids", "draining", "listed", "carried", "shares", "daemons", "modes", "gpus"}
    good = kind.read(kind.data)
    tried = 0
    for path in places(kind.tree):
        part: Any = kind.tree
        for key in path:
            part = part[key]
        inside = path[-1:] if isinstance(part, dict) else path[-2:-1]
        if isinstance(part, dict) and not (set(map(str, inside)) & maps):
            grown = changed(kind.tree, path, lambda part: {**part, "new": {"a": [1]}, "new2": None})
        elif isinstance(part, list) and path and (path[-1] == "computeCapability" or set(path[-2:-1]) & rows):
            grown = changed(kind.tree, path, lambda part: [*part, "new", {"a": 1}])
        else:
            continue
        tried += 1
        assert kind.read(kind.sealed(grown)) == good, path
    assert tried


HEADER = {"version": 1, "kind": "applied", "bootId": "b", "size": 2, "sha256": "x"}


@pytest.mark.parametrize("key", ["version", "kind", "bootId", "size", "sha256", "odd", "identity", "path", "revision"])
def test_a_header_with_an_odd_member(key: str, tmp_path: Path) -> None:
    """No header ends who reads it, in any file of the state directory: it is set aside with a notice."""
    state = StateDir(tmp_path / "s", identity="a", boot_id="b")
    assert state.acquire()
    state.save_applied(APPLIED)
    state.save_holds(HOLDS)
    state.save_last_known_good(Document("/c", b"{}"))
    state.save_selection(Selection("a", "b"), ("a",))
    loads = {
        "applied.json": lambda: state.load_applied(1.0),
        "holds.json": lambda: state.load_holds(1.0),
        "last-known-good": state.load_last_known_good,
        "config-selection": state.load_selection,
    }
    for name, load in loads.items():
        head, _, body = (tmp_path / "s" / name).read_bytes().partition(b"\n")
        for odd in ODD:
            header = to_json({**json.loads(head), key: odd}).encode("utf-8", "surrogatepass")
            (tmp_path / "s" / name).write_bytes(header + b"\n" + body)
            assert callable(load)
            load()
            assert all(len(notice) < 2_000 for notice in state.notices)
            "".join(state.notices).encode()
            state.notices.clear()
    state.release()


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"version": ' + b"[" * 990 + b"]" * 990 + b"}\n")
@example(to_json(HEADER).encode() + b"\n{}")
@example(b"\xff\xfe{\0}\0\n")
def test_bytes_that_are_anything(data: bytes) -> None:
    """No bytes at all get anything but Untrusted out of a reader, sealed or not."""
    for kind in KINDS.values():
        for found in (data, data + b"\n" + data, seal(kind.form, {}, data)):
            with pytest.raises(Untrusted):
                kind.read(found)
    version_of(data)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_numbers_are_finite_and_of_64_bits(tree: object) -> None:
    """What is read as JSON has no number with which arithmetic would fail; everything else is as it was."""
    try:
        found = parse(json.dumps(tree).encode())
    except Untrusted:
        assert any(
            isinstance(part, int | float) and (not math.isfinite(part) or abs(part) >= 2**64) for part in leaves(tree)
        )
    else:
        assert found == tree


def leaves(tree: object) -> Iterator[object]:
    """All that is no list."""
    if isinstance(tree, list):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree


@given(st.dictionaries(st.text(), st.integers() | st.floats() | st.text() | st.none()))
def test_a_contract_that_is_anything(value: dict[str, object]) -> None:
    """A contract is one that we could have written, or none."""
    for odd in (value, {**encode_contract(CONTRACT), **value}):
        with suppress(Untrusted):
            decode_contract(odd)


FEW = [*(odd for odd in ODD[::5] if not isinstance(odd, Raw)), Raw("1e400"), Raw("9" * 400), "\ud800"]


@pytest.mark.parametrize("snapshot", [builders.sharing_by_mps(), builders.partitioned()], ids=["mps", "mig"])
def test_a_status_with_an_odd_part(snapshot: Snapshot) -> None:
    """The status of another node is understood, or it is a ValueError with the place."""
    whole = json.loads(b"".join(render(snapshot)))
    tree = {key: whole[key] for key in ("apiVersion", "kind", "inventory", "mps", "observedAt")}
    tree["gpus"] = whole["gpus"][:1] + whole["gpus"][-1:]
    tree["inventory"]["gpus"] = whole["inventory"]["gpus"][:1]
    for path in places(tree):
        for odd in FEW:
            told: Any = json.loads(to_json(changed(tree, path, damages(odd)[0])))
            for read in (applied_from_status, inventory_from_status, mps_from_status, moment_from_status):
                with suppress(ValueError):
                    read(told if isinstance(told, dict) else {})


SIMULATION = {
    "apiVersion": "nodeagent.io/v1alpha1",
    "kind": "SimulatedNode",
    "driverVersion": "550.1",
    "cudaVersion": "12.4",
    "driverLoads": 1,
    "nvlink": [[0, 1]],
    "gpus": [
        {
            "model": "H100",
            "memory": "80Gi",
            "computeCapability": "9.0",
            "uuid": "GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "health": "ok",
            "numaNode": 0,
            "computeMode": "default",
            "processes": [{"pid": 1, "name": "x"}],
            "xids": [{"code": 79, "seq": 1}],
        },
        {"model": "A100", "memory": "40Gi", "count": 1, "mig": {"devices": ["1g.5gb"]}},
    ],
}


def test_a_simulation_file_with_an_odd_part() -> None:
    """A simulation file is a node, or it is Rejected with what is wrong."""
    simulation_file.parse(json.dumps(SIMULATION).encode(), "f", "n")
    for path in places(SIMULATION):
        for odd in FEW:
            data = to_json(changed(SIMULATION, path, damages(odd)[0])).encode("utf-8", "surrogatepass")
            with suppress(Rejected):
                simulation_file.parse(data, "f", "n")


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_a_simulation_file_that_is_anything(data: bytes) -> None:
    """Also bytes that are no document."""
    with pytest.raises(Rejected):
        simulation_file.parse(data, "f", "n")


def test_compute_modes_that_are_anything(tmp_path: Path) -> None:
    """Of simulated GPUs: a file that is damaged is one in which nothing was set."""
    modes = ComputeModes(tmp_path / "node.yaml")
    for odd in ODD:
        for tree in (odd, {"GPU-0": odd}):
            data = to_json(tree).encode("utf-8", "surrogatepass")
            (tmp_path / "node.yaml.compute-modes.json").write_bytes(data)
            assert modes.read() == {}


CHECKPOINT = {
    "Data": {
        "PodDeviceEntries": [
            {"PodUID": "u", "ContainerName": "c", "ResourceName": "r", "DeviceIDs": {"0": ["GPU-0"]}, "AllocResp": ""}
        ],
        "RegisteredDevices": {"r": ["GPU-0"]},
    },
    "Checksum": 1,
}


def test_a_checkpoint_with_an_odd_part() -> None:
    """The kubelet's file names holders, whose names UTF-8 can carry, or it says nothing."""
    for path in places(CHECKPOINT):
        for odd in ODD:
            for damage in damages(odd):
                data = to_json(changed(CHECKPOINT, path, damage)).encode("utf-8", "surrogatepass")
                for entry in checkpoint.parse(data) or ():
                    f"{entry.pod_uid}{entry.container}{entry.resource}{entry.id}".encode()
