"""What several folders of tests share: tools from outside Python, the size of a soak, hypothesis without a stopwatch.

`hack/debian-tools` (part of `make test`) brings the tools into `.tools/`. Where one cannot be had its tests are skipped
with the reason; under CI=true they fail instead, so that nothing is green because it was not run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.waiting import longer

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"

# A busy machine is no fault of the code; a failing example can be pasted back as `@reproduce_failure(...)`.
settings.register_profile("nodeagent", deadline=None, print_blob=True)
settings.load_profile("nodeagent")


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, None, None]:
    """The time after which a test counts as hanging grows with the load, as all deadlines; not where it has its own."""
    if item.get_closest_marker("timeout") is None and item.config.getoption("timeout") is None:
        item.add_marker(pytest.mark.timeout(longer(float(item.config.getini("timeout")))))
    yield


def tool(name: str) -> Path:
    """Give the path of a program from outside Python; where it cannot be had the test is skipped, in CI it fails."""
    brought = TOOLS / "bin" / name
    if os.access(brought, os.X_OK):
        return brought
    if found := shutil.which(name):
        return Path(found)
    try:
        reason = (TOOLS / "missing" / name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        reason = "run `make tools`"
    message = f"{name} is not here: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The path of Prometheus' promtool."""
    return tool("promtool")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The path of a Chromium: start it with `--headless --no-sandbox` and a `--user-data-dir` of the test's own."""
    return tool("chromium")


@pytest.fixture(scope="session")
def gcc() -> Path:
    """The path of a C compiler, for the stand-in driver library."""
    return tool("gcc")


@pytest.fixture(scope="session")
def mps_control() -> Path:
    """The path of NVIDIA's `nvidia-cuda-mps-control`: its daemon runs without a GPU, but starts no server then."""
    return tool("nvidia-cuda-mps-control")


@pytest.fixture(scope="session")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the code of the release before this one is: see `tests/releases.py`."""
    from tests.releases import BEFORE, unpack

    return unpack(BEFORE, tmp_path_factory.mktemp("r"))


@dataclass(frozen=True, slots=True)
class Soak:
    """How much of the full counts this run does, and the seed that its random moments come from."""

    scale: float
    seed: int

    def times(self, full: int) -> int:
        """As many of `full` repetitions as this run does, at least one."""
        return max(1, round(full * self.scale))


@pytest.fixture(scope="session")
def soak() -> Soak:
    """The size of this run, from NODEAGENT_SOAK_SCALE (1: the full counts) and NODEAGENT_SOAK_SEED: see `make soak`."""
    return Soak(
        scale=float(os.environ.get("NODEAGENT_SOAK_SCALE") or 1),
        seed=int(os.environ.get("NODEAGENT_SOAK_SEED") or 0),
    )
