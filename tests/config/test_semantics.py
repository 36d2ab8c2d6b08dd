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
    ],
)
def test_a_rule_that_may_match(first: str, second: str) -> None:
    """A rule that may have GPUs of its own on some node is fine."""
    accepted(two_rules(first, second))


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
        "sharing.yaml:7:32: spec.rules[1].resource: expected one mode and one limit for nvidia.com/gpu, got exclusive"
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


@pytest.mark.parametrize(
    ("length", "replicas", "fits"), [(60, 10, True), (61, 10, False), (60, 11, False), (58, 1000, True), (63, 1, False)]
)
def test_long_ids(length: int, replicas: int, fits: bool) -> None:
    """Share ids may have 63 characters, the kubelet takes no more; whole GPUs have no suffix."""
    uuid = "GPU-".ljust(length, "a")
    text = f"- {{name: a, match: {{uuids: [{uuid}]}}, resource: example.com/s, timeSlicing: {{replicas: {replicas}}}}}"

    if fits:
        accepted(rules(text))
    else:
        assert "expected share ids of at most 63 characters, got " in rejections(rules(text))[0]
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
