"""XIDs and verdicts: which GPU one makes unhealthy, and what makes it healthy again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy, XidSource, XidTally, describe_xids
from nodeagent.model.inventory import Gpu
from nodeagent.model.plan import Diagnose
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.effect import perform
from nodeagent.state.health import PLACED_WITHIN, Intake, Symptoms, diagnose, inherited, next_recovery, unplaced
from nodeagent.state.lists import lists
from nodeagent.state.nodegpus import unseen
from nodeagent.state.observed import Observed
from nodeagent.state.plan import plan
from tests.state import make

NODE = make.applied(make.entry(0, make.SLICED, range(10)), make.entry(1, make.SLICED, range(10)))
PARTS = make.applied(
    AppliedGpu(make.with_mig(0)),
    *(AppliedGpu(make.mig(0, instance), make.SLICED) for instance in (7, 8)),
    make.entry(1),
)
OFF_THE_BUS = {XidSource("GPU-0", 79): 50.0}
NAMED = HealthPolicy(recover_after=600.0, recoverable=frozenset({94, 95}))


def after(applied: Applied, symptoms: Symptoms) -> Applied:
    """What is applied once these verdicts are taken over; a second look finds nothing more."""
    changed = perform(applied, diagnose(applied, symptoms), 0.0)
    assert diagnose(changed, replace(symptoms, news={}, cleared=frozenset())) == ()
    return changed


def xids(applied: Applied) -> dict[str, dict[int, float]]:
    """What stands against whom."""
    return {uuid: dict(entry.xids) for uuid, entry in applied.gpus.items() if entry.xids}


def sick(*codes: int, at: float = 50.0, load: str | None = "1") -> Applied:
    """A node whose GPU 0 has these XIDs against it."""
    gpu = replace(NODE.gpus["GPU-0"], xids=dict.fromkeys(codes, at), driver_load=load)
    return Applied({**NODE.gpus, "GPU-0": gpu})


def test_a_fault_is_that_of_the_whole_gpu() -> None:
    """One critical XID makes all shares of its GPU unhealthy, and none of any other."""
    applied = after(NODE, Symptoms(news=OFF_THE_BUS))
    assert xids(applied) == {"GPU-0": {79: 50.0}}
    assert {device.id for device in lists(applied, (), {})[make.SHARED].devices if not device.healthy} == {
        f"GPU-0::{number}" for number in range(10)
    }
    assert applied.gpus["GPU-0"].trouble == "GPU 0: XID 79 (GPU has fallen off the bus)"


@pytest.mark.parametrize("xid", sorted(APPLICATION_XIDS))
def test_a_fault_of_an_application_is_nothing_but_a_count(xid: int) -> None:
    """By default."""
    assert diagnose(NODE, Symptoms(news={XidSource("GPU-0", xid): 50.0})) == ()


@pytest.mark.parametrize(
    ("policy", "critical"),
    [
        (HealthPolicy(), {48, 79, 999}),
        (HealthPolicy(ignored=frozenset()), {13, 48, 79, 999}),
        (HealthPolicy(ignored=frozenset({79})), {13, 48, 999}),
        (HealthPolicy(critical=frozenset({13})), {13}),
        (HealthPolicy(critical=frozenset()), set()),
    ],
    ids=["default", "none ignored", "others ignored", "only these", "only counted"],
)
def test_which_are_critical_is_what_the_config_says(policy: HealthPolicy, critical: set[int]) -> None:
    """All but the ignored ones, or those that are named and no other."""
    reported = {XidSource("GPU-0", xid): 50.0 for xid in (13, 48, 79, 999)}
    assert set(xids(after(NODE, Symptoms(policy=policy, news=reported))).get("GPU-0", ())) == critical


def test_a_verdict_follows_the_config() -> None:
    """An XID that the config no longer takes for critical stands against nobody; one that it takes anew has passed."""
    assert xids(after(sick(48, 79), Symptoms(policy=HealthPolicy(ignored=frozenset({79}))))) == {"GPU-0": {48: 50.0}}
    assert xids(after(sick(48, 79), Symptoms(policy=HealthPolicy(critical=frozenset({13}))))) == {}
    assert xids(after(NODE, Symptoms(policy=HealthPolicy(critical=frozenset({79}))))) == {}


def test_before_a_config_is_accepted_nothing_is_forgotten() -> None:
    """An agent that starts does not know yet which XIDs the config takes for critical: what was decided by it stays,
    and what is new is judged by default. A person, and a reload of the driver, are believed all the same.
    """
    known = sick(31, 94)
    assert diagnose(known, Symptoms(now=1e9, driver_load="1")) == ()
    assert next_recovery(known, None) is None
    reported = {XidSource("GPU-1", 13): 60.0, XidSource("GPU-1", 79): 60.0}
    assert xids(after(known, Symptoms(news=reported))) == {"GPU-0": {31: 50.0, 94: 50.0}, "GPU-1": {79: 60.0}}
    assert xids(after(known, Symptoms(cleared=frozenset({"GPU-0"})))) == {}
    assert xids(after(known, Symptoms(driver_load="2"))) == {}


def test_what_is_not_known_yet_is_not_taken_in() -> None:
    """An XID of an instance, or of a GPU, that the driver has yet to list waits for that, though not for long: the
    number of an instance is given to another one later.
    """
    new, other, known = XidSource("GPU-0", 48, 9, 0), XidSource("GPU-7", 79), XidSource("GPU-0", 48, 7, 0)
    reported = Symptoms(now=101.0, news={new: 100.0, other: 100.0, known: 100.0})
    diagnosed = after(PARTS, reported)
    assert unplaced(diagnosed, reported) == {new, other}
    assert unplaced(diagnosed, replace(reported, now=100.0 + PLACED_WITHIN)) == frozenset()


def test_what_could_not_be_noted_down_is_not_taken_in() -> None:
    """A GPU that is about to be forgotten is not diagnosed: an XID of it waits as long as it cannot be forgotten. What
    is not critical waits for nothing, and that of an instance not for long.
    """
    critical, harmless, instance = XidSource("GPU-0", 48), XidSource("GPU-0", 13), XidSource("GPU-0", 48, 7, 0)
    reported = Symptoms(now=101.0, news={critical: 100.0, harmless: 100.0, instance: 100.0})
    assert unplaced(PARTS, reported) == {critical, instance}
    assert unplaced(PARTS, replace(reported, now=3700.0)) == {critical}
    assert unplaced(after(PARTS, reported), reported) == frozenset()


def test_a_gpu_with_mig_that_is_offered_whole() -> None:
    """Whatever fails in it is its fault, since pods have all of it; its MIG devices are offered to nobody."""
    whole = replace(AppliedGpu(make.with_mig(0)), contract=make.WHOLE, numbers=frozenset({0}))
    applied = make.applied(whole, AppliedGpu(make.mig(0, 7)))
    for instance in (7, 9):
        assert "GPU-0" in xids(after(applied, Symptoms(news={XidSource("GPU-0", 95, instance, 0): 50.0})))


def test_a_verdict_stays() -> None:
    """Without news nothing of it changes, however long ago that was."""
    assert diagnose(sick(79), Symptoms(now=1e9, driver_load="1")) == ()


def test_a_reload_of_the_driver_clears() -> None:
    """As soon as it is known; while it is not, and where it was not when the verdict was made, the verdict stays."""
    assert xids(after(sick(79, load="1"), Symptoms(driver_load="2"))) == {}
    assert diagnose(sick(79, load="1"), Symptoms(driver_load=None)) == ()
    known = after(sick(79, load=None), Symptoms(driver_load="2"))
    assert (known.gpus["GPU-0"].xids, known.gpus["GPU-0"].driver_load) == ({79: 50.0}, "2")
    later = after(sick(79, load="1"), Symptoms(driver_load=None, news={XidSource("GPU-0", 48): 60.0}))
    assert later.gpus["GPU-0"].driver_load == "1"


def test_a_verdict_of_the_new_driver_is_its_own() -> None:
    """What an XID of before the reload and one of after it come to is the latter."""
    applied = after(sick(79, load="1"), Symptoms(driver_load="2", news={XidSource("GPU-0", 48): 60.0}))
    assert applied.gpus["GPU-0"].xids == {48: 60.0}
    assert applied.gpus["GPU-0"].driver_load == "2"


def test_a_reboot_clears() -> None:
    """It resets every GPU."""
    assert xids(unseen(sick(79))) == {}


def test_a_person_clears() -> None:
    """One GPU, and what is reported of it from then on stands against it again."""
    assert xids(after(sick(79), Symptoms(cleared=frozenset({"GPU-0"})))) == {}
    assert diagnose(sick(79), Symptoms(cleared=frozenset({"GPU-1"}))) == ()
    again = Symptoms(cleared=frozenset({"GPU-0"}), news={XidSource("GPU-0", 79): 70.0})
    assert xids(after(sick(79), again)) == {"GPU-0": {79: 70.0}}


def test_recovery_is_for_what_the_config_names() -> None:
    """A GPU is healthy again when the time has passed since the last of its XIDs, all of which must be named."""
    applied = sick(94, 95)
    assert next_recovery(applied, NAMED) == 650.0
    assert diagnose(applied, Symptoms(now=649.0, policy=NAMED)) == ()
    assert xids(after(applied, Symptoms(now=650.0, policy=NAMED))) == {}
    later = Symptoms(now=649.0, policy=NAMED, news={XidSource("GPU-0", 94): 649.0})
    assert next_recovery(after(applied, later), NAMED) == 1249.0


def test_no_recovery_from_what_is_not_named() -> None:
    """One XID that is not named keeps the others with it; by default none is."""
    assert next_recovery(sick(79, 94), NAMED) is None
    assert diagnose(sick(79, 94), Symptoms(now=1e9, policy=NAMED)) == ()
    assert next_recovery(sick(94), HealthPolicy()) is None


def test_a_fault_of_an_instance_is_that_of_its_mig_device() -> None:
    """The other MIG devices of the GPU, and the GPU itself, have none."""
    assert xids(after(PARTS, Symptoms(news={XidSource("GPU-0", 48, 7, 0): 50.0}))) == {"MIG-0-7": {48: 50.0}}
    assert xids(after(PARTS, Symptoms(news={XidSource("GPU-0", 48, 7, None): 50.0}))) == {"MIG-0-7": {48: 50.0}}
    assert xids(after(PARTS, Symptoms(news={XidSource("GPU-0", 48, 7, 1): 50.0}))) == {}
    assert xids(after(PARTS, Symptoms(news={XidSource("GPU-0", 48, 9, 0): 50.0}))) == {}


def test_a_mig_device_may_be_named_itself() -> None:
    """By its uuid, whatever is said of instances."""
    for instances in ((None, None), (7, 0), (9, 0)):
        found = after(PARTS, Symptoms(news={XidSource("MIG-0-7", 48, *instances): 50.0}))
        assert xids(found) == {"MIG-0-7": {48: 50.0}}


@pytest.mark.parametrize("instances", [(None, None), (0, 0), (0, None), (7, 0), (None, 0), (0xFFFFFFFE, 3)])
def test_a_gpu_without_mig_has_no_instances(instances: tuple[int | None, int | None]) -> None:
    """Whatever the driver says of them (a mock of NVIDIA's says 0) the fault is the GPU's, and that of no other."""
    found = after(NODE, Symptoms(news={XidSource("GPU-0", 79, *instances): 50.0}))
    assert xids(found) == {"GPU-0": {79: 50.0}}
    capable = make.applied(AppliedGpu(replace(make.gpu(0), mig_capable=True)), AppliedGpu(make.gpu(1)))
    found = after(capable, Symptoms(news={XidSource("GPU-0", 79, *instances): 50.0}))
    assert xids(found) == {"GPU-0": {79: 50.0}}


def test_instance_0_of_a_gpu_with_mig_is_an_instance() -> None:
    """The one that is as large as the GPU: where no MIG device has it, it is nobody's."""
    whole = make.applied(AppliedGpu(make.with_mig(0)), AppliedGpu(make.mig(0, 0, "7g.80gb")))
    news = {XidSource("GPU-0", 48, 0, 0): 50.0}
    assert xids(after(whole, Symptoms(news=news))) == {"MIG-0-0": {48: 50.0}}
    assert xids(after(PARTS, Symptoms(news=news))) == {}


def test_what_is_nobodys_is_counted() -> None:
    """After it was waited for, with all that came meanwhile: of instances, and of GPUs, that nobody has."""
    instance, gpu, harmless = XidSource("GPU-0", 48, 9, 0), XidSource("GPU-7", 79), XidSource("GPU-0", 13, 9, 0)
    fine = XidSource("GPU-0", 94, 7, 0)

    def looked(before: Intake, now: float, **counts: int) -> Intake:
        sources = {"instance": instance, "gpu": gpu, "harmless": harmless, "fine": fine}
        reported = {sources[name]: XidTally(count, now) for name, count in counts.items()}
        reported = {
            source: known if (known := before.reported.get(source)) and known.count == tally.count else tally
            for source, tally in reported.items()
        }
        seen = replace(before, reported=reported)
        symptoms = Symptoms(now=now, news=seen.news, kept=seen.kept)
        return seen.after(after(PARTS, symptoms), symptoms)

    first = looked(Intake(), 100.0, instance=1, gpu=2, harmless=3, fine=4)
    assert first.kept == {instance: 100.0, gpu: 100.0, harmless: 100.0}
    assert (first.dropped, first.lost) == ({}, {})
    storm = looked(first, 110.0, instance=50, gpu=2, harmless=3, fine=4)
    assert storm.kept[instance] == 100.0, "what comes again and again is not waited for without end"
    last = looked(storm, 100.0 + PLACED_WITHIN, instance=60, gpu=2, harmless=3, fine=4)
    assert last.kept == {}
    assert last.dropped == {"GPU-0": 63, "GPU-7": 2}
    assert last.lost == {"GPU-0": instance, "GPU-7": gpu}
    again = looked(last, 200.0, instance=61, gpu=2, harmless=3, fine=4)
    assert again.kept == {instance: 200.0}
    assert again.dropped == last.dropped
    assert looked(again, 300.0, instance=61, gpu=2, harmless=3, fine=4).dropped == {"GPU-0": 64, "GPU-7": 2}
    anew = looked(looked(last, 200.0, instance=5, fine=4), 300.0, instance=5, fine=4)
    assert anew.dropped == {"GPU-0": 68, "GPU-7": 2}, "the count of a source may be forgotten, and begin anew"


def test_a_fault_of_a_gpu_is_that_of_all_its_mig_devices() -> None:
    """Also of those that are made later, until the GPU is cleared: that clears them all."""
    applied = after(PARTS, Symptoms(news=OFF_THE_BUS))
    assert xids(applied) == {uuid: {79: 50.0} for uuid in ("GPU-0", "MIG-0-7", "MIG-0-8")}
    applied = Applied({**applied.gpus, "MIG-0-9": AppliedGpu(make.mig(0, 9))})
    applied = perform(applied, diagnose(applied, Symptoms()), 0.0)
    assert applied.gpus["MIG-0-9"].xids == {79: 50.0}
    assert inherited(applied, "MIG-0-9") == make.with_mig(0)
    assert xids(after(applied, Symptoms(cleared=frozenset({"GPU-0"})))) == {}


def test_one_mig_device_is_cleared_alone() -> None:
    """Where the fault is its own."""
    both = {XidSource("GPU-0", 48, instance, 0): 50.0 for instance in (7, 8)}
    applied = after(PARTS, Symptoms(news=both))
    assert inherited(applied, "MIG-0-7") is None
    assert xids(after(applied, Symptoms(cleared=frozenset({"MIG-0-7"})))) == {"MIG-0-8": {48: 50.0}}


def test_what_is_news_is_what_was_not_taken_in() -> None:
    """A count that grew, or a source that was not there; counts that are the same are none, whatever they are."""
    one, other = XidSource("GPU-0", 79), XidSource("GPU-1", 79)
    taken = {one: XidTally(1, 5.0)}
    assert Intake(taken, dict(taken)).news == {}
    reported = {one: XidTally(10_000, 7.0), other: XidTally(1, 6.0)}
    assert Intake(reported, taken).news == {one: 7.0, other: 6.0}


def test_a_plan_tells_the_kubelet_first() -> None:
    """Verdicts come with what is known of the GPUs, before anything is done; without news the plan is empty."""
    sharing = make.sliced(10)
    gpus = tuple(entry.gpu for entry in NODE.ordered())
    desired = make.wanted(gpus, sharing)
    seen = Observed(
        100.0,
        gpus,
        frozenset(NODE.gpus),
        NODE,
        pods=make.listed(make.look(100.0, (), make.followed(NODE))),
        mps=make.host(),
        registered=frozenset({make.SHARED}),
    )
    assert plan(desired, seen).converged
    made = plan(desired, replace(seen, symptoms=Symptoms(now=60.0, news=OFF_THE_BUS, driver_load="1")))
    assert made.actions == (Diagnose("GPU-0", {79: 50.0}, "1"),)
    assert plan(None, replace(seen, symptoms=Symptoms(news=OFF_THE_BUS))).actions[0] == Diagnose(
        "GPU-0", {79: 50.0}, None
    )


CODES = st.sampled_from([13, 48, 79, 94, 95])
SOURCES = st.builds(
    XidSource, st.sampled_from(["GPU-0", "GPU-1"]), CODES, st.sampled_from([None, 7, 8]), st.sampled_from([None, 0, 1])
)
POLICIES = st.builds(
    HealthPolicy,
    ignored=st.frozensets(CODES),
    critical=st.none() | st.frozensets(CODES),
    recover_after=st.none() | st.just(600.0),
    recoverable=st.frozensets(CODES),
)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(SOURCES, st.floats(0, 1000), max_size=5),
            POLICIES,
            st.sampled_from([None, "1", "2"]),
            st.frozensets(st.sampled_from(["GPU-0", "GPU-1", "MIG-0-7"]), max_size=1),
            st.floats(0, 2000),
        ),
        max_size=6,
    )
)
def test_whatever_happens(
    turns: list[tuple[Mapping[XidSource, float], HealthPolicy, str | None, frozenset[str], float]],
) -> None:
    """What stands against a GPU is critical, and came of it; a MIG device has all the faults of its GPU; and a second
    look changes nothing.
    """
    applied = PARTS
    for reported, policy, load, cleared, wall in turns:
        symptoms = Symptoms(wall, policy, reported, cleared, load)
        applied = perform(applied, diagnose(applied, symptoms), 0.0)
        settled = replace(symptoms, news={}, cleared=frozenset())
        assert diagnose(applied, settled) == () or policy.recover_after is not None
        for entry in applied.gpus.values():
            assert all(policy.is_critical(xid) for xid in entry.xids)
            assert entry.healthy is not bool(entry.xids)
            if entry.gpu.mig is not None:
                assert applied.gpus[entry.gpu.mig.parent].xids.keys() <= entry.xids.keys()


def test_xids_in_words() -> None:
    """By number, each with its meaning where NVIDIA's document has a short one."""
    assert describe_xids([999, 79, 79]) == "XID 79 (GPU has fallen off the bus), XID 999"
    assert describe_xids([]) == ""


def test_names_of_what_is_part_of_a_gpu() -> None:
    """A MIG device is called by its GPU's index and its instances, and sorts after its GPU and before the next."""
    gpus: list[Gpu] = [make.gpu(1), make.mig(0, 9), make.with_mig(0), make.mig(0, 7, compute=1), make.mig(0, 7)]
    assert [gpu.name for gpu in sorted(gpus, key=lambda gpu: gpu.place)] == [
        "GPU 0", "MIG device 0:7", "MIG device 0:7:1", "MIG device 0:9", "GPU 1",
    ]  # fmt: skip
