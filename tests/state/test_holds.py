"""Who holds what: five witnesses, each of them wrong at times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.state.holds import (
    CGROUP_GRACE,
    GRANT_GRACE,
    GRANT_LATE,
    GRANT_SETTLED,
    UNLISTED_GRACE,
    grant,
    held,
    look_due,
    next_change,
    observe,
    unproven,
)
from tests.state import make

UUIDS = frozenset({"GPU-0", "GPU-1"})
SHARE = make.keys(make.SHARED, 0, 3)
(KEY,) = SHARE
ENTRY = make.in_checkpoint(*KEY)


def after(
    holds: Holds,
    at: float,
    listed: Iterable[ShareKey] = (),
    checkpoint: Iterable[CheckpointEntry] | None = (),
    kubelet: str = "kubelet-1",
) -> Holds:
    """A look at the kubelet, taken in as soon as it began."""
    return observe(holds, make.look(at, listed, checkpoint=checkpoint, kubelet=kubelet), UUIDS, at)


def test_what_list_shows_is_held_and_what_it_no_longer_shows_is_not() -> None:
    """`List` is believed in both directions, once a pod has been listed."""
    holds = after(Holds(), 10, SHARE, [ENTRY])
    assert held(holds, 10) == SHARE
    assert held(after(holds, 11, (), [ENTRY]), 11) == frozenset()


def test_devices_of_others_are_none_of_ours() -> None:
    """Ids that do not begin with the uuid of a GPU of this node are left out, whatever their resource."""
    foreign = {("example.com/nic", "nic-0"), ("nvidia.com/gpu", "GPU-9"), (make.SHARED, "GPU-0-3")}
    holds = after(Holds(), 10, foreign, [make.in_checkpoint("example.com/nic", "nic-0")])
    assert held(holds, 10) == frozenset()
    assert not holds.unlisted


@pytest.mark.parametrize(("age", "expected"), [(0.5, SHARE), (GRANT_GRACE - 0.1, SHARE), (GRANT_GRACE, frozenset())])
def test_a_grant_counts_until_a_later_look_does_not_show_it(age: float, expected: frozenset[ShareKey]) -> None:
    """What Allocate gave away is held until a `List` begun ten seconds later does not show it: that pod failed."""
    holds = grant(Holds(), SHARE, 100)
    assert held(holds, 100) == SHARE
    assert held(after(holds, 100 + age), 100 + age) == expected


def test_a_grant_needs_a_look_to_end() -> None:
    """Time alone ends no grant: without a look nobody knows better."""
    assert held(grant(Holds(), SHARE, 100), 100 + 10 * GRANT_GRACE) == SHARE


def test_a_look_that_took_long_ends_no_grant() -> None:
    """The time of a look is its beginning: what happened during it may not be in it."""
    holds = observe(grant(Holds(), SHARE, 100), make.look(100 + GRANT_GRACE - 0.1), UUIDS, 100 + 2 * GRANT_GRACE)
    assert held(holds, 100 + 2 * GRANT_GRACE) == SHARE


def test_a_listed_grant_is_over_when_its_pod_ends() -> None:
    """A grant that has reached its pod is `List`'s affair: the share is free at once when the pod ends."""
    holds = after(grant(Holds(), SHARE, 100), 100 + GRANT_SETTLED, SHARE)
    assert KEY not in holds.granted
    assert held(after(holds, 102), 102) == frozenset()


def test_a_list_right_after_the_grant_may_show_the_last_pod() -> None:
    """A `List` begun within a second of the grant does not end it: the share may have been the last pod's."""
    holds = after(grant(Holds(), SHARE, 100), 100 + GRANT_SETTLED / 2, SHARE)
    assert held(after(holds, 102), 102) == SHARE


def test_a_repeated_grant_counts_anew() -> None:
    """Allocate may repeat for the same pod: the newest time counts."""
    holds = grant(grant(Holds(), SHARE, 100), SHARE, 108)
    assert held(after(holds, 112), 112) == SHARE


def test_an_init_container_holds_by_the_checkpoint() -> None:
    """What only the checkpoint names is held, as an init container's may be; for an hour, as it may be nobody's."""
    holds = after(Holds(), 100, (), [ENTRY])
    assert held(holds, 100) == SHARE
    later = after(holds, 100 + UNLISTED_GRACE - 1, (), [ENTRY])
    assert held(later, 100 + UNLISTED_GRACE - 1) == SHARE
    over = after(later, 100 + UNLISTED_GRACE, (), [ENTRY])
    assert held(over, 100 + UNLISTED_GRACE) == frozenset()
    assert held(after(over, 200 + UNLISTED_GRACE, (), [ENTRY]), 200 + UNLISTED_GRACE) == frozenset()


def test_an_entry_that_leaves_the_checkpoint_is_over() -> None:
    """The kubelet forgot the pod: nobody has the share."""
    assert held(after(after(Holds(), 100, (), [ENTRY]), 101), 101) == frozenset()


def test_a_finished_pod_in_the_checkpoint_holds_nothing() -> None:
    """The checkpoint keeps finished pods: an entry that was listed once proves nothing any more."""
    holds = after(after(Holds(), 100, SHARE, [ENTRY]), 101, (), [ENTRY])
    assert held(holds, 101) == frozenset()


def test_the_next_pod_on_a_share_is_another_entry() -> None:
    """That one pod with the share has ended says nothing of the next one, though its init container is not listed."""
    holds = after(after(Holds(), 100, SHARE, [ENTRY]), 101, (), [ENTRY])
    next_pod = make.in_checkpoint(*KEY, pod="next")
    assert held(after(grant(holds, SHARE, 102), 113, (), [next_pod]), 113) == SHARE


def test_a_list_older_than_the_grant_does_not_speak_for_its_pod() -> None:
    """A look whose `List` shows the last pod and whose checkpoint names the next one has not listed the next one."""
    holds = after(Holds(), 100, SHARE, [ENTRY])
    next_pod = make.in_checkpoint(*KEY, pod="next", container="init")
    granted = grant(holds, SHARE, 110.2)
    holds = observe(granted, make.look(110.1, SHARE, checkpoint=[next_pod]), UUIDS, 110.4)
    assert held(after(holds, 130, (), [next_pod]), 130) == SHARE


def test_without_a_checkpoint_what_is_known_stays() -> None:
    """A checkpoint that cannot be read takes nothing away and adds nothing."""
    holds = after(Holds(), 100, (), [ENTRY])
    blind = after(holds, 101, (), None)
    assert held(blind, 101) == SHARE
    listed = after(blind, 102, SHARE, None)
    assert held(after(listed, 103, (), None), 103) == frozenset()
    assert held(after(listed, 103, (), [ENTRY]), 103) == frozenset()


def test_a_restarted_kubelet_that_lists_nothing_yet_takes_nothing_away() -> None:
    """What was held when the kubelet restarted stays held until it is listed again."""
    holds = after(after(Holds(), 100, SHARE, [ENTRY]), 101, (), [ENTRY], "kubelet-2")
    assert held(holds, 101) == SHARE
    holds = after(holds, 102, (), [ENTRY], "kubelet-3")
    assert held(holds, 102) == SHARE
    listed = after(holds, 103, SHARE, [ENTRY], "kubelet-3")
    assert held(after(listed, 104, (), [ENTRY], "kubelet-3"), 104) == frozenset()


def test_what_a_restarted_kubelet_has_dropped_from_its_checkpoint_is_free() -> None:
    """The pod ended while the kubelet was away, and an admission has swept it out."""
    holds = after(after(Holds(), 100, SHARE, [ENTRY]), 101, (), [], "kubelet-2")
    assert held(holds, 101) == frozenset()


def test_a_grant_survives_a_kubelet_restart_by_the_checkpoint() -> None:
    """What was granted shortly before the kubelet restarted is held as long as its checkpoint names it."""
    holds = grant(after(Holds(), 100), SHARE, 101)
    restarted = after(holds, 112, (), [ENTRY], "kubelet-2")
    assert held(restarted, 112) == SHARE
    assert held(after(holds, 112, (), [], "kubelet-2"), 112) == frozenset()


def test_an_agent_that_starts_has_seen_no_kubelet_restart() -> None:
    """The first kubelet ever seen is no restarted one: an agent's caution at its start is not carried on."""
    holds = grant(Holds(), SHARE, 100)
    assert held(after(holds, 100 + GRANT_GRACE, (), None), 111) == frozenset()


@pytest.mark.parametrize(
    ("now", "expected"), [(0.0, 1.0 + UNLISTED_GRACE), (1.0 + UNLISTED_GRACE, 2.0 + UNLISTED_GRACE), (9e9, None)]
)
def test_the_next_change_is_the_first_grace_to_end(now: float, expected: float | None) -> None:
    """Of the entries of the checkpoint that stop to count by time alone, the earliest that still counts is told."""
    later = replace(ENTRY, container="another")
    assert next_change(Holds(unlisted={ENTRY: 1.0, later: 2.0}), now) == expected


@pytest.mark.parametrize(
    ("looked_at", "expected"),
    [
        (0.0, 5.0 + GRANT_SETTLED),
        (5.0 + GRANT_SETTLED, 5.0 + GRANT_LATE),
        (5.0 + GRANT_LATE, 5.0 + GRANT_GRACE),
    ],
)
def test_a_grant_asks_for_a_look_as_soon_as_one_can_speak_for_it(looked_at: float, expected: float) -> None:
    """A look is due when one can show the pod, a little later if it did not, and when the grant is taken for failed."""
    assert look_due(Holds(granted={KEY: 5.0}), looked_at) == expected
    assert look_due(Holds(), looked_at) is None


LOOKS = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from(["none", "uid", "next", "unreadable"]), st.sampled_from([0.5, 5.0, 4000.0])
    ),
    max_size=12,
)


@given(LOOKS)
def test_the_checkpoint_only_ever_adds(looks: list[tuple[bool, str, float]]) -> None:
    """Whatever the looks show, more is held with the checkpoint than without one."""
    plain = rich = Holds()
    now = 0.0
    for shown, entry, seconds in looks:
        now += seconds
        listed = SHARE if shown else ()
        checkpoint = None if entry == "unreadable" else [] if entry == "none" else [make.in_checkpoint(*KEY, pod=entry)]
        plain, rich = after(plain, now, listed, []), after(rich, now, listed, checkpoint)
        assert held(plain, now) <= held(rich, now)
        assert frozenset(listed) <= held(plain, now)


# --- looks by Get ---------------------------------------------------------------------------------------------------


def by_get(
    holds: Holds,
    at: float,
    named: Iterable[ShareKey] = (),
    checkpoint: Iterable[CheckpointEntry] | None = (),
    cgroups: Iterable[str] | None = None,
) -> Holds:
    """A look by `Get`: of the pods that an earlier `List` has named, `named` have these shares."""
    listing = make.look(at, named, checkpoint=checkpoint, kubelet=holds.kubelet or "kubelet-1")
    seen = None if cgroups is None else frozenset(cgroups)
    return observe(holds, replace(listing, list_begun_at=0.0, cgroups=seen), UUIDS, at)


NEXT = make.in_checkpoint(*KEY, pod="next")


def test_a_named_pod_that_get_does_not_know_any_more_has_ended() -> None:
    """Though the checkpoint keeps it until the next admission."""
    holds = after(Holds(), 10, SHARE, [ENTRY])
    assert held(by_get(holds, 11, SHARE, [ENTRY]), 11) == SHARE
    assert held(by_get(holds, 11, (), [ENTRY]), 11) == frozenset()


def test_a_new_pod_holds_by_its_grant_and_then_by_its_entry() -> None:
    """`Get` cannot ask for it: nothing that it does not show is free for that, however long it takes."""
    holds = grant(after(Holds(), 10), SHARE, 20)
    for at in (20.5, 21.5, 30.0, 30.0 + 2 * UNLISTED_GRACE):
        holds = by_get(holds, at, (), [NEXT])
        assert held(holds, at) == SHARE
    assert not holds.granted
    assert held(by_get(holds, 9999, (), []), 9999) == frozenset()


def test_a_new_pod_on_the_share_of_one_that_has_ended_is_another() -> None:
    """The last pod's entry, which a `List` has shown, says nothing of the next; the next one's own does."""
    holds = by_get(after(Holds(), 10, SHARE, [ENTRY]), 11, (), [ENTRY])
    holds = by_get(grant(holds, SHARE, 12), 14, (), [ENTRY])
    assert held(holds, 14) == SHARE
    holds = by_get(holds, 15, (), [NEXT])
    assert (held(holds, 15), holds.granted) == (SHARE, {})


def test_a_grant_that_no_entry_follows_needs_a_list_to_end() -> None:
    """A pod whose containers ask for several resources is written down when it has them all: that may take long."""
    holds = by_get(grant(after(Holds(), 10), SHARE, 20), 20 + 2 * GRANT_GRACE)
    assert held(holds, 100) == SHARE
    assert look_due(holds, 20 + 2 * GRANT_GRACE) is None
    assert held(after(holds, 101), 101) == frozenset()


def test_a_grant_is_held_while_the_checkpoint_cannot_be_read() -> None:
    """There is no other witness of a pod without a name, until the next `List`."""
    holds = by_get(grant(after(Holds(), 10), SHARE, 20), 60, (), None)
    assert held(holds, 60) == SHARE


def test_a_list_names_what_the_checkpoint_had() -> None:
    """Then `Get` knows whom to ask for, and the entry proves nothing any more."""
    holds = by_get(grant(after(Holds(), 10), SHARE, 20), 22, (), [NEXT])
    holds = after(holds, 23, SHARE, [NEXT])
    assert not holds.unnamed
    assert holds.ended == {NEXT}
    assert held(by_get(holds, 24, (), [NEXT]), 24) == frozenset()


def test_a_list_right_after_an_entry_was_written_does_not_speak_for_it() -> None:
    """It was perhaps answered before: the next one will show the pod."""
    holds = after(by_get(after(Holds(), 10), 20, (), [NEXT]), 20 + GRANT_SETTLED / 2, (), [NEXT])
    assert NEXT in holds.unnamed
    assert NEXT in after(holds, 22, (), [NEXT]).unlisted


def test_two_pods_on_one_share_are_two_holders() -> None:
    """Where the kubelet has handed it out twice, the end of the one that has a name is not that of the other."""
    holds = grant(after(Holds(), 10, SHARE, [ENTRY]), SHARE, 20)
    holds = by_get(holds, 22, SHARE, [ENTRY, NEXT])
    assert held(by_get(holds, 23, (), [ENTRY, NEXT]), 23) == SHARE


LIVES = st.lists(
    st.tuples(
        st.sampled_from(["admit", "begin", "end", "list", "get", "other", "wait", "blind", "dark", "light", "restart"]),
        st.sampled_from([0.1, 1.1, 11.0]),
    ),
    max_size=40,
)


@given(LIVES, st.booleans())
def test_a_share_is_never_taken_for_free_while_a_pod_has_it(lives: list[tuple[str, float]], init: bool) -> None:
    """Whatever comes when: admissions, pods that get their cgroup and end, looks of either kind, with the pods' cgroups
    to be seen or not, restarts of the kubelet. `init`: pods that `List` does not show.
    """
    now, count, named, running = 0.0, 0, False, False
    begun, admitted, seen, kubelet = False, 0.0, True, 1
    entries: list[CheckpointEntry] = []
    holds = after(Holds(), now)
    for what, seconds in lives:
        now += seconds
        cgroups = frozenset({f"pod-{count}"} if begun else set()) if seen else None
        if what == "admit" and not running:
            count, running, named, begun, admitted = count + 1, True, False, False, now
            entries = [make.in_checkpoint(*KEY, pod=f"pod-{count}")]
            holds = grant(holds, SHARE, now)
        elif what == "begin":
            begun = running
        elif what == "end":
            running = begun = False
        elif what in {"dark", "light"}:
            seen = what == "light"
        elif what == "restart":
            kubelet, named = kubelet + 1, False
        elif what == "other":
            entries = entries if running else []
        elif what == "list":
            named = running and not init
            look = make.look(now, SHARE if named else (), checkpoint=entries, kubelet=f"kubelet-{kubelet}")
            holds = observe(holds, replace(look, cgroups=cgroups), UUIDS, now)
        elif what in {"get", "blind"} and holds.kubelet == f"kubelet-{kubelet}":
            books = None if what == "blind" else entries
            holds = by_get(holds, now, SHARE if named and running else (), books, cgroups)
        waits_for_the_network = not begun and now >= admitted + CGROUP_GRACE
        assert not running or waits_for_the_network or held(holds, now) == SHARE


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_checkpoint_a_look_by_get_speaks_for_the_pods_that_it_has_asked_for(asked: bool) -> None:
    """What it repeats of others may be of the share's last pod, which has ended: nothing would show the next one."""
    holds = grant(after(Holds(), 10, SHARE, None), SHARE, 100)
    shown = make.look(102, SHARE, checkpoint=None)
    names = frozenset(holder.name for holder in shown.holders) if asked else frozenset()
    holds = observe(holds, replace(shown, list_begun_at=10.0, asked=names), UUIDS, 102)
    assert (KEY in holds.granted) is not asked
    gone = replace(make.look(130, (), checkpoint=None), list_begun_at=10.0, asked=names)
    assert held(observe(holds, gone, UUIDS, 130), 130) == (frozenset() if asked else SHARE)


# --- cgroups of pods ------------------------------------------------------------------------------------------------


def by_list(
    holds: Holds,
    at: float,
    listed: Iterable[ShareKey] = (),
    checkpoint: Iterable[CheckpointEntry] = (),
    cgroups: Iterable[str] | None = (),
    kubelet: str = "kubelet-1",
) -> Holds:
    """A look by `List`, with the pods that have a cgroup; None: they cannot be seen."""
    listing = make.look(at, listed, checkpoint=checkpoint, kubelet=kubelet)
    return observe(holds, replace(listing, cgroups=None if cgroups is None else frozenset(cgroups)), UUIDS, at)


ALIVE = [ENTRY.pod_uid]


def test_a_pod_whose_cgroup_has_gone_has_ended_whoever_shows_it() -> None:
    """`Get` goes on showing one that has finished and is not deleted, and the checkpoint keeps it. It stays ended when
    the cgroups cannot be seen any more.
    """
    holds = by_list(Holds(), 10, SHARE, [ENTRY], ALIVE)
    holds = by_get(holds, 11, SHARE, [ENTRY], ALIVE)
    assert held(holds, 11) == SHARE
    holds = by_get(holds, 12, SHARE, [ENTRY], [])
    assert held(holds, 12) == frozenset()
    assert held(by_get(holds, 13, SHARE, [ENTRY], None), 13) == frozenset()


def test_a_pod_without_a_name_has_ended_with_its_cgroup() -> None:
    """No `List` is needed, and no other admission."""
    holds = by_get(grant(by_list(Holds(), 10), SHARE, 20), 21, (), [ENTRY], ALIVE)
    assert held(holds, 21) == SHARE
    assert held(by_get(holds, 22, (), [ENTRY], []), 22) == frozenset()


def test_a_pod_that_has_no_cgroup_yet_has_not_ended() -> None:
    """The kubelet makes it when it gets to the pod: that is not a matter of seconds where the network is not ready."""
    holds = by_list(by_get(grant(by_list(Holds(), 10), SHARE, 20), 21, (), [ENTRY], []), 23, (), [ENTRY], [])
    assert ENTRY in holds.unlisted
    assert held(holds, 23) == SHARE
    holds = by_list(holds, 21 + CGROUP_GRACE - 1, (), [ENTRY], [])
    assert held(holds, 21 + CGROUP_GRACE - 1) == SHARE
    assert held(by_list(holds, 21 + CGROUP_GRACE, (), [ENTRY], []), 21 + CGROUP_GRACE) == frozenset()


def test_a_pod_with_a_name_is_held_without_a_cgroup_that_was_ever_seen() -> None:
    """A kubelet that makes none, or an agent that does not see them: `List` and `Get` are believed as they are."""
    late = 10 + 2 * CGROUP_GRACE
    holds = by_list(Holds(), 10, SHARE, [ENTRY], [])
    assert held(by_get(holds, late, SHARE, [ENTRY], []), late) == SHARE


def test_an_init_container_holds_as_long_as_its_pod_has_a_cgroup() -> None:
    """However long that is: `List` never shows it."""
    late = 20 + 2 * UNLISTED_GRACE
    holds = by_get(grant(by_list(Holds(), 10), SHARE, 20), 21, (), [ENTRY], ALIVE)
    holds = by_list(by_list(holds, 23, (), [ENTRY], ALIVE), late, (), [ENTRY], ALIVE)
    assert held(holds, late) == SHARE
    assert held(by_get(holds, late + 1, (), [ENTRY], []), late + 1) == frozenset()


def test_what_counts_for_an_hour_does_so_where_no_cgroup_can_be_seen() -> None:
    """As for all that nobody proves or disproves."""
    holds = by_list(by_list(Holds(), 10, (), [ENTRY], None), 12, (), [ENTRY], None)
    assert held(holds, 10 + UNLISTED_GRACE - 1) == SHARE
    assert held(holds, 10 + UNLISTED_GRACE) == frozenset()


def test_a_follower_on_the_share_is_held_though_the_cgroup_of_the_last_pod_has_gone() -> None:
    """Each pod is known by its own UID."""
    holds = by_list(Holds(), 10, SHARE, [ENTRY], ALIVE)
    holds = by_get(grant(holds, SHARE, 11), 11.05, SHARE, [ENTRY], [])
    assert held(holds, 11.05) == SHARE
    holds = by_get(holds, 12, SHARE, [NEXT], [NEXT.pod_uid])
    assert held(holds, 12) == SHARE
    assert held(by_get(holds, 13, (), [NEXT], []), 13) == frozenset()


def test_one_of_two_pods_on_a_share_holds_it_by_its_cgroup() -> None:
    """Where the kubelet has handed it out twice."""
    holds = by_list(Holds(), 10, SHARE, [ENTRY, NEXT], [ENTRY.pod_uid, NEXT.pod_uid])
    assert held(by_get(holds, 11, SHARE, [ENTRY, NEXT], ALIVE), 11) == SHARE


def test_a_pod_that_begins_anew_under_its_uid_holds_again() -> None:
    """As a static pod does, whose UID is made of its manifest."""
    holds = by_get(by_list(Holds(), 10, (), [ENTRY], ALIVE), 11, (), [ENTRY], [])
    assert held(holds, 11) == frozenset()
    assert held(by_get(holds, 12, (), [ENTRY], ALIVE), 12) == SHARE


def test_a_pod_that_begins_late_is_held_when_it_has_begun() -> None:
    """Its network was not ready for long; or an agent that has just started never saw it before."""
    late = 21 + CGROUP_GRACE
    holds = by_list(by_get(grant(by_list(Holds(), 10), SHARE, 20), 21, (), [ENTRY], []), 23, (), [ENTRY], [])
    holds = by_list(holds, late, (), [ENTRY], [])
    assert held(holds, late) == frozenset()
    assert held(by_get(holds, late + 1, (), [ENTRY], ALIVE), late + 1) == SHARE
    restarted = Holds(kubelet="kubelet-1", ended=frozenset({ENTRY}))
    assert held(by_get(restarted, 30, (), [ENTRY], ALIVE), 30) == SHARE


def test_a_static_pod_that_begins_anew_is_held_before_it_has_a_cgroup() -> None:
    """By what `List` shows: its end of before says nothing of it."""
    holds = by_get(by_list(Holds(), 10, SHARE, [ENTRY], ALIVE), 11, SHARE, [ENTRY], [])
    assert held(holds, 11) == frozenset()
    holds = by_list(grant(holds, SHARE, 12), 30, SHARE, [ENTRY], [])
    assert not holds.granted
    assert held(holds, 30) == SHARE


def test_the_entry_of_the_pod_before_ends_no_grant() -> None:
    """It may be gone with its own pod before the next one is written down."""
    holds = by_get(by_list(Holds(), 1, (), [], []), 2, (), [ENTRY], ALIVE)
    holds = by_get(grant(holds, SHARE, 2.1), 2.3, (), [ENTRY], ALIVE)
    assert held(by_get(holds, 2.6, (), [ENTRY], []), 2.6) == SHARE


@pytest.mark.parametrize("blind", ["cgroups", "checkpoint"])
def test_where_cgroups_are_not_seen_any_more_the_hour_begins(blind: str) -> None:
    """What was held by them for long is not free in the moment in which they cannot be seen; nor held for ever."""
    late = 20 + 2 * UNLISTED_GRACE
    holds = by_get(grant(by_list(Holds(), 10), SHARE, 20), 21, (), [ENTRY], ALIVE)
    holds = by_list(by_list(holds, 23, (), [ENTRY], ALIVE), late, (), [ENTRY], ALIVE)
    holds = by_get(holds, late + 1, (), [ENTRY] if blind == "cgroups" else None, None)
    assert held(holds, late + UNLISTED_GRACE) == SHARE
    assert held(holds, late + 1 + UNLISTED_GRACE) == frozenset()
    assert held(by_get(holds, late + 2, (), [ENTRY], ALIVE), late + 2 * UNLISTED_GRACE) == SHARE


# --- what was held when the kubelet restarted -----------------------------------------------------------------------


def restarted(cgroups: Iterable[str] | None) -> Holds:
    """A share was held when the kubelet was restarted at 20, which names nobody, and keeps its checkpoint."""
    return by_list(by_list(Holds(), 10, SHARE, [ENTRY], cgroups), 20, (), [ENTRY], cgroups, "kubelet-2")


def test_what_was_carried_over_a_kubelet_restart_ends_with_the_pods_cgroup() -> None:
    """At once, though the kubelet does not say so; and it is held as long as the cgroup is there."""
    holds = restarted(ALIVE)
    assert unproven(holds, 20) == {KEY: 20}
    late = 20 + 2 * UNLISTED_GRACE
    holds = by_list(holds, late, (), [ENTRY], ALIVE, "kubelet-2")
    assert held(holds, late) == SHARE
    assert held(by_list(holds, late + 1, (), [ENTRY], [], "kubelet-2"), late + 1) == frozenset()


def test_what_was_carried_over_a_kubelet_restart_expires() -> None:
    """After an hour where nobody says more; sooner where its pod has no cgroup, and others have."""
    holds = restarted(None)
    assert held(holds, 20 + UNLISTED_GRACE - 1) == SHARE
    assert held(holds, 20 + UNLISTED_GRACE) == frozenset()
    assert next_change(holds, 21) == 20 + UNLISTED_GRACE
    for at, expected in ((20 + CGROUP_GRACE - 1, SHARE), (20 + CGROUP_GRACE, frozenset())):
        assert held(by_list(holds, at, (), [ENTRY], [], "kubelet-2"), at) == expected


def test_a_second_restart_of_the_kubelet_does_not_make_it_young() -> None:
    """It counts from the first one on."""
    holds = by_list(restarted(None), 1000, (), [ENTRY], None, "kubelet-3")
    assert held(holds, 20 + UNLISTED_GRACE - 1) == SHARE
    assert KEY not in holds.carried or holds.carried[KEY] == 20
    assert held(holds, 20 + UNLISTED_GRACE) == frozenset()


def test_what_is_listed_again_is_carried_no_more() -> None:
    """It is proven, and not bound to a time."""
    holds = by_list(restarted(None), 30, SHARE, [ENTRY], None, "kubelet-2")
    assert unproven(holds, 30) == {}
    assert held(holds, 30 + 2 * UNLISTED_GRACE) == SHARE
