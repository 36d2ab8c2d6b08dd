"""MIG as golden cases: from a simulation file and a sharing config to the lists that the kubelet gets.

A case is a data file. The two documents in it are read as the agent reads them; what they mean is resolved, checked,
planned and performed until nothing is left to do, and what is then on the lists must be what is written there. Each
case is told twice and must come out the same.

    rule:       what the case shows, in a sentence
    simulation: a simulation file
    config:     a sharing config, in our format or NVIDIA's
    lists:      by resource, the devices on its list, in words: `0` for GPU 0, `3:511` for the MIG device that is GPU
                instance 511 of GPU 3, `3:511::0` for a share of it; then ` numa 1` and ` unhealthy` as needed
    rejected:   instead of lists: what the one thing that is wrong must say
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.config.load import load
from nodeagent.devices.simulated import load_inventory
from nodeagent.executor import share_actions
from nodeagent.model.config import Document, SharingConfig, Violation
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.model.plan import Register, Retire
from nodeagent.model.shares import Applied, Device, split_share_id
from nodeagent.state.desired import check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.lists import lists
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.observed import Observed
from nodeagent.state.plan import plan
from tests.state import make, words

FOLDER = Path(__file__).parents[1] / "data" / "mig"
FILES = sorted(FOLDER.glob("*.yaml"))

DOCUMENTS = ("rule", "simulation", "config")
NOW = 100.0


def told(config: SharingConfig, inventory: Inventory) -> dict[str, list[str]]:
    """What is on the lists when there is nothing left to do, in words; a second plan must be empty."""
    applied, registered = Applied(), frozenset[str]()
    names = {gpu.uuid: gpu for gpu in inventory.gpus}
    for turn in range(2):
        gpus = node_gpus(inventory, applied)
        desired = resolve(config, gpus)
        made = plan(desired, observed(inventory, gpus, applied, registered))
        assert not made.waits, words.waits(made)
        assert bool(made.actions) == (turn == 0), words.actions(made)
        applied = perform(applied, share_actions(made.actions), NOW)
        registered |= {one.resource for one in made.actions if isinstance(one, Register)}
        registered -= {one.resource for one in made.actions if isinstance(one, Retire)}
    found = lists(applied, registered, {})
    return {name: [device(one, names) for one in found[name].devices] for name in sorted(found)}


def observed(inventory: Inventory, gpus: tuple[Gpu, ...], applied: Applied, registered: frozenset[str]) -> Observed:
    """What is true while no pod holds anything and the kubelet knows our lists."""
    return Observed(
        now=NOW,
        gpus=gpus,
        listed=frozenset(inventory.by_uuid()),
        applied=applied,
        pods=make.listed(make.look(NOW, (), make.followed(applied))),
        registered=registered,
    )


def device(one: Device, gpus: Mapping[str, Gpu]) -> str:
    """`3:511::0 numa 1 unhealthy`."""
    uuid, number = split_share_id(one.id)
    gpu = gpus[uuid]
    assert uuid.startswith("GPU-" if gpu.mig is None else "MIG-")
    share = "" if number is None else f"::{number}"
    numa = "" if one.numa is None else f" numa {one.numa}"
    return f"{gpu.label}{share}{numa}{'' if one.healthy else ' unhealthy'}"


def tell(case: Mapping[str, Any], folder: Path) -> tuple[dict[str, list[str]], tuple[Violation, ...]]:
    """What comes of a case: the lists, or what is wrong."""
    file = folder / "node.yaml"
    file.write_text(case["simulation"], encoding="utf-8")
    inventory = load_inventory(file, "node")
    loaded = load(Document("config.yaml", case["config"].encode()))
    if loaded.config is None:
        return {}, loaded.violations
    violations = check(resolve(loaded.config, node_gpus(inventory, Applied())), "config.yaml")
    return ({}, violations) if violations else (told(loaded.config, inventory), ())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_lists_are_those_that_are_written(file: Path, tmp_path: Path) -> None:
    """Simulation file and config give the lists in the case, or are rejected with the words in it."""
    case = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert case.keys() in ({*DOCUMENTS, "lists"}, {*DOCUMENTS, "rejected"})
    found, wrong = tell(case, tmp_path)
    assert tell(case, tmp_path) == (found, wrong)
    if "lists" in case:
        assert (found, wrong) == (case["lists"], ())
    else:
        (violation,) = wrong
        assert [words for words in case["rejected"] if words not in str(violation)] == [], violation


def test_there_are_golden_cases() -> None:
    """The folder is found, and holds the cases that were asked for."""
    assert len(FILES) >= 15
