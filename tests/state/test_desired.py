"""Desired state, and what a node's kubelet would refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kubelet.proto import deviceplugin_pb2
from nodeagent.model.config import DEFAULT_RESOURCE, Contract, Match, Rule, Where
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import share_id
from nodeagent.state.desired import (
    MAX_LIST_BYTES,
    MAX_SHARES,
    Want,
    changed,
    check,
    describe,
    device_bytes,
    list_bytes,
    resolve,
)
from tests.state import make

UUID = "GPU-8f6a1a4c-5b0f-4ae0-9d42-1c2b7a0ee001"


def real(index: int) -> Gpu:
    """A GPU with a uuid as long as the real ones."""
    return replace(make.gpu(index), uuid=f"{UUID[:-1]}{index}")


def test_the_first_rule_that_matches_wins() -> None:
    """Rules are tried in order, per GPU."""
    found = make.wanted([make.gpu(0), make.gpu(1)], make.sliced(4, 1), make.whole(resource="example.com/whole"))
    assert [(want.rule.name, want.count) for want in found.wants.values()] == [("whole", 1), ("sliced", 4)]
    assert found.resources() == {"example.com/whole", make.SHARED}


def test_a_gpu_that_no_rule_matches_is_whole() -> None:
    """Without a rule, a GPU is an exclusive nvidia.com/gpu."""
    (want,) = make.wanted([make.gpu(3)], make.sliced(4, 1)).wants.values()
    assert (want.contract, want.count) == (make.WHOLE, 1)


def test_what_is_wanted_anew_is_told_gpu_by_gpu() -> None:
    """A GPU counts as changed when other shares are wanted of it, not when another rule wants the same of it."""
    gpus = [make.gpu(0), make.gpu(1), make.gpu(2)]
    before = make.wanted(gpus, make.sliced(4, 0), make.withheld(1), make.whole(2))
    moved = make.wanted(gpus, make.withheld(1), make.sliced(4, 0))
    assert changed(before, moved) == frozenset()
    after = make.wanted(gpus, make.sliced(5, 0), make.whole(1), make.whole(2))
    assert changed(before, after) == {"GPU-0", "GPU-1"}
    assert changed(None, before) == changed(before, None) == {"GPU-0", "GPU-2"}
    assert changed(None, None) == frozenset()


def test_of_a_withheld_gpu_nothing_is_wanted() -> None:
    """Withheld is no contract, and no shares."""
    found = make.wanted([make.gpu(0)], make.withheld())
    assert (found.wants["GPU-0"].contract, found.wants["GPU-0"].count) == (None, 0)
    assert found.resources() == frozenset()


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(), {0, 1}),
        (Match(indices=frozenset({1})), {1}),
        (Match(uuids=frozenset({"GPU-0"})), {0}),
        (Match(models=("*A100*",)), {1}),
        (Match(models=("*a100*",)), set()),
        (Match(min_memory=60 * make.GIB), {0}),
        (Match(indices=frozenset({0, 1}), models=("*H100*", "*A100*"), min_memory=40 * make.GIB), {0, 1}),
        (Match(indices=frozenset({0}), models=("*A100*",)), set()),
    ],
)
def test_all_criteria_that_are_given_must_hold(match: Match, expected: set[int]) -> None:
    """Indices, uuids, models and memory narrow each other down."""
    gpus = [make.gpu(0), make.gpu(1, model="NVIDIA A100-SXM4-40GB", memory=40 * make.GIB)]
    found = resolve(make.config(Rule("some", match, make.SLICED, 2)), gpus)
    assert {want.gpu.index for want in found.wants.values() if want.rule.name == "some"} == expected


def test_the_same_config_and_gpus_give_the_same() -> None:
    """Desired state compares by value: resolving again is no change."""
    gpus = [make.gpu(0), make.gpu(1)]
    assert make.wanted(gpus, make.sliced(4, 1)) == make.wanted(gpus, make.sliced(4, 1))


def test_a_list_that_the_kubelet_takes_is_no_fault() -> None:
    """80 shares, and 40,000, are fine."""
    gpus = [real(index) for index in range(8)]
    assert check(make.wanted(gpus, make.sliced(10)), "f") == ()
    assert check(make.wanted(gpus, make.sliced(5000)), "f") == ()


def test_a_list_over_four_mebibytes_is_told_with_its_numbers() -> None:
    """The violation names file, place, size, limit and about how many shares fit; and so many do fit."""
    gpus = [real(index) for index in range(8)]
    rule = replace(make.sliced(20_000), where=Where("spec.rules[0]", 7, 5))
    (found,) = check(make.wanted(gpus, rule), "sharing.yaml")
    assert (found.file, found.where) == ("sharing.yaml", rule.where)
    size = 8 * list_bytes(gpus[0].uuid, make.SLICED, 20_000)
    assert f"got {size} bytes for 160000 shares on 8 GPUs" in found.message
    fit = int(found.message.partition("at most about ")[2].split()[0])
    assert check(make.wanted(gpus, make.sliced(fit // 8)), "f") == ()
    assert check(make.wanted(gpus, make.sliced(fit // 8 + 100)), "f") != ()


def test_two_rules_of_one_resource_share_its_list() -> None:
    """What counts is the list, not the rule."""
    gpus = [real(0), real(1)]
    most = MAX_LIST_BYTES // device_bytes(share_id(UUID, make.SLICED.mode, 50_000)) - 100
    assert check(make.wanted(gpus, make.sliced(most, 0), make.withheld(1)), "f") == ()
    assert check(make.wanted(gpus, make.sliced(most, 0), make.sliced(most, 1)), "f") != ()
    other = make.sliced(MAX_SHARES - most, 1, resource="example.com/other")
    assert check(make.wanted(gpus, make.sliced(most, 0), other), "f") == ()


def test_more_shares_than_the_agent_keeps_are_told_with_their_number() -> None:
    """Each list is within the kubelet's limit, all together are too long: the violation names how many shares were
    asked for, the rule that makes most of them and how many it may make; and so many do fit.
    """
    gpus = [real(index) for index in range(8)]
    other = replace(make.sliced(20_000, 2, 3, resource="example.com/other", name="other"), where=Where("", 3, 3))
    most = replace(make.sliced(50_000, 0, name="most"), where=Where("spec.rules[0]", 7, 5))
    (found,) = check(make.wanted(gpus, most, other, make.sliced(5_000, 4, 5, 6, 7, resource="example.com/third")), "f")
    assert (found.file, found.where) == ("f", most.where)
    assert found.message == (
        "expected at most 100000 shares on a node, got 110001 on 8 GPUs; "
        'rule "most" makes 50000 of them: lower its `replicas` to at most 39999'
    )
    fitting = make.wanted(gpus, replace(most, replicas=39_999), other, make.sliced(5_000, 4, 5, 6, 7, resource="a/b"))
    assert check(fitting, "f") == ()


def test_as_many_shares_as_the_agent_keeps_are_no_fault() -> None:
    """100,000 are, one more is not; also of MIG devices, each of which counts."""
    gpus = [real(index) for index in range(4)]
    rules = [make.sliced(25_000, index, resource=f"example.com/{index}") for index in range(4)]
    assert check(make.wanted(gpus, *rules), "f") == ()
    (found,) = check(make.wanted(gpus, replace(rules[0], replicas=25_001), *rules[1:]), "f")
    assert "got 100001 on 4 GPUs" in found.message
    parts = [make.with_mig(0), *(make.mig(0, instance) for instance in range(7))]
    by_device = [
        replace(make.sliced(20_000, resource=f"example.com/{instance}"), match=Match(uuids=frozenset({part.uuid})))
        for instance, part in enumerate(parts[1:])
    ]
    (found,) = check(make.wanted(parts, *by_device), "f")
    assert "got 140000 on 7 GPUs" in found.message


def test_a_list_that_is_too_long_is_told_alone() -> None:
    """What the kubelet does not take is one mistake; all lists together are another where they would still be too
    long when each is as long as the kubelet takes.
    """
    gpus = [real(index) for index in range(4)]
    (found,) = check(make.wanted(gpus, make.sliced(50_000)), "f")
    assert "bytes for 200000 shares" in found.message
    both = [make.sliced(60_000, 0, 1, resource="a/a", name="a"), make.sliced(45_000, 2, resource="b/b", name="b")]
    assert ["a list of a/a" in one.message for one in check(make.wanted(gpus, *both), "f")] == [True, False]


def test_where_other_rules_make_too_many_without_it_no_number_would_do() -> None:
    """Nothing is said of how many a rule may make where it may make none."""
    gpus = [real(index) for index in range(8)]
    rules = [make.sliced(50_000, index, resource=f"example.com/{index}", name=f"rule-{index}") for index in range(8)]
    (found,) = check(make.wanted(gpus, *rules), "f")
    assert found.message.endswith('got 400000 on 8 GPUs; rule "rule-0" makes 50000 of them: lower its `replicas`')


@pytest.mark.parametrize("replicas", [999_999_999, 10**30])
def test_no_number_is_expanded_to_be_judged(replicas: int) -> None:
    """Any number is judged by arithmetic, and is in the message."""
    found = check(make.wanted([real(0)], make.sliced(replicas)), "f")
    assert any(f"{replicas} " in one.message for one in found)


def test_an_id_over_63_characters_is_a_fault() -> None:
    """The kubelet takes no longer ids: the violation names the GPU and the number of replicas."""
    long = replace(make.gpu(0), uuid="GPU-" + "x" * 57)
    assert check(make.wanted([long], make.sliced(1)), "f") != ()
    assert check(make.wanted([long], make.whole()), "f") == ()
    (found,) = check(make.wanted([replace(long, uuid="GPU-" + "x" * 55)], make.sliced(1000)), "f")
    assert "got 64 for GPU 0" in found.message
    assert "1000 replicas" in found.message


def on_the_wire(contract: Contract, count: int, health: str, numa: int | None) -> int:
    """Bytes of a list of the shares 0 to count-1 of one GPU."""
    topology = None if numa is None else deviceplugin_pb2.TopologyInfo(nodes=[deviceplugin_pb2.NUMANode(ID=numa)])
    devices = [
        deviceplugin_pb2.Device(ID=share_id(UUID, contract.mode, number), health=health, topology=topology)
        for number in range(count)
    ]
    return deviceplugin_pb2.ListAndWatchResponse(devices=devices).ByteSize()


CONTRACTS = st.sampled_from([make.SLICED, make.WHOLE])


@given(CONTRACTS, st.integers(0, 1200))
def test_the_arithmetic_is_what_is_sent_at_most(contract: Contract, count: int) -> None:
    """The size of a list is computed without building it, and is that of the message with the longer word of health and
    a NUMA node of the longest number.
    """
    count = min(count, 1) if contract is make.WHOLE else count
    assert list_bytes(UUID, contract, count) == on_the_wire(contract, count, "Unhealthy", 1023)


@given(CONTRACTS, st.integers(0, 120), st.sampled_from(["Healthy", "Unhealthy"]), st.none() | st.integers(0, 1023))
def test_no_list_is_longer_than_the_arithmetic_says(
    contract: Contract, count: int, health: str, numa: int | None
) -> None:
    """Whatever is told of each device: a list that was let through by arithmetic is let through by the kubelet."""
    count = min(count, 1) if contract is make.WHOLE else count
    assert on_the_wire(contract, count, health, numa) <= list_bytes(UUID, contract, count)


def test_a_want_is_told_in_words() -> None:
    """As the drift and the log say it."""
    assert describe(make.SLICED, 10) == "time-sliced nvidia.com/gpu.shared x10"
    assert describe(make.WHOLE, 1) == f"exclusive {DEFAULT_RESOURCE}"
    assert describe(None, 0) == "withheld"
    assert Want(make.gpu(0), make.withheld()).count == 0
