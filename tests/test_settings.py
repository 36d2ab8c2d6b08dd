"""Every option of `run` is a flag, a variable or a default, in this order."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from nodeagent.settings import OPTIONS, BadSetting, Option, Settings, add_arguments, read


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


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.flag != "--config"], ids=lambda o: o.name)
def test_an_empty_variable_is_not_set(option: Option) -> None:
    """A variable that a manifest leaves empty has no effect: the working directory is never a state directory."""
    assert settings(environment={option.environment: ""}) == settings()


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
