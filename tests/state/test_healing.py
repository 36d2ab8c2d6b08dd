"""Drift between our list and the kubelet's view of it: seen twice, then healed in two steps."""

from __future__ import annotations

from nodeagent.model.kubelet import PodListing
from nodeagent.model.shares import Device, Listing
from nodeagent.state.kubelet_view import SETTLE_SECONDS, Comparison, Published, View, compare

RESOURCE = "nvidia.com/gpu"
OURS = ("a", "b", "c")
PUBLISHED = {RESOURCE: Published(Listing(RESOURCE, 1, tuple(Device(id_, healthy=True) for id_ in OURS)), 100.0)}


def looks(*theirs: tuple[str, ...]) -> list[Comparison]:
    """What comes of looks at the kubelet, each in time to be compared."""
    found: list[Comparison] = []
    views: dict[str, View] = {}
    for number, ids in enumerate(theirs, 1):
        look = PodListing(100.0 + number * SETTLE_SECONDS, "kubelet", allocatable={RESOURCE: frozenset(ids)})
        found.append(compare(views, PUBLISHED, look))
        views = dict(found[-1].views)
    return found


def steps(comparisons: list[Comparison]) -> list[str]:
    """What each look calls for."""
    return [
        "resend" if comparison.resend() else "reconnect" if comparison.reconnect() else "" for comparison in comparisons
    ]


def test_one_difference_is_no_drift() -> None:
    """A difference that is gone at the next look calls for nothing."""
    comparisons = looks(("a",), OURS, OURS)

    assert steps(comparisons) == ["", "", ""]
    assert not any(comparison.views[RESOURCE].drifted for comparison in comparisons)


def test_drift_is_healed_by_the_list_and_then_by_registering() -> None:
    """A difference seen twice has the list sent again; the look after that has us register anew."""
    comparisons = looks(("a",), ("a",), ("a",), OURS)

    assert steps(comparisons) == ["", "resend", "reconnect", ""]
    assert [comparison.views[RESOURCE].drifted for comparison in comparisons] == [False, True, True, False]


def test_a_view_that_the_list_made_equal_is_not_trusted() -> None:
    """Where sending the list again was enough to make the views equal, we register all the same: the kubelet still asks
    whoever registered after us. Until then it is drift.
    """
    comparisons = looks((), (), OURS, OURS, OURS)

    assert steps(comparisons) == ["", "resend", "reconnect", "", ""]
    assert [comparison.views[RESOURCE].drifted for comparison in comparisons] == [False, True, True, False, False]
    assert comparisons[2].views[RESOURCE].missing == len(OURS)


def test_a_war_is_not_waged() -> None:
    """While the views go on differing, we register anew only at every tenth look."""
    assert steps(looks(*[("x",)] * 24)).count("reconnect") == 3
