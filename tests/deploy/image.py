"""An image as a registry would have it, unpacked as a container runtime would, and containers started from it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.agent.harness import Process
from tests.conftest import ROOT
from tests.deploy import proc
from tests.deploy.process_one import Start, Volume

_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True, slots=True)
class Image:
    """`name` is what its layout calls it, `root` its root filesystem, `config` what it says of itself, `pulled` the
    bytes that a node fetches.
    """

    name: str
    root: Path
    config: Mapping[str, Any]
    pulled: int

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    @property
    def labels(self) -> Mapping[str, str]:
        return {name.removeprefix("org.opencontainers.image."): value for name, value in self.config["Labels"].items()}

    def python(self, code: str) -> Any:  # noqa: ANN401 - whatever the code prints
        """What `code` prints as JSON, run by the Python of the agent."""
        done = self.run(code, entrypoint=("/opt/nodeagent/bin/python", "-c"))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(
        self,
        *arguments: str,
        entrypoint: Sequence[str] | None = None,
        volumes: Sequence[Volume] = (),
        writable: bool = False,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        start = self.start(*arguments, entrypoint=entrypoint, volumes=volumes, writable=writable)
        return subprocess.run(command(start), cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)

    async def process(
        self, *arguments: str, log: Path, port: int = 0, volumes: Sequence[Volume] = (), privileged: bool = False
    ) -> Container:
        """Start a container, and wait until process 1 is what the image says."""
        start = self.start(*arguments, volumes=volumes, privileged=privileged)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command(start), cwd=ROOT, stdout=output, stderr=output)
        return Container(process, port, log)

    def start(
        self,
        *arguments: str,
        entrypoint: Sequence[str] | None = None,
        volumes: Sequence[Volume] = (),
        privileged: bool = False,
        writable: bool = False,
    ) -> Start:
        """A container with these `args`, as a pod names them; user, directory and environment are the image's own."""
        assert self.config["User"] == "0:0"
        return Start(
            root=str(self.root),
            command=[*(entrypoint or self.config["Entrypoint"]), *(arguments or self.config["Cmd"])],
            environment=self.environment,
            directory=self.config["WorkingDir"],
            volumes=volumes,
            privileged=privileged,
            writable=writable,
        )


class Container(Process):
    """A container that runs. Signals go to its process 1, from outside, as a kubelet has them sent."""

    @property
    def process_1(self) -> int:
        """The pid that its process 1 has on this machine; 0 when it has none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return int(children.read_text(encoding="ascii") or 0)
        return 0

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if pid := self.process_1:
                os.kill(pid, number)
            else:
                self.process.send_signal(number)

    def kill_inside(self, pid: int) -> None:
        """SIGKILL to a process that has this pid inside."""
        os.kill(self._outside()[pid], signal.SIGKILL)

    def credentials(self) -> dict[str, str]:
        """/proc/PID/status of process 1."""
        return proc.status(self.process_1)

    def processes(self) -> dict[int, str]:
        """The name and state (`Z`: a zombie) of every process in it but process 1, by the pid that it has inside."""
        found = {}
        for inside, outside in self._outside().items():
            with suppress(OSError):
                values = proc.status(outside)
                found[inside] = f"{values['Name']} {values['State'][0]}"
        found.pop(1, None)
        return found

    def _outside(self) -> dict[int, int]:
        """The pids of this machine of all its processes, by those that they have inside."""
        found = {}
        for pid in proc.beside(self.process_1):
            with suppress(OSError):
                found[int(proc.status(pid)["NSpid"].split()[-1])] = pid
        return found


def command(start: Start) -> list[str]:
    """What starts it."""
    return [*_NAMESPACES, sys.executable, "-m", "tests.deploy.process_one", start.dump()]


def unpack(layout: Path, into: Path) -> Image:
    """The one image of an OCI layout. A layer that removes something is refused: what it removes would be carried by
    the layer below.
    """
    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = index["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]).read_bytes())
    config = json.loads(blob(layout, manifest["config"]["digest"]).read_bytes())
    into.mkdir()
    for layer in manifest["layers"]:
        with blob(layout, layer["digest"]).open("rb") as packed:
            _refuse_removals(packed)
        subprocess.run(
            ["tar", "-xzf", blob(layout, layer["digest"]), "-C", into, "--numeric-owner", "--preserve-permissions"],
            check=True,
        )
    pulled = sum(layer["size"] for layer in (*manifest["layers"], manifest["config"]))
    return Image(entry["annotations"]["org.opencontainers.image.ref.name"], into, config["config"], pulled)


def blob(layout: Path, digest: str) -> Path:
    """Where the layout has it."""
    return layout / "blobs" / digest.replace(":", "/")


def _refuse_removals(packed: BinaryIO) -> None:
    with tarfile.open(fileobj=packed, mode="r|gz") as layer:
        removals = [member.name for member in layer if Path(member.name).name.startswith(".wh.")]
    assert not removals, removals
