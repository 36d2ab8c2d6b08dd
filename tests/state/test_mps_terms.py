"""What rules under MPS ask of a node's GPUs, and what is said where these do not have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.config import MIB, Contract, Match, Mode, MpsTerms, Rule, Where
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import most_clients
from nodeagent.state.desired import check, list_bytes
from tests.state import make

MPS = "nvidia.com/gpu.mps"
A100 = make.gpu(2, model="NVIDIA A100-SXM4-40GB", memory=40 * make.GIB)


def under_mps(
    replicas: int, *indices: int, memory: int | None = None, oversubscribe: bool = False, name: str = "mps"
) -> Rule:
    """A rule for GPUs under MPS; `memory` is in GiB."""
    match = Match(indices=frozenset(indices)) if indices else Match()
    terms = MpsTerms(None if memory is None else memory * make.GIB, None, oversubscribe)
    return Rule(name, match, Contract(MPS, Mode.MPS), replicas, 1, terms, where=Where("spec.rules[0]", 7, 5))


def told(rules: list[Rule], *gpus: Gpu) -> list[str]:
    """What is wrong with these rules on these GPUs, and that each fault has the place of a rule."""
    found = check(make.wanted(gpus, *rules), "sharing.yaml")
    assert {(one.file, one.where) for one in found} <= {("sharing.yaml", rule.where) for rule in rules}
    return [one.message for one in found]


def old(index: int, capability: tuple[int, int] | None) -> Gpu:
    """A GPU of that compute capability."""
    return replace(make.gpu(index), compute_capability=capability)


@pytest.mark.parametrize(
    ("capability", "most"), [((6, 1), 16), ((6, 9), 16), ((7, 0), 48), ((7, 5), 48), ((10, 0), 48), (None, 48)]
)
def test_a_gpu_takes_so_many_clients(capability: tuple[int, int] | None, most: int) -> None:
    """48 from compute capability 7.0 on, and where it is not known; 16 before. So many replicas may be, no more."""
    gpu = old(0, capability)
    assert most_clients(gpu) == most
    assert told([under_mps(most)], gpu) == []
    assert len(told([under_mps(most + 1)], gpu)) == 1


def test_too_many_clients_are_told_once() -> None:
    """One fault for all GPUs of a rule that are too old, which it names; the others are not its business."""
    gpus = [old(0, (6, 0)), old(1, (6, 1)), old(2, (8, 0)), old(3, (6, 1))]
    assert told([under_mps(20)], *gpus) == [
        "expected at most 16 replicas under MPS, as many clients as GPUs 0-1, 3 take, got 20; lower `replicas`"
    ]
    assert told([under_mps(20, 2)], *gpus) == []
    assert "as many clients as GPU 1 takes, got 17" in told([under_mps(17, 1)], *gpus)[0]


def test_limits_that_add_up_to_more_than_there_is() -> None:
    """The fault names the GPUs that are too small, what they have, what is asked for, and every way out."""
    gpus = [make.gpu(0), make.gpu(1), A100]
    (found,) = told([under_mps(4, memory=11)], *gpus)
    assert found == (
        "expected at most 40960 MiB for all shares together, the memory of GPU 2, got 4 x 11264 MiB; lower"
        " `memoryPerReplica` (to at most 10240Mi) or `replicas`, or write `oversubscribe: true`"
    )
    assert told([under_mps(4, memory=10)], *gpus) == []
    assert "the memory of GPUs 0-2, got" in told([under_mps(4, memory=21)], *gpus)[0]
    assert told([under_mps(4, memory=21, oversubscribe=True)], *gpus) == []


def test_a_share_of_more_than_there_is() -> None:
    """No process can have more than the whole GPU: that is a mistake even where shares may add up to more."""
    gpus = [make.gpu(0), A100]
    for oversubscribe in (False, True):
        assert told([under_mps(1, memory=41, oversubscribe=oversubscribe)], *gpus) == [
            "expected at most 40960 MiB for one share, the memory of GPU 2, got 41984 MiB; lower `memoryPerReplica`"
        ]
    assert told([under_mps(1, memory=40)], *gpus) == []


@given(st.integers(1, 48), st.integers(1, 200 * 1024), st.integers(48, 200 * 1024))
def test_memory_is_counted_exactly(replicas: int, each: int, memory: int) -> None:
    """What fits is accepted to the last MiB, and the way out that is named is one."""
    gpu = make.gpu(0, memory=memory * MIB)
    rule = replace(under_mps(replicas), mps=MpsTerms(each * MIB))
    found = told([rule], gpu)
    assert bool(found) == (replicas * each > memory)
    if found and each <= memory:
        mend = int(found[0].partition("to at most ")[2].partition("Mi")[0])
        assert told([replace(rule, mps=MpsTerms(mend * MIB))], gpu) == []
        assert told([replace(rule, mps=MpsTerms((mend + 1) * MIB))], gpu) != []


@given(st.integers(1, 48), st.integers(48, 200 * 1024))
def test_the_default_always_fits(replicas: int, memory: int) -> None:
    """A share's part of the GPU is rounded down: without limits given, nothing is wrong with any GPU."""
    gpu = make.gpu(0, memory=memory * MIB)
    assert told([under_mps(replicas)], gpu) == []
    contract = under_mps(replicas).contract_for(gpu)
    assert contract is not None
    assert contract.limits is not None
    assert contract.limits.memory * replicas <= memory
    assert contract.limits.threads * replicas <= 100


def test_a_part_of_nothing_known() -> None:
    """A GPU whose memory the driver does not tell has no parts; limits that are given hold, unchecked."""
    gpus = [make.gpu(0), make.gpu(1, memory=0), make.gpu(2, memory=0)]
    assert told([under_mps(4)], *gpus) == [
        "expected `memoryPerReplica`, since the driver does not say how much memory GPUs 1-2 have, got none"
    ]
    assert told([under_mps(4, memory=10)], *gpus) == []


def test_parts_of_different_gpus() -> None:
    """One resource name stands for one set of limits: parts of different GPUs are told with both, and the way out."""
    (found,) = told([under_mps(4)], make.gpu(0), make.gpu(1), A100)
    assert found == (
        "expected one set of limits for nvidia.com/gpu.mps, got 20480 MiB and 25 % each on GPUs 0-1 and 10240 MiB and"
        " 25 % each on GPU 2; write `memoryPerReplica`, or a rule with another `resource` for each kind of GPU"
    )
    assert told([under_mps(4, memory=10)], make.gpu(0), A100) == []
    assert told([under_mps(4, 0), replace(under_mps(4, 2), contract=make.SLICED, mps=None)], make.gpu(0), A100) == []


def test_parts_of_different_gpus_under_two_rules() -> None:
    """It is the resource that counts: the fault stands at the rule of the GPUs that differ from the first."""
    second = replace(under_mps(4, 2, name="other"), where=Where("spec.rules[1]", 12, 5))
    gpus = [make.gpu(0), A100]
    (found,) = check(make.wanted(gpus, under_mps(4, 0), second), "sharing.yaml")
    assert found.where == second.where
    other = replace(second, contract=Contract("nvidia.com/gpu.small", Mode.MPS))
    assert told([under_mps(4, 0), other], *gpus) == []


def test_every_fault_is_told_at_once() -> None:
    """Each kind of fault of each rule, and what MPS has nothing to do with is left alone."""
    young = replace(A100, compute_capability=(6, 1))
    found = told([under_mps(20, 2, memory=3), under_mps(17, 0, memory=9, name="first")], old(0, (6, 1)), young)
    assert [one.partition(",")[0] for one in found] == [
        "expected at most 16 replicas under MPS",
        "expected at most 81920 MiB for all shares together",
        "expected at most 16 replicas under MPS",
        "expected at most 40960 MiB for all shares together",
    ]
    assert told([make.sliced(20)], old(0, (6, 1)), young) == []


def test_ids_and_lists_count_as_those_of_time_slicing() -> None:
    """A share under MPS has a number in its id, and its size in the list is that of any other."""
    long = replace(make.gpu(0), uuid="GPU-" + "x" * 57)
    assert "expected share ids of at most 63 characters, got 64 for GPU 0" in told([under_mps(1)], long)[0]
    contract = Contract(MPS, Mode.MPS)
    assert list_bytes("GPU-0", contract, 48) == list_bytes("GPU-0", make.SLICED, 48)
