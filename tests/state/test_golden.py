"""Golden cases: what is wanted, applied, held and true, and the plan that must come of it, as data files.

A file tells a story in steps. Each step may change what is true; its plan must be the one that is written there, is
then performed, and planning again at the same moment must give `again` (nothing, and the same waits, unless it is
said).
Each story is told twice and must come out the same.

    rule:    what the case shows, in a sentence
    gpus:    how many GPUs the node has
    config:  a sharing config's `spec` (absent: nothing accepted)
    applied: by index, `time-sliced nvidia.com/gpu.shared 0-9`, `exclusive nvidia.com/gpu`, or `nothing`,
             `mps nvidia.com/gpu.mps 0-3 (9216 MiB and 25 % each)` (`none` for no share on the list); then
             ` fenced 4-9 at 95`, ` limit 2`, as needed
    held:    by resource, ids without `GPU-`: `0::3`, `0`
    orphans: by index, daemons that an earlier agent asked for: `nvidia.com/gpu.mps (9216 MiB and 25 % each)`
    steps:   each with `at` (seconds), and as needed anew: config, held, lost, gone (GPUs), healthy (all again),
             allocatable (`follows`: the kubelet knows our lists; or by resource, as held), pods (`listed`, `pending`,
             `timeout`), listed_at (when the look began; default: now), decided_at, pressed (as held),
             mentioned (by id, when), registered, resend, reconnect,
             host (of MPS: `running`, `absent: no host runs`), daemons (by index, all there are: `ready`,
             `failed: it has ended`; under the contract that they were asked for, one that starts under the newest)
             and with the plan: `actions`, `waits`, `again` (with `actions` and `waits`), and the daemons that are asked
             for after it: `asks` (by index, as orphans)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.config.load import load
from nodeagent.executor import share_actions
from nodeagent.model.config import Contract, Document, Mode, MpsLimits, SharingConfig
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.kubelet import PodResourcesReason, PodResourcesStatus
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Register, Retire
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.daemons import daemons, orphans
from nodeagent.state.desired import Desired, check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.observed import Observed
from nodeagent.state.plan import plan
from tests.state import make, words

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.yaml"))
KEYS = {
    "at", "config", "held", "lost", "gone", "healthy", "allocatable", "pods", "listed_at", "decided_at", "pressed",
    "mentioned", "registered", "resend", "reconnect", "blind_for", "host", "daemons", "actions", "waits", "again",
    "asks",
}  # fmt: skip

FOLLOWS = "follows"
LIMITS = re.compile(r"\((\d+) MiB and (\d+) % each(?:, at most (\d+) per container)?\)")


@dataclass
class Story:
    """What is true at the moment, changed step by step."""

    config: SharingConfig | None
    gpus: int
    applied: Applied
    held: frozenset[ShareKey]
    registered: frozenset[str]
    health: dict[int, GpuHealth] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()
    allocatable: Any = FOLLOWS
    pods: str = "listed"
    decided_at: float = 0.0
    desired: Desired | None = None
    orphans: Mapping[str, Contract] = field(default_factory=dict)
    asked: Mapping[str, Contract] = field(default_factory=dict)
    mps: MpsStatus = field(default_factory=make.host)

    def observe(self, step: Mapping[str, Any]) -> Observed:
        """What the planner is given in this step."""
        self._change(step)
        now = float(step["at"])
        driver = make.inventory(
            *(
                make.gpu(index, health=self.health.get(index, GpuHealth.OK))
                for index in range(self.gpus)
                if index not in self.gone
            )
        )
        gone = {make.uuid_of(index) for index in self.gone}
        self.applied = Applied({uuid: replace(entry, unseen=uuid in gone) for uuid, entry in self.applied.gpus.items()})
        gpus = node_gpus(driver, self.applied)
        self.orphans = orphans(self.orphans, self.applied, driver)
        self.desired = None if self.config is None or self.config.suspend else resolve(self.config, gpus)
        assert self.desired is None or not check(self.desired, "config")
        follows = make.followed(self.applied)
        theirs = follows if self.allocatable == FOLLOWS else ids(self.allocatable)
        listing = make.look(float(step.get("listed_at", now)), self.held, theirs)
        pods = {
            "listed": make.listed(listing),
            "timeout": PodResourcesStatus(PodResourcesReason.TIMEOUT, "no answer", listing),
            "pending": PodResourcesStatus(),
        }[self.pods]
        return Observed(
            now=now,
            gpus=gpus,
            listed=frozenset(driver.by_uuid()),
            applied=self.applied,
            held=self.held,
            pods=pods,
            decided_at=self.decided_at,
            pressed=keys(step.get("pressed", {})),
            mentions={f"GPU-{share}": float(at) for share, at in step.get("mentioned", {}).items()},
            mps=self.mps,
            orphans=self.orphans,
            registered=self.registered,
            resend=frozenset(step.get("resend", ())),
            reconnect=frozenset(step.get("reconnect", ())),
            blind_since=now - float(step["blind_for"]) if "blind_for" in step else None,
        )

    def perform(self, made: Plan, now: float) -> None:
        """What the executor does."""
        self.applied = perform(self.applied, share_actions(made.actions), now)
        self.registered |= {one.resource for one in made.actions if isinstance(one, Register)}
        self.registered -= {one.resource for one in made.actions if isinstance(one, Retire)}
        self.asked = daemons(self.applied, self.orphans)

    def _change(self, step: Mapping[str, Any]) -> None:
        assert step.keys() <= KEYS, f"not understood: {step.keys() - KEYS}"
        if "config" in step:
            self.config, self.decided_at = config(step["config"]), float(step["at"])
        self.health |= dict.fromkeys(step.get("lost", ()), GpuHealth.LOST)
        self.gone |= frozenset(step.get("gone", ()))
        if step.get("healthy"):
            self.health = {}
        self.held = keys(step["held"]) if "held" in step else self.held
        self.allocatable = step.get("allocatable", self.allocatable)
        self.pods = step.get("pods", self.pods)
        self.decided_at = float(step.get("decided_at", self.decided_at))
        self.registered = frozenset(step.get("registered", self.registered))
        if "host" in step:
            reason, _, message = step["host"].partition(": ")
            self.mps = replace(self.mps, reason=MpsReason[reason.upper()], message=message)
        if "daemons" in step:
            told = (self._daemon(index, text) for index, text in step["daemons"].items())
            self.mps = replace(self.mps, daemons={one.uuid: one for one in told})

    def _daemon(self, index: int, text: str) -> MpsDaemon:
        said, _, message = text.partition(": ")
        uuid, state = make.uuid_of(index), DaemonState(said)
        known = self.mps.daemons.get(uuid)
        anew = uuid in self.asked and (known is None or state is DaemonState.STARTING)
        contract = self.asked[uuid] if known is None or anew else known.contract
        return make.daemon(index, contract, state, message)


def begin(case: Mapping[str, Any]) -> Story:
    """Where a story starts."""
    have = make.applied(*(applied(index, text) for index, text in case.get("applied", {}).items()))
    found = {make.uuid_of(index): under_mps(text) for index, text in case.get("orphans", {}).items()}
    return Story(
        orphans=found,
        asked=daemons(have, found),
        config=config(case.get("config")),
        gpus=case["gpus"],
        applied=have,
        held=keys(case.get("held", {})),
        registered=have.resources(),
    )


def config(spec: Mapping[str, Any] | None) -> SharingConfig | None:
    """A `spec`, through the agent's own reader."""
    if spec is None:
        return None
    kind = {"apiVersion": "nodeagent.io/v1alpha1", "kind": "SharingConfig", "metadata": {"name": "golden"}}
    loaded = load(Document("golden.yaml", json.dumps({**kind, "spec": spec}).encode()))
    assert not loaded.violations, "\n".join(map(str, loaded.violations))
    return loaded.config


def applied(index: int, text: str) -> AppliedGpu:
    """What is applied of one GPU, from words."""
    entry = make.entry(index)
    if text == "nothing":
        return entry
    said = iter(LIMITS.sub("", text).split())
    mode, resource = Mode(next(said)), next(said)
    shares = "0" if mode is Mode.EXCLUSIVE else next(said).removeprefix("none")
    entry = replace(entry, contract=Contract(resource, mode, limits(text)), numbers=words.numbers(shares))
    for word in said:
        if word == "fenced":
            fenced, _, since = next(said), next(said), float(next(said))
            entry = replace(entry, fences={**entry.fences, **dict.fromkeys(words.numbers(fenced), since)})
        else:
            assert word == "limit", f"not understood: {word}"
            entry = replace(entry, max_shares_per_container=int(next(said)))
    return entry


def limits(text: str) -> MpsLimits | None:
    """The limits in a text, as they are written."""
    found = LIMITS.search(text)
    return None if found is None else MpsLimits(*(int(number or 1) for number in found.groups()))


def under_mps(text: str) -> Contract:
    """`nvidia.com/gpu.mps (9216 MiB and 25 % each)`."""
    return Contract(text.split(maxsplit=1)[0], Mode.MPS, limits(text))


def ids(said: Mapping[str, list[Any]]) -> dict[str, frozenset[str]]:
    """Ids by resource, from ids without `GPU-`."""
    return {resource: frozenset(f"GPU-{share}" for share in shares) for resource, shares in said.items()}


def keys(said: Mapping[str, list[Any]]) -> frozenset[ShareKey]:
    """Shares by resource, from ids without `GPU-`."""
    return frozenset((resource, share) for resource, shares in ids(said).items() for share in shares)


def tell(case: Mapping[str, Any]) -> list[Plan]:
    """Go through a story; what every plan was."""
    story = begin(case)
    plans = []
    for number, step in enumerate(case["steps"], 1):
        view = story.observe(step)
        made = plan(story.desired, view)
        where = f"step {number}"
        assert (words.actions(made), words.waits(made)) == (step.get("actions", []), step.get("waits", [])), where
        story.perform(made, view.now)
        if "asks" in step:
            wanted = {make.uuid_of(index): under_mps(text) for index, text in step["asks"].items()}
            assert story.asked == wanted, where
        calm = {key: value for key, value in step.items() if key not in ("resend", "reconnect", "pressed", "lost")}
        again = plan(story.desired, story.observe(calm | {"listed_at": step.get("listed_at", step["at"])}))
        expected = {"actions": [], "waits": step.get("waits", [])} | step.get("again", {})
        assert (words.actions(again), words.waits(again)) == (expected["actions"], expected["waits"]), f"{where}, again"
        plans += [made, again]
    return plans


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_plan_is_the_one_that_is_written(file: Path) -> None:
    """Config, GPUs, applied, held and time give the plan in the file; performed, nothing of it is left to do."""
    case = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert case["rule"]
    assert tell(case) == tell(case)


def test_there_are_golden_cases() -> None:
    """The folder is found, and holds the cases that were asked for."""
    assert len(FILES) >= 20
