"""Every option of `run` is a flag, a variable or a default, in this order."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from nodeagent.model.handover import HandOver, IdStrategy, ListStrategy
from nodeagent.settings import (
    MPS_HOST_OPTIONS,
    OPTIONS,
    BadSetting,
    MpsHostSettings,
    Option,
    Settings,
    add_arguments,
    read,
    read_driver_place,
    read_mps_host,
)


def settings(*flags: str, environment: Mapping[str, str] | None = None) -> Settings:
    """What these flags, besides --config, and this environment come to."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read(parser.parse_args(["--config", "/config", *flags]), environment or {})


def having(*, can_be_empty: bool) -> list[Option]:
    """The options with a free value of which an empty one means something, or does not."""
    return [o for o in OPTIONS if o.can_be_empty is can_be_empty and not o.switch and not o.choices]


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    """Flag, environment, default."""
    assert settings().state_dir == Path("/var/lib/nodeagent")
    variable = {"NODEAGENT_STATE_DIR": "/variable"}
    assert settings(environment=variable).state_dir == Path("/variable")
    assert settings("--state-dir", "/flag", environment=variable).state_dir == Path("/flag")


def test_where_the_driver_is() -> None:
    """Without a word the loader finds the driver's library; commands without these flags follow the variables too."""
    assert (settings().driver_root, settings().nvml_library) == (Path("/"), None)
    found = settings("--driver-root", "/run/nvidia/driver", "--nvml-library", "/opt/libnvidia-ml.so.1")
    assert (found.driver_root, found.nvml_library) == (Path("/run/nvidia/driver"), Path("/opt/libnvidia-ml.so.1"))
    assert read_driver_place({}) == (Path("/"), None)
    variables = {"NODEAGENT_DRIVER_ROOT": "/driver", "NODEAGENT_NVML_LIBRARY": "/lib.so"}
    assert read_driver_place(variables) == (Path("/driver"), Path("/lib.so"))
    assert settings("--nvml-library", "", environment=variables).nvml_library is None


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.flag != "--config"], ids=lambda o: o.name)
def test_an_empty_variable_is_not_set(option: Option) -> None:
    """A variable that a manifest leaves empty has no effect: the working directory is never a state directory."""
    assert settings(environment={option.environment: ""}) == settings()


def test_the_config_by_label_can_be_switched_off() -> None:
    """By a word, since an empty variable has no effect."""
    on = {"NODEAGENT_KUBE_API": "on"}
    assert settings(environment=on).config_labels == ("nodeagent.io/config", "nvidia.com/device-plugin.config")
    assert settings(environment={**on, "NODEAGENT_CONFIG_LABEL": "off"}).config_labels == ()


def test_the_config_for_nodes_without_a_label() -> None:
    """The name of a file, with or without its ending; nothing that leads out of the directory, nor the revision."""
    assert settings().config_default is None
    for name in ("t4", "t4.yaml", "tesla_T4-80.b"):
        assert settings("--config-default", name).config_default == name
        assert settings(environment={"NODEAGENT_CONFIG_DEFAULT": name}).config_default == name
    for name in ("..", "../t4", "/t4", ".t4", "a b", "t4-", "revision"):
        with pytest.raises(BadSetting, match=r"^--config-default \(or NODEAGENT_CONFIG_DEFAULT\) must be the name of"):
            settings("--config-default", name)


def test_an_empty_variable_names_no_config() -> None:
    """An empty NODEAGENT_CONFIG is no config, not the working directory."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(BadSetting, match="NODEAGENT_CONFIG"):
        read(parser.parse_args([]), {"NODEAGENT_CONFIG": ""})


@pytest.mark.parametrize("option", having(can_be_empty=False), ids=lambda o: o.name)
def test_a_flag_must_not_be_empty(option: Option) -> None:
    """An empty path, address or driver is refused by name, whatever its variable says."""
    with pytest.raises(BadSetting, match=rf"^{option.flag} \(or {option.environment}\) must not be empty$"):
        settings(option.flag, "", environment={option.environment: "something"})


@pytest.mark.parametrize("option", having(can_be_empty=True), ids=lambda o: o.name)
def test_a_name_can_be_empty(option: Option) -> None:
    """An empty name is none, and its variable does not count."""
    found = settings(option.flag, "", environment={option.environment: "something"})
    assert (found.pool, found.node_name) == (None, socket.gethostname())


@pytest.mark.parametrize(
    ("value", "strict"), [("1", True), ("true", True), ("YES", True), ("0", False), ("off", False), ("", False)]
)
def test_a_switch_in_the_environment(value: str, strict: bool) -> None:
    """A switch is on or off in the usual words."""
    assert settings(environment={"NODEAGENT_STRICT_READINESS": value}).strict_readiness is strict


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NODEAGENT_STRICT_READINESS", "maybe", "must be true or false, got 'maybe'"),
        ("NODEAGENT_LOG_LEVEL", "loud", "must be one of debug, info, warning, error, got 'loud'"),
    ],
)
def test_a_variable_that_is_not_possible(name: str, value: str, message: str) -> None:
    """A variable with another value than its flag could have is refused, and named."""
    with pytest.raises(BadSetting, match=f"^{name} {message}$"):
        settings(environment={name: value})


class TestHandover:
    """How devices are handed over."""

    def test_by_default(self) -> None:
        """Without a word by the variable alone, as ever."""
        assert settings().handover == HandOver()
        assert settings().cdi_dirs == (Path("/etc/cdi"), Path("/var/run/cdi"))
        assert settings("--driver-root", "/driver").handover == HandOver()

    def test_every_option(self) -> None:
        """Each option decides on one thing, as a flag and as a variable."""
        flags = {
            "--device-list-strategy": "envvar, cdi-cri",
            "--device-id-strategy": "index",
            "--pass-device-specs": "true",
            "--dev-root": "/run/nvidia/driver",
            "--gds-enabled": "true",
            "--mofed-enabled": "true",
            "--gdrcopy-enabled": "true",
            "--imex-channel-ids": "0",
            "--imex-required": "true",
            "--cdi-vendor": "k8s.device-plugin.nvidia.com",
            "--cdi-annotation-prefix": "nvidia.cdi.k8s.io/",
            "--cdi-dirs": "/a,/b",
        }
        known = {option.flag: option for option in OPTIONS}
        words = [word for flag, value in flags.items() for word in (flag, value) if word != "true"]
        found = settings(*words)
        assert found.handover == HandOver(
            strategies=frozenset({ListStrategy.ENVVAR, ListStrategy.CDI_CRI}),
            id_strategy=IdStrategy.INDEX,
            device_specs=True,
            dev_root="/run/nvidia/driver",
            gds=True,
            mofed=True,
            gdrcopy=True,
            imex_channels=(0,),
            imex_required=True,
            cdi_vendor="k8s.device-plugin.nvidia.com",
            annotation_prefix="nvidia.cdi.k8s.io/",
        )
        assert found.cdi_dirs == (Path("/a"), Path("/b"))
        assert settings(environment={known[flag].environment: value for flag, value in flags.items()}) == found

    @pytest.mark.parametrize(
        ("flag", "value", "message"),
        [
            (
                "--device-list-strategy",
                "envvar,cdi",
                "must name at least one of envvar, volume-mounts, cdi-annotations",
            ),
            ("--device-list-strategy", ",", "must name at least one of envvar"),
            ("--imex-channel-ids", "1", "must be 0 or empty, got '1'"),
            ("--dev-root", "run/nvidia", "must be an absolute path, got 'run/nvidia'"),
            ("--cdi-vendor", "nvidia.com/gpu", "must be a vendor such as nvidia.com, got 'nvidia.com/gpu'"),
            (
                "--cdi-annotation-prefix",
                "cdi.k8s.io",
                "must be a domain and a slash, such as cdi.k8s.io/, got 'cdi.k8s",
            ),
        ],
    )
    def test_what_is_not_possible(self, flag: str, value: str, message: str) -> None:
        """A value without sense is refused, with the flag and its variable."""
        variable = f"NODEAGENT_{flag.removeprefix('--').replace('-', '_').upper()}"
        with pytest.raises(BadSetting, match=rf"^{flag} \(or {variable}\) {re.escape(message)}"):
            settings(flag, value)


def mps_host(*flags: str, environment: Mapping[str, str] | None = None) -> MpsHostSettings:
    """What these flags and this environment come to for an MPS host."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, MPS_HOST_OPTIONS)
    return read_mps_host(parser.parse_args(flags), environment or {})


class TestMpsHost:
    """The MPS host has a table of its own, read by the same rules."""

    def test_flag_variable_default(self) -> None:
        """A flag wins over its variable, and that over the default."""
        assert mps_host().mps_root == Path("/run/nodeagent/mps")
        variables = {"NODEAGENT_MPS_ROOT": "/variable", "NODEAGENT_SHM_SIZE": "0", "NODEAGENT_INIT": "yes"}
        found = mps_host("--mps-root", "/flag", environment=variables)
        assert (found.mps_root, found.shm_size, found.init) == (Path("/flag"), "0", True)

    @pytest.mark.parametrize("option", MPS_HOST_OPTIONS, ids=lambda o: o.name)
    def test_an_empty_variable_is_not_set(self, option: Option) -> None:
        """A variable that a manifest leaves empty has no effect."""
        assert mps_host(environment={option.environment: ""}) == mps_host()

    def test_what_it_shares_with_run_is_the_same(self) -> None:
        """Where both have a flag, it means the same, and so does its variable: one environment can serve both."""
        ours = {option.flag: option for option in OPTIONS}
        shared = [option for option in MPS_HOST_OPTIONS if option.flag in ours]
        assert {option.flag for option in shared} >= {"--mps-root", "--mps-control", "--driver", "--node-name"}
        assert all(ours[option.flag] is option for option in shared)
        variables = [option.environment for option in {*OPTIONS, *MPS_HOST_OPTIONS}]
        assert len(variables) == len(set(variables))
