"""A variable of the environment that nothing reads is told at the start, with what to write in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeagent.commands.variables import NVIDIA, unread
from nodeagent.settings import MPS_HOST_OPTIONS, OPTIONS
from tests.commands.conftest import nodeagent


def told(**environment: str) -> list[str]:
    """What an agent says of these variables."""
    return unread(environment, OPTIONS, "run")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("NODEAGENT_POLL", "NODEAGENT_POOL (--pool)"),
        ("NODEAGENT_LOGLEVEL", "NODEAGENT_LOG_LEVEL (--log-level)"),
        ("NODEAGENT_KUBELET_ROOT", "NODEAGENT_KUBELET_DIR (--kubelet-dir)"),
        ("NODEAGENT_STATEDIR", "NODEAGENT_STATE_DIR (--state-dir)"),
        ("NODEAGENT_CONFIG_PATH", "NODEAGENT_CONFIG (--config)"),
        ("NODEAGENT_CONFIG_LABELS", "NODEAGENT_CONFIG_LABEL (--config-label)"),
        ("NODEAGENT_HOST_MPS", "NODEAGENT_MPS_HOST (--mps-host)"),
        ("NODEAGENT_LISTEN_ADDRESS", "NODEAGENT_LISTEN (--listen)"),
        ("NODEAGENT_METRICS_PORT", "NODEAGENT_LISTEN (--listen)"),
        ("NODEAGENT_PORT", "NODEAGENT_LISTEN (--listen)"),
        ("NODEAGENT_DEBUG", "NODEAGENT_LOG_LEVEL (--log-level)"),
        ("NODEAGENT_DEVICE_PLUGIN_DIR", "NODEAGENT_DEVICE_PLUGINS_DIR (--device-plugins-dir)"),
        ("NODE_AGENT_POOL", "NODEAGENT_POOL (--pool)"),
        ("nodeagent_pool", "NODEAGENT_POOL (--pool)"),
        ("NODEAGENT-POOL", "NODEAGENT_POOL (--pool)"),
        ("NODEAGENT.LOG.LEVEL", "NODEAGENT_LOG_LEVEL (--log-level)"),
    ],
)
def test_the_nearest_option_is_named(variable: str, meant: str) -> None:
    """A name that no option has is told with the option that was probably meant: a letter off, words in another order,
    in lower case, with another separator.
    """
    (line,) = told(**{variable: "9"})
    assert line.startswith(f"{variable} is not read")
    assert meant in line


def test_a_name_near_nothing_is_told_without_a_guess() -> None:
    """No option is proposed that has nothing to do with the name."""
    assert told(NODEAGENT_FROBNICATE="1") == [
        "NODEAGENT_FROBNICATE is not read: no option has that name; `nodeagent run --help` lists those that are"
    ]


@pytest.mark.parametrize(
    ("variable", "instead"),
    [
        ("MIG_STRATEGY", "flags.migStrategy in the sharing config"),
        ("FAIL_ON_INIT_ERROR", "has no counterpart: without a driver the agent stays up"),
        ("PASS_DEVICE_SPECS", "NODEAGENT_PASS_DEVICE_SPECS (--pass-device-specs)"),
        ("DEVICE_LIST_STRATEGY", "NODEAGENT_DEVICE_LIST_STRATEGY (--device-list-strategy)"),
        ("DEVICE_ID_STRATEGY", "NODEAGENT_DEVICE_ID_STRATEGY (--device-id-strategy)"),
        ("CONFIG_FILE", "NODEAGENT_CONFIG (--config)"),
        ("NVIDIA_DRIVER_ROOT", "NODEAGENT_DRIVER_ROOT (--driver-root)"),
        ("CDI_ANNOTATION_PREFIX", "NODEAGENT_CDI_ANNOTATION_PREFIX (--cdi-annotation-prefix)"),
        ("CDI_SOMETHING_NEW", "the container toolkit makes the CDI specification"),
        ("MPS_ROOT", "NODEAGENT_MPS_ROOT (--mps-root)"),
        ("DEVICE_DISCOVERY_STRATEGY", "NODEAGENT_DRIVER (--driver)"),
        ("GDRCOPY_ENABLED", "NODEAGENT_GDRCOPY_ENABLED (--gdrcopy-enabled)"),
        ("NODE_LABEL", "NODEAGENT_CONFIG_LABEL (--config-label)"),
        ("KUBELET_SOCKET", "NODEAGENT_DEVICE_PLUGINS_DIR (--device-plugins-dir)"),
        ("GFD_OUTPUT_FILE", "NODEAGENT_LABELS=nfd:DIR (--labels)"),
        ("GFD_SOMETHING_NEW", "the agent writes the labels itself"),
        ("DP_DISABLE_HEALTHCHECKS", "spec.health in the sharing config"),
        ("NODEAGENT_MIG_STRATEGY", "NVIDIA's MIG_STRATEGY is flags.migStrategy in the sharing config"),
        ("NODEAGENT_CONFIG_FILE", "NODEAGENT_CONFIG (--config)"),
    ],
)
def test_nvidias_are_told_with_what_takes_their_place(variable: str, instead: str) -> None:
    """What NVIDIA's plugin would read is told, ours by that name too, with the option or the key that does it here."""
    (line,) = told(**{variable: "x"})
    assert instead in line
    assert "not read" in line


def test_options_that_are_named_are_there() -> None:
    """No variable and no flag is proposed that does not exist."""
    known = {option.environment for option in OPTIONS} | {option.flag for option in OPTIONS}
    words = {word.strip("(),.;:").partition("=")[0] for text in NVIDIA.values() for word in text.split()}
    assert {word for word in words if word.startswith(("NODEAGENT_", "--"))} <= known


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_MIG_MONITOR_DEVICES",
        "NVIDIA_REQUIRE_CUDA",
        "NODE_NAME",
        "KUBECONFIG",
        "PATH",
        "NODEAGENT_POOL",
        "NODEAGENT_CONFIG",
        "NODEAGENT_INIT",
        "NODE_AGENTS",
    ],
)
def test_what_is_read_or_somebody_elses_is_not_told(name: str) -> None:
    """Options, those of the other process, and what a container has for its runtime are no news."""
    assert told(**{name: "all"}) == []


@pytest.mark.parametrize("service", ["NODEAGENT", "NODEAGENT_METRICS", "NODEAGENT_A100_INFERENCE"])
def test_links_to_services_are_not_told(service: str) -> None:
    """What the kubelet sets for a Service of such a name, with one port or several, is nobody's mistake."""
    address = "tcp://10.96.0.7:8080"
    links = {
        f"{service}_SERVICE_HOST": "10.96.0.7",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP": "8080",
        f"{service}_PORT": address,
        f"{service}_PORT_8080_TCP": address,
        f"{service}_PORT_8080_TCP_PROTO": "tcp",
        f"{service}_PORT_8080_TCP_PORT": "8080",
        f"{service}_PORT_8080_TCP_ADDR": "10.96.0.7",
        f"{service}_PORT_53_UDP_ADDR": "10.96.0.7",
    }
    assert told(**links) == []


def test_an_empty_one_is_not_set() -> None:
    """As for options: a chart may give every name an empty value."""
    assert told(NODEAGENT_POLL="", MIG_STRATEGY="") == []


def test_one_size_with_two_names() -> None:
    """The size of /dev/shm has one name for the agent and another for the MPS host: the wrong one is told, unless the
    right one is there as well.
    """
    assert told(NODEAGENT_SHM_SIZE="1Gi") == [
        "run does not read NODEAGENT_SHM_SIZE: here it is NODEAGENT_MPS_SHM_SIZE (--mps-shm-size)"
    ]
    both = {"NODEAGENT_SHM_SIZE": "1Gi", "NODEAGENT_MPS_SHM_SIZE": "1Gi"}
    assert told(**both) == unread(both, MPS_HOST_OPTIONS, "mps-host") == []
    (line,) = unread({"NODEAGENT_MPS_SHM_SIZE": "1Gi"}, MPS_HOST_OPTIONS, "mps-host")
    assert "here it is NODEAGENT_SHM_SIZE (--shm-size)" in line


def test_many_and_odd_names_cost_few_and_plain_lines() -> None:
    """What is told is bounded, and can be printed whatever a name holds."""
    lines = told(**{f"NODEAGENT_{number}_\x1b[31m" + "x" * 5000: "1" for number in range(500)})
    assert len(lines) <= 41
    assert lines[-1] == "460 more variables are not read"
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_an_agent_says_it_at_its_start(tmp_path: Path) -> None:
    """In its log, in the log's format, before anything else; values are not told."""
    done = nodeagent(
        "run", "--config", tmp_path, "--state-dir", tmp_path, "--kubelet-dir", tmp_path, "--listen", "9400",
        "--log-format", "json", NODEAGENT_POLL="secret", MIG_STRATEGY="single",
    )  # fmt: skip
    said = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert said[0].startswith("MIG_STRATEGY is NVIDIA's")
    assert said[1].startswith("NODEAGENT_POLL is not read")
    assert "secret" not in done.stderr


def test_an_mps_host_says_it_at_its_start(tmp_path: Path) -> None:
    """The same for the host in its own pod; not for one that an agent has started, whose environment is the agent's."""
    unusable = tmp_path / "file"
    unusable.touch()
    flags = ["--driver", f"simulated:{tmp_path}/node.yaml", "--shm-size", "0"]
    done = nodeagent("mps-host", "--mps-root", unusable, *flags, NODEAGENT_MPS_ROTO="x")
    assert "NODEAGENT_MPS_ROTO is not read: no option has that name: did you mean NODEAGENT_MPS_ROOT" in done.stderr
    given = [
        "--driver-root=/", "--nvml-library=", "--mps-control=x", "--node-name=n", "--log-format=text",
        "--log-level=info",
    ]  # fmt: skip
    done = nodeagent("mps-host", "--mps-root", unusable, *flags, *given, NODEAGENT_MPS_ROTO="x")
    assert "NODEAGENT_MPS_ROTO" not in done.stderr


def test_variables_of_nvidias_for_which_there_is_an_option() -> None:
    """Each is told with that option, and what is made of a Service of any name is nobody's."""
    for name, meant in (
        ("DEFAULT_CONFIG", "NODEAGENT_CONFIG_DEFAULT (--config-default)"),
        ("GFD_MACHINE_TYPE_FILE", "NODEAGENT_MACHINE_TYPE_FILE (--machine-type-file)"),
        ("FALLBACK_STRATEGIES", "`named` and `single` always hold"),
    ):
        (line,) = told(**{name: "x"})
        assert meant in line
    assert told(GFD_SERVICE_HOST="10.0.0.1", GFD_PORT_80_TCP="tcp://10.0.0.1:80", DP_SERVICE_PORT="80") == []


def test_the_likeliest_come_first() -> None:
    """Of very many those are listed for which the option is known."""
    lines = told(**{f"NODEAGENT_{'QXZW' * 4}{number}": "x" for number in range(40)}, nodeagent_config="x")
    assert "it is NODEAGENT_CONFIG (--config)" in lines[0]
    assert lines[-1] == "1 more variable is not read"
