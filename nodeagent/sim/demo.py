"""`nodeagent demo`: a simulated node, a stand-in kubelet and the real agent in one process, its MPS host beside it.

To watch (`--once` plays a story), or to play with (the file is the user's to edit).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nodeagent import refusals
from nodeagent.errors import CannotStart
from nodeagent.report.http import bind
from nodeagent.sim.ending import conclude, tell_metrics
from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.sim.git_repo import GitFailed, GitRepo
from nodeagent.sim.keys import Keys
from nodeagent.sim.mps import ControlProgram, choose
from nodeagent.sim.node import GPUS, Node, NotInTime, temporary_folder
from nodeagent.sim.playground import CONFIG, Playground
from nodeagent.sim.pods import AdmissionError, ContainerError, KubeletCrash, KubeletDown
from nodeagent.sim.screen import Screen
from nodeagent.sim.story import Story
from nodeagent.sim.telling import NotAsTold, Teller

LISTEN = "127.0.0.1:9400"
"""Where the status page is unless asked otherwise; if it is taken, any free port will do."""

FILE = "sharing.yaml"

_INTERRUPTED = 130


def run_demo(
    *,
    once: bool,
    directory: Path | None = None,
    listen: str | None = None,
    speed: float = 1.0,
    step: bool = False,
    mps_control: str | None = None,
) -> int:
    """Play the story (`once`), or stay up until SIGINT or SIGTERM. The exit code: 0; 1 when it could not start or did
    not come out as told; 130 for a story that was interrupted.

    `directory` is made when absent, and stays: the story's repository (it must be empty), or where the user edits
    `sharing.yaml` and `node.yaml` (what is there already is taken as it is). None: a temporary one. `speed` divides
    the pauses for reading; what has to happen on the node takes as long as it takes. With `step` each step begins when
    a key is pressed. `listen` must be free where it is given; None: see `LISTEN`. `mps_control`: see `mps.choose`.
    """
    screen = Screen(sys.stdout)
    try:
        if listen is not None:
            _try(listen)
        with temporary_folder() as work, _quiet(screen, faults_only=not once):
            mps = choose(mps_control, work)
            if once:
                keys = Keys(sys.stdin) if step else None
                home = _empty(directory) if directory is not None else work / "repository"
                story = _play(screen, work, home, listen=listen, speed=speed, keys=keys, mps=mps)
                return asyncio.run(_interruptible(story, interrupted=_INTERRUPTED))
            home = directory.absolute() if directory is not None else work / "files"
            return asyncio.run(_interruptible(_stay(screen, work, home, listen, mps), interrupted=0))
    except (AdmissionError, ContainerError, KubeletCrash, KubeletDown, NotAsTold, NotInTime) as error:
        screen.labelled("FAILED", f"the node did not do as told: {error}", "red")
    except (CannotStart, GitFailed, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        told = refusals.named(error) if isinstance(error, OSError) else error
        print(f"nodeagent demo: {told}", file=sys.stderr)
    return 1


async def _play(
    screen: Screen,
    work: Path,
    repository: Path,
    *,
    listen: str | None,
    speed: float,
    keys: Keys | None,
    mps: ControlProgram,
) -> None:
    began = time.monotonic()
    gpus = work / "node.yaml"
    gpus.write_text(GPUS, encoding="utf-8")
    repo = GitRepo(repository, FILE)
    await asyncio.to_thread(repo.init)
    mount = MountedConfigMap(work / "mount")
    node = Node(work, config=mount.directory, gpus=gpus, listen=listen or LISTEN, any_port=listen is None, mps=mps)
    try:
        teller = Teller(screen, node, repo, mount, speed=speed, keys=keys)
        await Story(teller).play()
        await tell_metrics(teller)
        conclude(teller, began)
    finally:
        await node.stop()


async def _stay(screen: Screen, work: Path, home: Path, listen: str | None, mps: ControlProgram) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for name, content in ((FILE, CONFIG), ("node.yaml", GPUS)):
        if not (home / name).exists():
            (home / name).write_text(content, encoding="utf-8")
    gpus = home / "node.yaml"
    node = Node(work, config=home, gpus=gpus, listen=listen or LISTEN, any_port=listen is None, mps=mps)
    try:
        await node.start()
        playground = Playground(screen, node, home / FILE)
        playground.introduce()
        await playground.run()
    finally:
        await node.stop()
    screen.line()


async def _interruptible(playing: Awaitable[None], *, interrupted: int) -> int:
    """Play until the end, or until a signal, so that everything is stopped and tidied up in either case. Whoever is
    impatient does not end the tidying up: there are processes to be ended.
    """
    task = asyncio.ensure_future(playing)
    loop = asyncio.get_running_loop()
    signalled = False

    def stop() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        return interrupted
    return 0


def _try(listen: str) -> None:
    """Find out before anything is begun whether an address can be listened on. Raises CannotStart."""
    try:
        bind(listen).close()
    except OSError as error:
        raise CannotStart(f"cannot listen on {listen}: {refusals.words(error)}") from error


def _empty(directory: Path) -> Path:
    """The directory for a new repository. Raises CannotStart where commits could end up in somebody's work."""
    try:
        if any(directory.iterdir()):
            raise CannotStart(f"cannot play the story in {directory}: it is not empty")
    except FileNotFoundError:
        pass
    return directory.absolute()


class _OntoScreen(logging.Handler):
    """Shows what the agent logs beside what the demo tells anyway: warnings and worse, or only faults of ours."""

    def __init__(self, screen: Screen, *, faults_only: bool) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen
        self._faults_only = faults_only

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or not self._faults_only:
            self._screen.labelled("log", f"{record.levelname.lower()}: {record.getMessage()}", "yellow")


@contextmanager
def _quiet(screen: Screen, *, faults_only: bool) -> Iterator[None]:
    """Let the log be heard only where it says more than the demo: what became of a document is told anyway."""
    package, reloads, watch = (logging.getLogger(name) for name in ("nodeagent", "nodeagent.reloads", "watchfiles"))
    before = [(logger, logger.level, logger.propagate) for logger in (package, reloads, watch)]
    handler = _OntoScreen(screen, faults_only=faults_only)
    package.addHandler(handler)
    package.setLevel(logging.WARNING)
    package.propagate = False
    reloads.setLevel(logging.CRITICAL)
    watch.setLevel(logging.WARNING)
    try:
        yield
    finally:
        package.removeHandler(handler)
        for logger, level, propagate in before:
            logger.setLevel(level)
            logger.propagate = propagate
