"""Whatever planner and desk can make of what pods hold is written so that the next agent reads it as it was.

A kubelet may list any id under any resource: those of another plugin, of a config of long ago, or damaged ones.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.desk import FrontDesk
from nodeagent.model.allocation import PreferenceRequest, Refused
from nodeagent.model.config import Contract
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.kubelet import CheckpointEntry, Holder, PodListing
from nodeagent.model.shares import MAX_NUMBER, Applied, read_number, share_id, split_share_id
from nodeagent.state import holds as holding
from nodeagent.state.allocation import offers
from nodeagent.state.effect import perform
from nodeagent.state.lists import lists
from nodeagent.state.plan import plan
from nodeagent.store import codec
from tests.state import make
from tests.state.make import MPS, QUARTER, SHARED, SLICED, WHOLE

NOW = 100.0
GPUS = (make.gpu(0), make.gpu(1), make.with_mig(2), make.mig(2, 1), make.gpu(3))
UUIDS = frozenset(gpu.uuid for gpu in GPUS)
ODD = [
    *("", ":", "::", "::0", "::7", "::007", "::00", "::-1", "::+1", "::1 ", "::1\n", "::1_0", "::1.0", "::1e3", "::a"),
    *("::1000000", "::1000001", "::2000000", "::9999999", "::10000000", "::" + "9" * 5_000, "::" + "0" * 5_000),
    *("::٣", "::²", "::1\0", "\0", "::\ud800", "\udfff", "::1::2", "::::1", "::1:: "),
]

ids = st.builds(
    str.__add__,
    st.sampled_from([*sorted(UUIDS), "", "GPU-unknown"]),
    st.sampled_from(ODD) | st.integers(0, 3 * MAX_NUMBER).map("::{}".format) | st.text(max_size=4),
)
resources = st.sampled_from([SHARED, MPS, "nvidia.com/gpu", "", "x.io/\0odd"]) | st.text(max_size=4)
held = st.lists(st.tuples(resources, ids), max_size=6)
entries = st.frozensets(st.builds(CheckpointEntry, st.sampled_from("uv"), st.just("c"), resources, ids), max_size=4)
CONTRACTS = st.sampled_from([None, SLICED, WHOLE, QUARTER])


def look(at: float, pods: list[ShareKey], checkpoint: frozenset[CheckpointEntry], kubelet: str) -> PodListing:
    """What PodResources and the checkpoint say."""
    holders = tuple(Holder("n", f"p{number}", "c", name, (share,)) for number, (name, share) in enumerate(pods))
    return PodListing(at, kubelet, holders, checkpoint=checkpoint)


def reads(applied: Applied, known: Holds) -> None:
    """Demand that the next agent finds this."""
    found = codec.decode_applied(codec.encode_applied(applied), NOW)
    for uuid, entry in applied.gpus.items():
        expected = replace(entry, fences=dict.fromkeys(entry.fences, NOW), gpu=replace(entry.gpu, driver_index=None))
        assert found.gpus[uuid] == expected
    assert found.gpus.keys() == applied.gpus.keys()
    assert codec.decode_holds(codec.encode_holds(known), NOW, same_boot=True) == replace(known, unnamed={})


@given(held, held, entries, st.lists(CONTRACTS, min_size=4, max_size=4), st.booleans())
def test_whatever_pods_hold(
    before: list[ShareKey],
    after: list[ShareKey],
    checkpoint: frozenset[CheckpointEntry],
    contracts: list[Contract | None],
    restarted: bool,
) -> None:
    """Through looks, a restart of the kubelet, grants, and the plans that follow: nothing is refused by the planner,
    and everything that is applied or held is read again.
    """
    known = holding.observe(Holds(), look(10.0, before, checkpoint, "a"), UUIDS, 10.0)
    known = holding.grant(known, [key for key in before if key[1].partition("::")[0] in UUIDS], 20.0)
    known = holding.observe(known, look(50.0, after, checkpoint, "b" if restarted else "a"), UUIDS, 50.0)
    applied = make.applied(
        *(
            make.entry(index, contract, {0} if contract == WHOLE else {0, 1} if contract else ())
            for index, contract in zip((0, 1, 3), contracts, strict=False)
        )
    )
    reads(applied, known)
    desired = make.wanted(GPUS, make.sliced(3, 0, 1), make.whole())
    for wishes in (None, desired):
        seen = make.seen(applied, NOW, holding.held(known, NOW), gpus=GPUS, listed=UUIDS)
        made = plan(wishes, seen)
        assert not made.refused
        actions = [action for action in made.actions if hasattr(action, "uuid") or hasattr(action, "gpu")]
        applied = perform(applied, actions, NOW)  # type: ignore[arg-type]  # those of registrations have neither
        reads(applied, known)
    numbers = [number for entry in applied.gpus.values() for number in entry.numbers]
    assert all(0 <= number <= MAX_NUMBER for number in numbers)


@given(st.lists(ids, max_size=4), st.integers(0, 5))
def test_whatever_the_kubelet_asks_for(asked: list[str], size: int) -> None:
    """Allocate grants what is on the list and refuses everything else, and a preference is a choice or a refusal: no id
    gets more than that out of either, and what is noted as granted is written and read.
    """
    applied = make.applied(make.entry(0, SLICED, {0, 7}), make.entry(1, SLICED, {0, MAX_NUMBER}))
    desk = FrontDesk(clock=lambda: NOW, wake=lambda: None)
    found = lists(applied, (), {})
    made = plan(None, make.seen(applied))
    desk.show(found, offers(applied, found, made, (), make.seen(applied).mps))
    listed = {device.id for device in found[SHARED].devices}
    try:
        desk.allocate(SHARED, [asked])
    except Refused:
        assert not set(asked) <= listed
    else:
        assert set(asked) <= listed
    granted = desk.take_notes().granted
    assert {share for _, share in granted} <= listed
    reads(applied, Holds(granted=granted))
    try:
        (chosen,) = desk.prefer(SHARED, [PreferenceRequest(tuple(asked), (), size)])
    except Refused:
        assert size > len(set(asked))
    else:
        assert set(chosen) <= set(asked)


@given(ids)
def test_an_id_is_read_as_it_is_made(share: str) -> None:
    """An id has the number of a share exactly where ours would be written so."""
    try:
        uuid, number = split_share_id(share)
    except ValueError:
        assert "::" in share
    else:
        assert (uuid if number is None else share_id(uuid, SLICED.mode, number)) == share
        assert number is None or number <= MAX_NUMBER


@pytest.mark.parametrize("text", ["", "00", "1 ", "-1", "٣", "²", "1000001", "9" * 5_000, "0" * 5_000])
def test_what_is_no_number_of_a_share(text: str) -> None:
    """Neither is it taken for one, nor does it take long to say so."""
    assert read_number(text) is None
