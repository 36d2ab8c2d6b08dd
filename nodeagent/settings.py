"""Process options of `run` and `mps-host`: every flag, its environment twin and its default, in a table for each.

The table makes the parser, the help and the documentation, so that none of them can lack an option that another has.
What both have is in both tables the same.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from nodeagent.model.handover import HandOver, IdStrategy, ListStrategy

ENVIRONMENT_PREFIX = "NODEAGENT_"

_NFD, _OFF = "nfd:", "off"

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Option:
    """One flag. `default` None: it must be given, or follows from something that `help` names. `can_be_empty`:
    an empty value means that there is none.
    """

    flag: str
    default: str | None
    help: str
    choices: tuple[str, ...] = ()
    switch: bool = False
    can_be_empty: bool = False
    metavar: str | None = None

    @property
    def environment(self) -> str:
        """`NODEAGENT_KUBELET_DIR` for `--kubelet-dir`."""
        return ENVIRONMENT_PREFIX + self.flag.removeprefix("--").replace("-", "_").upper()

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


_DRIVER = Option("--driver", "nvml", "where the GPUs are known from: nvml, or simulated:FILE", metavar="SPEC")
_DRIVER_ROOT = Option(
    "--driver-root",
    "/",
    "with nvml: root directory of the driver's files, below which its library is; /: where the loader finds it",
    metavar="DIR",
)
_NVML_LIBRARY = Option(
    "--nvml-library",
    None,
    "with nvml: the driver's libnvidia-ml.so.1 itself (found below the driver root)",
    can_be_empty=True,
    metavar="PATH",
)
_NODE_NAME = Option(
    "--node-name", None, "name of this node ($NODE_NAME, else the host name)", can_be_empty=True, metavar="NAME"
)
_LOG_FORMAT = Option("--log-format", "text", "format of the log", choices=("text", "json"))
_LOG_LEVEL = Option("--log-level", "info", "least level that is logged", choices=("debug", "info", "warning", "error"))

_MPS_ROOT = Option(
    "--mps-root",
    "/run/nodeagent/mps",
    "where the MPS daemons are: the same path for the agent and the MPS host, one host per directory",
    metavar="DIR",
)
_MPS_CONTROL = Option(
    "--mps-control", "nvidia-cuda-mps-control", "NVIDIA's control program: a path, or a name on PATH", metavar="PATH"
)

_LABELS_HELP = (
    "where labels go: nowhere (off), into a file of Node Feature Discovery in DIR (nfd:DIR), or on the Node (api, "
    "which needs --kube-api on)"
)

_NODE_OPTIONS: Sequence[Option] = (
    Option("--labels", "off", _LABELS_HELP, metavar="off|nfd:DIR|api"),
    Option(
        "--machine-type-file",
        "/sys/class/dmi/id/product_name",
        "what the label nvidia.com/gpu.machine is read from",
        can_be_empty=True,
        metavar="PATH",
    ),
    Option(
        "--kube-api",
        "off",
        "whether the agent speaks to the Kubernetes API: events, the last error as an annotation, and what needs it; "
        "needs nodeagent[kubernetes]",
        choices=("off", "on"),
    ),
    Option(
        "--kubeconfig",
        None,
        "with --kube-api on: how to reach the API (the pod's service account, else $KUBECONFIG)",
        can_be_empty=True,
        metavar="PATH",
    ),
    Option(
        "--config-label",
        "nodeagent.io/config,nvidia.com/device-plugin.config",
        "with --kube-api on and a directory of configs: labels of the Node, the first that is there selects "
        "<value>.yaml, or <value>; off: none does",
        can_be_empty=True,
        metavar="KEY[,KEY]",
    ),
    Option(
        "--config-default",
        None,
        "in a directory of configs: the file that is read where no label says anything, KEY.yaml or KEY (sharing.yaml, "
        "else default.yaml or default, else the only one that is there)",
        can_be_empty=True,
        metavar="KEY",
    ),
    Option(
        "--startup-taint",
        None,
        "with --kube-api on: a taint of the Node that is removed when a config has been applied for the first time "
        "(none)",
        can_be_empty=True,
        metavar="KEY",
    ),
)

_HANDOVER_OPTIONS: Sequence[Option] = (
    Option(
        "--device-list-strategy",
        "envvar",
        "how the container runtime is told of a container's GPUs: envvar, volume-mounts, cdi-annotations, cdi-cri, or "
        "several",
        metavar="NAME[,NAME]",
    ),
    Option("--device-id-strategy", "uuid", "what names a GPU to the container runtime", choices=("uuid", "index")),
    Option("--pass-device-specs", None, "pass the device nodes of GPUs as well", switch=True),
    Option("--dev-root", "/", "with --pass-device-specs: what the device nodes are below on the host", metavar="DIR"),
    Option("--gds-enabled", None, "ask the container runtime for GPUDirect Storage", switch=True),
    Option("--mofed-enabled", None, "ask the container runtime for Mellanox OFED", switch=True),
    Option("--gdrcopy-enabled", None, "ask the container runtime for GDRCopy", switch=True),
    Option(
        "--imex-channel-ids", None, "IMEX channels that each container gets: 0, or none", can_be_empty=True, metavar="0"
    ),
    Option("--imex-required", None, "refuse containers while the IMEX channel is not there", switch=True),
    Option(
        "--cdi-vendor",
        "nvidia.com",
        "with a CDI strategy: vendor of the specification, so that a GPU is called VENDOR/gpu=ID",
        metavar="VENDOR",
    ),
    Option(
        "--cdi-annotation-prefix",
        "cdi.k8s.io/",
        "with cdi-annotations: what the annotation's key begins with",
        metavar="PREFIX",
    ),
    Option(
        "--cdi-dirs",
        "/etc/cdi,/var/run/cdi",
        "with a CDI strategy: where specifications are looked for",
        metavar="DIR[,DIR]",
    ),
)

OPTIONS: Sequence[Option] = (
    Option("--config", None, "the sharing config: a file, or a directory with sharing.yaml in it", metavar="PATH"),
    _DRIVER,
    _DRIVER_ROOT,
    _NVML_LIBRARY,
    Option("--kubelet-dir", "/var/lib/kubelet", "the kubelet's root directory", metavar="DIR"),
    Option(
        "--device-plugins-dir",
        None,
        "the kubelet's device plugin directory (KUBELET_DIR/device-plugins)",
        metavar="DIR",
    ),
    Option(
        "--pod-resources-dir",
        None,
        "the directory of the PodResources socket (KUBELET_DIR/pod-resources)",
        metavar="DIR",
    ),
    Option(
        "--cgroup-root",
        "/sys/fs/cgroup",
        "where the node's cgroups are mounted: a pod whose cgroup has gone has ended, whatever else is known of it",
        metavar="DIR",
    ),
    Option("--state-dir", "/var/lib/nodeagent", "what outlives the agent; one agent per directory", metavar="DIR"),
    Option(
        "--listen",
        "0.0.0.0:9400",
        "address of /metrics, /status, /livez, /readyz and the status page",
        metavar="HOST:PORT",
    ),
    _NODE_NAME,
    Option(
        "--pool",
        None,
        "name of the node pool, for metrics and the last known good config (none)",
        can_be_empty=True,
        metavar="NAME",
    ),
    Option(
        "--mps-host",
        "off",
        "who keeps the daemons of GPUs under MPS: nobody, another pod (external), or a process that the agent starts "
        "and that outlives it (spawn)",
        choices=("off", "external", "spawn"),
    ),
    _MPS_ROOT,
    _MPS_CONTROL,
    Option(
        "--mps-shm-size",
        "1Gi",
        "with --mps-host spawn: most that all clients of MPS have of /dev/shm; 0: that of the node",
        metavar="SIZE",
    ),
    *_NODE_OPTIONS,
    *_HANDOVER_OPTIONS,
    _LOG_FORMAT,
    _LOG_LEVEL,
    Option(
        "--restart-on-driver-change",
        None,
        "end in order, once, when the driver was replaced or its device nodes were taken away and only a new container "
        "can use it again",
        switch=True,
    ),
    Option(
        "--strict-readiness",
        None,
        "not ready while the newest document is not accepted or a drain is stalled",
        switch=True,
    ),
)

MPS_HOST_OPTIONS: Sequence[Option] = (
    _MPS_ROOT,
    _DRIVER,
    _DRIVER_ROOT,
    _NVML_LIBRARY,
    _MPS_CONTROL,
    Option(
        "--shm-size",
        "1Gi",
        "most that all clients of MPS have of /dev/shm; 0: that of the node",
        metavar="SIZE",
    ),
    Option(
        "--init",
        None,
        "start the host as a child, and anew when it ends; process 1 of a container always does",
        switch=True,
    ),
    _NODE_NAME,
    _LOG_FORMAT,
    _LOG_LEVEL,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one agent, complete and checked."""

    config: Path
    driver: str
    device_plugins_dir: Path
    pod_resources_dir: Path
    state_dir: Path
    listen: str
    node_name: str
    pool: str | None
    mps_host: str
    mps_root: Path
    mps_control: str
    mps_shm_size: str
    log_format: str
    log_level: str
    strict_readiness: bool
    restart_on_driver_change: bool = False
    cgroup_root: Path = Path("/sys/fs/cgroup")
    driver_root: Path = Path("/")
    nvml_library: Path | None = None
    labels: str = "off"
    machine_type_file: Path | None = None
    kube_api: bool = False
    kubeconfig: Path | None = None
    config_labels: tuple[str, ...] = ()
    config_default: str | None = None
    startup_taint: str | None = None
    handover: HandOver = field(default_factory=HandOver)
    cdi_dirs: tuple[Path, ...] = ()

    @property
    def label_file(self) -> Path | None:
        """The directory of Node Feature Discovery's features, where labels go there."""
        return Path(self.labels.removeprefix(_NFD)) if self.labels.startswith(_NFD) else None


@dataclass(frozen=True, slots=True)
class MpsHostSettings:
    """The options of one MPS host. `shm_size` is as it was given; `init`: it is to start the host as its child."""

    mps_root: Path
    driver: str
    mps_control: str
    shm_size: str
    init: bool
    node_name: str
    log_format: str
    log_level: str
    driver_root: Path = Path("/")
    nvml_library: Path | None = None


class BadSetting(Exception):
    """An option is missing or not possible. The message names the flag and its environment variable."""


def add_arguments(parser: argparse.ArgumentParser, options: Sequence[Option] = OPTIONS) -> None:
    """Give a command its flags. Defaults are filled in when they are read, with the environment."""
    for option in options:
        text = f"{option.help} [${option.environment}]"
        if option.default is not None:
            text = f"{text} (default: {option.default})"
        if option.switch:
            parser.add_argument(option.flag, dest=option.name, action="store_const", const="true", help=text)
        else:
            metavar = option.metavar or (None if option.choices else option.name.upper())
            parser.add_argument(
                option.flag, dest=option.name, metavar=metavar, choices=option.choices or None, help=text
            )


def read(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Settings:
    """Flags before environment before defaults; an empty variable counts as not set. Raises BadSetting."""
    values = {option.name: _value(option, arguments, environment) for option in OPTIONS}
    if not values["config"]:
        raise BadSetting(
            "--config (or NODEAGENT_CONFIG) must name the sharing config: a file, or a directory with sharing.yaml"
        )
    kubelet = Path(values["kubelet_dir"] or "")
    return Settings(
        config=Path(values["config"]),
        driver=values["driver"] or "",
        driver_root=Path(values["driver_root"] or ""),
        nvml_library=_path(values["nvml_library"]),
        device_plugins_dir=Path(values["device_plugins_dir"] or kubelet / "device-plugins"),
        pod_resources_dir=Path(values["pod_resources_dir"] or kubelet / "pod-resources"),
        cgroup_root=Path(values["cgroup_root"] or ""),
        state_dir=Path(values["state_dir"] or ""),
        listen=values["listen"] or "",
        node_name=_node_name(values, environment),
        pool=values["pool"] or None,
        mps_host=values["mps_host"] or "",
        mps_root=Path(values["mps_root"] or ""),
        mps_control=values["mps_control"] or "",
        mps_shm_size=values["mps_shm_size"] or "",
        log_format=values["log_format"] or "",
        log_level=values["log_level"] or "",
        strict_readiness=values["strict_readiness"] == "true",
        restart_on_driver_change=values["restart_on_driver_change"] == "true",
        **_node(values),
        handover=_handover(values),
        cdi_dirs=tuple(Path(entry) for entry in _items(values["cdi_dirs"])),
    )


class _NodeSettings(TypedDict):
    labels: str
    machine_type_file: Path | None
    kube_api: bool
    kubeconfig: Path | None
    config_labels: tuple[str, ...]
    config_default: str | None
    startup_taint: str | None


def _node(values: Mapping[str, str | None]) -> _NodeSettings:
    """What the node tells the cluster. Raises BadSetting."""
    labels, kube_api = values["labels"] or "", values["kube_api"] == "on"
    if labels not in {"off", "api"} and (not labels.startswith(_NFD) or labels == _NFD):
        raise BadSetting(f"--labels (or NODEAGENT_LABELS) must be off, nfd:DIR or api, got {labels!r}")
    for given, what in ((labels == "api", "--labels api"), (bool(values["startup_taint"]), "--startup-taint")):
        if given and not kube_api:
            raise BadSetting(f"{what} needs --kube-api on (or NODEAGENT_KUBE_API=on)")
    return _NodeSettings(
        labels=labels,
        machine_type_file=_path(values["machine_type_file"]),
        kube_api=kube_api,
        kubeconfig=_path(values["kubeconfig"]),
        config_labels=_items(values["config_label"]) if kube_api and values["config_label"] != _OFF else (),
        config_default=_config_default(values["config_default"]),
        startup_taint=values["startup_taint"] or None,
    )


def _config_default(given: str | None) -> str | None:
    """The name of a file in the directory of configs. Raises BadSetting."""
    if given and (not _CONFIG_KEY.fullmatch(given) or given == "revision"):
        raise BadSetting(
            "--config-default (or NODEAGENT_CONFIG_DEFAULT) must be the name of a file in the directory of configs, "
            f"such as default or t4.yaml, got {given!r}"
        )
    return given or None


_CONFIG_KEY: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?", re.ASCII)

_HANDOVER_FORMS: Final = (
    ("dev_root", re.compile(r"/.*"), "an absolute path"),
    ("cdi_vendor", re.compile(r"[A-Za-z]([-A-Za-z0-9_.]*[A-Za-z0-9])?"), "a vendor such as nvidia.com"),
    (
        "cdi_annotation_prefix",
        re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/"),
        "a domain and a slash, such as cdi.k8s.io/",
    ),
)


def _handover(values: Mapping[str, str | None]) -> HandOver:
    """How devices are handed over. Raises BadSetting."""
    names = _items(values["device_list_strategy"])
    known = {strategy.value: strategy for strategy in ListStrategy}
    if not names or any(name not in known for name in names):
        raise BadSetting(
            "--device-list-strategy (or NODEAGENT_DEVICE_LIST_STRATEGY) must name at least one of "
            f"{', '.join(known)}, got {values['device_list_strategy']!r}"
        )
    if (channels := values["imex_channel_ids"] or "") not in {"", "0"}:
        raise BadSetting(f"--imex-channel-ids (or NODEAGENT_IMEX_CHANNEL_IDS) must be 0 or empty, got {channels!r}")
    for name, pattern, what in _HANDOVER_FORMS:
        if not pattern.fullmatch(value := values[name] or ""):
            flag, variable = f"--{name.replace('_', '-')}", f"NODEAGENT_{name.upper()}"
            raise BadSetting(f"{flag} (or {variable}) must be {what}, got {value!r}")
    return HandOver(
        strategies=frozenset(known[name] for name in names),
        id_strategy=IdStrategy(values["device_id_strategy"]),
        device_specs=values["pass_device_specs"] == "true",  # noqa: S105 - not a password
        dev_root=values["dev_root"] or "",
        gds=values["gds_enabled"] == "true",
        mofed=values["mofed_enabled"] == "true",
        gdrcopy=values["gdrcopy_enabled"] == "true",
        imex_channels=(0,) if channels else (),
        imex_required=values["imex_required"] == "true",
        cdi_vendor=values["cdi_vendor"] or "",
        annotation_prefix=values["cdi_annotation_prefix"] or "",
    )


def _items(value: str | None) -> tuple[str, ...]:
    return tuple(item for entry in (value or "").split(",") if (item := entry.strip()))


def read_mps_host(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> MpsHostSettings:
    """Those of `mps-host`, by the same rules. Raises BadSetting."""
    values = {option.name: _value(option, arguments, environment) for option in MPS_HOST_OPTIONS}
    return MpsHostSettings(
        mps_root=Path(values["mps_root"] or ""),
        driver=values["driver"] or "",
        driver_root=Path(values["driver_root"] or ""),
        nvml_library=_path(values["nvml_library"]),
        mps_control=values["mps_control"] or "",
        shm_size=values["shm_size"] or "",
        init=values["init"] == "true",
        node_name=_node_name(values, environment),
        log_format=values["log_format"] or "",
        log_level=values["log_level"] or "",
    )


def read_driver_place(environment: Mapping[str, str] = os.environ) -> tuple[Path, Path | None]:
    """Driver root and NVML library for commands that have no such flags: an agent's environment, where they are run in
    its container.
    """
    nothing = argparse.Namespace()
    root = _value(_DRIVER_ROOT, nothing, environment)
    return Path(root or ""), _path(_value(_NVML_LIBRARY, nothing, environment))


def read_mps_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The MPS root for commands that have no such flag, likewise."""
    return Path(_value(_MPS_ROOT, argparse.Namespace(), environment) or "")


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _node_name(values: Mapping[str, str | None], environment: Mapping[str, str]) -> str:
    return values["node_name"] or environment.get("NODE_NAME") or socket.gethostname()


def _value(option: Option, arguments: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    given: str | None = getattr(arguments, option.name, None)
    if given is not None:
        if not given and not option.can_be_empty:
            raise BadSetting(f"{option.flag} (or {option.environment}) must not be empty")
        return given
    found = environment.get(option.environment)
    if not found:
        return option.default
    if option.switch:
        if found.lower() in _TRUE:
            return "true"
        if found.lower() in _FALSE:
            return "false"
        raise BadSetting(f"{option.environment} must be true or false, got {found!r}")
    if option.choices and found not in option.choices:
        raise BadSetting(f"{option.environment} must be one of {', '.join(option.choices)}, got {found!r}")
    return found
