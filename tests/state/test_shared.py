"""Shares that two pods have: seen twice, a second apart, and not by mistake."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import CheckpointEntry, PodListing, SharedTwice
from nodeagent.state.shared import APART, Sightings, by_checkpoint, shared_twice, sight
from tests.state import make

UUIDS = frozenset({"GPU-0"})
(KEY,) = make.keys(make.SHARED, 0, 3)
OLD, NEW = make.in_checkpoint(*KEY, pod="old"), make.in_checkpoint(*KEY, pod="new")
BOTH = (OLD, NEW)
TWICE = SharedTwice(*KEY, (("default", "new"), ("default", "old")))


def look(at: float, *pods: str, key: ShareKey = KEY, checkpoint: Sequence[CheckpointEntry] | None = BOTH) -> PodListing:
    """A look that shows the share with these pods."""
    holders = tuple(make.holder(*key, pod=pod) for pod in pods)
    return PodListing(at, "kubelet-1", holders, checkpoint=None if checkpoint is None else frozenset(checkpoint))


def after(*looks: PodListing) -> tuple[SharedTwice, ...]:
    """What is known after these looks."""
    found: Sightings = {}
    for one in looks:
        found = sight(found, one, UUIDS)
    return shared_twice(found, looks[-1].begun_at)


def test_two_pods_in_two_looks_a_second_apart_share_it() -> None:
    """One look is not enough: an end and an admission may both fall into it."""
    assert after(look(100, "old", "new")) == ()
    assert after(look(100, "old", "new"), look(100.5, "old", "new")) == ()
    assert after(look(100, "old", "new"), look(100 + APART, "old", "new")) == (TWICE,)
    assert str(TWICE) == f"{KEY[1]} ({KEY[0]}): default/new and default/old"


def test_it_is_over_when_one_of_them_has_ended() -> None:
    """And begins anew with another pair."""
    first = (look(100, "old", "new"), look(102, "old", "new"))
    assert after(*first, look(103, "new")) == ()
    assert after(*first, look(103, "new"), look(104, "old", "new")) == ()
    assert after(*first, look(103, "new", "third")) == ()


@pytest.mark.parametrize("checkpoint", [(NEW,), ()])
def test_a_pod_that_the_checkpoint_has_no_more_has_ended(checkpoint: Sequence[CheckpointEntry]) -> None:
    """Kubelets before 1.34 list finished pods; their entries are gone when another pod is given the share."""
    looks = [look(at, "old", "new", checkpoint=checkpoint) for at in (100, 102)]
    assert after(*looks) == ()


def test_without_a_checkpoint_the_looks_alone_count() -> None:
    """It says of nobody that he has ended."""
    assert after(*(look(at, "old", "new", checkpoint=None) for at in (100, 102))) == (TWICE,)


def test_containers_of_one_pod_may_have_one_share() -> None:
    """An init container and the one after it have the same id: one pod."""
    entries = [make.in_checkpoint(*KEY, container=name) for name in ("init", "main")]
    assert after(*(look(at, "pod", "pod", checkpoint=entries) for at in (100, 102))) == ()


def test_shares_of_others_are_none_of_ours() -> None:
    """What another plugin's pods have is its affair."""
    foreign = ("example.com/nic", "nic-0")
    entries = [make.in_checkpoint(*foreign, pod=pod) for pod in ("old", "new")]
    assert after(*(look(at, "old", "new", key=foreign, checkpoint=entries) for at in (100, 102))) == ()


def test_the_checkpoint_alone_shows_two_pods() -> None:
    """By their UIDs, whatever their names are."""
    assert by_checkpoint(look(100, checkpoint=BOTH)) == {KEY}
    assert by_checkpoint(look(100, checkpoint=[OLD])) == frozenset()
    assert by_checkpoint(look(100, checkpoint=None)) == by_checkpoint(None) == frozenset()
