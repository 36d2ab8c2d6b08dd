"""The lists that the kubelet gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import Device, ShareIds
from nodeagent.state.lists import fenced, fenced_shares, lists
from tests.state import make

HAVE = make.applied(
    make.entry(1, make.SLICED, {10, 2}, {10: 5.0}), make.entry(0, make.SLICED, {0}), make.entry(2, make.WHOLE, {0})
)


def test_a_list_is_ordered_and_says_who_is_healthy() -> None:
    """By GPU index, then by number; fenced shares are Unhealthy."""
    found = lists(HAVE, (), {})
    assert found[make.SHARED].devices == (
        Device("GPU-0::0", True),
        Device("GPU-1::2", True),
        Device("GPU-1::10", False),
    )
    assert found["nvidia.com/gpu"].devices == (Device("GPU-2", True),)


def test_a_fault_makes_every_share_of_a_gpu_unhealthy() -> None:
    """And takes none off the list."""
    found = lists(make.applied(make.entry(0, make.SLICED, range(2), health=GpuHealth.LOST)), (), {})
    assert found[make.SHARED].devices == (Device("GPU-0::0", False), Device("GPU-0::1", False))


def test_a_fault_of_a_daemon_makes_every_share_of_its_gpu_unhealthy() -> None:
    """Those of other GPUs under the same resource stay as they are."""
    ill = make.entry(0, make.QUARTER, range(2), fault="its MPS daemon is not ready: it has ended")
    found = lists(make.applied(ill, make.entry(1, make.QUARTER, range(2), {1: 5.0})), (), {})
    assert found[make.MPS].devices == (
        Device("GPU-0::0", False),
        Device("GPU-0::1", False),
        Device("GPU-1::0", True),
        Device("GPU-1::1", False),
    )


def test_a_resource_without_shares_has_an_empty_list() -> None:
    """It stays registered, at zero."""
    assert lists(make.applied(make.entry(0)), ["nvidia.com/gpu"], {})["nvidia.com/gpu"].devices == ()
    assert lists(make.applied(make.entry(0, make.QUARTER)), (), {})[make.MPS].devices == ()


def test_the_revision_grows_with_every_change_and_with_nothing_else() -> None:
    """A list that says the same is the very same, so that nothing is sent."""
    first = lists(HAVE, (), {})
    second = lists(HAVE, (), first)
    assert all(second[name] is listing for name, listing in first.items())
    changed = lists(make.applied(make.entry(0, make.SLICED, {0}), make.entry(2, make.WHOLE, {0})), (), second)
    assert changed[make.SHARED].revision == first[make.SHARED].revision + 1
    assert changed["nvidia.com/gpu"] is first["nvidia.com/gpu"]


def test_the_fenced_shares_can_be_told() -> None:
    """By their ids."""
    assert set(fenced(HAVE)) == {"GPU-1::10"}
    assert fenced_shares(HAVE) == make.keys(make.SHARED, 1, 10)


@given(
    st.dictionaries(st.integers(0, 2), st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))),
    st.integers(0, 2),
)
def test_ids_that_are_not_in_memory_are_a_set_of_them(
    numbers: dict[int, tuple[set[int], set[int]]], whole: int
) -> None:
    """As if each had been made: what is in it, how many, in whichever of several sets, of a whole GPU or of shares."""
    entries = {index: make.entry(index, make.WHOLE if index == whole else make.SLICED, ()) for index in range(3)}
    if whole in numbers:
        numbers[whole] = (numbers[whole][0] & {0}, numbers[whole][1] & {0})
    gpus = {one.gpu.uuid: one for one in entries.values()}
    found = ShareIds(gpus, {entries[index].gpu.uuid: sets for index, sets in numbers.items()})
    made = {share for index, sets in numbers.items() for share in entries[index].ids(sets[0] | sets[1])}
    assert (len(found), bool(found), set(found)) == (len(made), bool(made), made)
    numbered = {f"{uuid}::{number}" for uuid in gpus for number in ("", *range(11), "x", "01", "1::1", "٣")}
    asked = {*gpus, *numbered, "GPU-9", "GPU-9::1", ""}
    assert {share for share in asked if share in found} == made
    assert found - {"x"} == made
