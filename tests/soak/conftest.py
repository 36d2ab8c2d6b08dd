"""What all soaks have in common: what they say of themselves, the seed first, is at the end of the run's output."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest

from tests.conftest import Soak

_TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(soak: Soak, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say what was found, whether or not the test passes."""
    seed = f"NODEAGENT_SOAK_SEED={soak.seed} NODEAGENT_SOAK_SCALE={soak.scale:g}"
    told = request.config.stash.setdefault(_TOLD, [seed])
    return lambda text: told.append(f"{request.node.name}: {text}")


@pytest.fixture
def rng(soak: Soak, request: pytest.FixtureRequest, tell: Callable[[str], None]) -> random.Random:
    """Where a test's random moments come from: the run's seed and the test's name."""
    return random.Random(soak.seed + zlib.crc32(request.node.name.encode()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was told."""
    if told := config.stash.get(_TOLD, None):
        terminalreporter.section("soak")
        for line in told:
            terminalreporter.line(line)
