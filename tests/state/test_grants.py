"""What a container gets: golden answers for each way to hand devices over, and rules that hold for all of them.

Each file of `tests/data/grants` has

    rule:     what it shows, in a sentence
    handover: fields of HandOver that are not the default
    host:     what differs from a host that has everything: `without` (device nodes, or `caps`), `looked`
    asks:     containers, each with `resource`, `ids`, and `gets`: envs, mounts and devices (the host's path by the
              container's), annotations, cdi; what is not named must be empty. Or `refused`, with the message

The node is always the same: whole GPUs 0 and 1, GPU 2 time-sliced, GPU 3 under MPS, MIG devices 4:1 and 4:2. The minors
of GPUs 2 and 3 are not their indices. To write the answers anew, run `python -m tests.state.test_grants` and read the
difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.allocation import ContainerGrant, RefusalReason, Refused
from nodeagent.model.config import Contract, Mode
from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HostFiles, IdStrategy, ListStrategy
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.allocation import Offer, allocate, offers
from nodeagent.state.grants import grant
from tests.state import make

FOLDER = Path(__file__).parent.parent / "data" / "grants"
FILES = sorted(FOLDER.glob("*.yaml"))

MINORS = {0: 0, 1: 1, 2: 3, 3: 2, 4: 4}
MIG = Contract("nvidia.com/mig-1g.10gb", Mode.EXCLUSIVE)
MPS = make.under_mps(most=2)


def with_minor(gpu: Gpu) -> Gpu:
    """As the driver tells it."""
    return replace(gpu, minor=MINORS[gpu.index])


NODE = make.applied(
    *(
        AppliedGpu(with_minor(gpu), contract, frozenset(numbers))
        for gpu, contract, numbers in (
            (make.gpu(0), make.WHOLE, {0}),
            (make.gpu(1), make.WHOLE, {0}),
            (make.gpu(2), make.SLICED, range(4)),
            (make.gpu(3), MPS, range(4)),
            (make.mig(4, 1), MIG, {0}),
            (make.mig(4, 2), MIG, {0}),
        )
    )
)
HOST = HostFiles(
    looked=True,
    nodes=frozenset({*CONTROL_NODES, IMEX_CHANNEL}),
    caps={
        (4, instance, compute): f"/dev/nvidia-caps/nvidia-cap{number}"
        for instance, compute, number in ((1, None, 12), (1, 0, 13), (2, None, 21), (2, 0, 22))
    },
)
RUNNING = make.host(make.daemon(3, MPS))


def offer(resource: str, handover: HandOver, host: HostFiles = HOST, mps: MpsStatus = RUNNING) -> Offer:
    """What there is of one resource."""
    return offers(NODE, [resource], Plan(), (), mps, handover=handover, host=host)[resource]


def handover_of(said: Mapping[str, Any]) -> HandOver:
    """From the words of a file."""
    fields = dict(said)
    if "strategies" in fields:
        fields["strategies"] = frozenset(map(ListStrategy, fields["strategies"]))
    if "id_strategy" in fields:
        fields["id_strategy"] = IdStrategy(fields["id_strategy"])
    if "imex_channels" in fields:
        fields["imex_channels"] = tuple(fields["imex_channels"])
    return HandOver(**fields)


def host_of(said: Mapping[str, Any]) -> HostFiles:
    """From the words of a file."""
    assert said.keys() <= {"without", "looked"}
    without = set(said.get("without", ()))
    assert without <= {*HOST.nodes, "caps"}
    return HostFiles(
        looked=said.get("looked", True), nodes=HOST.nodes - without, caps={} if "caps" in without else HOST.caps
    )


def told(found: ContainerGrant) -> dict[str, object]:
    """An answer in the words of a file."""
    parts: dict[str, object] = {
        "envs": dict(found.envs),
        "mounts": {one.container_path: one.host_path for one in found.mounts},
        "devices": {one.container_path: one.host_path for one in found.devices},
        "annotations": dict(found.annotations),
        "cdi": list(found.cdi_devices),
    }
    assert len({one.container_path for one in found.mounts}) == len(found.mounts)
    assert len({one.container_path for one in found.devices}) == len(found.devices)
    return {name: part for name, part in parts.items() if part}


def answer(case: Mapping[str, Any], ask: Mapping[str, Any]) -> dict[str, object]:
    """What one container of a file gets, or is told."""
    there = offer(ask["resource"], handover_of(case["handover"]), host_of(case.get("host", {})))
    try:
        (found,) = allocate(there, [ask["ids"]])
    except Refused as refused:
        return {"refused": str(refused)} if refused.reason is RefusalReason.UNHEALTHY else {}
    return {"gets": told(found)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """Each container of a file gets exactly what stands there, in that order, however often it asks."""
    case = yaml.safe_load(path.read_text("utf-8"))
    assert case.keys() <= {"rule", "handover", "host", "asks"}
    assert case["rule"].endswith(".")
    for ask in case["asks"]:
        expected = {key: ask[key] for key in ("gets", "refused") if key in ask}
        for _ in range(2):
            found = answer(case, ask)
            assert found == expected
            # Dicts of equal content may differ in order, which mounts and device nodes have.
            assert yaml.safe_dump(found, sort_keys=False) == yaml.safe_dump(expected, sort_keys=False)


def test_every_combination_of_two_strategies_is_there() -> None:
    """Each strategy alone, each pair and all four have a file of their own."""
    have = {
        frozenset(case["handover"]["strategies"])
        for path in FILES
        if "strategies" in (case := yaml.safe_load(path.read_text("utf-8")))["handover"]
    }
    names = [strategy.value for strategy in ListStrategy]
    wanted = [frozenset(some) for size in (1, 2, 4) for some in combinations(names, size)]
    assert [sorted(some) for some in wanted if some not in have] == []


ANY = st.builds(
    HandOver,
    strategies=st.frozensets(st.sampled_from(ListStrategy), min_size=1),
    device_specs=st.booleans(),
    dev_root=st.sampled_from(["/", "/run/nvidia/driver"]),
    gds=st.booleans(),
    mofed=st.booleans(),
    gdrcopy=st.booleans(),
    imex_channels=st.sampled_from([(), (0,)]),
    cdi_vendor=st.sampled_from(["nvidia.com", "example.com"]),
)
SHARES = st.sampled_from(
    [("nvidia.com/gpu", "GPU-0"), (make.SHARED, "GPU-2::1"), (make.MPS, "GPU-3::0"), (MIG.resource, "MIG-4-2")]
)


@given(ANY, SHARES)
def test_strategies_add_up(handover: HandOver, share: tuple[str, str]) -> None:
    """A strategy adds to an answer and takes nothing away, but that mounts say which devices are visible; what makes
    a client of MPS is there whatever the strategies are.
    """
    resource, id_ = share

    def parts(given: HandOver) -> set[tuple[object, ...]]:
        (found,) = allocate(offer(resource, given), [[id_]])
        return {
            *(("env", name, value) for name, value in found.envs.items() if name != "NVIDIA_VISIBLE_DEVICES"),
            *(("mount", one) for one in found.mounts),
            *(("device", one) for one in found.devices),
            *(("annotation", *one) for one in found.annotations.items()),
            *(("cdi", name) for name in found.cdi_devices),
        }

    alone = [parts(replace(handover, strategies=frozenset({one}))) for one in handover.strategies]
    assert set().union(*alone) == parts(handover)
    assert ("env", "CUDA_MPS_PIPE_DIRECTORY", "/mps/pipe") in parts(handover) or resource != make.MPS


@pytest.mark.parametrize("strategy", [ListStrategy.CDI_ANNOTATIONS, ListStrategy.CDI_CRI])
def test_a_name_that_is_another_gpus_is_not_handed_over(strategy: ListStrategy) -> None:
    """A CDI specification that brings the device node of another GPU by this name would give that one. Who is told of
    its GPU by a variable does not ask the specification.
    """
    handover = HandOver(strategies=frozenset({strategy}))
    outdated = replace(
        HOST, cdi_minors={"nvidia.com/gpu=GPU-0": frozenset({1}), "nvidia.com/gpu=GPU-1": frozenset({1})}
    )
    with pytest.raises(
        Refused, match=r"^cannot allocate nvidia.com/gpu: GPU 0: the CDI specification gives another GPU"
    ):
        allocate(offer("nvidia.com/gpu", handover, outdated), [["GPU-0"]])
    assert allocate(offer("nvidia.com/gpu", handover, outdated), [["GPU-1"]])
    assert allocate(offer("nvidia.com/gpu", HandOver(), outdated), [["GPU-0"]])


def test_the_key_of_an_annotation_tells_allocations_apart() -> None:
    """A container may have shares of several resources: each gets a key of its own, which a runtime takes, and the same
    shares in another order the same.
    """

    def key(resource: str, *ids: str) -> str:
        handover = HandOver(strategies=frozenset({ListStrategy.CDI_ANNOTATIONS}))
        (found,) = grant([make.gpu(0)], handover, HOST, resource=resource, shares=ids).annotations
        return found

    keys = [key("a/b", "x"), key("a/b", "y"), key("a/b", "x", "y"), key("a/c", "x")]
    assert len(set(keys)) == 4
    assert key("a/b", "y", "x", "x") == keys[2]
    for one in keys:
        prefix, _, name = one.partition("/")
        assert prefix == "cdi.k8s.io"
        assert len(name) <= 63
        assert re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9_.]*[A-Za-z0-9]", name)


def test_a_gpu_whose_minor_is_not_told_has_no_node() -> None:
    """The driver says which device node is whose; where it does not, a container that must get the node is refused."""
    gpu = make.gpu(0)
    with pytest.raises(Refused, match=r"^cannot allocate a/b: GPU 0: its device nodes are not known, and they must be"):
        grant([gpu], HandOver(device_specs=True), HOST, resource="a/b", shares=["x"])
    only_cdi = HandOver(strategies=frozenset({ListStrategy.CDI_CRI}), device_specs=True)
    assert grant([gpu], only_cdi, HOST, resource="a/b", shares=["x"]).cdi_devices == ("nvidia.com/gpu=GPU-0",)


def test_the_hosts_problem_is_told() -> None:
    """Who cannot be given device nodes since nobody could look is told why nobody could."""
    host = HostFiles(problem="cannot look at the host's files: no answer within 5 s")
    with pytest.raises(
        Refused, match=r"the host's device nodes are not known: cannot look at the host's files: no ans"
    ):
        allocate(offer("nvidia.com/gpu", HandOver(device_specs=True), host), [["GPU-0"]])


def _rewrite(paths: Iterable[Path] = FILES) -> None:
    for path in paths:
        case = yaml.safe_load(path.read_text("utf-8"))
        case["asks"] = [{"resource": ask["resource"], "ids": ask["ids"], **answer(case, ask)} for ask in case["asks"]]
        path.write_text(yaml.safe_dump(case, sort_keys=False, width=118, allow_unicode=True), "utf-8")


if __name__ == "__main__":
    _rewrite()
