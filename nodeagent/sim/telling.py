"""How the demo's story is told: commits and syncs, waits that show what happens meanwhile, and checks.

Nothing here is pretended. A commit is made by git, the synced file is what git has, what is shown is what the kubelet
has, and a sentence that begins with `ok` has been compared with it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import split_share_id
from nodeagent.model.snapshot import DocumentInfo, Reload
from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.sim.git_repo import Commit, GitRepo
from nodeagent.sim.keys import Keys
from nodeagent.sim.node import Node
from nodeagent.sim.pods import Pod
from nodeagent.sim.screen import Screen
from nodeagent.sim.strips import LEGEND, Strip

_COMMAND_SECONDS = 30.0
_CHANGES = 2
"""What `nodeagent plan --detailed-exitcode` exits with when something would change."""


class NotAsTold(Exception):
    """Something in the story did not come out as it says. The message tells what."""


@dataclass(frozen=True, slots=True)
class Synced:
    """A commit that is in the mount: `at` is when the swap began, in monotonic seconds."""

    commit: Commit
    at: float


class Teller:
    """Tells a story on `screen` about one node that follows one repository; `speed` divides the pauses for reading, and
    each part begins when a key has been pressed, where there are `keys`.
    """

    def __init__(
        self,
        screen: Screen,
        node: Node,
        repo: GitRepo,
        mount: MountedConfigMap,
        *,
        speed: float,
        keys: Keys | None = None,
    ) -> None:
        self.screen = screen
        self.node = node
        self.kubelet = node.kubelet
        self._repo = repo
        self._mount = mount
        self._speed = speed
        self._keys = keys

    async def pause(self, seconds: float) -> None:
        """Time to read what stands there."""
        await asyncio.sleep(seconds / self._speed)

    def tell_program(self) -> None:
        """Say which program the MPS daemons of this node are."""
        if self.node.mps is not None:
            self.screen.say(f"MPS daemons are processes of their own here, of {self.node.mps.told}.")

    async def chapter(self, title: str, text: str) -> None:
        """Begin a part, with what it is about."""
        await self.begin(title)
        self.screen.say(text)
        self.screen.line()
        await self.pause(1)

    async def begin(self, title: str) -> None:
        """Begin a part, when the reader wants to go on."""
        if self._keys is not None:
            self.screen.line()
            self.screen.line(f"  press any key for: {title}", "dim")
            await self._keys.pressed()
        self.screen.heading(title)

    # --- git and the mount ---

    async def commit(self, content: str, message: str, *, planned: bool = False) -> Synced:
        """Commit the file, show what that changes (`planned`: also what `nodeagent plan` says to it), and sync it."""
        commit = await asyncio.to_thread(self._repo.commit, content, message)
        return await self._sync(f'git commit -m "{message}"', commit, planned=planned)

    async def revert(self) -> Synced:
        """Take the newest commit back with another one, and sync that."""
        commit = await asyncio.to_thread(self._repo.revert)
        return await self._sync("git revert HEAD", commit)

    async def _sync(self, command: str, commit: Commit, *, planned: bool = False) -> Synced:
        """Do what Argo CD and the kubelet do: the committed file is swapped into the mount."""
        self.screen.line(f"  $ {command}", "bold")
        for line in await asyncio.to_thread(self._repo.changed_lines):
            self.screen.say(line, lead="    ", style="green" if line.startswith("+") else "red")
        self.screen.labelled("git", f"commit {commit.short}; {self._repo.file} is blob {commit.blob[:12]}", "cyan")
        await self.pause(0.5)
        if planned:
            await self._plan()
            await self.pause(2)
        at = time.monotonic()
        self._mount.write({self._repo.file: commit.content, "revision": commit.id.encode()})
        self.screen.labelled("sync", f"the mounted file is swapped for that of commit {commit.short}", "cyan")
        return Synced(commit, at)

    async def _plan(self) -> None:
        """Show what the file would do to the node. Raises NotAsTold where that is nothing, or cannot be told."""
        self.screen.line()
        self.screen.line(f"  $ nodeagent plan --config {self._repo.file}", "bold")
        agent, file = self.node.url.split("/")[2], self._repo.directory / self._repo.file
        told = await self.command(
            "plan", "--config", str(file), "--agent", agent, "--detailed-exitcode", exits=_CHANGES
        )
        # Which documents it compares has been told. Paragraphs follow, of one or several GPUs each.
        self.screen.line("    ...", "dim")
        for line in told.partition("\n\n")[2].splitlines():
            indent = len(line) - len(line.lstrip())
            self.screen.say(line.lstrip(), lead=" " * (4 + indent)) if line else self.screen.line()
        self.screen.line()

    async def command(self, name: str, *arguments: str, exits: int = 0) -> str:
        """What a command of nodeagent prints, run as a person would run it. Raises NotAsTold for another exit code."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "nodeagent", name, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != exits:
            raise NotAsTold(f"nodeagent {name} exits with {exits}: got {done.stdout}{done.stderr}")
        return done.stdout

    # --- the agent ---

    async def reloaded(self, synced: Synced) -> Reload:
        """Wait until the agent has dealt with a synced commit, and show what it says."""

        def found() -> list[Reload]:
            return [entry for entry in self.node.snapshot.reloads if _is(entry.document, synced.commit)]

        await self.node.until(f"the agent tells of commit {synced.commit.short}", lambda: bool(found()))
        reload = found()[0]
        # Which held shares drain is told by a condition, once the agent has asked the kubelet anew.
        message = reload.message.partition("; held shares drain")[0].replace(f"{self._mount.directory}/", "")
        kind = f" ({reload.change.value})" if reload.change is not None else ""
        style = "cyan" if reload.change is not None else "red"
        self.screen.labelled("agent", f"{reload.result.value}{kind}: {message}", style)
        return reload

    async def applied(self, synced: Synced) -> None:
        """Check that the node has become what the commit says, and knows which one it is."""
        await self.node.until(
            f"the node is in sync with commit {synced.commit.short}",
            lambda: self.node.snapshot.in_sync and _is(self.node.snapshot.config.applied, synced.commit),
        )
        applied = self.node.snapshot.config.applied
        blob = applied.git_blob if applied is not None else None
        self.check(
            f"in sync, and the agent names the blob that git has: {synced.commit.blob[:12]}",
            holds=blob == synced.commit.blob,
            got=blob,
        )

    # --- what the kubelet sees ---

    def show(self) -> None:
        """All of it."""
        self.screen.line()
        for strip in self.node.strips():
            self.screen.line("  " + strip.line(self.screen, room=self.screen.width - 2))
        self.screen.line()

    def legend(self) -> None:
        """What the characters of a strip mean."""
        for line in LEGEND:
            self.screen.line(f"  {line}", "dim")

    def strip(self, label: int | str) -> Strip:
        """One GPU by its index, or one MIG device by its label."""
        return next(strip for strip in self.node.strips() if strip.label == str(label))

    async def follow(self, label: int | str, since: float, what: str, check: Callable[[Strip], bool]) -> None:
        """Wait until one GPU, or MIG device, is as it should be, and show each change of it, in milliseconds after
        `since`.
        """
        seen: deque[tuple[float, Strip]] = deque()
        last: Strip | None = None
        done = False

        def look() -> bool:
            nonlocal last, done
            seen.append((time.monotonic(), self.strip(label)))
            while seen and not done:
                at, strip = seen.popleft()
                if strip != last and not strip.unsure:
                    last = strip
                    lead = f"{milliseconds(since, at):>10}  "
                    self.screen.line(lead + strip.line(self.screen, room=self.screen.width - len(lead), resource=False))
                    done = check(strip)
            return done

        # What a list changes may be over before the next look. A pod comes and goes without one.
        self.kubelet.record.on_message = lambda message: seen.append((message.at, self.strip(label)))
        try:
            await self.node.until(what, look)
        finally:
            self.kubelet.record.on_message = None

    def allocatable(self, resource: str) -> int:
        return self.kubelet.allocatable(resource)

    # --- pods ---

    async def start(self, name: str, resource: str) -> Pod:
        """Start a pod that asks for one share. Raises AdmissionError and ContainerError, KubeletCrash."""
        return await self.kubelet.admit(name, containers={"main": {resource: 1}})

    async def end(self, pod: Pod) -> float:
        """A pod finishes by itself; when, in monotonic seconds."""
        self.screen.labelled("pods", f"{pod.name} on {self.device(pod).name} ends", "cyan")
        at = time.monotonic()
        await self.kubelet.end(pod)
        return at

    def uuid(self, index: int) -> str:
        """The uuid of a GPU."""
        return next(status.gpu.uuid for status in self.node.snapshot.gpus if status.gpu.label == str(index))

    def device(self, pod: Pod) -> Gpu:
        """The GPU, or MIG device, that a pod got."""
        gpus = self.node.snapshot.applied.gpus
        return next(gpus[split_share_id(share)[0]].gpu for share in pod.ids())

    def gpu(self, pod: Pod) -> int:
        """The index of the GPU that a pod got."""
        return self.device(pod).index

    def pods_on(self, index: int) -> list[Pod]:
        """The pods that run on a GPU, or on a MIG device of it."""
        return [pod for pod in self.kubelet.pods if pod.active and pod.ids() and self.gpu(pod) == index]

    # --- checks ---

    def check(self, told: str, *, holds: bool, got: object) -> None:
        """Say something that has been found to hold. Raises NotAsTold where it does not."""
        if not holds:
            raise NotAsTold(f"{told}: got {got}")
        self.screen.labelled("ok", told, "green")

    async def measured(self, series: str, told: str) -> None:
        """Say something that has been found to hold: that Prometheus would see this series with this value."""
        self.check(told, holds=series in (await self.node.metrics()).splitlines(), got="another value")

    def count(self, resource: str, count: int, but: str = "") -> None:
        """Check how many the kubelet could give away and has given away; `but` says which it could not."""
        got = self.allocatable(resource)
        self.check(f"{resource}: {count} allocatable{f', {but}' if but else ''}", holds=got == count, got=got)


def milliseconds(since: float, until: float | None = None) -> str:
    """`41 ms`, from one monotonic second to another or to now."""
    return f"{((time.monotonic() if until is None else until) - since) * 1000:.0f} ms"


def _is(document: DocumentInfo | None, commit: Commit) -> bool:
    return document is not None and document.revision == commit.id
