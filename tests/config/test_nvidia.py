"""NVIDIA's `version: v1` file: what NVIDIA's plugin would give, and what it parses and ignores made to work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.config.convert import to_yaml
from nodeagent.model.config import Contract, Match, Mode, MpsLimits, MpsTerms
from nodeagent.model.inventory import Gpu, MigDevice
from tests.config.support import DATA, accepted, rejections

FILES = sorted(path for path in (DATA / "nvidia").glob("*.yaml") if not path.stem.endswith(".converted"))


def time_slicing(more: str = "", resource: str = "", strategy: str = "timeSlicing") -> str:
    """A file that shares every GPU by ten, with more keys at two places."""
    return f"""\
version: v1
sharing:
  {strategy}:
    {more or "renameByDefault: false"}
    resources:
      - name: nvidia.com/gpu
        replicas: 10
        {resource}
"""


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_files(name: str) -> None:
    """Each file converts to the one that stands beside it, and that means the same."""
    text = (DATA / "nvidia" / f"{name}.yaml").read_text("utf-8")
    converted = (DATA / "nvidia" / f"{name}.converted.yaml").read_text("utf-8")

    assert to_yaml(accepted(text), name=name) == converted
    assert accepted(converted).rules == accepted(text).rules


@pytest.mark.parametrize(
    ("more", "resource", "name"),
    [
        ("", "", "nvidia.com/gpu"),
        ("renameByDefault: true", "", "nvidia.com/gpu.shared"),
        ("renameByDefault: true", "rename: example.com/share", "example.com/share"),
        ("", "rename: example.com/share", "example.com/share"),
    ],
)
def test_resource_names(more: str, resource: str, name: str) -> None:
    """`renameByDefault` gives NVIDIA's name, `rename` the given one."""
    (rule,) = accepted(time_slicing(more, resource)).rules

    assert rule.contract == Contract(name, Mode.TIME_SLICED)
    assert rule.replicas == 10


@pytest.mark.parametrize(
    ("devices", "match"),
    [
        ("all", Match()),
        ("3", Match(indices=frozenset({0, 1, 2}))),
        ("[0, 2]", Match(indices=frozenset({0, 2}))),
        ('["0", "2"]', Match(indices=frozenset({0, 2}))),
        ("[GPU-a, GPU-b]", Match(uuids=frozenset({"GPU-a", "GPU-b"}))),
    ],
)
def test_devices(devices: str, match: Match) -> None:
    """`devices` selects GPUs: all, the first ones by index, indices, or UUIDs."""
    (rule,) = accepted(time_slicing("renameByDefault: true", f"devices: {devices}")).rules

    assert rule.match == match


def test_devices_of_both_kinds() -> None:
    """A list of indices and UUIDs means all of them, which takes two rules."""
    by_index, by_uuid = accepted(time_slicing("renameByDefault: true", "devices: [1, GPU-a]")).rules

    assert by_index.match == Match(indices=frozenset({1}))
    assert by_uuid.match == Match(uuids=frozenset({"GPU-a"}))
    assert by_index.contract == by_uuid.contract
    assert by_index.where == by_uuid.where


@pytest.mark.parametrize(("value", "limit"), [("true", 1), ("false", None)])
def test_requests_greater_than_one(value: str, limit: int | None) -> None:
    """`failRequestsGreaterThanOne` is a limit of one share per container."""
    (rule,) = accepted(time_slicing(f"failRequestsGreaterThanOne: {value}")).rules

    assert rule.max_shares_per_container == limit


def mps(more: str = "", resource: str = "") -> str:
    """A file that shares every GPU by ten under MPS, with more keys at two places."""
    return time_slicing(more, resource, "mps")


def test_mps_is_an_equal_split() -> None:
    """Under MPS each share has its part of the GPU, as NVIDIA's plugin gives it, and a container has one share."""
    (rule,) = accepted(mps()).rules

    assert rule.mps == MpsTerms()
    assert (rule.replicas, rule.max_shares_per_container) == (10, 1)
    contract = rule.contract_for(Gpu("GPU-a", 0, "NVIDIA H100 80GB HBM3", 81559 << 20))
    assert contract == Contract("nvidia.com/gpu", Mode.MPS, MpsLimits(8155, 10))


@pytest.mark.parametrize(
    ("more", "resource", "name"),
    [
        ("", "", "nvidia.com/gpu"),
        ("renameByDefault: true", "", "nvidia.com/gpu.shared"),
        ("renameByDefault: true", "rename: example.com/share", "example.com/share"),
    ],
)
def test_names_of_shares_under_mps(more: str, resource: str, name: str) -> None:
    """Shares under MPS are named as time-sliced ones are."""
    (rule,) = accepted(mps(more, resource)).rules

    assert rule.contract == Contract(name, Mode.MPS)


@pytest.mark.parametrize(("value", "most", "notes"), [("true", 1, 0), ("false", 10, 1)])
def test_requests_greater_than_one_under_mps(value: str, most: int, notes: int) -> None:
    """Only `failRequestsGreaterThanOne: false` allows more shares, all of one GPU: a note says what NVIDIA would do."""
    config = accepted(mps(f"failRequestsGreaterThanOne: {value}"))

    assert config.rules[0].max_shares_per_container == most
    assert len(config.notes) == notes
    place = "line 4, sharing.mps.failRequestsGreaterThanOne: a container may have several shares of one GPU"
    assert all(note.startswith(place) for note in config.notes)


def test_devices_under_mps() -> None:
    """`devices` works under MPS too, with the same note."""
    config = accepted(mps("", "rename: example.com/share\n        devices: [0, GPU-a]"))

    assert [rule.name for rule in config.rules] == ["mps-by-index", "mps-by-uuid"]
    assert [rule.match for rule in config.rules] == [
        Match(indices=frozenset({0})),
        Match(uuids=frozenset({"GPU-a"})),
    ]
    assert [note.split(": ")[0] for note in config.notes] == [
        "line 9, sharing.mps.resources[0].devices",
        "line 8, sharing.mps.resources[0].rename",
    ]


@pytest.mark.parametrize(
    "text", ["version: v1\n", "version: v1\nsharing: {}\n", "version: v1\nflags: {migStrategy: none}\n"]
)
def test_nothing_shared(text: str) -> None:
    """A file that shares nothing means whole GPUs."""
    (rule,) = accepted(text).rules

    assert rule.contract == Contract("nvidia.com/gpu", Mode.EXCLUSIVE)
    assert rule.match.takes_all


def test_notes() -> None:
    """Where NVIDIA's plugin would do something else, a note says what, with the line."""
    config = accepted(
        "version: v1\nflags: {failOnInitError: true}\n"
        + time_slicing("", "rename: example.com/share\n        devices: 2").removeprefix("version: v1\n")
    )

    assert [note.split(": ")[0] for note in config.notes] == [
        "line 2, flags.failOnInitError",
        "line 10, sharing.timeSlicing.resources[0].devices",
        "line 9, sharing.timeSlicing.resources[0].rename",
    ]
    assert all("NVIDIA's plugin would" in note for note in config.notes)


def test_what_nvidia_does_too_is_not_noted() -> None:
    """A file that means the same to NVIDIA's plugin has no notes."""
    assert accepted(time_slicing("renameByDefault: true", "rename: nvidia.com/gpu.shared")).notes == ()


def test_some_devices_need_another_name() -> None:
    """Sharing some GPUs under the name of the whole ones is an error that suggests `rename`."""
    (line,) = rejections(time_slicing("", "devices: 2"))

    assert '"rename: nvidia.com/gpu.shared"' in line


GPU = Gpu("GPU-a", 0, "NVIDIA H100 80GB HBM3", 80 << 30)
ENABLED = replace(GPU, uuid="GPU-b", index=1, mig_enabled=True)
SMALL = replace(ENABLED, uuid="MIG-a", mig_enabled=False, mig=MigDevice("GPU-b", "1g.10gb", 9, 0))
VIDEO = replace(SMALL, uuid="MIG-b", mig=MigDevice("GPU-b", "1g.10gb+me", 8, 0))
ALL = (GPU, ENABLED, SMALL, VIDEO)


def by_strategy(strategy: str, *resources: str, more: str = "renameByDefault: true", key: str = "timeSlicing") -> str:
    """A file with this strategy that shares these resources."""
    head = f"version: v1\nflags: {{migStrategy: {strategy}}}\n"
    listed = "".join(f"      - {{{resource}}}\n" for resource in resources)
    return f"{head}sharing:\n  {key}:\n    {more}\n    resources:\n{listed}" if resources else head


def offered(text: str) -> list[str]:
    """What is offered of a whole GPU, one with MIG enabled, and two MIG devices of that."""
    config = accepted(text)
    contracts = (config.rule_for(gpu).contract_for(gpu) for gpu in ALL)
    return ["" if contract is None else str(contract) for contract in contracts]


WHOLE = "exclusive nvidia.com/gpu"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: v1\n", [WHOLE, WHOLE, "", ""]),
        (by_strategy("none"), [WHOLE, WHOLE, "", ""]),
        (by_strategy("single"), [WHOLE, "", WHOLE, WHOLE]),
        (by_strategy("mixed"), [WHOLE, "", "exclusive nvidia.com/mig-1g.10gb", "exclusive nvidia.com/mig-1g.10gb.me"]),
        (
            by_strategy("none", "name: nvidia.com/gpu, replicas: 4"),
            ["time-sliced nvidia.com/gpu.shared", "time-sliced nvidia.com/gpu.shared", "", ""],
        ),
        (
            by_strategy("single", "name: nvidia.com/gpu, replicas: 4"),
            ["time-sliced nvidia.com/gpu.shared", "", *["time-sliced nvidia.com/gpu.shared"] * 2],
        ),
        (
            by_strategy("single", "name: nvidia.com/gpu, replicas: 4", more="renameByDefault: false"),
            ["time-sliced nvidia.com/gpu", "", *["time-sliced nvidia.com/gpu"] * 2],
        ),
        (
            by_strategy("mixed", "name: nvidia.com/gpu, replicas: 4"),
            [
                "time-sliced nvidia.com/gpu.shared",
                "",
                "exclusive nvidia.com/mig-1g.10gb",
                "exclusive nvidia.com/mig-1g.10gb.me",
            ],
        ),
        (
            by_strategy("mixed", "name: nvidia.com/mig-1g.10gb, replicas: 4"),
            [WHOLE, "", "time-sliced nvidia.com/mig-1g.10gb.shared", "exclusive nvidia.com/mig-1g.10gb.me"],
        ),
        (
            by_strategy(
                "mixed",
                "name: nvidia.com/mig-1g.10gb.me, replicas: 4",
                "name: nvidia.com/gpu, replicas: 2",
                more="renameByDefault: false",
            ),
            [
                "time-sliced nvidia.com/gpu",
                "",
                "exclusive nvidia.com/mig-1g.10gb",
                "time-sliced nvidia.com/mig-1g.10gb.me",
            ],
        ),
        (
            by_strategy("mixed", "name: nvidia.com/gpu, replicas: 4", more="renameByDefault: false", key="mps"),
            [
                "mps nvidia.com/gpu (20480 MiB and 25 % each)",
                "",
                "exclusive nvidia.com/mig-1g.10gb",
                "exclusive nvidia.com/mig-1g.10gb.me",
            ],
        ),
    ],
)
def test_strategies_for_mig(text: str, expected: list[str]) -> None:
    """`none` offers GPUs with MIG enabled as whole, `single` MIG devices as GPUs, `mixed` by profile, shared or not."""
    assert offered(text) == expected


@pytest.mark.parametrize(
    ("strategy", "name", "devices", "shared"),
    [
        ("single", "gpu", "[0]", ["GPU-a"]),
        ("single", "gpu", "2", ["GPU-a", "MIG-a", "MIG-b"]),
        ("single", "gpu", "[GPU-b]", ["MIG-a", "MIG-b"]),
        ("single", "gpu", "[MIG-b]", ["MIG-b"]),
        ("single", "gpu", "[0, MIG-b]", ["GPU-a", "MIG-b"]),
        ("single", "gpu", "[GPU-a, MIG-b]", ["GPU-a", "MIG-b"]),
        ("mixed", "gpu", "[0, 1]", ["GPU-a"]),
        ("mixed", "mig-1g.10gb", "all", ["MIG-a"]),
        ("mixed", "mig-1g.10gb", "[1]", ["MIG-a"]),
        ("mixed", "mig-1g.10gb", "['1']", ["MIG-a"]),
        ("mixed", "mig-1g.10gb", "[GPU-b, 0]", ["MIG-a"]),
        ("mixed", "mig-1g.10gb", "[MIG-a, MIG-b]", ["MIG-a"]),
        ("mixed", "mig-1g.10gb", "[0, MIG-b]", []),
    ],
)
def test_mig_devices_of_devices(strategy: str, name: str, devices: str, shared: list[str]) -> None:
    """`devices` takes MIG devices by uuid, or by their GPU; what it leaves keeps the name that the strategy gives."""
    text = by_strategy(strategy, f"name: nvidia.com/{name}, replicas: 4, devices: {devices}")
    config = accepted(text)

    assert [gpu.uuid for gpu in ALL if config.rule_for(gpu).mode is Mode.TIME_SLICED] == shared
    rest = [contract for contract in offered(text) if contract and "time-sliced" not in contract]
    if strategy == "single":
        assert set(rest) <= {WHOLE}
    assert len(rest) + len(shared) == 3
    assert len(config.notes) == (devices != "all")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (by_strategy("none", "name: nvidia.com/mig-1g.10gb, replicas: 4"), 'write "migStrategy: mixed" under flags'),
        (by_strategy("single", "name: nvidia.com/mig-1g.10gb, replicas: 4"), "only resource under migStrategy single"),
        (by_strategy("single", "name: nvidia.com/gpu, replicas: 4", key="mps"), 'got "single": MIG devices cannot be'),
        (by_strategy("mixed", "name: nvidia.com/mig-1g.10gb, replicas: 4", key="mps"), "MIG devices are not, got"),
        (by_strategy("none", "name: nvidia.com/gpu, replicas: 4, devices: [MIG-a]"), "none offers no MIG devices"),
        (by_strategy("mixed", "name: nvidia.com/gpu, replicas: 4, devices: [MIG-a]"), "list it under its own nvidia."),
        (
            by_strategy("mixed", "name: nvidia.com/mig-1g.10gb, replicas: 4, devices: 1"),
            "which are not numbered, got 1",
        ),
        (by_strategy("single", "name: nvidia.com/gpu, replicas: 4, devices: ['1:0']"), "expected the UUID (MIG-…) of"),
        (by_strategy("mixed", *["name: nvidia.com/mig-1g.10gb, replicas: 4"] * 2), "expected each resource once, got"),
    ],
)
def test_what_strategies_cannot_do(text: str, expected: str) -> None:
    """What could do nothing under a strategy, or cannot be honoured, is one error with the mend."""
    (line,) = rejections(text)

    assert expected in line


def test_mig_devices_that_are_left_over_need_another_name() -> None:
    """Under `single` some MIG devices are shared and others not: one error suggests `rename`."""
    (line,) = rejections(
        by_strategy("single", "name: nvidia.com/gpu, replicas: 4, devices: [MIG-a]", more="renameByDefault: false")
    )

    assert '"rename: nvidia.com/gpu.shared"' in line


def test_mixed_beside_mps_is_noted() -> None:
    """Whole GPUs under MPS beside MIG devices by profile work here, where NVIDIA's plugin refuses the file."""
    (note,) = accepted(by_strategy("mixed", "name: nvidia.com/gpu, replicas: 4", key="mps")).notes

    assert note.startswith("line 2, flags.migStrategy: whole GPUs are shared under MPS, MIG devices are not")
