"""What one agent leaves to the next."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.envelope import seal, unseal
from nodeagent.durable.formats import FORMATS
from nodeagent.model.config import Contract, Document, Mode
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import Gpu, GpuHealth, MigAttributes, MigDevice
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.node import Selection, SelectionNote
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.store import StateDir, codec

SHARED = Contract("nvidia.com/gpu.shared", Mode.TIME_SLICED)
WHOLE = Contract("nvidia.com/gpu", Mode.EXCLUSIVE)
GPU = Gpu(
    "GPU-0",
    0,
    "NVIDIA H100 80GB HBM3",
    85_520_809_984,
    (9, 0),
    pci_bus_id="00000000:04:00.0",
    numa_node=1,
    pci_class="0x030200",
    clique="b1028956-cfa2-0990-bf4a-5da9abb51763.1",
    provisional=True,
)
ATTRIBUTES = MigAttributes(20096, 14, 3, 1, 3, 2, 0, 0, 0)
APPLIED = Applied(
    {
        "GPU-0": AppliedGpu(GPU, SHARED, frozenset(range(10)), {8: 100.0, 9: 101.5}, max_shares_per_container=2),
        "GPU-1": AppliedGpu(
            Gpu("GPU-1", 1, "A100", 42, health=GpuHealth.LOST, message="fell off"), WHOLE, frozenset({0})
        ),
        "GPU-2": AppliedGpu(
            Gpu("GPU-2", 2, "A100", 42, mig_enabled=True, mig_capable=True),
            xids={79: 60.25, 48: 5.0},
            driver_load="550/7",
        ),
        "MIG-0": AppliedGpu(
            Gpu("MIG-0", 2, "A100", 21, mig=MigDevice("GPU-2", "1c.3g.20gb+me", 2, 1, ATTRIBUTES)),
            SHARED,
            frozenset({0, 1}),
        ),
    }
)
HOLDS = Holds(
    kubelet="pid 7",
    listed=frozenset({("nvidia.com/gpu", "GPU-1"), ("nvidia.com/gpu.shared", "GPU-0::3"), ("x.io/odd", "a::b::01")}),
    carried={("nvidia.com/gpu.shared", "GPU-0::4"): 70.5, ("nvidia.com/gpu.shared", "GPU-0::7"): 71.0},
    granted={("nvidia.com/gpu.shared", "GPU-0::5"): 90.0},
    unlisted={CheckpointEntry("uid-1", "init", "nvidia.com/gpu.shared", "GPU-0::6"): 80.5},
    ended=frozenset(
        {
            CheckpointEntry("uid-2", "main", "nvidia.com/gpu", "GPU-1"),
            CheckpointEntry("uid-2", "main", "x.io/odd", "::"),
        }
    ),
    draining={"GPU-0": 70.25},
)
DOCUMENT = Document("/config/sharing.yaml", b"a: \xff\n\n\x00", "main@sha1:1234")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a state directory that is not there yet."""
    return tmp_path / "var" / "state"


@pytest.fixture
def state(path: Path) -> Iterator[StateDir]:
    """Yield the state directory, locked."""
    found = opened(path)
    assert found.acquire()
    yield found
    found.release()


def opened(path: Path, identity: str = "pool-a/config", boot_id: str = "boot-1") -> StateDir:
    """Return it as an agent of that pool and config and boot sees it."""
    return StateDir(path, identity=identity, boot_id=boot_id)


def fenced_at(applied: Applied, at: float) -> Applied:
    """Return the same as it is read at that time: all fences are of then, and nothing is still to come."""
    return Applied(
        {
            uuid: replace(
                entry,
                fences=dict.fromkeys(entry.fences, at),
                xids={xid: min(last, at) for xid, last in entry.xids.items()},
            )
            for uuid, entry in applied.gpus.items()
        }
    )


class TestDirectory:
    """The directory and its lock."""

    def test_it_is_made_and_closed_to_others(self, state: StateDir, path: Path) -> None:
        """The directory is 0700, its files are 0600."""
        state.save_applied(APPLIED)
        state.save_holds(HOLDS)
        state.save_last_known_good(DOCUMENT)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == dict.fromkeys(
            ("lock", "applied.json", "holds.json", "last-known-good"), 0o600
        )

    def test_one_that_is_open_to_others_is_closed(self, path: Path) -> None:
        """A hostPath that Kubernetes made is 0755; the agent takes it as 0700."""
        path.mkdir(parents=True, mode=0o755)
        state = opened(path)
        assert state.acquire()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        state.release()

    def test_a_second_agent_does_not_get_it(self, state: StateDir, path: Path) -> None:
        """There is one writer, and who is not it cannot write."""
        second = opened(path)
        assert not second.acquire()
        with pytest.raises(RuntimeError, match="not locked"):
            second.save_applied(APPLIED)
        state.release()
        assert second.acquire()
        second.release()

    def test_what_cannot_be_a_directory_is_told(self, tmp_path: Path) -> None:
        """An unusable path is an error that names it."""
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot use state directory") as caught:
            opened(tmp_path / "file").acquire()
        assert caught.value.filename == str(tmp_path / "file")

    def test_an_empty_one_has_nothing_to_say(self, state: StateDir) -> None:
        """A new node has no past, and that is no notice."""
        assert state.load_applied(0.0) is None
        assert state.load_holds(0.0) is None
        assert state.load_last_known_good() is None
        assert not state.same_boot
        assert state.notices == []


class TestApplied:
    """The applied contract."""

    def test_it_comes_back_with_fences_that_count_from_now(self, state: StateDir, path: Path) -> None:
        """Everything of the contract survives but the times of fences, which start anew: later is the safe side."""
        state.save_applied(APPLIED)
        next_one = opened(path)
        assert next_one.load_applied(500.0) == fenced_at(APPLIED, 500.0)
        assert next_one.same_boot
        assert next_one.notices == []

    def test_it_is_of_the_node(self, state: StateDir, path: Path) -> None:
        """Neither another pool nor a reboot makes the contract void: pods may still hold its shares."""
        state.save_applied(APPLIED)
        other = opened(path, identity="pool-b/other", boot_id="boot-2")
        assert other.load_applied(0.0) == fenced_at(APPLIED, 0.0)
        assert not other.same_boot

    def test_one_of_an_agent_from_before_labels_is_read(self) -> None:
        """What it did not write is not known, until the driver tells; everything else is as it was."""
        value = json.loads(codec.encode_applied(APPLIED))
        for item in value["gpus"]:
            del item["migCapable"], item["pciClass"], item["provisional"], item["clique"]
            if item["mig"] is not None:
                del item["mig"]["attributes"]
        found = codec.decode_applied(json.dumps(value).encode(), 0.0)
        told = {uuid: entry.gpu for uuid, entry in APPLIED.gpus.items()}
        assert {uuid: entry.gpu for uuid, entry in found.gpus.items()} == {
            "GPU-0": replace(told["GPU-0"], pci_class=None, provisional=False, clique=None),
            "GPU-1": told["GPU-1"],
            "GPU-2": replace(told["GPU-2"], mig_capable=False),
            "MIG-0": replace(told["MIG-0"], mig=MigDevice("GPU-2", "1c.3g.20gb+me", 2, 1)),
        }
        known = {uuid: replace(entry, gpu=told[uuid]) for uuid, entry in found.gpus.items()}
        assert Applied(known) == fenced_at(APPLIED, 0.0)

    def test_forty_thousand_shares_are_a_small_file(self, state: StateDir, path: Path) -> None:
        """Numbers are written as ranges."""
        numbers = frozenset(range(5_000)) - {17, 2_500}
        gpus = {
            f"GPU-{index}": AppliedGpu(Gpu(f"GPU-{index}", index, "H100", 1), SHARED, numbers, {2: 1.0})
            for index in range(8)
        }
        state.save_applied(Applied(gpus))
        assert (path / "applied.json").stat().st_size < 4096
        assert state.load_applied(1.0) == Applied(gpus)

    @given(
        st.dictionaries(
            st.text(min_size=1, max_size=5),
            st.tuples(
                st.integers(0, 99), st.frozensets(st.integers(0, 30)), st.frozensets(st.integers(0, 30)), st.text()
            ),
        )
    )
    def test_every_contract_survives(self, plan: dict[str, tuple[int, frozenset[int], frozenset[int], str]]) -> None:
        """Encoding loses nothing, whatever the names."""
        applied = Applied(
            {
                uuid: AppliedGpu(
                    Gpu(uuid, index, model, index), SHARED, numbers, dict.fromkeys(numbers & fenced, 3.0), index or None
                )
                for uuid, (index, numbers, fenced, model) in plan.items()
            }
        )
        body = codec.encode_applied(applied)
        assert codec.decode_applied(body, 3.0) == applied
        assert codec.encode_applied(codec.decode_applied(body, 3.0)) == body

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"mig": {"parent": "GPU-0"}}, "profile: expected str"),
            ({"mig": {"parent": "GPU-0", "profile": "1g", "gpuInstance": 1, "computeInstance": 0}}, "at once"),
            ({"xids": {"79": "1"}}, "time: expected float"),
            ({"uuid": "GPU-\ud800"}, "text: expected text"),
            ({"message": "\udfff"}, "text: expected text"),
            ({"contract": {"mode": "exclusive", "resource": "x/\ud800"}}, "text: expected text"),
            ({"numaNode": 2**63}, "numaNode: expected a number of 64 bits"),
            ({"xids": {"-1": 1.0}}, "expected numbers"),
            ({"xids": {"9" * 5_000: 1.0}}, "expected numbers"),
            ({"xids": {"79": -1.0}}, "expected a time"),
            ({"xids": {"79": 1e300}}, "expected a time"),
            ({"fenced": "9-10"}, "fenced that are not advertised"),
            ({"contract": None}, "without a contract"),
            ({"contract": {"mode": "exclusive", "resource": "nvidia.com/gpu"}}, "more than one share"),
            ({"contract": {"mode": "withheld", "resource": "x"}}, "nothing can be advertised"),
            ({"contract": {"mode": "mig", "resource": "x"}}, "'mig' is not a valid Mode"),
            ({"contract": {"mode": "mps", "resource": "x"}}, "limits are there under MPS"),
            ({"contract": {"mode": "time-sliced", "resource": ""}}, "nothing can be advertised"),
            ({"contract": {}}, "resource: expected str"),
            ({"maxSharesPerContainer": 0}, "limit per container"),
            ({"maxSharesPerContainer": True}, "expected int, got True"),
            ({"memory": [[[[[[[[[]]]]]]]]]}, "memory: expected int, got"),
            ({"index": -1}, "facts are impossible"),
            ({"index": "0"}, "index: expected int"),
            ({"uuid": ""}, "facts are impossible"),
            ({"uuid": None}, "uuid: expected str"),
            ({"uuid": "GPU-1"}, "there twice"),
            ({"numbers": "0-99999999"}, "not a share number"),
            ({"health": "poor"}, "'poor' is not a valid GpuHealth"),
            ({"computeCapability": [9]}, "expected \\[major, minor\\]"),
            ({"computeCapability": [9, "0"]}, "minor: expected int"),
        ],
    )
    def test_what_the_planner_cannot_have_made_is_not_believed(
        self, state: StateDir, path: Path, change: dict[str, object], reason: str
    ) -> None:
        """The model's invariants are checked although the checksum is right: a wrong contract is worse than none. It is
        one GPU's: the others are as they were, and the file is kept for whoever looks into it.
        """
        value = json.loads(codec.encode_applied(APPLIED))
        value["gpus"][0].update(change)
        damaged = seal(FORMATS.applied, {"bootId": "boot-1"}, json.dumps(value).encode())
        (path / "applied.json").write_bytes(damaged)
        lost = {"GPU-0", value["gpus"][0]["uuid"]}
        kept = {uuid: entry for uuid, entry in fenced_at(APPLIED, 7.0).gpus.items() if uuid not in lost}
        assert state.load_applied(7.0) == Applied(kept)
        assert state.partial
        assert state.same_boot
        [notice] = state.notices
        assert notice.startswith("applied.json is not used as a whole: ")
        assert notice.endswith("; it was copied aside as applied.json.corrupt-1")
        with pytest.raises(Untrusted, match=reason):
            codec.decode_applied(json.dumps(value).encode(), 0.0)
        state.save_applied(APPLIED)
        assert (path / "applied.json.corrupt-1").read_bytes() == damaged
        assert state.load_applied(7.0) == fenced_at(APPLIED, 7.0)
        assert not state.partial

    def test_one_of_which_no_gpu_can_be_read_is_set_aside(self, state: StateDir, path: Path) -> None:
        """A contract of which nothing is left is as one that is damaged; that there is no GPU in one is no fault."""
        body = json.dumps({"gpus": [{"uuid": str(number)} for number in range(9)]}).encode()
        (path / "applied.json").write_bytes(seal(FORMATS.applied, {"bootId": "boot-1"}, body))
        assert state.load_applied(0.0) is None
        assert not state.partial
        [notice] = state.notices
        assert notice.endswith("; and 1 more; it was set aside as applied.json.corrupt-1")
        state.save_applied(Applied())
        assert state.load_applied(0.0) == Applied()
        assert len(state.notices) == 1

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda data: b"", "it has no header"),
            (lambda data: data[:-1], "its header promises"),
            (lambda data: data.replace(b"GPU-0", b"GPU-9"), "its checksum does not match"),
            (lambda data: data.replace(b'"version": 1', b'"version": 2'), "its version is 2, this agent reads 1"),
            (lambda data: data.replace(b'"kind": "applied"', b'"kind": "holds"'), "its kind is 'holds'"),
            (lambda data: data.replace(b'"bootId": "boot-1", ', b""), "bootId: expected str, got None"),
            (lambda data: data.replace(b'"size": ', b'"size": -'), "its header promises"),
            (lambda data: b"\xff" + data, "it is not JSON"),
            (lambda data: b"[" * 60_000 + b"\n", "it is not JSON"),
            (lambda data: b"[]\n", "its header is not an object"),
            (lambda data: b"\0" * 100_000, "it has no header"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b"[NaN]"), "NaN is not a number"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b"[-1e400]"), "-1e400 is not a number"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b"[%s]" % (b"9" * 400)), "is not a number"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b"[%s]" % (b"9" * 5_000)), "is not a number"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b'{"a": 1, "a": 2}'), "a key is there twice"),
            (lambda data: data.replace(b'"version": 1', b'"version": true'), "its version is True"),
            (lambda data: data.replace(b'"version": 1', b'"version": 1.0'), "its version is 1.0"),
            (lambda data: data.replace(b'"size": ', b'"size": 9' + b"9" * 400), "is not a number"),
            (lambda data: seal(FORMATS.applied, {"bootId": "boot-1"}, b"[]"), "file: expected dict"),
        ],
    )
    def test_a_damaged_file_is_set_aside_and_told(
        self, state: StateDir, path: Path, damage: object, reason: str
    ) -> None:
        """A file that cannot be trusted is kept for whoever looks into it, and the agent goes on as on a new node."""
        assert callable(damage)
        state.save_applied(APPLIED)
        damaged = damage((path / "applied.json").read_bytes())
        (path / "applied.json").write_bytes(damaged)
        assert state.load_applied(0.0) is None
        assert state.load_applied(0.0) is None
        assert len(state.notices) == 1
        assert reason in state.notices[0]
        assert (path / "applied.json.corrupt-1").read_bytes() == damaged
        state.save_applied(APPLIED)
        assert state.load_applied(0.0) == fenced_at(APPLIED, 0.0)

    def test_an_unreadable_file_is_an_error_not_a_new_node(self, state: StateDir, path: Path) -> None:
        """What may be readable later is not set aside: the caller learns which file the disk refuses."""
        (path / "applied.json").symlink_to("applied.json")
        with pytest.raises(OSError, match="cannot read file") as caught:
            state.load_applied(0.0)
        assert caught.value.filename == str(path / "applied.json")
        assert (path / "applied.json").is_symlink()

    def test_a_fifo_in_place_of_the_file_is_set_aside(self, state: StateDir, path: Path) -> None:
        """Nothing at the path can hang the start."""
        os.mkfifo(path / "applied.json")
        assert state.load_applied(0.0) is None
        assert state.notices == [
            "applied.json is not used: it is not a regular file; it was set aside as applied.json.corrupt-1"
        ]


class TestHolds:
    """Who holds what."""

    def test_they_survive_the_process(self, state: StateDir, path: Path) -> None:
        """In one boot everything comes back, monotonic times too."""
        state.save_holds(HOLDS)
        assert opened(path).load_holds(100.0) == HOLDS

    def test_after_a_reboot_times_count_from_now(self, state: StateDir, path: Path) -> None:
        """Who was listed is remembered, since the kubelet starts its pods again; grants are gone."""
        state.save_holds(HOLDS)
        assert opened(path, boot_id="boot-2").load_holds(3.0) == replace(
            HOLDS,
            kubelet=None,
            carried=dict.fromkeys(HOLDS.carried, 3.0),
            granted={},
            unlisted=dict.fromkeys(HOLDS.unlisted, 3.0),
            draining={"GPU-0": 3.0},
        )

    def test_a_time_to_come_is_now(self, state: StateDir) -> None:
        """A hold never lasts longer than it would have from now on."""
        state.save_holds(HOLDS)
        loaded = state.load_holds(85.0)
        assert loaded is not None
        assert loaded.granted == {("nvidia.com/gpu.shared", "GPU-0::5"): 85.0}
        assert loaded.unlisted == HOLDS.unlisted

    def test_forty_thousand_come_back(self, state: StateDir, path: Path) -> None:
        """Listed shares are written as ranges."""
        keys = frozenset(
            ("nvidia.com/gpu.shared", f"GPU-{gpu}::{number}") for gpu in range(8) for number in range(5_000)
        )
        state.save_holds(Holds(listed=keys))
        assert (path / "holds.json").stat().st_size < 4096
        assert state.load_holds(0.0) == Holds(listed=keys)

    @given(
        st.frozensets(st.tuples(st.sampled_from(["r", "s"]), st.from_regex(r"(g|h)?(::)?[0-9]{0,8}", fullmatch=True)))
    )
    def test_every_id_survives(self, keys: frozenset[tuple[str, str]]) -> None:
        """Also ids that are not of our making: the kubelet may list anything under our resource."""
        holds = Holds(listed=keys, ended=frozenset(CheckpointEntry("u", "c", *key) for key in keys))
        assert codec.decode_holds(codec.encode_holds(holds), 0.0, same_boot=True) == holds

    @pytest.mark.parametrize(
        "change",
        [
            {"listed": []},
            {"listed": {"r": {"ids": [1], "shares": {}}}},
            {"listed": {"r": {"ids": [], "shares": {"GPU-0": "1,1"}}}},
            {"granted": [["r", "GPU-0"]]},
            {"granted": [["r", "GPU-0", "soon"]]},
            {"unlisted": [["u", "c", "r", 1, 1.0]]},
            {"unlisted": [["u", "c", "r", "GPU-0", -1.0]]},
            {"unlisted": [["u", "c", "r", "GPU-0", True]]},
            {"granted": [["r", "GPU-0", 10**12]]},
            {"draining": {"GPU-0": 1e300}},
            {"ended": [["u", "c", "r", []]]},
            {"kubelet": 7},
            {"listed": {"r\ud800": {"ids": ["GPU-0"], "shares": {}}}},
        ],
    )
    def test_damaged_ones_are_set_aside(self, state: StateDir, path: Path, change: dict[str, object]) -> None:
        """Holds that cannot be trusted are as if never written; the kubelet's checkpoint still has them."""
        value = {**json.loads(codec.encode_holds(HOLDS)), **change}
        (path / "holds.json").write_bytes(seal(FORMATS.holds, {"bootId": "boot-1"}, json.dumps(value).encode()))
        assert state.load_holds(0.0) is None
        assert len(state.notices) == 1
        assert (path / "holds.json.corrupt-1").exists()


class TestLastKnownGood:
    """The last accepted document."""

    def test_its_bytes_come_back_and_a_person_can_read_them(self, state: StateDir, path: Path) -> None:
        """The document is on disk as it was, after one line of header."""
        state.save_last_known_good(DOCUMENT)
        assert opened(path, boot_id="boot-2").load_last_known_good() == DOCUMENT
        header, _, body = (path / "last-known-good").read_bytes().partition(b"\n")
        assert body == DOCUMENT.data
        assert json.loads(header)["sha256"] == DOCUMENT.sha256

    def test_without_revision(self, state: StateDir) -> None:
        """A document need not have a revision, nor any bytes."""
        state.save_last_known_good(Document("/c", b""))
        assert state.load_last_known_good() == Document("/c", b"")

    def test_another_identitys_is_not_used(self, state: StateDir, path: Path) -> None:
        """A node that changed its pool starts without one, says so, and leaves the file for the way back."""
        state.save_last_known_good(DOCUMENT)
        other = opened(path, identity="pool-b/config")
        assert other.load_last_known_good() is None
        assert other.notices == [
            "last-known-good is not used: it belongs to 'pool-a/config', this agent is 'pool-b/config'"
        ]
        assert state.load_last_known_good() == DOCUMENT

    def test_a_damaged_one_is_never_applied(self, state: StateDir, path: Path) -> None:
        """A flipped bit in a config is not a config."""
        state.save_last_known_good(Document("/c", b"replicas: 4"))
        file = path / "last-known-good"
        file.write_bytes(file.read_bytes().replace(b"replicas: 4", b"replicas: 5"))
        assert state.load_last_known_good() is None
        assert state.notices == [
            "last-known-good is not used: its checksum does not match; it was set aside as last-known-good.corrupt-1"
        ]


class TestSelection:
    """Which document of a directory the Node's labels selected last."""

    @pytest.mark.parametrize("selection", [Selection(), Selection("nodeagent.io/config", "a")])
    def test_it_comes_back(self, state: StateDir, path: Path, selection: Selection) -> None:
        """It outlives agent, boot and pool, and says for whom it was made."""
        keys = ("nodeagent.io/config", "nvidia.com/device-plugin.config")
        assert state.load_selection() is None
        state.save_selection(selection, keys)
        other = opened(path, identity="pool-b/other", boot_id="boot-2")
        assert other.load_selection() == SelectionNote(selection, "pool-a/config", keys)
        assert other.notices == []

    def test_what_0_1_0_reads_and_wrote(self, state: StateDir, path: Path) -> None:
        """It wrote label and value alone, which is read as a note that does not say for whom it was made; and it finds
        both where it looks for them.
        """
        body = b'{"label": "nodeagent.io/config", "value": "a"}'
        (path / "config-selection").write_bytes(seal(FORMATS.selection, {}, body))
        assert state.load_selection() == SelectionNote(Selection("nodeagent.io/config", "a"))
        state.save_selection(Selection("nodeagent.io/config", "b"), ("nodeagent.io/config",))
        _, written = unseal(FORMATS.selection, (path / "config-selection").read_bytes())
        assert json.loads(written).items() >= {"label": "nodeagent.io/config", "value": "b"}.items()

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"label": 1}', b'{"value": ["a"]}', b'{"labels": "a"}', b'{"labels": [1]}']
    )
    def test_what_is_none_is_set_aside(self, state: StateDir, path: Path, body: bytes) -> None:
        """A file that was damaged, or is something else, selects nothing."""
        (path / "config-selection").write_bytes(seal(FORMATS.selection, {}, body))
        assert state.load_selection() is None
        assert "config-selection is not used" in state.notices[0]
        assert (path / "config-selection.corrupt-1").exists()
