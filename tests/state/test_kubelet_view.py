"""Our lists and the kubelet's view of them: when they are compared, and what a difference leads to."""

from __future__ import annotations

from collections.abc import Mapping

from nodeagent.model.shares import Device, Listing
from nodeagent.state.kubelet_view import (
    COMPARE_SECONDS,
    OURS_FOR_SECONDS,
    SETTLE_SECONDS,
    Comparison,
    Published,
    View,
    compare,
    due_at,
    foreign,
    next_due,
    publish,
)
from tests.state import make

GPU = "nvidia.com/gpu"
LIVE = {GPU: Published(Listing(GPU, 1, (Device("a", True), Device("b", True), Device("c", False))), 100.0)}
SAME = frozenset({"a", "b"})


def look(at: float, theirs: frozenset[str] = SAME, before: Mapping[str, View] | None = None) -> Comparison:
    """A look that begins at this moment, compared."""
    return compare(before or {}, LIVE, make.look(at, (), {GPU: theirs}))


def test_a_change_is_compared_when_it_has_settled() -> None:
    """Not before two seconds have passed; a look begun earlier says nothing."""
    assert look(100.0 + SETTLE_SECONDS - 0.1).compared == frozenset()
    assert look(100.0 + SETTLE_SECONDS).compared == {GPU}


def test_what_is_unhealthy_is_not_expected_to_be_allocatable() -> None:
    """Only healthy ids are compared: those of ours that are missing, those of theirs that are too many."""
    assert not look(110).views[GPU].differed
    view = look(110, frozenset({"b", "c", "d"})).views[GPU]
    assert (view.differed, view.missing, view.surplus) == (1, 1, 2)


def test_an_equal_view_is_compared_seldom_a_different_one_soon() -> None:
    """Every 30 seconds, and again two seconds after a difference."""
    calm, odd = look(110).views[GPU], look(110, frozenset()).views[GPU]
    assert due_at(calm, LIVE[GPU]) == 110 + COMPARE_SECONDS
    assert due_at(odd, LIVE[GPU]) == 110 + SETTLE_SECONDS
    assert due_at(calm, Published(LIVE[GPU].listing, 115)) == 115 + SETTLE_SECONDS
    assert next_due({GPU: odd}, LIVE) == 112
    assert next_due({}, {}) is None


def test_one_difference_is_none() -> None:
    """It may be a change under way: it is drift when it is seen twice."""
    first = look(110, frozenset())
    assert not first.views[GPU].drifted
    assert not look(112, SAME, first.views).views[GPU].differed
    assert look(112, frozenset(), first.views).views[GPU].drifted


def test_a_list_that_was_sent_again_is_followed_by_a_registration() -> None:
    """Even where it has made the views equal, since Allocate may still go to somebody else; then all is well."""
    second = look(112, frozenset(), look(110, frozenset()).views)
    assert second.resend() == {GPU}
    third = look(114, SAME, second.views)
    assert third.reconnect() == {GPU}
    fourth = look(116, SAME, third.views)
    assert (fourth.resend(), fourth.reconnect()) == (frozenset(), frozenset())
    assert not fourth.views[GPU].drifted


def test_healing_begins_gently_and_is_no_war() -> None:
    """Send again; then register anew; then only now and then, for as long as it lasts."""
    views: Mapping[str, View] = {}
    healed = []
    for number in range(1, 25):
        found = look(110 + number * SETTLE_SECONDS, frozenset(), views)
        views = found.views
        healed.append("s" if found.resend() else "r" if found.reconnect() else "-")
    assert "".join(healed) == "-sr---------r---------r-"


def test_only_a_new_comparison_heals() -> None:
    """The same look, seen again in the next turn, is no reason to do it again."""
    views = look(112, frozenset(), look(110, frozenset()).views)
    assert views.resend() == {GPU}
    again = look(112, frozenset(), views.views)
    assert (again.resend(), again.reconnect()) == (frozenset(), frozenset())
    assert again.views == views.views


def test_resources_that_are_not_live_are_forgotten() -> None:
    """Without a stream the kubelet's view is empty, and that is no news."""
    views = look(110, frozenset()).views
    assert compare(views, {}, make.look(120)).views == {}
    assert compare(views, LIVE, None).views == views


def listing(revision: int, *ids: str) -> Listing:
    """A list of healthy devices."""
    return Listing(GPU, revision, tuple(Device(id_, healthy=True) for id_ in ids))


def test_ids_that_were_never_ours_are_another_plugins() -> None:
    """Seen twice they are told and end our stream at once: sending our list again would help for a moment only."""
    theirs = SAME | {"x", "y"}
    first = look(110, theirs)
    assert first.views[GPU].foreign == 2
    assert not foreign(first.views)
    assert not first.reconnect()
    second = look(112, theirs, first.views)
    assert foreign(second.views) == {GPU: 2}
    assert not second.resend()
    assert second.reconnect() == {GPU}
    assert foreign(look(114, SAME, second.views).views) == {}


def test_ids_of_ours_are_never_another_plugins() -> None:
    """Those that are missing, or that we send as Unhealthy, are drift and no proof."""
    for theirs in (frozenset(), frozenset({"a"}), SAME | {"c"}):
        second = look(112, theirs, look(110, theirs).views)
        assert not foreign(second.views)
        assert second.resend() == {GPU}


def test_ids_that_were_ours_a_moment_ago_are_ours() -> None:
    """A change of ours may be under way in the kubelet; after a while an id that has left the list is not ours."""
    before = publish(None, listing(1, "a", "b"), 100.0)
    after = publish(before, listing(2, "b", "c"), 110.0)
    assert (after.at, dict(after.left)) == (110.0, {"a": 110.0})
    assert publish(after, after.listing, 120.0) is after
    late = 110.0 + OURS_FOR_SECONDS
    found = [
        compare({}, {GPU: after}, make.look(at, (), {GPU: frozenset({"a", "b"})})).views[GPU].foreign
        for at in (late - 1, late)
    ]
    assert found == [0, 1]
    assert publish(after, listing(3, "a", "c"), 120.0).left == {"b": 120.0}
    assert publish(after, listing(3, "c"), late).left == {"b": late}


def test_a_look_from_before_our_stream_opened_says_nothing_of_our_list() -> None:
    """It shows whoever had the resource before us."""
    assert compare({}, LIVE, make.look(110, (), {GPU: frozenset({"x"})}), 109.0).compared == frozenset()
    first = compare({}, LIVE, make.look(110, (), {GPU: SAME}), 108.0)
    assert first.compared == {GPU}
    assert compare(first.views, LIVE, make.look(150, (), {GPU: SAME}), 150.0).views[GPU].since == 108.0
