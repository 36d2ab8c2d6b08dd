"""The image: built by `hack/build-image` from the Dockerfile, unpacked from its OCI layout, and used as a node would.

What it is built on here is a base made by debootstrap: docs/image.md says what that leaves unproven. It needs root,
since owners, mounts and namespaces are what the tests are about.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodeagent import __version__
from nodeagent.stopping import STOP_SECONDS
from tests.agent.documents import MPS, SHARED, mps, shares, sharing
from tests.agent.harness import GPUS, NODE_NAME, Node, free_port
from tests.conftest import ROOT
from tests.deploy.image import Container, Image, unpack
from tests.deploy.process_one import Volume
from tests.waiting import eventually, longer

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

CANNOT_BUILD_HERE = 69
SBOM = "/usr/share/nodeagent/sbom.cdx.json"

INSTALLERS = re.compile(r"(pip|pip3|easy_install|uv|conda)[0-9.]*")
COMPILERS = re.compile(
    r"([a-z0-9_-]+-)?(cc|c\+\+|gcc|g\+\+|clang|clang\+\+|tcc|ld|as|make|cc1|cc1plus|rustc|go)(-[0-9.]+)?"
)

UNCHECKED_HASH = 0b01
"""In the second word of a .pyc: it is used whatever its source is."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image of this checkout, built now: a folder with its layout, `oci`, and the same in one file, `archive`."""
    folder = tmp_path_factory.mktemp("image")
    done = subprocess.run(
        [
            *(ROOT / "hack" / "build-image", "--tag", "nodeagent:test"),
            *("--oci", folder / "oci", "--archive", folder / "archive"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == CANNOT_BUILD_HERE and os.environ.get("CI") != "true":
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(built: Path) -> Image:
    """That image, unpacked."""
    return unpack(built / "oci", built / "root")


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """Eight GPUs, a running kubelet, an empty mount, no agent yet."""
    async with Node() as node:
        yield node


def volumes(node: Node) -> list[Volume]:
    """What the agent's pod mounts, and the simulated GPUs, which stand for the driver."""
    for there in (node.state_dir, node.directory / "mps"):
        there.mkdir(exist_ok=True)
    return [
        Volume(str(node.mount.directory), "/etc/nodeagent/config", read_only=True),
        Volume(str(node.kubelet.device_plugins), "/var/lib/kubelet/device-plugins"),
        Volume(str(node.kubelet.pod_resources_dir), "/var/lib/kubelet/pod-resources", read_only=True),
        Volume(str(node.state_dir), "/var/lib/nodeagent"),
        Volume(str(node.directory / "mps"), "/run/nodeagent/mps"),
        Volume(str(node.simulation.parent), "/run/gpus"),
    ]


@asynccontextmanager
async def running(
    image: Image, node: Node, *arguments: str, more: tuple[Volume, ...] = (), privileged: bool = False
) -> AsyncIterator[Container]:
    """A container on this node that runs until the test is over, at most."""
    port = free_port()
    listen = [f"--listen=127.0.0.1:{port}"] if arguments[0] == "run" else []
    container = await image.process(
        *arguments,
        "--driver=simulated:/run/gpus/node.yaml",
        f"--node-name={NODE_NAME}",
        *listen,
        log=node.directory / f"{arguments[0]}.log",
        port=port,
        volumes=[*volumes(node), *more],
        privileged=privileged,
    )
    try:
        yield container
    finally:
        if container.process.returncode is None:
            await container.kill()
    assert "Traceback" not in container.log, container.log


AGENT = ("run", "--config=/etc/nodeagent/config", "--mps-host=external")


class TestRunning:
    """The agent and the MPS host as process 1 of a container."""

    async def test_the_agent_starts_registers_reloads_and_stops(self, image: Image, node: Node) -> None:
        """On a root that cannot be written, without any capability, the agent registers with the kubelet, follows a
        swap of its mounted ConfigMap on the open stream, and ends with 0 within five seconds of SIGTERM.
        """
        node.commit(shares(4), revision="r1")
        async with running(image, node, *AGENT) as agent:
            await agent.started()
            await node.advertises({SHARED: 4 * GPUS})
            status = agent.credentials()
            assert status["NSpid"].split()[1:] == ["1"], "it is process 1"
            assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == dict.fromkeys(
                ("CapEff", "CapPrm", "CapBnd", "CapAmb"), 0
            )
            await node.hold(3)

            node.commit(shares(6), revision="r2")
            await node.advertises({SHARED: 6 * GPUS})
            await eventually(agent.ready)

            async def told() -> bool:
                return await agent.metric("config_info", state="applied", revision="r2") == 1

            await eventually(told)
            assert node.kubelet.streams_ended == []

            begun = time.monotonic()
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0
            assert time.monotonic() - begun < longer(STOP_SECONDS)
            assert agent.log.endswith("stopped\n")
            assert [end.by_kubelet for end in node.kubelet.streams_ended] == [False]

    async def test_the_next_one_goes_on_where_it_stopped(self, image: Image, node: Node) -> None:
        """A container that replaces another finds on the node's disk what was applied: nothing is offered anew that a
        pod has.
        """
        node.commit(shares(4))
        async with running(image, node, *AGENT) as agent:
            await node.advertises({SHARED: 4 * GPUS})
            pods = await node.hold(5)
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0
        async with running(image, node, *AGENT) as agent:
            await node.advertises({SHARED: 4 * GPUS})
            await eventually(agent.ready)
            assert await agent.metric("shares", resource=SHARED, state="held") == len(pods)

    async def test_mps_leaves_no_zombies(self, image: Image, node: Node, mps_control: Path) -> None:
        """The same image is the MPS host: its process 1 reaps the daemons whose parent it has become, the agent's reaps
        the clients that it asks them with, and each stops within five seconds of SIGTERM.
        """
        program = Volume(str(mps_control.resolve()), "/usr/bin/nvidia-cuda-mps-control", read_only=True)
        node.simulate(2)
        node.commit(sharing(mps(4, "9Gi", 25)))
        host_arguments = ("mps-host", "--shm-size=0")
        async with (
            running(image, node, *host_arguments, more=(program,), privileged=True) as host,
            running(image, node, *AGENT, more=(program,)) as agent,
        ):
            await node.advertises({MPS: 8}, within=30.0)
            before = daemons(host)
            assert len(before) == 2
            killed = min(before)
            host.kill_inside(killed)
            await eventually(lambda: killed not in host.processes() and len(daemons(host)) == 2, within=30.0)
            assert not [name for name in host.processes().values() if name.endswith("Z")]
            await eventually(lambda: not agent.processes(), within=10.0)
            for container in (agent, host):
                begun = time.monotonic()
                container.signal(signal.SIGTERM)
                assert await container.ended() == 0, container.log
                assert time.monotonic() - begun < longer(STOP_SECONDS)


class TestCommands:
    """The commands that people and pipelines run from the image."""

    def test_version(self, image: Image) -> None:
        """It tells the version of the package, as does its label."""
        assert image.run("--version").stdout == f"nodeagent {__version__}\n"
        assert image.labels["version"] == __version__

    def test_without_arguments_it_helps(self, image: Image) -> None:
        """`docker run IMAGE` tells what there is, and is no failure."""
        done = image.run()
        assert done.returncode == 0
        assert "mps-host" in done.stdout

    def test_validate(self, image: Image) -> None:
        """A pipeline checks a file with it: with the agent's own schemas and exit codes, from a mount or from stdin."""
        examples = Volume(str(ROOT), "/work", read_only=True)
        assert image.run("validate", "/work/examples", volumes=[examples]).returncode == 0
        text = (ROOT / "examples" / "time-slicing.yaml").read_text(encoding="utf-8")
        assert image.run("validate", "-", stdin=text).returncode == 0
        wrong = image.run("validate", "-", stdin=text.replace("replicas", "replica"))
        assert wrong.returncode == 1
        assert 'did you mean "replicas"?' in wrong.stdout

    def test_waiting_for_a_pool(self, image: Image) -> None:
        """It has the client of the Kubernetes API: without a cluster it says that it cannot reach one."""
        done = image.run("wait", "--pool", "x", "--blob", "1234567", "--timeout", "1s")
        assert done.returncode == 3, done.stderr
        assert "cannot reach" in done.stderr
        assert "module" not in done.stderr


class TestBuilding:
    """The program that builds it, and what the Dockerfile says without one."""

    def test_what_a_build_by_hand_gives(self) -> None:
        """Without a --build-arg the label of the version is right, too."""
        assert f"\nARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")

    def test_usage(self) -> None:
        """It tells how it is used, and does nothing when it is used otherwise."""
        program = ROOT / "hack" / "build-image"
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("usage: hack/build-image")
        for arguments in (["--tags", "x"], ["--tag"], ["x"]):
            wrong = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
            assert (wrong.returncode, wrong.stdout) == (64, "")
            assert wrong.stderr == done.stdout


class TestLoading:
    """How it comes to a node without a registry."""

    def test_it_is_known_by_its_whole_name(self, image: Image, built: Path) -> None:
        """Layout and archive name the image with host and tag, as a pod does: containerd makes a name of its own for a
        layout that names a tag alone, and no kubelet finds the image by that.
        """
        assert image.name == "localhost/nodeagent:test"
        with tarfile.open(built / "archive") as archive:
            packed = archive.extractfile("index.json")
            assert packed is not None
            assert json.load(packed) == json.loads((built / "oci/index.json").read_bytes())


class TestContents:
    """What is in it, and what is not."""

    def test_labels(self, image: Image) -> None:
        """The labels of the OCI say what it is, of which source and on which base."""
        assert set(image.labels) >= {"title", "description", "source", "licenses", "version", "revision", "base.name"}
        assert image.labels["title"] == "nodeagent"
        assert image.labels["licenses"] == "Apache-2.0"
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert image.labels["revision"].removesuffix("-dirty") == revision
        assert image.labels["base.name"].startswith("localhost/nodeagent-base:")

    def test_how_it_starts(self, image: Image) -> None:
        """No shell stands between the runtime and the agent, which would keep signals from it."""
        assert image.config["Entrypoint"] == ["nodeagent"]
        assert image.environment["PYTHONUNBUFFERED"] == "1"
        assert image.environment["PYTHONDONTWRITEBYTECODE"] == "1"

    def test_nothing_in_it_installs_or_compiles(self, image: Image) -> None:
        """There is no compiler and no installer of packages, as a program or as a module; no layer has one either,
        since none is removed by a later one (`unpack` refuses that).
        """
        programs = {path.name for path in image.root.rglob("*") if path.is_symlink() or executable(path)}
        assert programs >= {"nodeagent", "sh"}
        assert not [name for name in programs if INSTALLERS.fullmatch(name) or COMPILERS.fullmatch(name)]
        code = "import importlib.util as u, json; print(json.dumps([m for m in {} if u.find_spec(m)]))"
        absent = ["pip", "ensurepip", "setuptools", "wheel", "hatchling", "cyclonedx", "pytest"]
        assert image.python(code.format([*absent, "grpc", "lightkube"])) == ["grpc", "lightkube"]

    def test_nothing_in_it_gives_rights(self, image: Image) -> None:
        """No program runs as somebody else than who starts it."""
        assert not [str(path) for path in image.root.rglob("*") if path.is_file() and path.lstat().st_mode & 0o6000]

    def test_bytecode_is_there_and_stays(self, image: Image) -> None:
        """Every module of the agent, of what it depends on and of the standard library has bytecode that is used
        without a look at its source, and a start writes none, even where it could.
        """
        stdlib = image.python("import json, sysconfig; print(json.dumps(sysconfig.get_path('stdlib')))")
        folders = [image.root / "opt/nodeagent/lib", image.root / stdlib.lstrip("/")]
        sources = [path for folder in folders for path in folder.rglob("*.py")]
        assert {path.name for path in sources} >= {"reconciler.py", "argparse.py"}
        tag = image.python("import json, sys; print(json.dumps(sys.implementation.cache_tag))")
        compiled = [path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc" for path in sources]
        assert not [str(path) for path in compiled if not path.exists()]
        flags = {int.from_bytes(path.read_bytes()[4:8], "little") for path in compiled}
        assert flags == {UNCHECKED_HASH}

        before = state(folders)
        examples = Volume(str(ROOT), "/work", read_only=True)
        assert image.run("validate", "/work/examples", volumes=[examples], writable=True).returncode == 0
        assert state(folders) == before

    def test_it_has_what_the_lock_says(self, image: Image) -> None:
        """Installed are the versions of requirements.lock and the agent, and nothing else; those with which the tests
        run, where both locks name a package, are the same.
        """
        wanted = pins(ROOT / "requirements.lock")
        assert installed(image) == {**wanted, "nodeagent": __version__}
        tried = pins(ROOT / "requirements-dev.lock")
        assert {name: tried.get(name) for name in wanted} == wanted

    def test_the_list_of_what_is_in_it(self, image: Image) -> None:
        """The CycloneDX list in the image, whose making fails where it does not keep to its schema, names every
        installed package with its version as a scanner knows it, and tells nothing of the machine that built it.
        """
        text = (image.root / SBOM.lstrip("/")).read_text(encoding="utf-8")
        listed = json.loads(text)
        assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
        components = {normal(one["name"]): one for one in listed["components"]}
        subject = listed["metadata"]["component"]
        assert (subject["name"], subject["version"]) == ("nodeagent", __version__)
        versions = {name: one["version"] for name, one in components.items()}
        assert {**versions, "nodeagent": __version__} == installed(image)
        assert [one["purl"] for name, one in components.items()] == [
            f"pkg:pypi/{name}@{version}" for name, version in versions.items()
        ]
        assert not re.search(r"file:|/build/|wheelhouse|localhost", text)


def daemons(host: Container) -> set[int]:
    """The MPS daemons in a container, by the pids that they have inside."""
    return {pid for pid, name in host.processes().items() if name.startswith("nvidia-cuda-mps")}


def executable(path: Path) -> bool:
    """Whether it is a file that somebody may run."""
    return path.is_file() and bool(path.stat().st_mode & 0o111)


def state(folders: list[Path]) -> dict[str, tuple[int, int]]:
    """What tells whether a file was written anew."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(image: Image) -> dict[str, str]:
    """The packages that the agent's Python finds."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return {normal(name): version for name, version in image.python(code).items()}


def pins(lock: Path) -> dict[str, str]:
    """The versions that a lock file names."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in found}
