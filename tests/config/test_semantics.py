"""Contradictions between rules that no schema can see."""

from __future__ import annotations

import pytest

from tests.config.support import accepted, rejections, rules

SHARED = "resource: example.com/shared, timeSlicing: {replicas: 4}"


def two_rules(first: str, second: str) -> str:
    """An exclusive rule and a shared one, with these criteria."""
    return rules(
        f"- {{name: first, match: {{{first}}}, exclusive: {{}}}}\n- {{name: second, match: {{{second}}}, {SHARED}}}"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "indices: [0]"),
        ("models: ['*']", "minMemory: 4Gi"),
        ("indices: [0, 1]", "indices: [1]"),
        ("indices: [0, 1]", "indices: [1], models: ['*A100*']"),
        ("uuids: [GPU-a, GPU-b]", "uuids: [GPU-a]"),
        ("minMemory: 40Gi", "minMemory: 80Gi"),
        ("models: ['*A100*']", "models: ['NVIDIA A100-SXM4-40GB']"),
        ("models: ['*A100*', '*H100*']", "models: ['*H100*']"),
        ("models: ['*A100*'], minMemory: 10Gi", "models: ['*A100*'], minMemory: 20Gi, indices: [3]"),
        ("mig: ['*']", "mig: ['1g.*']"),
        ("mig: ['*']", "uuids: [MIG-a]"),
        ("mig: ['1g.*', 2g.10gb]", "mig: ['1g.5gb'], indices: [0]"),
        ("mig: ['1g.*'], indices: [0, 1]", "mig: ['1g.*'], indices: [1], minMemory: 4Gi"),
        ("mig: ['*'], uuids: [GPU-a]", "mig: ['1g.*'], uuids: [GPU-a]"),
        ("uuids: [MIG-a, MIG-b]", "mig: ['1g.*'], uuids: [MIG-b]"),
    ],
)
def test_a_rule_that_never_matches(first: str, second: str) -> None:
    """A rule whose GPUs an earlier one takes is an error that names the earlier one and its line."""
    (line,) = rejections(two_rules(first, second))

    assert line.startswith("sharing.yaml:7:7: spec.rules[1]: expected a rule that can match")
    assert 'rule "first" (line 6)' in line


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("indices: [0]", "indices: [0, 1]"),
        ("indices: [0]", "uuids: [GPU-a]"),
        ("indices: [0], models: ['*A100*']", "indices: [0]"),
        ("minMemory: 80Gi", "minMemory: 40Gi"),
        ("models: ['*A100*']", "models: ['*A100*', '*H100*']"),
        ("models: ['*A100*']", "models: ['*a100-40*']"),
        ("", "mig: ['*']"),
        ("indices: [0]", "mig: ['*'], indices: [0]"),
        ("uuids: [GPU-a]", "mig: ['*'], uuids: [GPU-a]"),
        ("mig: ['*'], indices: [0]", "indices: [0]"),
        ("mig: ['*']", "minMemory: 4Gi"),
        ("mig: ['1g.*']", "mig: ['*']"),
        ("mig: ['1g.*']", "uuids: [MIG-a]"),
        ("mig: ['1g.*'], indices: [0]", "mig: ['1g.*']"),
    ],
)
def test_a_rule_that_may_match(first: str, second: str) -> None:
    """A rule that may have GPUs of its own on some node is fine."""
    accepted(two_rules(first, second))


WITHHELD = "- {name: broken, match: {MATCH}, withheld: {}}\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "mig: ['*']"),
        ("indices: [0]", "mig: ['1g.*'], indices: [0]"),
        ("uuids: [GPU-a]", "mig: ['1g.*'], uuids: [GPU-a]"),
        ("minMemory: 40Gi", "mig: ['1g.*'], minMemory: 40Gi"),
        ("", "uuids: [MIG-a]"),
    ],
)
def test_what_is_withheld_is_so_with_its_mig_devices(first: str, second: str) -> None:
    """A rule for MIG devices of GPUs that are withheld before it never matches; before them it does."""
    broken, small = WITHHELD.replace("MATCH", first), f"- {{name: small, match: {{{second}}}, exclusive: {{}}}}\n"

    (line,) = rejections(rules(broken + small))
    assert 'one that never does: rule "broken" (line 6) takes' in line
    assert "MIG device" in line

    accepted(rules(small + broken))


def test_withholding_what_others_have_taken() -> None:
    """A rule that withholds GPUs which another has is an error, although their MIG devices would be left."""
    whole = "- {name: whole, exclusive: {}}\n"

    (line,) = rejections(rules(whole + WITHHELD.replace("MATCH", "indices: [0]")))
    assert 'rule "whole" (line 6) takes every GPU first' in line

    accepted(rules(whole + WITHHELD.replace("MATCH", "indices: [0], mig: ['*']")))
    accepted(rules(whole + WITHHELD.replace("MATCH", "uuids: [MIG-a]")))
    accepted(rules(whole + WITHHELD.replace("MATCH", "uuids: [GPU-a, MIG-a]")))


def test_several_rules_together() -> None:
    """A rule whose indices earlier rules have named one by one never matches either."""
    (line,) = rejections(
        rules(
            f"""
- {{name: a, match: {{indices: [0]}}, exclusive: {{}}}}
- {{name: b, match: {{indices: [1]}}, {SHARED}}}
- {{name: c, match: {{indices: [0, 1]}}, withheld: {{}}}}
"""
        )
    )

    assert "the rules before it take all GPUs that it names" in line


def test_several_rules_for_mig_devices_together() -> None:
    """Rules by index, by uuid and by profile take all MIG devices that a later one names, those for GPUs none."""
    mig = "mig: ['*'], "
    for first, second, both in (
        ("indices: [0]", "indices: [1]", "indices: [0, 1]"),
        ("uuids: [GPU-a]", "uuids: [MIG-b]", "uuids: [GPU-a, MIG-b]"),
    ):
        three = [
            f"- {{name: n{place}, match: {{{mig}{one}}}, withheld: {{}}}}"
            for place, one in enumerate((first, second, both))
        ]
        (line,) = rejections(rules("\n".join(three)))
        assert "the rules before it take all MIG devices that it names" in line
        accepted(rules("\n".join([three[0].replace(mig, "").replace("withheld", "exclusive"), *three[1:]])))
    profiles = [
        f"- {{name: n{place}, match: {{mig: [{one}]}}, exclusive: {{}}}}"
        for place, one in enumerate(("1g.5gb", "'2g.*'", "1g.5gb, 2g.10gb"))
    ]
    assert len(rejections(rules("\n".join(profiles)))) == 1
    accepted(rules("\n".join([profiles[0], profiles[2], profiles[1]])))


def test_replicas_may_differ_under_one_name() -> None:
    """Rules under one name may differ in replicas, as long as mode and limit are the same."""
    accepted(
        rules(
            """
- {name: a, match: {indices: [0]}, resource: example.com/shared, timeSlicing: {replicas: 4}}
- {name: b, match: {indices: [1]}, resource: example.com/shared, timeSlicing: {replicas: 8}}
"""
        )
    )


def test_two_modes_under_one_name() -> None:
    """One resource in two modes is an error that names both rules and a name for the shared one."""
    (line,) = rejections(
        rules(
            """
- {name: whole, match: {indices: [0]}, exclusive: {}}
- {name: shared, resource: nvidia.com/gpu, timeSlicing: {replicas: 8}}
"""
        )
    )

    assert line == (
        "sharing.yaml:7:32: spec.rules[1].resource: expected one mode and one set of limits for nvidia.com/gpu, got"
        " exclusive"
        ' in rule "whole" (line 6) and time-sliced in "shared"; give the shares of "shared" another name, such as'
        ' "resource: nvidia.com/gpu.shared"'
    )


def test_the_default_counts_as_a_rule() -> None:
    """GPUs that no rule matches are exclusive nvidia.com/gpu, so that name cannot be shared beside them."""
    text = "- {name: some, match: {indices: [0]}, resource: nvidia.com/gpu, timeSlicing: {replicas: 8}}\n"

    (line,) = rejections(rules(text))
    assert "exclusive for the GPUs that no rule matches" in line

    accepted(rules(text + "- {name: rest, withheld: {}}"))


def test_the_default_has_no_limit() -> None:
    """A limit on some whole GPUs contradicts the default for the others."""
    (line,) = rejections(rules("- {name: some, match: {indices: [0]}, exclusive: {}, maxSharesPerContainer: 2}"))

    assert "exclusive with at most 2 per container" in line


def test_another_name_is_always_free() -> None:
    """The name that is suggested is not one that another rule has."""
    (line,) = rejections(
        rules(
            """
- {name: a, match: {indices: [0]}, resource: nvidia.com/gpu.shared, timeSlicing: {replicas: 2}}
- {name: b, match: {indices: [1]}, resource: nvidia.com/gpu, timeSlicing: {replicas: 2}}
- {name: c, exclusive: {}}
"""
        )
    )

    assert '"resource: nvidia.com/gpu-b"' in line


def mps_pair(first: str, second: str) -> str:
    """Two rules under MPS with one resource name; each text is what stands in the rule beside that."""
    return rules(
        f"- {{name: a, match: {{indices: [0]}}, resource: example.com/mps, {first}}}\n"
        f"- {{name: b, match: {{indices: [1]}}, resource: example.com/mps, {second}}}"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mps: {replicas: 4}", "mps: {replicas: 4}"),
        ("mps: {replicas: 4}", "mps: {replicas: 4, threadPercentage: 25}"),
        ("mps: {replicas: 4}", "mps: {replicas: 4}, maxSharesPerContainer: 1"),
        (
            "mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 25}",
            "mps: {replicas: 8, memoryPerReplica: 9Gi, threadPercentage: 25}",
        ),
        (
            "mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 25}, maxSharesPerContainer: 2",
            "mps: {replicas: 8, memoryPerReplica: 9216Mi, threadPercentage: 25}, maxSharesPerContainer: 2",
        ),
        (
            "mps: {replicas: 4, memoryPerReplica: 9Gi, oversubscribe: true}",
            "mps: {replicas: 4, memoryPerReplica: 9Gi}",
        ),
    ],
)
def test_equal_limits_under_one_name(first: str, second: str) -> None:
    """Rules under MPS may have one name when a share means the same under both, however that is written."""
    accepted(mps_pair(first, second))


@pytest.mark.parametrize(
    ("first", "second", "got"),
    [
        (
            "mps: {replicas: 4}",
            "mps: {replicas: 5, threadPercentage: 25}",
            "1/4 of the memory and 25 % of the threads each, at most 1 per container in rule",
        ),
        (
            "mps: {replicas: 4}",
            "mps: {replicas: 4, memoryPerReplica: 9Gi}",
            "mps with 9Gi and 25 % of the threads each",
        ),
        ("mps: {replicas: 4, memoryPerReplica: 8Gi}", "mps: {replicas: 4, memoryPerReplica: 9Gi}", "mps with 8Gi and"),
        ("mps: {replicas: 4, memoryPerReplica: 9Gi}", "mps: {replicas: 2, memoryPerReplica: 9Gi}", "9Gi and 50 %"),
        ("mps: {replicas: 4}", "mps: {replicas: 4}, maxSharesPerContainer: 2", "each, at most 2 per container"),
        (
            "mps: {replicas: 4, memoryPerReplica: 1Gi, threadPercentage: 9}, maxSharesPerContainer: 9",
            "mps: {replicas: 8, memoryPerReplica: 1Gi, threadPercentage: 9}, maxSharesPerContainer: 9",
            "each, at most 8 per container",
        ),
        ("timeSlicing: {replicas: 4}", "mps: {replicas: 4}", 'time-sliced in rule "a" (line 6) and mps with'),
    ],
)
def test_two_sets_of_limits_under_one_name(first: str, second: str, got: str) -> None:
    """A pod cannot choose between two meanings of a name: the error names both rules, their limits and the mend."""
    (line,) = rejections(mps_pair(first, second))

    assert "expected one mode and one set of limits for example.com/mps" in line
    assert 'rule "a" (line 6)' in line
    assert got in line
    assert 'give the shares of "b" another name, such as "resource: example.com/mps' in line


def test_a_name_for_shares_under_mps() -> None:
    """The name that is suggested says that the shares are under MPS, and is that of the shared ones."""
    (line,) = rejections(
        rules(
            """
- {name: some, match: {indices: [0]}, resource: nvidia.com/gpu, mps: {replicas: 4}}
- {name: rest, exclusive: {}}
"""
        )
    )

    assert 'give the shares of "some" another name, such as "resource: nvidia.com/gpu.mps"' in line


@pytest.mark.parametrize(
    ("length", "replicas", "fits"), [(60, 10, True), (61, 10, False), (60, 11, False), (58, 1000, True), (63, 1, False)]
)
def test_long_ids(length: int, replicas: int, fits: bool) -> None:
    """Share ids may have 63 characters, the kubelet takes no more; whole GPUs have no suffix."""
    uuid = "GPU-".ljust(length, "a")
    for mode in ("timeSlicing", "mps") if replicas <= 48 else ("timeSlicing",):
        text = f"- {{name: a, match: {{uuids: [{uuid}]}}, resource: example.com/s, {mode}: {{replicas: {replicas}}}}}"
        if fits:
            accepted(rules(text))
        else:
            (line,) = rejections(rules(text))
            assert f"spec.rules[0].{mode}.replicas: expected share ids of at most 63 characters, got " in line
    accepted(rules(f"- {{name: a, match: {{uuids: [{uuid}]}}, exclusive: {{}}}}"))


def test_all_contradictions_at_once() -> None:
    """All contradictions are told together, in the order of the file."""
    found = rejections(
        rules(
            """
- {name: a, resource: nvidia.com/gpu, timeSlicing: {replicas: 2}}
- {name: a, match: {indices: [0]}, exclusive: {}}
"""
        )
    )

    assert [line.split(": ")[1] for line in found] == ["spec.rules[1]", "spec.rules[1].resource", "spec.rules[1].name"]


def test_names_by_profile_are_known_on_the_node_only() -> None:
    """Rules that call MIG devices by their profile may differ in all they say: which name they give, nobody knows."""
    accepted(
        rules(
            """
- {name: a, match: {mig: ["1g.*"]}, exclusive: {}, maxSharesPerContainer: 1, placement: packed}
- {name: b, match: {mig: ["2g.*"]}, exclusive: {}}
- {name: c, match: {mig: ["3g.*"]}, resource: nvidia.com/mig-3g.40gb, timeSlicing: {replicas: 4}}
- {name: d, resource: nvidia.com/gpu.shared, timeSlicing: {replicas: 10}}
"""
        )
    )


def test_mig_devices_are_not_what_no_rule_matches() -> None:
    """A rule for every MIG device leaves whole GPUs over, which are exclusive nvidia.com/gpu."""
    text = "- {name: all, match: {mig: ['*']}, resource: nvidia.com/gpu, timeSlicing: {replicas: 8}}\n"

    (line,) = rejections(rules(text))
    assert "exclusive for the GPUs that no rule matches" in line

    accepted(rules(text + "- {name: rest, withheld: {}}"))
    accepted(rules(text.replace("timeSlicing: {replicas: 8}", "exclusive: {}")))


@pytest.mark.parametrize(
    "match", ["mig: ['1g.*']", "uuids: [MIG-a]", "uuids: [GPU-a, MIG-a]", "uuids: [GPU-a], mig: ['*']"]
)
def test_mps_is_for_whole_gpus(match: str) -> None:
    """A rule that shares MIG devices under MPS is an error that says what is possible."""
    (line,) = rejections(rules(f"- {{name: a, match: {{{match}}}, resource: a.io/mps, mps: {{replicas: 4}}}}"))

    assert "spec.rules[0].mps: expected timeSlicing or exclusive for MIG devices, got mps" in line


def test_gpus_and_mig_devices_by_uuid() -> None:
    """No resource stands for both, so a rule that names both can only withhold them, or speak of MIG devices."""
    both = "uuids: [GPU-a, MIG-b]"

    for how in ("exclusive: {}", SHARED):
        (line,) = rejections(rules(f"- {{name: a, match: {{{both}}}, {how}}}"))
        assert "spec.rules[0].match.uuids: expected UUIDs of GPUs, or of MIG devices, got both" in line
        accepted(rules(f"- {{name: a, match: {{{both}, mig: ['*']}}, {how}}}"))
    accepted(rules(f"- {{name: a, match: {{{both}}}, withheld: {{}}}}"))


@pytest.mark.parametrize("value", ["distributed", "packed"])
def test_placement_is_for_shares_and_mig_devices(value: str) -> None:
    """Of exclusive whole GPUs the distances decide: to say anything else, even the default, is an error."""
    for rule in (SHARED, "resource: a.io/mps, mps: {replicas: 4}", "match: {mig: ['*']}, exclusive: {}"):
        (found,) = accepted(rules(f"- {{name: a, {rule}, placement: {value}}}")).rules
        assert found.placement.value == value

    (line,) = rejections(rules(f"- {{name: a, exclusive: {{}}, placement: {value}}}"))
    assert "expected no placement beside exclusive whole GPUs" in line


def test_one_placement_under_one_name() -> None:
    """The kubelet asks of a resource, not of a GPU, which of its shares a container should get."""
    text = f"- {{name: a, match: {{indices: [0]}}, {SHARED}, placement: packed}}\n- {{name: b, {SHARED}}}"

    (line,) = rejections(rules(text))
    assert (
        'expected one placement for example.com/shared, got packed in rule "a" (line 6) and distributed in "b"' in line
    )

    accepted(rules(f"{text[:-1]}, placement: packed}}"))
