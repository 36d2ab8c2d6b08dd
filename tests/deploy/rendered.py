"""A node on which rendered manifests run: the stand-in kubelet, directories where pods expect those of a node, and the
real processes in containers that have what their manifest says, and nothing else.

Two things alone are added, in the place of what a driver brings in: GPUs come from a simulation file, and NVIDIA's
control program from where this machine has it (`NODEAGENT_DRIVER`, `NODEAGENT_MPS_CONTROL`).
"""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.sim.kubelet import StandInKubelet
from tests.conftest import ROOT, TOOLS
from tests.deploy import proc
from tests.deploy.container import Mount, Spec, with_rights
from tests.waiting import longer

Manifest = Mapping[str, Any]

NODE_NAME = "node-a"
HARDWARE = "/simulated"
IMAGE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
}
IMAGE_ENTRYPOINT = [sys.executable, "-m", "nodeagent"]

_NEWNET = 0x40000000
_ANSWERS_WITHIN = 5.0
_RUNS_WITHIN = 60.0
_LABEL = re.compile(r"metadata\.labels\['(.+)'\]")


def require_containers() -> None:
    """Skip the test where namespaces cannot be made; fail it in CI."""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "setpriv", "--bounding-set=-all", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    message = f"containers cannot be made here: {done.stderr.strip() or done.returncode}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def find(manifests: Iterable[Manifest], kind: str, component: str) -> Manifest:
    """The one object of a kind that belongs to a component."""
    (found,) = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and manifest["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component
    ]
    return found


class Container:
    """One container that runs. Its `runner` is in the container's network and outside of everything else."""

    def __init__(self, runner: asyncio.subprocess.Process, log: Path, manifest: Manifest, spec: Spec) -> None:
        self.runner = runner
        self.manifest = manifest
        self._spec = spec
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def pid(self) -> int | None:
        """Its first process, by the number that it has on this machine; None when there is none (yet)."""
        found: int | None = self.runner.pid
        for _ in range(2 if self._spec.host_pid else 1):
            found = _child(found)
        return found

    @property
    def child(self) -> int | None:
        """The first child of that process."""
        return _child(self.pid)

    def processes(self) -> set[int]:
        """All of its processes, by their numbers on this machine."""
        return set(proc.beside(self.pid))

    def status(self) -> dict[str, str]:
        """What the kernel says of its first process."""
        return proc.status(self.pid)

    async def get(self, probe: Mapping[str, Any]) -> int:
        """Ask as this `httpGet` of a probe asks; the status code, 0 when nobody answers."""
        code, _ = await self.fetch(probe["path"], self.port(probe["port"]))
        return code

    async def fetch(self, path: str, port: int) -> tuple[int, bytes]:
        """GET a path; (0, nothing) when nobody answers."""
        return await asyncio.to_thread(self._fetch, path, port)

    def port(self, name: str | int) -> int:
        """The number of a port of the container that the manifest names so."""
        if isinstance(name, int):
            return name
        (number,) = [port["containerPort"] for port in self.manifest.get("ports", ()) if port["name"] == name]
        return int(number)

    async def condition(self, type_: str) -> dict[str, Any]:
        """A condition, from /status; one without a reason while there is no status."""
        code, body = await self.fetch("/status", self.port("http"))
        if code != 200:
            return {"reason": "", "message": ""}
        return next(one for one in json.loads(body)["conditions"] if one["type"] == type_)

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Have `nodeagent` run in the container beside what runs there, with the same rights and environment, as by
        `kubectl exec`; its exit code, and what it said.
        """
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd"),
            *(*with_rights(self._spec), *IMAGE_ENTRYPOINT, *arguments),
            env=self._spec.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), longer(_RUNS_WITHIN))
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def stop(self, within: float) -> int:
        """SIGTERM, as the kubelet sends it, and the exit code. Raises TimeoutError. Nothing when it has ended."""
        if self.runner.returncode is None:
            self.runner.send_signal(signal.SIGTERM)
        return await self.ended(within)

    async def ended(self, within: float = 10.0) -> int:
        """Wait for its end; its exit code."""
        return await asyncio.wait_for(self.runner.wait(), longer(within))

    def _fetch(self, path: str, port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=longer(_ANSWERS_WITHIN))
        try:
            connection.sock = _connect(self.runner.pid, port)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


class RenderedNode:
    """One node. `gpus` are the entries of its simulation file. Use with `async with`."""

    def __init__(self, gpus: Sequence[Mapping[str, object]]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="na-"))
        self.root = self._directory / "node"
        """What is `/` on the node, as far as pods see it."""
        self.root.mkdir()
        self.hardware = self._directory / "hardware"
        self.hardware.mkdir()
        self.simulate(gpus)
        self.kubelet = StandInKubelet(self.root / "var/lib/kubelet")
        self._containers: list[Container] = []
        self._projected: dict[str, MountedConfigMap] = {}

    def path(self, path: str) -> Path:
        """A path of the node."""
        return self.root / path.lstrip("/")

    def simulate(self, gpus: Sequence[Mapping[str, object]]) -> None:
        """Have these GPUs: the entries of the simulation file."""
        document = {"apiVersion": "nodeagent.io/v1alpha1", "kind": "SimulatedNode", "gpus": list(gpus)}
        new = self.hardware / "new.yaml"
        new.write_text(json.dumps(document), encoding="utf-8")
        new.replace(self.hardware / "node.yaml")

    def commit(self, manifests: Iterable[Manifest]) -> None:
        """Have the kubelet project every ConfigMap among these that a pod has mounted."""
        for manifest in manifests:
            if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] in self._projected:
                self._projected[manifest["metadata"]["name"]].write(_files(manifest))

    async def start(
        self,
        manifests: Sequence[Manifest],
        workload: Manifest,
        *,
        container: str = "nodeagent",
        without: str = "",
        read_only: str = "",
        propagation: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Container:
        """Start a container of this workload; wait for nothing.

        `without` a volume of that name, or with it `read_only`, or all mounts with this `propagation`: other than
        rendered, to see what for it is there. `environment` takes the place of what stands for the driver.
        """
        template = workload["spec"]["template"]
        pod = template["spec"]
        (found,) = [one for one in (*pod.get("initContainers", ()), *pod["containers"]) if one["name"] == container]
        security = {**pod.get("securityContext", {}), **found["securityContext"]}
        number = len(self._containers)
        mounts = [
            Mount(
                str(self._volume(manifests, pod, mount["name"])),
                mount["mountPath"],
                read_only=mount.get("readOnly", False) or mount["name"] == read_only,
                propagation=propagation or mount.get("mountPropagation", "None"),
            )
            for mount in found["volumeMounts"]
            if mount["name"] != without
        ]
        stand_in = self._stand_in(pod) if environment is None else environment
        root = self._directory / f"root-{number}"
        root.mkdir()
        spec = Spec(
            root=str(root),
            shared=str(self.root),
            image=[sys.prefix, sys.base_prefix, str(ROOT / "nodeagent"), str(ROOT / "schemas"), str(TOOLS)],
            command=[*found.get("command", IMAGE_ENTRYPOINT), *found["args"]],
            environment={**IMAGE_ENVIRONMENT, **_environment(found, template), **stand_in},
            mounts=[*mounts, Mount(str(self.hardware), HARDWARE)],
            uid=security.get("runAsUser", 0),
            gid=security.get("runAsGroup", 0),
            host_pid=pod.get("hostPID", False),
            privileged=security.get("privileged", False),
            no_new_privs=not security.get("allowPrivilegeEscalation", True),
            read_only_root=security.get("readOnlyRootFilesystem", False),
            drop_capabilities="ALL" in security.get("capabilities", {}).get("drop", ()),
            add_capabilities=security.get("capabilities", {}).get("add", ()),
        )
        return await self._run(spec, number, found)

    async def _run(self, spec: Spec, number: int, manifest: Manifest) -> Container:
        file = self._directory / f"container-{number}.json"
        file.write_text(spec.dump(), encoding="utf-8")
        log = self._directory / f"container-{number}.log"
        with log.open("wb") as output:
            runner = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.deploy.container", str(file)),
                cwd=ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._containers.append(Container(runner, log, manifest, spec))
        return self._containers[-1]

    def _stand_in(self, pod: Mapping[str, Any]) -> dict[str, str]:
        """What stands for the driver, where a pod has asked for it."""
        if "runtimeClassName" not in pod:
            return {}
        return {
            "NODEAGENT_DRIVER": f"simulated:{HARDWARE}/node.yaml",
            "NODEAGENT_MPS_CONTROL": str(_control()),
        }

    def _volume(self, manifests: Sequence[Manifest], pod: Mapping[str, Any], name: str) -> Path:
        """What the kubelet mounts for a volume of a pod."""
        (volume,) = [one for one in pod["volumes"] if one["name"] == name]
        if "hostPath" in volume:
            return self._host_path(**volume["hostPath"])
        source = volume["configMap"]
        if source["name"] not in self._projected:
            projected = MountedConfigMap(self._directory / "configmaps" / source["name"])
            self._projected[source["name"]] = projected
            self.commit(manifests)
            assert projected.read() is not None or source.get("optional"), f"there is no ConfigMap {source['name']}"
        return self._projected[source["name"]].directory

    def _host_path(self, path: str, type: str) -> Path:  # noqa: A002 - as Kubernetes calls it
        there = self.path(path)
        if type == "DirectoryOrCreate":
            there.mkdir(mode=0o755, parents=True, exist_ok=True)
        assert {"Directory": there.is_dir, "DirectoryOrCreate": there.is_dir, "File": there.is_file}[type](), path
        return there

    async def __aenter__(self) -> Self:
        # A mount that others may see mounts on: what the kubelet has of a container with Bidirectional propagation.
        subprocess.run(["mount", "-t", "tmpfs", "node", self.root], check=True)
        subprocess.run(["mount", "--make-shared", self.root], check=True)
        self.path("/var/lib").mkdir(parents=True)
        self.path("/sys/fs/cgroup").mkdir(parents=True)
        await self.kubelet.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for container in self._containers:
                with suppress(ProcessLookupError):
                    await container.stop(10.0)
            await self.kubelet.stop()
        finally:
            logs = [container.log for container in self._containers]
            subprocess.run(["umount", "--recursive", self.root], check=True)
            shutil.rmtree(self._directory, ignore_errors=True)
        broken = [str(broken) for broken in (*self.kubelet.crashes, *self.kubelet.violations)]
        assert not broken, "; ".join(broken)
        assert not any("Traceback" in log for log in logs), "\n".join(logs)


def _child(pid: int | None) -> int | None:
    """The first child of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _control() -> Path:
    brought = TOOLS / "bin" / "nvidia-cuda-mps-control"
    return (brought if brought.exists() else Path(shutil.which(brought.name) or brought)).resolve()


def _files(config_map: Manifest) -> dict[str, bytes]:
    return {name: text.encode() for name, text in config_map.get("data", {}).items()}


def _environment(container: Manifest, template: Manifest) -> dict[str, str]:
    """The variables of a container, its fields read as the kubelet reads them."""
    return {
        entry["name"]: entry["value"] if "value" in entry else _field(entry["valueFrom"]["fieldRef"], template)
        for entry in container.get("env", ())
    }


def _field(reference: Mapping[str, str], template: Manifest) -> str:
    path = reference["fieldPath"]
    if path == "spec.nodeName":
        return NODE_NAME
    label = _LABEL.fullmatch(path)
    assert label is not None, path
    return str(template["metadata"]["labels"].get(label[1], ""))


def _connect(pid: int, port: int) -> socket.socket:
    """A connection to a port of the loopback in the network of a process. Raises OSError."""
    result: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                entered = libc.setns(namespace.fileno(), _NEWNET) == 0
            connection = socket.create_connection(("127.0.0.1", port), longer(_ANSWERS_WITHIN)) if entered else None
            result.append(connection or OSError(ctypes.get_errno(), "cannot enter the network of the container"))
        except OSError as error:
            result.append(error)

    # A namespace is entered by a thread: this one has no other use.
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]
