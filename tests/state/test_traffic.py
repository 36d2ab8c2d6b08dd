"""When nothing is being allocated: what a `List` must not meet."""

from __future__ import annotations

from nodeagent.state.traffic import (
    ANSWER_SECONDS,
    CHOICE_SECONDS,
    LULL_SECONDS,
    Traffic,
    allocation,
    choice,
    lull_at,
    quiet_at,
)


def test_without_calls_it_is_quiet() -> None:
    """From the beginning."""
    assert quiet_at(Traffic()) == lull_at(Traffic()) == float("-inf")


def test_an_allocate_follows_a_choice() -> None:
    """For a second, unless it comes: then for as long as the kubelet may take to write it down."""
    chosen = choice(Traffic(), "a", 100.0)
    assert quiet_at(chosen) == lull_at(chosen) == 100.0 + CHOICE_SECONDS
    given = allocation(chosen, "a", 100.4)
    assert quiet_at(given) == 100.4 + ANSWER_SECONDS
    assert lull_at(given) == 100.4 + LULL_SECONDS


def test_an_allocate_of_another_resource_does_not_end_a_choice() -> None:
    """Every resource counts: the kubelet has one set for all."""
    both = allocation(choice(Traffic(), "a", 100.0), "b", 100.4)
    assert quiet_at(both) == lull_at(both) == 100.0 + CHOICE_SECONDS


def test_the_newest_choice_counts_and_old_ones_are_forgotten() -> None:
    """A choice that no Allocate has followed in time came to nothing: names of resources do not pile up."""
    traffic = choice(choice(Traffic(), "a", 100.0), "a", 100.7)
    assert quiet_at(traffic) == 100.7 + CHOICE_SECONDS
    assert choice(traffic, "b", 102.0).chosen == {"b": 102.0}
