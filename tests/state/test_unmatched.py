"""What a config says in vain on a node: of every criterion, what there is instead, and what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from nodeagent.model.config import Match, Rule, SharingConfig
from nodeagent.model.inventory import Gpu
from nodeagent.state.unmatched import MOST, remarks, remarks_on_count
from tests.state import make

A100 = "NVIDIA A100-SXM4-40GB"
EIGHT = [make.gpu(index) for index in range(8)]
REAL = [
    replace(make.gpu(0, model=A100, memory=40 * make.GIB), uuid="GPU-1c2b7a0e-5b0f-4ae0-9d42-8f6a1a4ce001"),
    replace(make.gpu(1, model=A100, memory=40 * make.GIB), uuid="GPU-1c2b7a0f-5b0f-4ae0-9d42-8f6a1a4ce002"),
    replace(make.gpu(2, model="Tesla T4", memory=15 * make.GIB), uuid="GPU-99990001-5b0f-4ae0-9d42-8f6a1a4ce003"),
]
REST = make.whole(resource="example.com/rest", name="rest")


def told(gpus: Sequence[Gpu], *rules: Rule) -> list[str]:
    """The remarks on a config of these rules."""
    return [str(one) for one in remarks(make.config(*rules), gpus)]


def rule(match: Match, name: str = "odd") -> Rule:
    """A rule for what matches."""
    return replace(make.sliced(4, name=name), match=match)


def about(gpus: Sequence[Gpu], match: Match) -> str:
    """The one remark on a rule beside which another takes all that is left."""
    (only,) = told(gpus, rule(match), REST)
    return only.removeprefix('rule "odd": ')


def test_a_config_that_says_nothing_in_vain() -> None:
    """Rules that decide, and one for what may be left, are no reason for a remark; nor is a node without GPUs."""
    assert told(EIGHT, make.sliced(4, *range(8)), REST) == []
    assert told(EIGHT, make.sliced(4)) == []
    assert told([], make.sliced(4, 9)) == []
    assert told(EIGHT, make.sliced(4), rule(Match(models=("*",)))) == []


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ({9}, "no GPU of this node has the index 9; there are GPUs 0-7"),
        ({6, 7, 8}, "no GPU of this node has the index 8; there are GPUs 0-7"),
        ({8, 9, 10, 12}, "no GPU of this node has the indices 8-10, 12; there are GPUs 0-7"),
        ({1023}, "no GPU of this node has the index 1023; there are GPUs 0-7"),
    ],
)
def test_an_index_out_of_range_is_named(indices: set[int], expected: str) -> None:
    """Whether the rule decides for others or not, on GPUs that are known as on a mere number of them."""
    match = Match(indices=frozenset(indices))
    assert about(EIGHT, match) == expected
    (only,) = remarks_on_count(make.config(rule(match), REST), 8)
    assert str(only) == f'rule "odd": {expected}'
    assert told([make.gpu(0)], make.sliced(4, 0, 1)) == [
        'rule "sliced": no GPU of this node has the index 1; there is GPU 0'
    ]


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [
        (
            "GPU-1C2B7A0E-5B0F-4AE0-9D42-8F6A1A4CE001",
            "{} differs in upper and lower case from the UUID of GPU 0; write {}",
        ),
        ("GPU-1c2b7a0e", "{} is only the beginning of the UUID of GPU 0; write {}"),
        ("GPU-1C2B7A0E-5b", "{} is only the beginning of the UUID of GPU 0; write {}"),
        ("GPU-1c2b7a0e-5b0f-4ae0-9d42-8f6a1a4ce00", "{} is only the beginning of the UUID of GPU 0; write {}"),
        ("GPU-1c2b7a0e-5b0f-4ae0-9d42-8f6a1a4ce111", "{} is nearly the UUID of GPU 0; write {}"),
        ("GPU-1c2b7a0e-5b0f-4ae0-9d42-8f6a1a4ce0011", "{} is nearly the UUID of GPU 0; write {}"),
    ],
)
def test_a_uuid_that_is_nearly_one(uuid: str, expected: str) -> None:
    """The whole one is given, to be copied."""
    assert about(REAL, Match(uuids=frozenset({uuid}))) == expected.format(uuid, REAL[0].uuid)
    both = Match(uuids=frozenset({uuid, REAL[1].uuid}))
    assert about(REAL, both) == expected.format(uuid, REAL[0].uuid)


def test_a_uuid_that_could_be_several_or_none() -> None:
    """What is ambiguous says so. Those of other nodes are no slip where one of this node is beside them."""
    cut, other = "GPU-1c2b7a0", "GPU-77777777-5b0f-4ae0-9d42-8f6a1a4ce003"
    assert about(REAL, Match(uuids=frozenset({cut}))) == (
        f"{cut} is only the beginning of the UUIDs of GPUs 0-1; write all of one"
    )
    assert told(REAL, rule(Match(uuids=frozenset({other, REAL[0].uuid}))), REST) == []
    assert about(REAL, Match(uuids=frozenset({other}))) == f'no GPU or MIG device of this node has the UUID "{other}"'
    many = Match(uuids=frozenset(f"GPU-{number:08x}" for number in range(16, 36)))
    assert about(REAL, many).endswith('has any UUID of "GPU-00000010", "GPU-00000011", "GPU-00000012" or 17 more')


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        ("*a100*", '; did you mean "*A100*"?'),
        ("A100", '; did you mean "*A100*"?'),
        ("a100-sxm4-40gb", '; did you mean "*A100-SXM4-40GB*"?'),
        ("NVIDIA-A100-SXM4-40GB", f'; did you mean "{A100}"?'),
        ("NVIDIA-A100-SXM4-40GB-SHARED", f'; did you mean "{A100}"?'),
        ("tesla*", '; did you mean "*Tesla*"?'),
        ("*a?00*40gb", f'; did you mean "{A100}"?'),
        ("*H100*", ""),
        ("*A100-SXM4-80GB*", ""),
    ],
)
def test_a_model_that_nothing_is(glob: str, hint: str) -> None:
    """The models that there are, and what was meant where it is one of them in other letters."""
    assert about(REAL, Match(models=(glob,))) == (
        f'no GPU of this node has a model like "{glob}"; there are "{A100}" and "Tesla T4"{hint}'
    )


def test_a_list_of_models_is_for_several_nodes() -> None:
    """One that is here is enough; what is shown is bounded, and printable."""
    assert told(REAL, rule(Match(models=("*H100*", "*T4*"))), REST) == []
    text = about(REAL, Match(models=("\x1b[2J" * 100, *(f"*{number}x*" for number in range(200)))))
    assert "\x1b" not in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (80, "no GPU of this node has 81920 MiB; the most that one has is 81559 MiB; did you mean 79Gi?"),
        (141, "no GPU of this node has 144384 MiB; the most that one has is 81559 MiB"),
    ],
)
def test_more_memory_than_there_is(memory: int, expected: str) -> None:
    """An 80 GB GPU has slightly less than 80Gi."""
    gpus = [make.gpu(0, memory=81559 << 20)]
    assert about(gpus, Match(min_memory=memory * make.GIB)) == expected


def test_mig_devices_that_are_not_there() -> None:
    """No MIG at all, other profiles, or GPUs that rules for whole ones do not reach."""
    parts = [make.with_mig(0), make.mig(0, 7), make.mig(0, 9, "3g.40gb")]
    rest = replace(make.whole(resource="example.com/mig", name="mig"), match=Match(mig=("*",)))
    assert about(EIGHT, Match(mig=("1g.*",))) == "no GPU of this node has MIG devices"
    assert told(parts, rule(Match(mig=("1g.5gb",))), rest) == [
        'rule "odd": no MIG device of this node has a profile like "1g.5gb"; there are "1g.10gb" and "3g.40gb"'
    ]
    assert told(parts, rule(Match(indices=frozenset({0}))), rest) == [
        'rule "odd": MIG is enabled on GPU 0, whose MIG devices only a rule with `mig` is for'
    ]
    assert told(parts, rule(Match(min_memory=40 * make.GIB, mig=("*",))), rest) == [
        'rule "odd": no MIG device of this node has 40960 MiB; the most that one has is 10240 MiB'
    ]
    assert told(parts, rule(Match(mig=("3g.*",)))) == [
        "no rule is for MIG device 0:7, which is exclusive nvidia.com/mig-* then"
    ]
    assert told(parts, make.sliced(4)) == []


def test_criteria_that_are_met_but_not_together_or_not_first() -> None:
    """Each of them has something, all of them nothing; or earlier rules have taken it."""
    assert about(REAL, Match(indices=frozenset({0}), models=("*T4*",))) == (
        "no GPU of this node meets all that it asks for"
    )
    later = rule(Match(min_memory=30 * make.GIB), "later")
    assert told(REAL, make.sliced(4, 0, name="zero"), rule(Match(models=("*A100*",)), "a100"), later, REST) == [
        'rule "later": rule "zero" takes GPU 0 first and rule "a100" takes GPU 1 first'
    ]


def test_gpus_that_no_rule_is_for() -> None:
    """They are what no config makes them, which is said."""
    assert told(EIGHT, make.sliced(4, *range(7))) == ["no rule is for GPU 7, which is exclusive nvidia.com/gpu then"]
    assert told(REAL, rule(Match(models=("*T4*",)))) == [
        "no rule is for GPUs 0-1, which are exclusive nvidia.com/gpu then"
    ]
    (only,) = remarks_on_count(make.config(make.sliced(4, *range(6))), 8)
    assert str(only) == "no rule is for GPUs 6-7, which are exclusive nvidia.com/gpu then"
    assert remarks_on_count(make.config(make.sliced(4, 0), rule(Match(models=("*",)))), 8) == ()


def test_an_entry_of_nvidias_file_is_called_by_its_place() -> None:
    """It has no name there, and the rules that it makes are one to its author."""
    whole = replace(make.sliced(4, 0, 9, name="time-slicing"), origin="sharing.timeSlicing.resources[0]")
    parts = replace(whole, name="time-slicing-mig", match=Match(indices=frozenset({0, 9}), mig=("*",)))
    found = remarks(SharingConfig("", (whole, parts)), [make.gpu(0), make.gpu(1)])
    assert [str(one) for one in found] == [
        "sharing.timeSlicing.resources[0]: no GPU of this node has the index 9; there are GPUs 0-1",
        "no entry of the file is for GPU 1, which is exclusive nvidia.com/gpu then",
    ]


def test_remarks_are_bounded() -> None:
    """However many rules say something in vain, the last remark counts the others."""
    rules = [make.sliced(4, 100 + number, name=f"r{number}") for number in range(256)]
    found = remarks(make.config(*rules, REST), EIGHT)
    assert len(found) == MOST
    assert str(found[-1]) == f"{256 - MOST + 1} more remarks of this kind"


def test_a_mig_device_by_its_older_name_is_known() -> None:
    """`MIG-GPU-…/7/0` is one of those that are there, and one with other instances is none."""
    whole, part = make.with_mig(0), make.mig(0, 7)
    assert not told([whole, part], rule(Match(uuids=frozenset({part.older_name}))))
    other = f"MIG-{whole.uuid}/99/0"
    assert any(other in one for one in told([whole, part], rule(Match(uuids=frozenset({other})))))
