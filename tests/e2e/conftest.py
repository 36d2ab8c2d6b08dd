"""What the cases share: the cluster, the pod on its node, pools that are installed, and the report at the end.

A run begins with the first case that asks for the cluster. Where it refuses a cluster it ends there, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import tool
from tests.e2e import bench
from tests.e2e.cluster import Cluster
from tests.e2e.figures import Figures
from tests.e2e.options import Options, WrongOptionsError, read
from tests.e2e.overlays import T4_DEV, Overlay, kustomization
from tests.e2e.patience import until
from tests.e2e.pool import Pool, installed
from tests.e2e.probe import Probe
from tests.e2e.workload import Pods

FIGURES = pytest.StashKey[Figures]()
INSTALLED = pytest.StashKey[list[Pool]]()
"""The pools that are installed at the moment."""

Install = Callable[[Overlay], Any]


def pytest_configure(config: pytest.Config) -> None:
    """One table for the run; of the watch that lightkube leaves open when it breaks, nothing is heard."""
    if config.getoption("markexpr") == "e2e":
        # Its synchronous client never closes the response: what a garbage collection finds fails whatever case is on.
        config.addinivalue_line(
            "filterwarnings",
            "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
        )
    config.stash[FIGURES] = Figures()
    config.stash[INSTALLED] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was measured, and where."""
    figures = config.stash[FIGURES]
    if figures.rows:
        terminalreporter.section("figures")
        terminalreporter.write_line(figures.report())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a case that fails comes what the agent has logged last."""
    report = yield
    if report.failed:
        for pool in item.config.stash[INSTALLED]:
            report.sections.append((f"pool {pool.overlay.pool or 'base'}", pool.described()))
    return report


@pytest.fixture(scope="session")
def options() -> Options:
    """What was asked of this run."""
    try:
        found = read()
    except WrongOptionsError as error:
        pytest.exit(str(error), returncode=1)
    if not os.environ.get("KUBECONFIG"):
        pytest.exit(
            "set KUBECONFIG: the suite installs agents in that cluster, and takes them away (docs/e2e.md)", returncode=1
        )
    return found


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config, options: Options) -> Iterator[Figures]:
    """What is measured goes here; it is written to a file where one is named."""
    found = pytestconfig.stash[FIGURES]
    yield found
    if options.report is not None:
        found.write(options.report)


@pytest.fixture(scope="session")
def cluster(options: Options, figures: Figures) -> Cluster:
    """The cluster, which has agreed to be used."""
    try:
        found = bench.connect(options)
    except bench.RefusedError as error:
        pytest.exit(str(error), returncode=1)
    figures.where += bench.where(found, options)
    return found


@pytest.fixture(scope="session")
def probe(cluster: Cluster, options: Options) -> Iterator[Probe]:
    """The pod on the node. When the last case has ended, the node is as it was before the first."""
    refused = ""
    try:
        with bench.prepared(cluster, options) as found:
            yield found
    except bench.RefusedError as error:
        refused = str(error)
    if refused:
        pytest.exit(refused, returncode=1)


@pytest.fixture(scope="session")
def pods(cluster: Cluster, probe: Probe, options: Options) -> Iterator[Pods]:
    """Pods that use GPUs."""
    found = Pods(cluster.client, cluster.labels()["kubernetes.io/hostname"], options.image)
    yield found
    found.close()


@pytest.fixture(scope="session")
def install(
    cluster: Cluster,
    probe: Probe,
    options: Options,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Install:
    """Install an overlay for as long as a `with` lasts."""

    @contextmanager
    def install(overlay: Overlay) -> Iterator[Pool]:
        folder = tmp_path_factory.mktemp(overlay.pool or "base")
        host = cluster.labels()["kubernetes.io/hostname"]
        control = tool("nvidia-cuda-mps-control") if overlay.mps else None
        kustomization(overlay, folder, image=options.image, host=host, control=control)
        there = pytestconfig.stash[INSTALLED]
        with installed(cluster, probe, overlay, folder) as pool:
            there.append(pool)
            yield pool
            there.remove(pool)

    return install


@pytest.fixture(scope="module")
def installed_t4(install: Install) -> Iterator[Pool]:
    """The pool `t4-dev`, for all cases of a module."""
    with install(T4_DEV) as pool:
        until(pool.ready)
        yield pool


@pytest.fixture
def pool(installed_t4: Pool, pods: Pods, cluster: Cluster) -> Iterator[Pool]:
    """The pool `t4-dev` as it is installed, applied, and used by nobody; afterwards nobody uses it any more."""
    settle(installed_t4, pods, cluster)
    yield installed_t4
    pods.end()


def settle(pool: Pool, pods: Pods, cluster: Cluster) -> None:
    """Have the config that is installed applied, and seen by the scheduler, and nobody who holds anything."""
    pool.apply(pool.overlay.config)
    until(lambda: cluster.capacity() == dict(pool.overlay.offered))
    if pool.held():
        pods.forgotten(pool, next(iter(pool.overlay.offered)))
