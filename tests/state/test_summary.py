"""What a document does to the node, in one line."""

from __future__ import annotations

import pytest

from nodeagent.model.config import Contract, Mode, Rule
from nodeagent.model.shares import AppliedGpu
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.summary import Change, change
from tests.state import make

GPUS = [make.gpu(index) for index in range(3)]
HAVE = make.applied(*(make.entry(index, make.SLICED, range(4)) for index in range(3)))
X4 = "time-sliced nvidia.com/gpu.shared x4"


@pytest.mark.parametrize(
    ("rules", "held", "expected"),
    [
        ([make.sliced(4)], (0, 1), Change(ChangeClass.NONE, "nothing changes")),
        (
            [make.sliced(6)],
            (0, 1, 2, 3),
            Change(ChangeClass.LIVE, f"GPUs 0-2: {X4} -> time-sliced nvidia.com/gpu.shared x6"),
        ),
        (
            [make.sliced(2, 0, 2), make.whole(1)],
            (3,),
            Change(
                ChangeClass.LIVE,
                f"GPUs 0, 2: {X4} -> time-sliced nvidia.com/gpu.shared x2; GPU 1: {X4} -> exclusive nvidia.com/gpu",
            ),
        ),
        (
            [make.withheld(0), make.sliced(4)],
            (0, 3),
            Change(ChangeClass.DRAINED, f"GPU 0: {X4} -> withheld; held shares drain: 2 on GPU 0", 2),
        ),
        (
            [make.sliced(1, 0), make.sliced(4)],
            (1, 3),
            Change(
                ChangeClass.DRAINED,
                f"GPU 0: {X4} -> time-sliced nvidia.com/gpu.shared; held shares drain: 1 on GPU 0",
                1,
            ),
        ),
    ],
    ids=["nothing", "more", "fewer and another mode", "withheld while held", "fewer than are held"],
)
def test_a_change_has_a_class_and_words(rules: list[Rule], held: tuple[int, ...], expected: Change) -> None:
    """GPUs that change alike are named together; what must drain first is counted."""
    moment = make.seen(HAVE, held=make.keys(make.SHARED, 0, *held))
    assert change(make.wanted(GPUS, *rules), moment) == expected


def test_new_gpus_are_part_of_the_change() -> None:
    """A fresh node: from nothing to what is wanted."""
    assert change(make.wanted(GPUS, make.sliced(4)), make.seen(make.applied(), gpus=tuple(GPUS))) == Change(
        ChangeClass.LIVE, f"GPUs 0-2: nothing -> {X4}"
    )


def test_gpus_with_mig_are_told_with_their_mig_devices() -> None:
    """What was a whole GPU becomes MIG devices; those that are gone are not wanted of anybody."""
    gpus = [make.with_mig(0), *(make.mig(0, instance) for instance in (7, 8, 9))]
    before = make.applied(
        AppliedGpu(make.with_mig(0), make.WHOLE, frozenset({0})),
        AppliedGpu(make.mig(0, 1, "3g.40gb"), Contract("nvidia.com/mig-3g.40gb", Mode.EXCLUSIVE), frozenset({0})),
    )
    assert change(make.wanted(gpus), make.seen(before, gpus=tuple(gpus))) == Change(
        ChangeClass.LIVE,
        "GPU 0: exclusive nvidia.com/gpu -> used through MIG devices;"
        " MIG device 0:1: exclusive nvidia.com/mig-3g.40gb -> gone;"
        " MIG devices 0:7-9: nothing -> exclusive nvidia.com/mig-1g.10gb",
    )


def test_without_a_desired_state_nothing_changes() -> None:
    """Suspended."""
    assert change(None, make.seen(HAVE)).kind is ChangeClass.NONE


def test_a_change_can_be_told_of_some_gpus_only() -> None:
    """What others are to become has been told before."""
    view = make.seen(HAVE)
    desired = make.wanted([*GPUS, make.gpu(3)], make.whole(0), make.sliced(4))
    assert change(desired, view, {"GPU-0"}).text == f"GPU 0: {X4} -> exclusive nvidia.com/gpu"
    assert change(desired, view, {"GPU-3"}).text == f"GPU 3: nothing -> {X4}"
    assert change(desired, view, {"GPU-1"}).kind is ChangeClass.NONE
    assert change(desired, view, frozenset()).kind is ChangeClass.NONE
