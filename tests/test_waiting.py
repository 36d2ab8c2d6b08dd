"""Waiting waits as long as it must and no longer, and says what it waited for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.waiting import NotInTimeError, eventually, eventually_sync


def true_at_the(nth: int) -> Callable[[], int]:
    """Make a check that gives its number of calls from the `nth` on, and nothing before."""
    calls = 0

    def check() -> int:
        nonlocal calls
        calls += 1
        assert calls != 1, "a failed assertion is not yet"
        return calls if calls >= nth else 0

    return check


async def test_a_check_is_called_until_it_gives_something_true() -> None:
    """What the check gives at last is handed back; a failed assertion on the way is no failure."""
    assert await eventually(true_at_the(3), every=0.001) == 3
    assert eventually_sync(true_at_the(3), every=0.001) == 3


async def test_a_check_may_be_asynchronous() -> None:
    """An async check is awaited each time."""
    plain = true_at_the(3)

    async def check() -> int:
        return plain()

    assert await eventually(check, every=0.001) == 3


async def test_a_deadline_tells_what_the_check_gave_last() -> None:
    """Whoever reads the failure sees which condition it was and how far it came."""

    def never_there() -> list[int]:
        return []

    with pytest.raises(NotInTimeError, match=r"never_there was not true within 0.01 s; last: \[\]"):
        await eventually(never_there, within=0.01, every=0.001)
    with pytest.raises(NotInTimeError, match="never_there"):
        eventually_sync(never_there, within=0.01, every=0.001)


def test_a_deadline_keeps_the_last_failed_assertion() -> None:
    """The assertion that failed last is the cause."""

    def wrong() -> bool:
        raise AssertionError("two is not three")

    with pytest.raises(NotInTimeError) as caught:
        eventually_sync(wrong, within=0.0)
    assert str(caught.value.__cause__) == "two is not three"
