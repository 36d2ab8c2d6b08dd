"""Whether the host has what containers are referred to, and what is said where it has not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HandOverReason, HostFiles, IdStrategy
from nodeagent.model.handover import ListStrategy as By
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.state.handing import readiness
from nodeagent.state.status import Facts, Reason, conditions
from tests.state import make
from tests.state.test_status import WELL

CDI = HandOver(strategies=frozenset({By.CDI_CRI}))
NODES = HandOver(device_specs=True)
GPUS = tuple(replace(make.gpu(index), minor=index) for index in (0, 1, 2))
PART = replace(make.mig(3, 1), minor=3)
HOST = HostFiles(
    looked=True,
    nodes=frozenset({*CONTROL_NODES, IMEX_CHANNEL}),
    caps={(3, 1, None): "/dev/nvidia-caps/nvidia-cap12", (3, 1, 0): "/dev/nvidia-caps/nvidia-cap13"},
    cdi={
        "nvidia.com/gpu": frozenset({"GPU-0", "GPU-1", "GPU-2", "MIG-3-1", "0", "1", "2", "all"}),
        "nvidia.com/gds": frozenset({"all"}),
        "nvidia.com/mofed": frozenset({"all"}),
        "nvidia.com/gdrcopy": frozenset({"all"}),
        "nvidia.com/imex-channel": frozenset({"0"}),
    },
    cdi_dirs=("/etc/cdi", "/var/run/cdi"),
)
ALL_ELSE = replace(CDI, gds=True, mofed=True, gdrcopy=True, imex_channels=(0,), imex_required=True)


def without(*names: str) -> HostFiles:
    """The host with fewer CDI devices, `nvidia.com/gpu=0`, or without a kind, `nvidia.com/gds`."""
    kept = {kind: {f"{kind}={device}" for device in devices} for kind, devices in HOST.cdi.items()}
    found = {
        kind: frozenset(name.partition("=")[2] for name in devices - set(names))
        for kind, devices in kept.items()
        if kind not in names
    }
    return replace(HOST, cdi=found)


@pytest.mark.parametrize(
    ("handover", "reason"),
    [
        (HandOver(), HandOverReason.NOTHING_NEEDED),
        (HandOver(strategies=frozenset({By.ENVVAR, By.VOLUME_MOUNTS}), gds=True), HandOverReason.NOTHING_NEEDED),
        (HandOver(imex_required=True), HandOverReason.NOTHING_NEEDED),
        (NODES, HandOverReason.NODES_FOUND),
        (HandOver(imex_channels=(0,)), HandOverReason.NODES_FOUND),
        (CDI, HandOverReason.SPEC_FOUND),
        (ALL_ELSE, HandOverReason.SPEC_FOUND),
        (replace(ALL_ELSE, strategies=frozenset(By), device_specs=True), HandOverReason.SPEC_FOUND),
    ],
)
def test_all_is_there(handover: HandOver, reason: HandOverReason) -> None:
    """Where nothing needs the host's files, or all that is needed is there, it is well, and the reason says which."""
    assert readiness(handover, HOST, (*GPUS, PART)) == (reason, "")
    assert reason.well


MAKE = "make it with `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


@pytest.mark.parametrize(
    ("handover", "host", "reason", "message"),
    [
        (CDI, HostFiles(), HandOverReason.PENDING, "the host's files have not been looked at yet"),
        (NODES, HostFiles(problem="no answer"), HandOverReason.PENDING, "no answer"),
        (
            CDI,
            without("nvidia.com/gpu"),
            HandOverReason.SPEC_MISSING,
            (
                "no CDI specification of nvidia.com/gpu is in /etc/cdi or /var/run/cdi: no container with a GPU can"
                f" be created; {MAKE} --device-name-strategy=uuid`"
            ),
        ),
        (
            replace(CDI, cdi_vendor="example.com"),
            replace(HOST, problem="cannot read /etc/cdi/x.json: permission denied"),
            HandOverReason.SPEC_MISSING,
            (
                "no CDI specification of example.com/gpu is in /etc/cdi or /var/run/cdi (cannot read /etc/cdi/x.json:"
                f" permission denied): no container with a GPU can be created; {MAKE} --vendor=example.com"
                " --device-name-strategy=uuid`"
            ),
        ),
        (
            CDI,
            without("nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2", "nvidia.com/gpu=MIG-3-1"),
            HandOverReason.DEVICES_MISSING,
            (
                "the CDI specification of nvidia.com/gpu in /etc/cdi or /var/run/cdi lacks GPUs 1-2 and MIG device"
                f" 3:1 by uuid; {MAKE} --device-name-strategy=uuid`"
            ),
        ),
        (
            replace(CDI, gds=True, gdrcopy=True),
            without("nvidia.com/gds", "nvidia.com/gdrcopy=all", "nvidia.com/mofed"),
            HandOverReason.DEVICES_MISSING,
            (
                "no CDI specification in /etc/cdi or /var/run/cdi has nvidia.com/gdrcopy=all, nvidia.com/gds=all: no"
                " container with a GPU can be created; make one, or do not ask for it"
            ),
        ),
        (
            replace(CDI, imex_channels=(0,)),
            without("nvidia.com/imex-channel"),
            HandOverReason.DEVICES_MISSING,
            (
                "no CDI specification in /etc/cdi or /var/run/cdi has nvidia.com/imex-channel=0: no container with a"
                " GPU can be created; make one, or do not ask for it"
            ),
        ),
        (
            HandOver(imex_channels=(0,), imex_required=True),
            replace(HOST, nodes=frozenset(CONTROL_NODES), dev="/driver/dev"),
            HandOverReason.CHANNEL_MISSING,
            (
                "no nvidia-caps-imex-channels/channel0 is below /driver/dev: an IMEX channel is required, and"
                " containers are refused; load the driver with NVreg_CreateImexChannel0=1, or do not require it"
            ),
        ),
        (
            NODES,
            replace(HOST, nodes=frozenset()),
            HandOverReason.DEVICES_MISSING,
            (
                "no nvidiactl is below /dev: containers get the nodes of their GPUs without those that belong to all;"
                " let the agent see the host's device nodes"
            ),
        ),
        (
            NODES,
            replace(HOST, caps={}, problem="cannot read the capabilities of MIG: denied"),
            HandOverReason.DEVICES_MISSING,
            (
                "the device nodes of MIG device 3:1 are not known, and containers that ask for them are refused:"
                " cannot read the capabilities of MIG: denied"
            ),
        ),
        (
            HandOver(id_strategy=IdStrategy.INDEX),
            HostFiles(),
            HandOverReason.MIG_BY_INDEX,
            (
                "MIG device 3:1: MIG devices cannot be handed over by index, and containers that ask for them are"
                " refused; set the device id strategy to uuid"
            ),
        ),
    ],
)
def test_what_is_missing(handover: HandOver, host: HostFiles, reason: HandOverReason, message: str) -> None:
    """What is missing is named, with where it was looked for, what that means for containers, and what mends it."""
    assert readiness(handover, host, (PART, *GPUS)) == (reason, message)
    assert not reason.well


@pytest.mark.parametrize("strategy", list(IdStrategy))
def test_a_specification_that_gives_another_gpu_is_told(strategy: IdStrategy) -> None:
    """Made before the driver's numbers changed, it brings the device node of another GPU by the name of this one."""
    handover = replace(CDI, id_strategy=strategy)
    names = {IdStrategy.UUID: ("GPU-0", "GPU-1"), IdStrategy.INDEX: ("0", "1")}[strategy]
    right = replace(HOST, cdi_minors={f"nvidia.com/gpu={name}": frozenset({minor}) for minor, name in enumerate(names)})
    assert readiness(handover, right, GPUS)[0] is HandOverReason.SPEC_FOUND
    turned = replace(HOST, cdi_minors={f"nvidia.com/gpu={name}": frozenset({1 - at}) for at, name in enumerate(names)})
    reason, message = readiness(handover, turned, GPUS)
    assert reason is HandOverReason.SPEC_OUTDATED
    assert not reason.well
    assert "gives other GPUs by the names of GPUs 0-1, and containers that ask for them are refused" in message
    assert message.endswith(f"--device-name-strategy={strategy.value}`")
    unknown = tuple(replace(one, minor=None) for one in GPUS)
    assert readiness(handover, turned, unknown)[0] is HandOverReason.SPEC_FOUND


def test_by_index_the_specification_must_have_indices() -> None:
    """The same specification may do for one way to name GPUs and not for the other."""
    by_index = replace(CDI, id_strategy=IdStrategy.INDEX)
    assert readiness(by_index, HOST, GPUS)[0] is HandOverReason.SPEC_FOUND
    reason, message = readiness(by_index, without("nvidia.com/gpu=2"), GPUS)
    assert reason is HandOverReason.DEVICES_MISSING
    assert "lacks GPU 2 by index; " in message
    assert message.endswith("--device-name-strategy=index`")


def test_a_channel_that_is_not_there_needs_no_specification() -> None:
    """It is not handed over, so that nothing refers to one."""
    host = replace(without("nvidia.com/imex-channel"), nodes=frozenset())
    assert readiness(replace(CDI, imex_channels=(0,)), host, GPUS)[0] is HandOverReason.SPEC_FOUND


def test_another_broken_specification_is_told() -> None:
    """All that is needed is there: it is well, and what could not be read is told all the same."""
    host = replace(HOST, problem="cannot read /etc/cdi/other.yaml: line 3: expected YAML")
    assert readiness(CDI, host, GPUS) == (
        HandOverReason.SPEC_FOUND,
        "cannot read /etc/cdi/other.yaml: line 3: expected YAML",
    )


def facts(*gpus: Gpu, withheld: int | None = None) -> Facts:
    """A node with these GPUs, handed over by CDI, with a specification of GPU 0."""
    entries = [
        replace(make.entry(one.index, None if one.index == withheld else make.WHOLE, {0}), gpu=one) for one in gpus
    ]
    host = replace(HOST, cdi={"nvidia.com/gpu": frozenset({"GPU-0"})})
    return replace(WELL, applied=make.applied(*entries), handover=CDI, host_files=host)


def test_only_what_containers_may_get_must_be_there() -> None:
    """A GPU that is withheld, or lost, is missed by nobody."""

    def said(given: Facts) -> tuple[bool, Reason]:
        found = next(one for one in conditions(given, ()) if one.type == "HandOverReady")
        return found.status, Reason(found.reason)

    assert said(facts(make.gpu(0))) == (True, Reason.SPEC_FOUND)
    assert said(facts(make.gpu(0), make.gpu(1))) == (False, Reason.DEVICES_MISSING)
    assert said(facts(make.gpu(0), make.gpu(1), withheld=1)) == (True, Reason.SPEC_FOUND)
    assert said(facts(make.gpu(0), make.gpu(1, health=GpuHealth.LOST))) == (True, Reason.SPEC_FOUND)
