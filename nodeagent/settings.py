"""Process options of `run`: every flag, its environment twin and its default, in one table.

The table makes the parser, the help and the documentation, so that none of them can lack an option that another has.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_PREFIX = "NODEAGENT_"

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Option:
    """One flag of `run`. `default` None: it must be given, or follows from something that `help` names. `can_be_empty`:
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


OPTIONS: Sequence[Option] = (
    Option("--config", None, "the sharing config: a file, or a directory with sharing.yaml in it", metavar="PATH"),
    Option("--driver", "nvml", "where the GPUs are known from: nvml, or simulated:FILE", metavar="SPEC"),
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
    Option("--state-dir", "/var/lib/nodeagent", "what outlives the agent; one agent per directory", metavar="DIR"),
    Option(
        "--listen",
        "0.0.0.0:9400",
        "address of /metrics, /status, /livez, /readyz and the status page",
        metavar="HOST:PORT",
    ),
    Option(
        "--node-name", None, "name of this node ($NODE_NAME, else the host name)", can_be_empty=True, metavar="NAME"
    ),
    Option(
        "--pool",
        None,
        "name of the node pool, for metrics and the last known good config (none)",
        can_be_empty=True,
        metavar="NAME",
    ),
    Option("--log-format", "text", "format of the log", choices=("text", "json")),
    Option("--log-level", "info", "least level that is logged", choices=("debug", "info", "warning", "error")),
    Option(
        "--strict-readiness",
        None,
        "not ready while the newest document is not accepted or a drain is stalled",
        switch=True,
    ),
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
    log_format: str
    log_level: str
    strict_readiness: bool


class BadSetting(Exception):
    """An option is missing or not possible. The message names the flag and its environment variable."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `run` its flags. Defaults are filled in by `read`, which knows the environment."""
    for option in OPTIONS:
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
        device_plugins_dir=Path(values["device_plugins_dir"] or kubelet / "device-plugins"),
        pod_resources_dir=Path(values["pod_resources_dir"] or kubelet / "pod-resources"),
        state_dir=Path(values["state_dir"] or ""),
        listen=values["listen"] or "",
        node_name=values["node_name"] or environment.get("NODE_NAME") or socket.gethostname(),
        pool=values["pool"] or None,
        log_format=values["log_format"] or "",
        log_level=values["log_level"] or "",
        strict_readiness=values["strict_readiness"] == "true",
    )


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
