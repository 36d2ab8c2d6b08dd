"""NVIDIA's `flags` and `imex`, field by field: what a container gets with it, or why it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from nodeagent.config.convert import notes, to_yaml
from nodeagent.documents.schema import load_schema
from nodeagent.model.config import Placement, SharingConfig
from nodeagent.model.handover import CONTROL_NODES, IMEX_CHANNEL, HandOver, HostFiles, IdStrategy, ListStrategy
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import AppliedGpu
from nodeagent.settings import add_arguments, read
from nodeagent.state.allocation import allocate, offers
from tests.config.support import EXAMPLES, accepted, rejections
from tests.state import make
from tests.state.test_grants import told

NVIDIAS = {
    "flags": (
        "migStrategy failOnInitError mpsRoot nvidiaDriverRoot nvidiaDevRoot gdrcopyEnabled gdsEnabled mofedEnabled"
        " useNodeFeatureAPI deviceDiscoveryStrategy"
    ),
    "plugin": (
        "passDeviceSpecs deviceListStrategy deviceIDStrategy cdiAnnotationPrefix nvidiaCTKPath containerDriverRoot"
        " sharedDevicesAllocationPolicy kubeletSocket cdiFeatureFlags"
    ),
    "gfd": "oneshot noTimestamp sleepInterval outputFile machineTypeFile",
    "imex": "channelIDs required",
}
"""The fields of NVIDIA's plugin v0.17 to v0.20 (api/config/v1, flags.go and imex.go), by group."""
EVERY = {f"{group}.{name}".removeprefix("flags.") for group, names in NVIDIAS.items() for name in names.split()}


def document(**fields: object) -> str:
    """A file with these fields, `plugin_deviceIDStrategy` for `flags.plugin.deviceIDStrategy`."""
    tree: dict[str, Any] = {"version": "v1"}
    for name, value in fields.items():
        *groups, leaf = name.split("_")
        inner = tree
        for group in groups if groups == ["imex"] else ["flags", *groups]:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return yaml.safe_dump(tree, sort_keys=False)


def container(config: SharingConfig, base: HandOver | None = None, *, channel: bool = True) -> dict[str, object]:
    """What a container with GPU 1 gets under a config, on a host that has everything."""
    node = make.applied(AppliedGpu(replace(make.gpu(1), minor=5), make.WHOLE, frozenset({0})))
    nodes = frozenset(CONTROL_NODES[:1]) | frozenset({IMEX_CHANNEL} if channel else ())
    handover = config.handover.over(base or HandOver())
    found = offers(
        node, ["nvidia.com/gpu"], Plan(), (), MpsStatus(), handover=handover, host=HostFiles(looked=True, nodes=nodes)
    )
    (answer,) = allocate(found["nvidia.com/gpu"], [["GPU-1"]])
    return told(answer)


def nodes_below(root: str) -> dict[str, str]:
    """The device nodes that it gets."""
    return {node: f"{root}{node}" for node in ("/dev/nvidiactl", "/dev/nvidia5")}


VISIBLE = {"NVIDIA_VISIBLE_DEVICES": "GPU-1"}
BY_MOUNTS = {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}
MOUNTS = {"/var/run/nvidia-container-devices/GPU-1": "/dev/null"}
KEY = "nvidia-device-plugin_8cd95b12-df2d-5ab5-8f50-7b9d8b44bd3f"


@dataclass(frozen=True)
class Effect:
    """A file's fields, and what the container gets. Only what differs from the variable alone is given."""

    fields: Mapping[str, object]
    gets: Mapping[str, object]

    @property
    def name(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.fields.items())


def effect(gets: Mapping[str, object], **fields: object) -> Effect:
    """The same, in order of reading."""
    return Effect(fields, gets)


EFFECTS = [
    effect({"envs": VISIBLE}),
    effect({"envs": VISIBLE}, plugin_deviceListStrategy="envvar"),
    effect({"envs": VISIBLE}, plugin_deviceListStrategy=["envvar", "envvar"]),
    effect({"envs": BY_MOUNTS, "mounts": MOUNTS}, plugin_deviceListStrategy="volume-mounts"),
    effect({"envs": BY_MOUNTS, "mounts": MOUNTS}, plugin_deviceListStrategy=["envvar", "volume-mounts"]),
    effect({"cdi": ["nvidia.com/gpu=GPU-1"]}, plugin_deviceListStrategy="cdi-cri"),
    effect({"annotations": {f"cdi.k8s.io/{KEY}": "nvidia.com/gpu=GPU-1"}}, plugin_deviceListStrategy="cdi-annotations"),
    effect(
        {
            "envs": BY_MOUNTS,
            "mounts": MOUNTS,
            "annotations": {f"cdi.k8s.io/{KEY}": "nvidia.com/gpu=GPU-1"},
            "cdi": ["nvidia.com/gpu=GPU-1"],
        },
        plugin_deviceListStrategy=["cdi-cri", "envvar", "cdi-annotations", "volume-mounts"],
    ),
    effect(
        {"annotations": {f"nvidia.cdi.k8s.io/{KEY}": "nvidia.com/gpu=GPU-1"}},
        plugin_deviceListStrategy="cdi-annotations",
        plugin_cdiAnnotationPrefix="nvidia.cdi.k8s.io/",
    ),
    effect({"envs": VISIBLE}, plugin_deviceIDStrategy="uuid"),
    effect({"envs": {"NVIDIA_VISIBLE_DEVICES": "1"}}, plugin_deviceIDStrategy="index"),
    effect({"envs": VISIBLE}, plugin_passDeviceSpecs=False),
    effect({"envs": VISIBLE, "devices": nodes_below("")}, plugin_passDeviceSpecs=True),
    effect(
        {"envs": VISIBLE, "devices": nodes_below("/run/nvidia/driver")},
        plugin_passDeviceSpecs=True,
        nvidiaDriverRoot="/run/nvidia/driver",
    ),
    effect(
        {"envs": VISIBLE, "devices": nodes_below("/dev-root")},
        plugin_passDeviceSpecs=True,
        nvidiaDriverRoot="/run/nvidia/driver",
        nvidiaDevRoot="/dev-root",
    ),
    effect(
        {"envs": VISIBLE, "devices": nodes_below("/run/nvidia/driver")},
        plugin_passDeviceSpecs=True,
        nvidiaDriverRoot="/run/nvidia/driver",
        nvidiaDevRoot="",
    ),
    effect({"envs": VISIBLE}, nvidiaDriverRoot="/run/nvidia/driver", nvidiaDevRoot="/dev-root"),
    effect({"envs": {**VISIBLE, "NVIDIA_GDS": "enabled"}}, gdsEnabled=True),
    effect({"envs": {**VISIBLE, "NVIDIA_MOFED": "enabled"}}, mofedEnabled=True),
    effect({"envs": {**VISIBLE, "NVIDIA_GDRCOPY": "enabled"}}, gdrcopyEnabled=True),
    effect({"envs": VISIBLE}, gdsEnabled=False, mofedEnabled=False, gdrcopyEnabled=False),
    effect(
        {"cdi": [f"nvidia.com/{one}" for one in ("gpu=GPU-1", "gdrcopy=all", "gds=all", "mofed=all")]},
        plugin_deviceListStrategy="cdi-cri",
        gdsEnabled=True,
        mofedEnabled=True,
        gdrcopyEnabled=True,
    ),
    effect({"envs": VISIBLE}, imex_channelIDs=[]),
    effect({"envs": {**VISIBLE, "NVIDIA_IMEX_CHANNELS": "0"}}, imex_channelIDs=[0]),
    effect({"envs": {**VISIBLE, "NVIDIA_IMEX_CHANNELS": "0"}}, imex_channelIDs=[0], imex_required=True),
]


@pytest.mark.parametrize("case", EFFECTS, ids=lambda case: case.name)
def test_what_a_container_gets(case: Effect) -> None:
    """Each field has NVIDIA's effect on what a container gets, and nothing else has."""
    assert container(accepted(document(**case.fields))) == case.gets


def test_a_channel_that_is_required_and_not_there() -> None:
    """`imex.required` decides what a channel that is not there means: nothing, or that the container is refused."""
    assert container(accepted(document(imex_channelIDs=[0])), channel=False) == {"envs": VISIBLE}
    with pytest.raises(Exception, match="IMEX channel 0 is required"):
        container(accepted(document(imex_channelIDs=[0], imex_required=True)), channel=False)


OTHERS: Mapping[str, tuple[Mapping[str, object], Callable[[SharingConfig], object], object]] = {
    "migStrategy": ({"migStrategy": "mixed"}, lambda config: (config.mig, config.labels.mig_strategy), (True, "mixed")),
    "failOnInitError": ({"failOnInitError": True}, lambda config: len(config.notes), 1),
    "deviceDiscoveryStrategy": ({"deviceDiscoveryStrategy": "nvml"}, lambda config: config.notes, ()),
    "mpsRoot": ({"mpsRoot": "/run/nvidia/mps"}, lambda config: len(config.notes), 1),
    "useNodeFeatureAPI": ({"useNodeFeatureAPI": True}, lambda config: len(config.notes), 1),
    "plugin.sharedDevicesAllocationPolicy": (
        {"migStrategy": "mixed", "plugin_sharedDevicesAllocationPolicy": "packed"},
        lambda config: config.rules[-1].placement,
        Placement.PACKED,
    ),
    "gfd.noTimestamp": ({"gfd_noTimestamp": True}, lambda config: config.labels.timestamp, False),
}
"""What has an effect on something else than containers: the file, what to look at, and what there must be."""


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_has_an_effect(name: str) -> None:
    """Labels, notes, and which devices there are follow other fields."""
    fields, look, expected = OTHERS[name]
    config = accepted(document(**fields))
    assert look(config) == expected
    assert container(config) == {"envs": VISIBLE}


def test_labels_by_default() -> None:
    """A file that says nothing of labels has NVIDIA's defaults: strategy `none`, and a timestamp."""
    labels = accepted("version: v1\n").labels
    assert (labels.mig_strategy, labels.timestamp) == ("none", True)


HOOK = '"/usr/bin/nvidia-ctk" or no nvidiaCTKPath, since CDI specifications are made by the container toolkit'

REFUSED: Mapping[str, tuple[Mapping[str, object], str]] = {
    "mpsRoot": ({"mpsRoot": "mps"}, "expected an absolute path, such as"),
    "useNodeFeatureAPI": ({"useNodeFeatureAPI": "yes please"}, "expected true or false"),
    "plugin.sharedDevicesAllocationPolicy": (
        {"plugin_sharedDevicesAllocationPolicy": "pack"},
        'expected "distributed" or "packed", got "pack"; did you mean "packed"?',
    ),
    "deviceDiscoveryStrategy": (
        {"deviceDiscoveryStrategy": "tegra"},
        'expected "auto" or "nvml", since the GPUs are found through NVML, got "tegra"',
    ),
    "plugin.nvidiaCTKPath": ({"plugin_nvidiaCTKPath": "/usr/local/nvidia-ctk"}, f"expected {HOOK}"),
    "plugin.containerDriverRoot": (
        {"plugin_containerDriverRoot": "/driver"},
        'expected "/driver-root" or no containerDriverRoot, since the option --driver-root says',
    ),
    "plugin.kubeletSocket": (
        {"plugin_kubeletSocket": "/var/snap/kubelet.sock"},
        "or no kubeletSocket, since the option --kubelet-dir says where the kubelet is",
    ),
    "plugin.cdiFeatureFlags": (
        {"plugin_cdiFeatureFlags": "disable-x"},
        'expected "" or no cdiFeatureFlags, since CDI specifications are made by the container toolkit',
    ),
    "gfd.oneshot": ({"gfd_oneshot": True}, "expected false, since labels follow what is applied"),
    "gfd.sleepInterval": ({"gfd_sleepInterval": "10s"}, 'expected "60s" or no sleepInterval, since labels are written'),
    "gfd.outputFile": ({"gfd_outputFile": "/tmp/gfd"}, "since the option --labels says where labels go"),
    "gfd.machineTypeFile": (
        {"gfd_machineTypeFile": "/etc/machine"},
        "since the option --machine-type-file says which file it is",
    ),
    "nvidiaDriverRoot": ({"nvidiaDriverRoot": "driver"}, "expected an absolute path, such as"),
    "nvidiaDevRoot": ({"nvidiaDevRoot": "driver"}, "expected an absolute path, such as"),
    "plugin.deviceListStrategy": (
        {"plugin_deviceListStrategy": ["envvar", "cdi"]},
        'deviceListStrategy[1]: expected "envvar", "volume-mounts", "cdi-annotations" or "cdi-cri", got "cdi"',
    ),
    "plugin.deviceIDStrategy": (
        {"migStrategy": "single", "plugin_deviceIDStrategy": "index"},
        'expected "uuid" beside migStrategy single, got "index": the index that a container runtime gives a MIG device',
    ),
    "plugin.cdiAnnotationPrefix": ({"plugin_cdiAnnotationPrefix": "cdi"}, "expected a domain and a slash, such as"),
    "imex.channelIDs": ({"imex_channelIDs": [1]}, "expected [] or [0], got a list of 1"),
    "imex.required": ({"imex_required": "yes"}, 'expected true or false, got "yes"'),
    "plugin.passDeviceSpecs": ({"plugin_passDeviceSpecs": "true"}, "expected true or false"),
    "gdsEnabled": ({"gdsEnabled": 1}, "expected true or false"),
    "migStrategy": ({"migStrategy": "both"}, 'expected "none", "single" or "mixed"'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """What cannot be honoured is one error at its place, which says why and what to do instead."""
    fields, expected = REFUSED[name]
    (line,) = rejections(document(**fields))
    assert expected in line
    assert line.split(": ")[1].startswith(name if name.startswith("imex.") else f"flags.{name}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "version: v1\nflags: {plugin: {deviceListStrategy: []}}\n",
            "expected a list of 1 to 16 items, got an empty list",
        ),
        ("version: v1\nflags: {plugin: {deviceListStrategy: cdi-crl}}\n", 'did you mean "cdi-cri"?'),
        (
            "version: v1\nflags: {plugin: {deviceListStrategy: 'envvar,cdi-cri'}}\n",
            'expected "envvar", "volume-mounts"',
        ),
        ("version: v1\nflags: {plugin: {driverRootCtrPath: /driver-root}}\n", "expected one of the keys"),
        (
            "version: v1\nresources: {gpus: [{pattern: 'A100*', name: gpu}]}\n",
            "expected no other resources than NVIDIA's plugin adds itself, got",
        ),
        ("version: v1\nresources: [gpu]\n", "expected no resources, which NVIDIA's plugin ignores"),
    ],
)
def test_what_else_is_refused(text: str, expected: str) -> None:
    """Lists without an item, mistyped words, keys that are options of NVIDIA's program only, and renamed resources."""
    (line,) = rejections(text)
    assert expected in line


NVIDIAS_DEFAULTS = {
    "migStrategy": "none",
    "failOnInitError": True,
    "nvidiaDriverRoot": "/",
    "nvidiaDevRoot": "/",
    "gdrcopyEnabled": False,
    "gdsEnabled": False,
    "mofedEnabled": False,
    "useNodeFeatureAPI": False,
    "deviceDiscoveryStrategy": "auto",
    "plugin_passDeviceSpecs": False,
    "plugin_deviceListStrategy": ["envvar"],
    "plugin_deviceIDStrategy": "uuid",
    "plugin_cdiAnnotationPrefix": "cdi.k8s.io/",
    "plugin_nvidiaCTKPath": "/usr/bin/nvidia-ctk",
    "plugin_containerDriverRoot": "/driver-root",
    "plugin_sharedDevicesAllocationPolicy": "distributed",
    "plugin_kubeletSocket": "/var/lib/kubelet/device-plugins/kubelet.sock",
    "plugin_cdiFeatureFlags": "",
    "gfd_oneshot": False,
    "gfd_noTimestamp": False,
    "gfd_sleepInterval": "60s",
    "gfd_outputFile": "/etc/kubernetes/node-feature-discovery/features.d/gfd",
    "gfd_machineTypeFile": "/sys/class/dmi/id/product_name",
    "imex_channelIDs": [],
    "imex_required": False,
}


def test_nvidias_defaults_are_fine() -> None:
    """A file that spells out every default of NVIDIA's is accepted, and means what one means that says nothing."""
    spelled, silent = accepted(document(**NVIDIAS_DEFAULTS)), accepted("version: v1\n")
    assert container(spelled) == container(silent)
    assert spelled.rules == silent.rules
    assert spelled.labels == silent.labels
    assert spelled.handover.over(HandOver()) == HandOver()


def test_every_field_is_known() -> None:
    """Each field of NVIDIA's is in the schema and nothing else is; it has an effect that a test shows, or is refused
    but for its default.
    """
    properties: Any = load_schema("nvidia-v1")["properties"]

    def leaves(inner: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in inner["properties"].items():
            if "properties" in value:
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    assert {*leaves(properties["flags"]), *leaves(properties["imex"], "imex.")} == EVERY
    shown = {key.replace("_", ".") for case in EFFECTS for key in case.fields} | OTHERS.keys()
    assert shown | REFUSED.keys() == EVERY
    assert {name.replace("_", ".") for name in NVIDIAS_DEFAULTS} | {"mpsRoot"} == EVERY


OPTIONS = HandOver(
    strategies=frozenset({ListStrategy.CDI_CRI}), id_strategy=IdStrategy.INDEX, gds=True, cdi_vendor="example.com"
)


def test_the_file_wins_over_the_options() -> None:
    """What the file says holds instead of the option, and where it says nothing the option holds; the vendor is always
    the option's.
    """
    assert container(accepted("version: v1\n"), OPTIONS) == {"cdi": ["example.com/gpu=1", "example.com/gds=all"]}
    said = document(plugin_deviceIDStrategy="uuid", gdsEnabled=False)
    assert container(accepted(said), OPTIONS) == {"cdi": ["example.com/gpu=GPU-1"]}
    said = document(plugin_deviceListStrategy="envvar")
    assert container(accepted(said), OPTIONS) == {"envs": {"NVIDIA_VISIBLE_DEVICES": "1", "NVIDIA_GDS": "enabled"}}


@pytest.mark.parametrize(
    ("fields", "told_of"),
    [
        ({"plugin_deviceListStrategy": ["cdi-cri", "envvar"]}, ["flags.plugin.deviceListStrategy"]),
        (
            {"plugin_deviceListStrategy": "cdi-cri", "plugin_passDeviceSpecs": True, "nvidiaDevRoot": "/x"},
            ["flags.plugin.deviceListStrategy", "flags.plugin.passDeviceSpecs"],
        ),
        ({"nvidiaDriverRoot": "/x"}, ["flags.nvidiaDriverRoot"]),
        ({"nvidiaDriverRoot": "/x", "nvidiaDevRoot": "/y"}, ["flags.nvidiaDriverRoot", "flags.nvidiaDevRoot"]),
        ({"plugin_passDeviceSpecs": True, "nvidiaDevRoot": "/y"}, []),
        ({"nvidiaDriverRoot": "/", "nvidiaDevRoot": ""}, []),
        (
            {"plugin_deviceListStrategy": "envvar", "plugin_cdiAnnotationPrefix": "x.io/"},
            ["flags.plugin.cdiAnnotationPrefix"],
        ),
        ({"plugin_cdiAnnotationPrefix": "x.io/"}, ["flags.plugin.cdiAnnotationPrefix"]),
        ({"imex_required": True}, ["imex.required"]),
        ({"imex_channelIDs": [], "imex_required": True}, ["imex.required"]),
        ({"imex_channelIDs": [0], "imex_required": True}, []),
    ],
)
def test_what_has_no_effect_is_noted(fields: Mapping[str, object], told_of: list[str]) -> None:
    """A field that another takes the effect from, or that an option decides on, is noted with its place."""
    found = accepted(document(**fields)).notes
    assert [note.split(": ")[0].split(", ")[1] for note in found] == told_of


def test_convert_names_the_options() -> None:
    """Our own format does not say how devices are handed over: `convert` names the options that do, and with these an
    agent hands them over as with the file.
    """
    import argparse

    text = document(
        nvidiaDriverRoot="/run/nvidia/driver",
        plugin_passDeviceSpecs=True,
        plugin_deviceListStrategy=["cdi-cri", "envvar"],
        plugin_deviceIDStrategy="index",
        plugin_cdiAnnotationPrefix="x.io/",
        gdsEnabled=True,
        mofedEnabled=True,
        gdrcopyEnabled=True,
        imex_channelIDs=[0],
        imex_required=True,
        gfd_noTimestamp=True,
    )
    config = accepted(text)
    *_, options, timestamp = notes(config)
    assert timestamp.startswith("the label nvidia.com/gfd.timestamp")
    _, _, words = options.partition(": ")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = read(parser.parse_args(["--config", "/config", *words.split()]), {})
    assert found.handover == config.handover.over(HandOver())
    assert "--device-list-strategy=envvar,cdi-cri" in to_yaml(config)
    assert not any("nodeagent run" in note for note in notes(accepted(document(**NVIDIAS_DEFAULTS))))


def test_the_example() -> None:
    """What the example's comments say of containers is so."""
    found = container(accepted((EXAMPLES / "nvidia-v1-flags.yaml").read_bytes()))
    assert found["cdi"] == ["nvidia.com/gpu=GPU-1", "nvidia.com/gds=all"]
    assert found["devices"] == nodes_below("/run/nvidia/driver")
    assert found["envs"] == {**VISIBLE, "NVIDIA_GDS": "enabled"}
