"""Labels as golden cases: from GPUs and a sharing config to what the Node says, each line with the rule that makes it.

A case is a data file. Its documents are read as the agent reads them; what they mean is resolved, checked, planned and
performed, and the labels are those of what is applied then.

    rule:       what the case shows, in a sentence
    simulation: a simulation file; absent: there is no driver
    config:     a sharing config, in our format or NVIDIA's
    held:       by resource, shares that pods have by then: `0::3` is share 3 of GPU 0
    then:       a config that comes after it, and has not been carried out where held shares are in the way
    rejected:   a document that comes after it and is wrong
    strategy:   what NVIDIA's file says that MIG devices are, which have been made otherwise since
    labels:     all labels
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.config.load import load
from nodeagent.devices.simulated import load_inventory
from nodeagent.executor import share_actions
from nodeagent.model.config import Document, LabelTerms, SharingConfig
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason, Vgpu
from nodeagent.model.mps import DaemonState, MpsDaemon
from nodeagent.model.plan import Plan, Refusal, Register, Retire
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, Snapshot
from nodeagent.state.acceptance import info
from nodeagent.state.daemons import daemons
from nodeagent.state.desired import check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.gpu_labels import family, value
from nodeagent.state.labels import ERROR, MAX_ERROR, SETTLED, STATE, labels, report
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.observed import Observed
from nodeagent.state.plan import plan
from tests.conftest import ROOT
from tests.state import make

FOLDER = ROOT / "tests" / "data" / "labels"
FILES = sorted(FOLDER.glob("*.yaml"))
KEYS = {"rule", "simulation", "config", "held", "then", "rejected", "strategy", "labels"}
NOW = 1_795_413_359.0

PREFIX = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set."""
EXCLUSIVE = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: a}
spec: {rules: [{name: a, exclusive: {}}]}
"""
NO_DRIVER = Inventory(reason=InventoryReason.DRIVER_MISSING, message="cannot load NVML")


@dataclass
class Told:
    """A node on which documents are carried out as far as held shares let them."""

    inventory: Inventory
    applied: Applied = field(default_factory=Applied)
    registered: frozenset[str] = frozenset()
    config: ConfigState = field(default_factory=lambda: ConfigState("/config"))
    terms: LabelTerms = field(default_factory=LabelTerms)
    settled: bool = False

    def accept(self, text: str, held: Mapping[str, Iterable[str]]) -> None:
        """Carry this document out."""
        loaded = load(Document("sharing.yaml", text.encode()))
        assert loaded.config is not None, loaded.violations
        assert not check(resolve(loaded.config, node_gpus(self.inventory, self.applied)), "sharing.yaml")
        self.terms = loaded.config.labels
        done = self.settled = self._carry_out(loaded.config, keys(held, self.inventory))
        document = info(loaded)
        self.config = replace(
            self.config,
            newest=document,
            desired=document,
            applied=document if done else self.config.applied,
            generation=self.config.generation + 1,
            observed_generation=self.config.generation + int(done),
        )

    def reject(self, text: str) -> None:
        """This document is wrong."""
        loaded = load(Document("sharing.yaml", text.encode()))
        assert loaded.config is None
        self.config = replace(self.config, newest=info(loaded), violations=loaded.violations)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            revision=1,
            at=NOW,
            started_at=NOW,
            node="gpu-node-1",
            pool="a100-inference",
            version="1",
            config=self.config,
            inventory=self.inventory,
            applied=self.applied,
            machine="PowerEdge R750xa",
            timestamp=int(NOW),
            terms=self.terms,
            settled=self.settled,
        )

    def _carry_out(self, config: SharingConfig, held: frozenset[ShareKey]) -> bool:
        """Whether nothing is left to do."""
        made = Plan()
        for turn in range(6):
            gpus = node_gpus(self.inventory, self.applied)
            made = plan(resolve(config, gpus), self._observed(NOW + 10 * turn, gpus, held))
            self.applied = perform(self.applied, share_actions(made.actions), NOW + 10 * turn)
            self.registered |= {one.resource for one in made.actions if isinstance(one, Register)}
            self.registered -= {one.resource for one in made.actions if isinstance(one, Retire)}
        return made.converged

    def _observed(self, now: float, gpus: tuple[Gpu, ...], held: frozenset[ShareKey]) -> Observed:
        return Observed(
            now=now,
            gpus=gpus,
            listed=frozenset(self.inventory.by_uuid()),
            applied=self.applied,
            pods=make.listed(make.look(now, held, make.followed(self.applied))),
            registered=self.registered,
            held=held,
            mps=make.host(
                *(MpsDaemon(uuid, contract, DaemonState.READY) for uuid, contract in daemons(self.applied, {}).items())
            ),
        )


def keys(held: Mapping[str, Iterable[str]], inventory: Inventory) -> frozenset[ShareKey]:
    """`0::3` is share 3 of GPU 0."""
    uuids = {gpu.label: gpu.uuid for gpu in inventory.gpus}
    return frozenset(
        (resource, uuids[share.partition("::")[0]] + share[len(share.partition("::")[0]) :])
        for resource, shares in held.items()
        for share in shares
    )


def tell(case: Mapping[str, Any], folder: Path) -> Told:
    """What comes of a case."""
    inventory = NO_DRIVER
    if "simulation" in case:
        file = folder / "node.yaml"
        file.write_text(case["simulation"], encoding="utf-8")
        inventory = load_inventory(file, "node")
    told = Told(inventory)
    told.accept(case["config"], {})
    if "then" in case:
        told.accept(case["then"], case.get("held", {}))
    if "rejected" in case:
        told.reject(case["rejected"])
    if "strategy" in case:
        told.terms = LabelTerms(mig_strategy=case["strategy"])
    return told


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_labels_are_those_that_are_written(file: Path, tmp_path: Path) -> None:
    """GPUs and config give the labels in the case, and no others."""
    case = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert case.keys() <= KEYS
    assert labels(tell(case, tmp_path).snapshot()) == case["labels"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_says_which_rule_makes_it(file: Path) -> None:
    """A golden file that nobody can check is worth nothing."""
    lines = file.read_text(encoding="utf-8").partition("\nlabels:\n")[2].splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r'  [a-z].*: ".*"  # .{8,}', line)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_api_server_takes_them(file: Path, tmp_path: Path) -> None:
    """Every key is a prefix and a name, every value empty or a word of at most 63 characters."""
    case = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = labels(tell(case, tmp_path).snapshot())
    assert [key for key in found if not re.fullmatch(f"{PREFIX}/{WORD}", key)] == []
    assert [text for text in found.values() if text and not re.fullmatch(WORD, text)] == []


def test_there_are_golden_cases() -> None:
    """The folder is found, and holds the cases that were asked for."""
    assert {file.stem for file in FILES} >= {
        "plain", "time-sliced", "renamed", "mps", "mig-single", "mig-mixed", "mixed-models", "mixed-modes",
        "half-drained", "rejected", "no-driver",
    }  # fmt: skip


def test_every_label_is_explained() -> None:
    """Each key of any case is on the page, and the page has none that no case has."""
    page = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")
    explained: set[str] = set()
    for row in re.findall(r"^\| (`n(?:vidia|odeagent).+?) \|", page, re.MULTILINE):
        before = ""
        for key in re.findall("`(.+?)`", row):
            before = before.rpartition(".")[0] + key.removeprefix("…") if key.startswith("…") else key
            explained.add(before)
    cases = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES]
    found = {re.sub(r"/mig-.*?gb(\.me)?\.", "/mig-1g.5gb.", key) for case in cases for key in case["labels"]}
    made_of = {key for key in found if re.search(r"/gpu\.(multiprocessors|slices|engines)", key)}
    models = {key for key in found if key.startswith("nodeagent.io/model.")}
    mps = {"nodeagent.io/gpus.mps"} & found
    assert found - made_of - models == explained - {"nodeagent.io/model.<product>"}
    assert {key.replace("/gpu.", "/mig-1g.5gb.") for key in made_of} <= explained
    assert models
    assert mps


def one_gpu(**changes: Any) -> Told:  # noqa: ANN401 - fields of Gpu
    """A node with one exclusive GPU."""
    told = Told(make.inventory(replace(make.gpu(0), **changes)))
    told.accept(EXCLUSIVE, {})
    return told


class TestReport:
    """What goes with the labels, and when nothing is said at all."""

    def test_nothing_is_said_before_anything_is_known(self) -> None:
        """Neither while the driver has not been asked, nor before the mount was read: what the Node says is as good."""
        told = one_gpu()
        assert report(replace(told.snapshot(), inventory=Inventory())) is None
        assert report(replace(told.snapshot(), config=ConfigState("/config"))) is None
        assert report(told.snapshot()) is not None

    def test_settled(self) -> None:
        """Pods may come when a config has been applied for the first time."""
        told = one_gpu()
        assert (found := report(told.snapshot())) is not None
        assert found.settled
        assert found.annotations == {}
        told.config = replace(told.config, applied=None)
        assert (found := report(told.snapshot())) is not None
        assert not found.settled

    def test_the_last_error(self) -> None:
        """Each mistake of the newest document has a line; of very many what there is room for is told."""
        told = one_gpu()
        told.reject("apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nspec: {rules: {}}\n")
        found = report(told.snapshot())
        assert found is not None
        assert found.annotations == {ERROR: "\n".join(map(str, told.config.violations))}
        told.config = replace(told.config, violations=told.config.violations * 100)
        found = report(told.snapshot())
        assert found is not None
        assert len(found.annotations[ERROR]) == MAX_ERROR
        assert found.annotations[ERROR].endswith("…")


class TestState:
    """`nodeagent.io/config.state`: the gravest that holds."""

    @pytest.mark.parametrize(
        ("changes", "state"),
        [
            ({}, "applied"),
            ({"observed_generation": 0}, "draining"),
            ({"suspended": True, "observed_generation": 0}, "suspended"),
            ({"problem": "no document"}, "degraded"),
            ({"obstacles": ("x",), "suspended": True}, "degraded"),
            ({"violations": ("x",), "problem": "x"}, "rejected"),
            ({"desired": None, "problem": "no document"}, None),
        ],
    )
    def test_config(self, changes: dict[str, Any], state: str | None) -> None:
        """Of what Git says."""
        told = one_gpu()
        told.config = replace(told.config, **changes)
        assert labels(told.snapshot()).get("nodeagent.io/config.state") == state

    def test_a_gpu_without_a_plan(self) -> None:
        """What cannot be planned is not applied, whatever was applied before."""
        refused = replace(one_gpu().snapshot(), plan=Plan(refused=(Refusal("GPU-0", "broken"),)))
        assert labels(refused)["nodeagent.io/config.state"] == "degraded"
        assert "nodeagent.io/config.blob" not in labels(refused)
        assert (
            labels(refused)["nodeagent.io/config.accepted-blob"]
            == labels(one_gpu().snapshot())["nodeagent.io/config.blob"]
        )

    def test_hardware(self) -> None:
        """A GPU that is not healthy degrades the node."""
        assert labels(one_gpu(health=GpuHealth.HANG).snapshot())["nodeagent.io/config.state"] == "degraded"


class TestSettled:
    """`nodeagent.io/config.settled`: by itself, whatever the state names as the gravest thing."""

    def test_what_hides_a_drain_from_the_state(self) -> None:
        """An unhealthy GPU or a wrong newer document degrades or rejects; neither says, or hides, what drains."""
        sick, well = one_gpu(health=GpuHealth.HANG), one_gpu()
        well.reject("apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nspec: {rules: {}}\n")
        for told, state in ((sick, "degraded"), (well, "rejected")):
            for settled in (True, False):
                found = labels(replace(told.snapshot(), settled=settled))
                assert found[STATE] == state
                assert found[SETTLED] == ("true" if settled else "false")

    def test_it_is_always_told(self) -> None:
        """A node of which nothing was ever accepted says so, too: only an agent that does not know the label has
        none.
        """
        told = one_gpu()
        told.config, told.settled = ConfigState("/config", problem="no document"), False
        assert labels(told.snapshot())[SETTLED] == "false"


class TestValues:
    """What can be in a label."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("NVIDIA A100-SXM4-40GB", "NVIDIA-A100-SXM4-40GB"),
            ("NVIDIA  GeForce (TM) RTX\t4090 ", "NVIDIA-GeForce-TM-RTX4090"),
            ("-a_", "a"),
            ("a" * 62 + "-b", "a" * 62),
            ("∆", ""),
        ],
    )
    def test_value(self, text: str, told: str) -> None:
        """What cannot be in one is left out, blanks are dashes, and it begins and ends with a letter or digit."""
        assert value(text) == told

    @pytest.mark.parametrize(
        ("capability", "told"),
        [
            ((6, 1), "pascal"), ((7, 0), "volta"), ((7, 2), "volta"), ((7, 5), "turing"), ((8, 0), "ampere"),
            ((8, 6), "ampere"), ((8, 9), "ada-lovelace"), ((9, 0), "hopper"), ((10, 0), "blackwell"),
            ((12, 0), "blackwell"), ((13, 0), "rubin"), ((4, 0), "undefined"), ((11, 0), "undefined"),
        ],
    )  # fmt: skip
    def test_family(self, capability: tuple[int, int], told: str) -> None:
        """The architecture follows from the compute capability."""
        assert family(*capability) == told

    @pytest.mark.parametrize(
        ("pci_class", "mode"),
        [("0x030000", "graphics"), ("0x030200", "compute"), ("0x030800", "unknown"), (None, "unknown")],
    )
    def test_mode(self, pci_class: str | None, mode: str) -> None:
        """With a display, without one, or who knows."""
        assert labels(one_gpu(pci_class=pci_class).snapshot())["nvidia.com/gpu.mode"] == mode

    @pytest.mark.parametrize(
        ("text", "suffix", "told"),
        [
            ("NVIDIA A100", "SHARED", "NVIDIA-A100-SHARED"),
            ("a" * 56, "SHARED", f"{'a' * 56}-SHARED"),
            ("a" * 57, "SHARED", f"{'a' * 56}-SHARED"),
            ("a" * 95, "MIG 1g.5gb.me SHARED", f"{'a' * 42}-MIG-1g.5gb.me-SHARED"),
            (f"{'a' * 54}-b c", "SHARED", f"{'a' * 54}-b-SHARED"),
            (f"{'a' * 55}- c", "SHARED", f"{'a' * 55}-SHARED"),
            ("", "SHARED", "SHARED"),
            ("a" * 95, "", "a" * 63),
        ],
    )
    def test_a_long_value_keeps_its_end(self, text: str, suffix: str, told: str) -> None:
        """What tells shares and MIG devices from whole GPUs is not what is cut off."""
        assert value(text, suffix) == told
        assert len(value(text, suffix)) <= 63

    @pytest.mark.parametrize(
        ("classes", "mode"),
        [
            (("0x030200", "0x030200"), "compute"),
            (("0x030200", "0x030000"), "unknown"),
            ((None, "0x030200"), "unknown"),
        ],
    )
    def test_mode_of_several(self, classes: tuple[str | None, ...], mode: str) -> None:
        """GPUs that are not alike have none together, as NVIDIA's labels have it."""
        told = Told(make.inventory(*(replace(make.gpu(index), pci_class=one) for index, one in enumerate(classes))))
        told.accept(EXCLUSIVE, {})
        assert labels(told.snapshot())["nvidia.com/gpu.mode"] == mode

    @pytest.mark.parametrize(
        ("cliques", "told"),
        [
            ((None, None), None),
            (("a.1", "a.1"), "a.1"),
            (("a.1", None), "a.1"),
            (("a.1", "a.2"), None),
            (("a.1", "b.1"), None),
        ],
    )
    def test_clique(self, cliques: tuple[str | None, ...], told: str | None) -> None:
        """One for the node, where all GPUs that are attached to a fabric are in it."""
        node = Told(make.inventory(*(replace(make.gpu(index), clique=one) for index, one in enumerate(cliques))))
        node.accept(EXCLUSIVE, {})
        assert labels(node.snapshot()).get("nvidia.com/gpu.clique") == told

    @pytest.mark.parametrize(
        ("vgpu", "told"),
        [
            (None, {}),
            (Vgpu(present=False), {"present": "false"}),
            (Vgpu(present=True), {"present": "true"}),
            (
                Vgpu(present=True, host_version="460.16", host_branch="r460_00"),
                {"present": "true", "host-driver-version": "460.16", "host-driver-branch": "r460_00"},
            ),
        ],
    )
    def test_vgpu(self, vgpu: Vgpu | None, told: dict[str, str]) -> None:
        """What the config space says, also where there is no driver; nothing where nobody may read it."""
        for inventory in (make.inventory(make.gpu(0)), NO_DRIVER):
            node = Told(replace(inventory, vgpu=vgpu))
            node.accept(EXCLUSIVE, {})
            found = {key: text for key, text in labels(node.snapshot()).items() if "/vgpu." in key}
            assert found == {f"nvidia.com/vgpu.{key}": text for key, text in told.items()}

    def test_memory_that_is_not_told(self) -> None:
        """A GPU that shares the memory of its host has no label of memory."""
        assert "nvidia.com/gpu.memory" not in labels(one_gpu(memory=0).snapshot())

    def test_a_gpu_that_is_lost(self) -> None:
        """It does not count, as NVML does not list it."""
        assert "nvidia.com/gpu.count" not in labels(one_gpu(health=GpuHealth.LOST).snapshot())

    @pytest.mark.parametrize("version", ["550", "a.b.c.d", ""])
    def test_a_version_of_another_form(self, version: str) -> None:
        """It is left out."""
        told = one_gpu()
        told.inventory = replace(told.inventory, driver_version=version, cuda_version=version)
        assert not [key for key in labels(told.snapshot()) if ".cuda." in key or "/cuda." in key]
