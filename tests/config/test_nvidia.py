"""NVIDIA's `version: v1` file: what NVIDIA's plugin would give, and what it parses and ignores made to work."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from nodeagent.config.convert import to_yaml
from nodeagent.model.config import Contract, Match, Mode, MpsLimits, MpsTerms, Placement
from nodeagent.model.inventory import Gpu, MigDevice
from nodeagent.state.desired import check, resolve
from tests.config.support import DATA, accepted, loaded, rejections

FILES = sorted(path for path in (DATA / "nvidia").glob("*.yaml") if not path.stem.endswith(".converted"))


def full(text: str) -> str:
    """The text with whole UUIDs for `GPU-a` and the like, as the file must have them."""
    return re.sub(r"\b(GPU|MIG)-([ab])\b", r"\1-\g<2>000000\2-0000-4000-8000-000000000000", text)


def time_slicing(more: str = "", resource: str = "", strategy: str = "timeSlicing") -> str:
    """A file that shares every GPU by ten, with more keys at two places."""
    return full(f"""\
version: v1
sharing:
  {strategy}:
    {more or "renameByDefault: false"}
    resources:
      - name: nvidia.com/gpu
        replicas: 10
        {resource}
""")


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
        ("[GPU-a, GPU-b]", Match(uuids=frozenset({full("GPU-a"), full("GPU-b")}))),
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
    assert by_uuid.match == Match(uuids=frozenset({full("GPU-a")}))
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
        Match(uuids=frozenset({full("GPU-a")})),
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


GPU = Gpu(full("GPU-a"), 0, "NVIDIA H100 80GB HBM3", 80 << 30)
ENABLED = replace(GPU, uuid=full("GPU-b"), index=1, mig_enabled=True)
SMALL = replace(ENABLED, uuid=full("MIG-a"), mig_enabled=False, mig=MigDevice(ENABLED.uuid, "1g.10gb", 9, 0))
VIDEO = replace(SMALL, uuid=full("MIG-b"), mig=MigDevice(ENABLED.uuid, "1g.10gb+me", 8, 0))
ALL = (GPU, ENABLED, SMALL, VIDEO)


def by_strategy(strategy: str, *resources: str, more: str = "renameByDefault: true", key: str = "timeSlicing") -> str:
    """A file with this strategy that shares these resources."""
    head = f"version: v1\nflags: {{migStrategy: {strategy}}}\n"
    listed = "".join(f"      - {{{resource}}}\n" for resource in resources)
    return full(f"{head}sharing:\n  {key}:\n    {more}\n    resources:\n{listed}") if resources else head


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
        ("mixed", "mig-1g.10gb", "[MIG-GPU-b/9/0]", ["MIG-a"]),
        ("single", "gpu", "[MIG-GPU-b/8/0, 0]", ["GPU-a", "MIG-b"]),
        ("single", "gpu", "[MIG-GPU-b/8/1]", []),
    ],
)
def test_mig_devices_of_devices(strategy: str, name: str, devices: str, shared: list[str]) -> None:
    """`devices` takes MIG devices by uuid, or by their GPU; what it leaves keeps the name that the strategy gives."""
    text = by_strategy(strategy, f"name: nvidia.com/{name}, replicas: 4, devices: {devices}")
    config = accepted(text)

    assert [gpu.uuid for gpu in ALL if config.rule_for(gpu).mode is Mode.TIME_SLICED] == [full(uuid) for uuid in shared]
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


NOTHING_MISSING = "version: v1\n"


@pytest.mark.parametrize(
    "text",
    [
        "version: v1\nflags:\nsharing:\nresources:\nimex:\n",
        "version: v1\nflags: {migStrategy: null, failOnInitError: null, plugin: null, gfd: null}\n",
        "version: v1\nflags: {plugin: {deviceListStrategy: null, deviceIDStrategy: ~, passDeviceSpecs: }}\n",
        "version: v1\nflags: {mpsRoot: '', nvidiaDriverRoot: '', nvidiaDevRoot: }\n",
        "version: v1\nflags: {gfd: {oneshot: , noTimestamp: , sleepInterval: , outputFile: , machineTypeFile: }}\n",
        "version: v1\nsharing: {mps: null}\n",
        "version: v1\nimex: {channelIDs: null, required: null}\n",
        "version: v1\nresources: {gpus: null, mig: []}\n",
    ],
)
def test_nothing_is_a_key_that_is_not_there(text: str) -> None:
    """Where NVIDIA's plugin takes null or an empty section for a key that is not there, it means what none means."""
    found, expected = accepted(text), accepted(NOTHING_MISSING)

    assert found == expected
    assert found.notes == ()


@pytest.mark.parametrize("key", ["timeSlicing", "mps"])
def test_what_is_left_empty_beside_resources(key: str) -> None:
    """`renameByDefault:` and `failRequestsGreaterThanOne:` without a value have their defaults, which differ."""
    empty = accepted(time_slicing("renameByDefault:\n    failRequestsGreaterThanOne:", "", key))

    assert empty == accepted(time_slicing("", "", key))
    assert empty.rules[0].max_shares_per_container == (1 if key == "mps" else None)


@pytest.mark.parametrize("head", ["", "version:\n", 'version: ""\n', "version: null\n"])
def test_a_missing_version_is_noted(head: str) -> None:
    """A file without one is read as v1, as NVIDIA's plugin does, and a note gives the line to write."""
    config = accepted(time_slicing().replace("version: v1\n", head, 1))

    assert config == accepted(time_slicing())
    assert [note for note in config.notes if 'write "version: v1"' in note]


@pytest.mark.parametrize("empty", ["{}", "null", ""])
def test_nothing_time_sliced(empty: str) -> None:
    """`timeSlicing: {}`, which NVIDIA's plugin logs, shares nothing, and leaves MPS beside it alone."""
    alone = accepted(f"version: v1\nsharing:\n  timeSlicing: {empty}\n")
    beside = accepted(mps().replace("  mps:", f"  timeSlicing: {empty}\n  mps:"))

    assert alone == accepted(NOTHING_MISSING)
    assert beside == accepted(mps())
    assert [len(config.notes) for config in (alone, beside)] == [1, 1]


def test_names_without_a_domain() -> None:
    """A name without a domain is one of NVIDIA's, also that of the shares."""
    text = by_strategy("mixed", "name: gpu, replicas: 2, rename: half", "name: mig-1g.10gb, replicas: 4")

    assert offered(text) == offered(
        by_strategy(
            "mixed",
            "name: nvidia.com/gpu, replicas: 2, rename: nvidia.com/half",
            "name: nvidia.com/mig-1g.10gb, replicas: 4",
        )
    )
    assert offered(text)[0] == "time-sliced nvidia.com/half"


@pytest.mark.parametrize(
    ("strategy", "resources", "packed"),
    [
        ("none", (), {}),
        ("none", ("name: gpu, replicas: 4",), {"gpu.shared"}),
        ("single", (), {"gpu"}),
        ("single", ("name: gpu, replicas: 4, devices: [0]",), {"gpu.shared", "gpu"}),
        ("mixed", (), {"mig-1g.10gb", "mig-1g.10gb.me"}),
        ("mixed", ("name: mig-1g.10gb, replicas: 4",), {"mig-1g.10gb.shared", "mig-1g.10gb.me"}),
    ],
)
def test_the_policy_of_allocation_is_a_placement(strategy: str, resources: tuple[str, ...], packed: set[str]) -> None:
    """`sharedDevicesAllocationPolicy` is for what is shared and for MIG devices; whole GPUs are chosen by distance."""
    text = by_strategy(strategy, *resources)
    config = accepted(text.replace("}", ", plugin: {sharedDevicesAllocationPolicy: packed}}", 1))

    found = set()
    for gpu in ALL:
        rule = config.rule_for(gpu)
        contract = rule.contract_for(gpu)
        if contract is not None and (gpu.mig is not None or contract.mode is not Mode.EXCLUSIVE):
            assert rule.placement is Placement.PACKED
            found.add(contract.resource.removeprefix("nvidia.com/"))
    assert found == set(packed)
    assert accepted(to_yaml(config)).rules == config.rules
    assert all(rule.placement is Placement.DISTRIBUTED for rule in accepted(text).rules)


def test_entries_for_different_devices_are_rules() -> None:
    """Two entries of one resource with their own `devices` and `rename` are two rules, also once converted; the last
    may share all that are left.
    """
    text = full("""\
version: v1
sharing:
  timeSlicing:
    resources:
      - {name: nvidia.com/gpu, rename: nvidia.com/gpu.small, devices: [0, 1], replicas: 8}
      - {name: gpu, rename: nvidia.com/gpu.large, devices: [GPU-a, 3], replicas: 2}
      - {name: gpu, replicas: 4}
""")
    config = accepted(text)

    def shares(index: int, uuid: str = "GPU-0") -> tuple[str, int]:
        gpu = Gpu(full(uuid), index, "NVIDIA T4", 16 << 30)
        rule = config.rule_for(gpu)
        return str(rule.contract_for(gpu)), rule.replicas

    assert shares(1) == ("time-sliced nvidia.com/gpu.small", 8)
    assert shares(3) == ("time-sliced nvidia.com/gpu.large", 2)
    assert shares(7, "GPU-a") == ("time-sliced nvidia.com/gpu.large", 2)
    assert shares(2) == ("time-sliced nvidia.com/gpu", 4)
    assert accepted(to_yaml(config)).rules == config.rules
    assert len({rule.name for rule in config.rules}) == len(config.rules)


def test_entries_for_different_mig_devices() -> None:
    """The same under `single` and `mixed`, for MIG devices."""
    entries = ("name: gpu, rename: a, devices: [0], replicas: 2", "name: gpu, rename: b, devices: [1], replicas: 3")
    assert offered(by_strategy("single", *entries)) == [
        "time-sliced nvidia.com/a",
        "",
        *["time-sliced nvidia.com/b"] * 2,
    ]
    entries = ("name: mig-1g.10gb, devices: [MIG-a], replicas: 2", "name: mig-1g.10gb, rename: b, replicas: 3")
    assert offered(by_strategy("mixed", *entries))[2] == "time-sliced nvidia.com/mig-1g.10gb.shared"
    (line,) = rejections(by_strategy("mixed", *reversed(entries)))
    assert "of which sharing.timeSlicing.resources[0] (line 7) shares all; write this entry above that one" in line


@pytest.mark.parametrize(
    "text",
    [
        time_slicing("", "devices: [0, 1]"),
        mps("", "devices: [0, 1]"),
        mps("", "devices: 1"),
        by_strategy("single", "name: gpu, replicas: 4, devices: [MIG-a]", more="renameByDefault: false"),
        by_strategy("mixed", "name: mig-1g.10gb, rename: gpu, replicas: 4"),
        by_strategy("none", "name: gpu, devices: [0], replicas: 4", "name: gpu, devices: [1], replicas: 8", key="mps"),
        by_strategy(
            "none",
            "name: gpu, devices: [0], replicas: 4, rename: x",
            "name: gpu, devices: [1], replicas: 8, rename: x",
            key="mps",
        ),
    ],
)
def test_another_name_works_as_it_is_proposed(text: str) -> None:
    """What is said has the file's own words and no rule of ours, and the line that it gives, written into the entry,
    is all that it takes.
    """
    (violation,) = loaded(text).violations
    assert "rule" not in violation.message
    assert violation.where.path.removesuffix(".rename") in {
        f"sharing.{key}.resources[{position}]" for key in ("timeSlicing", "mps") for position in (0, 1)
    }
    found = re.search(r'"rename: ([^"]+)"', violation.message)
    assert found is not None

    tree = yaml.safe_load(text)
    (body,) = tree["sharing"].values()
    position = int(violation.where.path.removesuffix(".rename")[-2])
    body["resources"][position]["rename"] = found[1]
    accepted(yaml.safe_dump(tree, sort_keys=False))


def test_to_share_all_works_as_it_is_proposed() -> None:
    """Where it is said that `devices` can be removed, that is enough as well."""
    text = time_slicing("", "devices: [0, 1]")
    assert rejections(text)[0].endswith("or remove `devices`")
    accepted(time_slicing())


@pytest.mark.parametrize("rename", ["", "rename: nvidia.com/gpu.part"])
@pytest.mark.parametrize("sizes", [(24, 80), (24, 24, 80, 48), (80, 24, 48, 24)])
def test_cards_of_several_sizes_under_mps(sizes: tuple[int, ...], rename: str) -> None:
    """Parts of GPUs with different memory need names of their own: the entries that are proposed for NVIDIA's file,
    written above the one that is there, are all that it takes.
    """
    gpus = [Gpu(f"GPU-{index}", index, "NVIDIA", size << 30) for index, size in enumerate(sizes)]
    text = mps("", rename)
    (violation,) = check(resolve(accepted(text), gpus), "sharing.yaml")
    assert "rule" not in violation.message
    assert "memoryPerReplica" not in violation.message
    assert violation.where.path == "sharing.mps.resources[0]"

    tree = yaml.safe_load(text)
    entries = [yaml.safe_load(one) for one in re.findall(r"\{.*?\}", violation.message)]
    tree["sharing"]["mps"]["resources"] = [*entries, *tree["sharing"]["mps"]["resources"]]
    config = accepted(yaml.safe_dump(tree, sort_keys=False))
    assert check(resolve(config, gpus), "sharing.yaml") == ()
    assert len({config.rule_for(gpu).contract_for(gpu) for gpu in gpus}) == len(set(sizes))


def test_several_profiles_under_single() -> None:
    """What helps is a strategy, and there is no rule in the file."""
    text = by_strategy("single")
    (violation,) = check(resolve(accepted(text), ALL[1:]), "sharing.yaml")
    assert violation.message.endswith('write "migStrategy: mixed" under flags')
    assert check(resolve(accepted(text.replace("single", "mixed")), ALL), "sharing.yaml") == ()


WORDS = [
    "GPU-UUID",
    "MIG-UUID",
    "GPU-0",
    "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
    "MIG-GPU-UUID/0/0",
    "all",
    "gpu0",
    "A100",
]


@pytest.mark.parametrize("word", WORDS)
def test_words_that_are_no_uuid(word: str) -> None:
    """A placeholder that was never filled in, or another word, is an error that says where UUIDs are to be had."""
    (line,) = rejections(time_slicing("renameByDefault: true", f"devices: [{word}]"))
    assert "as nvidia-smi -L prints them" in line
    assert line.endswith(f'got "{word}"' if word != "all" else "; replace the list with all")
