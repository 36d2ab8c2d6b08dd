"""The page of concepts keeps up with the program: what `status` can say is explained there."""

from __future__ import annotations

import re

from nodeagent.model.config import Mode
from nodeagent.model.inventory import InventoryReason
from nodeagent.model.kubelet import PodResourcesReason
from nodeagent.model.mps import MpsReason
from nodeagent.model.plan import WaitReason
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.status import Reason
from tests.conftest import ROOT
from tests.report.builders import conditions

PAGE = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?:`(?P<type>\w+)`)? ?\| `(?P<reason>\w+)` \| .+ \|$", PAGE, re.MULTILINE)


def test_every_reason_is_explained() -> None:
    """Each reason that a condition can have is in the tables, and none that no condition has."""
    assert {reason for _, reason in ROWS} == {str(reason) for reason in Reason}
    kinds = (InventoryReason, PodResourcesReason, MpsReason)
    others = {str(reason.value) for kind in kinds for reason in kind if reason is not MpsReason.RUNNING}
    assert others <= set(Reason)


def test_every_condition_is_explained() -> None:
    """Each condition of the status has its rows, in the order in which the status gives them."""
    assert [type_ for type_, _ in ROWS if type_] == [condition.type for condition in conditions()]


def test_every_wait_is_explained() -> None:
    """What a plan can wait for has a row each, in the order of the program."""
    table = PAGE.partition("## What a plan waits for")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \| .+ \|$", table, re.MULTILINE) == [reason.value for reason in WaitReason]


def test_modes_and_classes_have_their_words() -> None:
    """Each mode, and each class of change, is named as the program names it."""
    for member in (*Mode, *ChangeClass):
        assert f"`{member.value}`" in PAGE
