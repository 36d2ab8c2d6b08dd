"""What rules ask of a node's MIG devices, and what is said where these are not as they must be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.config import MIG_RESOURCES, Contract, Match, Mode, Placement, Rule, SharingConfig, Where
from nodeagent.model.inventory import Gpu
from nodeagent.state.desired import check, resolve
from tests.state import make

GPU = "nvidia.com/gpu"
SMALL = "nvidia.com/mig-1g.10gb"
EVERY = Match(mig=("*",))
NODE = (make.with_mig(0), make.mig(0, 7), make.mig(0, 8), make.mig(0, 9))
MIXED = (*NODE, make.mig(0, 1, "3g.40gb"))


def rule(
    name: str,
    match: Match,
    resource: str = MIG_RESOURCES,
    replicas: int = 1,
    most: int | None = None,
    placement: Placement = Placement.DISTRIBUTED,
) -> Rule:
    """A rule with a place of its own: exclusive, or time-sliced where there are more replicas."""
    mode = Mode.TIME_SLICED if replicas > 1 else Mode.EXCLUSIVE
    return Rule(name, match, Contract(resource, mode), replicas, most, placement=placement, where=Where(name, 7, 5))


def told(rules: list[Rule], *gpus: Gpu) -> list[str]:
    """What is wrong with these rules on these GPUs, each with the name of the rule that is blamed."""
    found = check(resolve(SharingConfig("test", tuple(rules)), gpus), "sharing.yaml")
    return [f"{one.where.path}: {one.message}" for one in found]


def test_names_by_profile_are_always_good() -> None:
    """Devices of every profile may lie beside whole GPUs as long as each is called by what it is."""
    assert told([], *MIXED, make.gpu(1)) == []
    assert told([rule("all", EVERY)], *MIXED, make.gpu(1)) == []


def test_mig_devices_as_gpus() -> None:
    """NVIDIA's strategy `single` is good on a node with one kind of device: one profile, or whole GPUs."""
    single = [rule("whole", Match(), GPU), rule("mig", EVERY, GPU)]
    assert told(single, *NODE) == []
    assert told(single, make.gpu(0), make.gpu(1)) == []
    assert told(single, make.with_mig(0), make.with_mig(1)) == []


def test_one_name_for_two_profiles() -> None:
    """The odd devices are named, and both ways out."""
    (found,) = told([rule("mig", EVERY, GPU)], *MIXED)
    assert found == (
        "mig: expected nvidia.com/gpu to be one kind of device, 1g.10gb as on MIG devices 0:7-9, got 3g.40gb on MIG"
        " device 0:1; leave `resource` out for names by profile, or give the"
        " others a rule with another `resource`"
    )
    (sliced,) = told([rule("mig", EVERY, "example.com/mig", 4)], *MIXED)
    assert sliced.startswith("mig: expected example.com/mig to be one kind of device, 1g.10gb as on MIG devices 0:7-9")
    assert sliced.endswith("got 3g.40gb on MIG device 0:1; give the others a rule with another `resource`")


def test_one_name_for_mig_devices_and_whole_gpus() -> None:
    """Whichever are fewer are the odd ones; the rule that is blamed is written in the file, not the default."""
    mig = rule("mig", EVERY, GPU)
    (few,) = told([mig], *NODE, make.gpu(1))
    assert few.startswith(
        "mig: expected nvidia.com/gpu to be one kind of device, 1g.10gb as on MIG devices 0:7-9, got a whole GPU on"
        " GPU 1; "
    )
    (many,) = told([mig], *NODE, *(make.gpu(index) for index in (1, 2, 3, 4)))
    assert "a whole GPU as on GPUs 1-4, got 1g.10gb on MIG devices 0:7-9" in many
    (equal,) = told([mig], *NODE, *(make.gpu(index) for index in (1, 2, 3)))
    assert "1g.10gb as on MIG devices 0:7-9, got a whole GPU on GPUs 1-3" in equal


def test_three_kinds_under_one_name() -> None:
    """All that are odd are told at once."""
    (found,) = told([rule("mig", EVERY, GPU)], *MIXED, make.gpu(1))
    assert "got 3g.40gb on MIG device 0:1 and a whole GPU on GPU 1;" in found


def test_a_name_by_profile_that_is_shared_elsewhere() -> None:
    """An exclusive rule by profile and a time-sliced one that give devices the same name are refused."""
    sliced = rule("sliced", Match(indices=frozenset({1}), mig=("1g.*",)), SMALL, 4)
    node = (*NODE, make.with_mig(1), make.mig(1, 7))
    for rules in ([sliced, rule("rest", EVERY)], [sliced]):
        (found,) = told(rules, *node)
        assert found == (
            f"sliced: expected one mode and one limit for {SMALL}, exclusive as on MIG devices 0:7-9, got time-sliced"
            " on MIG device 1:7; give these another `resource`"
        )
    assert told([replace(sliced, match=Match(mig=("1g.*",)))], *node) == []
    assert told([replace(sliced, contract=Contract(f"{SMALL}.shared", Mode.TIME_SLICED))], *node) == []


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (rule("odd", Match(indices=frozenset({1}), mig=("*",)), most=1), "exclusive with at most 1 per container"),
        (
            rule("odd", Match(indices=frozenset({1}), mig=("*",)), placement=Placement.PACKED),
            "exclusive, packed",
        ),
    ],
)
def test_rules_by_profile_that_differ(odd: Rule, words: str) -> None:
    """Two rules by profile may differ on different profiles, and not where both give the same name."""
    (found,) = told([odd, rule("rest", EVERY)], *NODE, make.with_mig(1), make.mig(1, 7))
    assert (
        f"odd: expected one mode and one limit for {SMALL}, exclusive as on MIG devices 0:7-9, got {words} on" in found
    )
    assert told([odd, rule("rest", EVERY)], *NODE, make.with_mig(1), make.mig(1, 1, "3g.40gb")) == []


def test_a_whole_gpu_under_the_name_of_a_profile() -> None:
    """A rule for whole GPUs that takes the name of MIG devices is blamed, whichever are fewer."""
    whole = rule("whole", Match(), SMALL)
    (found,) = told([whole], *NODE, make.gpu(1))
    assert found.startswith(f"whole: expected {SMALL} to be one kind of device, 1g.10gb as on MIG devices 0:7-9, got a")


def test_what_concerns_no_mig_device_is_none_of_this() -> None:
    """Names of whole GPUs alone are judged where the document is read."""
    rules = [rule("a", Match(indices=frozenset({0})), GPU, 4), rule("b", Match(), GPU)]
    assert told(rules, make.gpu(0), make.gpu(1)) == []


def test_what_is_withheld_has_no_name() -> None:
    """A GPU that is withheld is so with its MIG devices, also where only its own memory is what the rule asks for."""
    single = rule("mig", EVERY, GPU)
    by_memory = Rule("small", Match(min_memory=40 * make.GIB), None, 0)
    assert told([Rule("odd", Match(uuids=frozenset({"MIG-0-1"})), None, 0), single], *MIXED) == []
    assert told([by_memory, single], *MIXED) == []
    wants = resolve(SharingConfig("test", (by_memory,)), MIXED).wants
    assert {want.rule.name for want in wants.values()} == {"small"}
