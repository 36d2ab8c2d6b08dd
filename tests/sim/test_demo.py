"""The demo is the first thing that a new user sees: it must come out as told, say so, and say when it did not."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from nodeagent.errors import CannotStart
from nodeagent.model.config import Document
from nodeagent.sim.git_repo import GitFailed, GitRepo
from nodeagent.sim.mps import STAND_IN, choose
from nodeagent.sim.node import GPUS, Node, temporary_folder
from nodeagent.sim.playground import CONFIG, PODS, Playground
from nodeagent.sim.screen import Screen
from tests.waiting import eventually, eventually_sync, longer

ANYWHERE = "127.0.0.1:0"
SHARED = "nvidia.com/gpu.shared"
MPS = "nvidia.com/gpu.mps"


def gpus_of(count: int, *, first: str = "") -> str:
    """A simulation file with so many GPUs, and what is so of the first one."""
    head, gpu = GPUS.partition("gpus:\n")[0], "  - model: NVIDIA H100 80GB HBM3\n    memory: 81559Mi\n"
    gpu += '    computeCapability: "9.0"\n'
    return f"{head}gpus:\n{gpu}{first}{gpu * (count - 1)}"


PLAYING = [sys.executable, "-m", "nodeagent", "demo", "--listen", ANYWHERE]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder whose path is short enough for the sockets of a demo."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
        yield Path(name)
        assert left_over(Path(name)) == [], "processes of this demo"
        assert [*Path(name).glob("tmp/*")] == []


def left_over(folder: Path) -> list[str]:
    """Processes whose environment or command line speaks of a folder: an agent's host, its daemons, clients, git."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(os.fsencode(folder) in part for part in words):
                found.append(f"{entry.name}: {words[0].replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Give the demo a home and a place for temporary files that it can be seen to leave as they were."""
    (folder / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(folder), "TMPDIR": str(folder / "tmp"), **more}


def demo(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [sys.executable, "-m", "nodeagent", "demo", *arguments],
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=longer(100),
        check=False,
    )


# --- the story ---


@pytest.mark.parametrize("program", ["nvidia", STAND_IN])
def test_the_story_comes_out_as_told(folder: Path, request: pytest.FixtureRequest, program: str) -> None:
    """All ten steps do as told, with NVIDIA's control program and with the stand-in, with plain lines of at most 80
    columns, without colour in a pipe, and not following the user's git configuration or environment.
    """
    (folder / ".gitconfig").write_text(
        "[user]\nuseConfigOnly = true\n[commit]\ngpgSign = true\n[core]\nautocrlf = true\nhooksPath = /nowhere\n"
    )
    control = str(request.getfixturevalue("mps_control")) if program == "nvidia" else program
    arguments = ("--once", "--speed", "1000", "--listen", ANYWHERE, "--mps-control", control)
    played = demo(folder, *arguments, GIT_DIR=str(folder / "elsewhere"))

    assert (played.returncode, played.stderr) == (0, ""), played.stdout + played.stderr
    assert [line for line in played.stdout.splitlines() if len(line) > 80] == []
    assert "\033" not in played.stdout
    assert "FAILED" not in played.stdout
    assert re.findall(r"^== (\d+) of 10: ", played.stdout, re.MULTILINE) == [str(step) for step in range(1, 11)]
    assert "sharing.yaml:9:21: spec.rules[0].timeSlicing.replica:" in played.stdout
    assert f"{SHARED}: 1 registration" in played.stdout
    assert "nodeagent_in_sync 1.0" in played.stdout
    told = " ".join(played.stdout.split())
    counts_what_is_shown(played.stdout)
    shows_mps(told)
    shows_a_fault(told)
    shows_mig(told)
    assert ("of a stand-in, as asked for." in played.stdout) is (program == STAND_IN)


STRIP = re.compile(r"  (?P<name>GPU \d+|\d+:\d+) +(?P<bar>[\[\]#~.x!]+) +(?P<resource>nvidia\.com/\S+) +(?P<words>.*)")
FOLLOWED = re.compile(r" +\d+ ms  (GPU \d+|\d+:\d+) +([\[\]#~.x!]+) +(.*)")
SIGNS = {"#": "held", "~": "draining", ".": "free", "x": "leaving", "!": "unhealthy"}


def counted(bar: str) -> Counter[str]:
    """How many shares of each state a bar shows: one for a character, and one for a whole frame."""
    return Counter(SIGNS[sign] for sign in (bar[1:2] if bar.startswith("[") else bar))


def said(words: str) -> Counter[str]:
    """How many shares of each state the words beside a bar name."""
    return Counter(
        {state: int(number) for number, state in re.findall(r"(\d+) ([a-z]+)", words) if state in SIGNS.values()}
    )


def counts_what_is_shown(output: str) -> None:
    """Whatever number a step names is the number of what it shows beside it: words and bars of each strip; what is
    allocatable, held and drains after the strips of the whole node.
    """
    steps = re.split(r"^== (?=\d+ of 10|what Prom)", output, flags=re.MULTILINE)
    checked: Counter[str] = Counter()
    for step in steps[1:-1]:
        shown: dict[str, Counter[str]] = {}
        fresh: dict[str, dict[str, Counter[str]]] = {}
        last = Counter[str]()
        for line in step.splitlines():
            if found := STRIP.fullmatch(line):
                assert counted(found["bar"]) == said(found["words"]), line
                fresh.setdefault(found["resource"], {})[found["name"]] = counted(found["bar"])
                checked["strip"] += 1
                continue
            if fresh and not line.startswith("  GPU"):
                for resource, strips in fresh.items():
                    # A part of the node says nothing of all of it.
                    if len(strips) > 1 or resource.startswith("nvidia.com/mig"):
                        shown[resource] = sum(strips.values(), Counter())
                fresh = {}
            if found := FOLLOWED.fullmatch(line):
                assert counted(found[2]) == said(found[3]), line
                last = counted(found[2])
                checked["followed"] += 1
            elif found := re.search(r"(\d+) held shares drain on", line):
                assert int(found[1]) == last["draining"], line
                checked["drain"] += 1
            elif found := re.search(r"ok +(\d+) shares are held", line):
                assert int(found[1]) == shown[SHARED]["held"], line
                checked["held"] += 1
            elif (found := re.search(r"ok +(nvidia\.com/\S+): (\d+) allocatable", line)) and found[1] in shown:
                states = shown[found[1]]
                assert int(found[2]) == states["held"] + states["free"] + states["draining"], line
                checked["allocatable"] += 1
    assert checked["strip"] > 60
    assert checked["followed"] > 20
    assert checked["drain"] == checked["held"] == 1
    assert checked["allocatable"] >= 3
    told = " ".join(steps[2].split())
    start, end, on = re.search(r"(\d+) start.* (\d+) of them end; the (\d+) others go on", told).groups()  # type: ignore[union-attr]
    assert int(start) - int(end) == int(on) == int(re.search(r"(\d+) shares are held", told)[1])  # type: ignore[index]
    metrics = dict(re.findall(r'nodeagent_shares\{resource="([^"]+)", state="held"\} (\d+)', steps[-1]))
    running = re.search(r"the (\d+) pods that have not ended", " ".join(steps[-1].split()))
    assert running is not None
    assert sum(map(int, metrics.values())) == int(running[1])


def shows_mps(told: str) -> None:
    """The chapters of MPS show the plan, daemons with their limits, what a pod gets, what waits for it, and a daemon
    that is killed while its GPU alone fails.
    """
    assert f": time-sliced {SHARED} x4 -> mps {MPS} x4" in told
    assert "mps starting" in told
    assert re.search(r"GPU 7: daemon \d+ allows a client 18432 MiB and 25 % of threads", told)
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=18432M" in told
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25" in told
    daemons = re.findall(r"GPU 6: daemon (\d+) allows a client (\d+) MiB and (\d+) % of threads", told)
    first, second, same, third = (pid for pid, _, _ in daemons)
    assert f"$ kill -9 {first}" in told
    assert "#!!!" in told
    assert len({first, second, third}) == 3
    assert same == second, "the daemon of a pod that holds a share is left alone"
    assert [limits for _, *limits in daemons] == [["18432", "25"]] * 3 + [["36864", "50"]]
    assert f"GPU 6: mps {MPS} x4 -> x2 with other limits: waits for 1 pod" in told
    assert "held by default/chat" in told
    assert "ok no MPS daemon is left, and the GPUs have their old compute mode again" in told


def shows_a_fault(told: str) -> None:
    """The chapter of the fault shows one GPU that fails, a commit that does not change that, and a person's word."""
    told = told.partition("== 9 of 10")[2].partition("== 10 of 10")[0]
    assert "GPU 1 ##!! 2 held 2 unhealthy, XID 79" in told
    assert "ok all 4 shares of GPU 1 are Unhealthy" in told
    assert "GPU 1 ##!!!! 2 held 4 unhealthy, XID 79" in told
    assert "nodeagent_gpu_healthy is 0 for GPU 1" in told
    assert re.search(r"\$ nodeagent clear-health (GPU-[0-9a-f-]+) GPU 1 \(\1\) is cleared of XID 79", told)
    assert f"GPU 1 ##.... {SHARED} 2 held 4 free" in told


def shows_mig(told: str) -> None:
    """The chapter of MIG shows each device with its resource, how some are shared, and what a pod has outlive them."""
    told = told.partition("== 10 of 10")[2]
    assert "GPU 0 - nothing but its MIG devices is advertised" in told
    for line in ("0:1010 [........] nvidia.com/mig-1g.10gb 1 free", "0:4030 [........] nvidia.com/mig-3g.40gb 1 free"):
        assert line in told
    assert "0:1010 .... 4 free" in told
    assert re.search(r"notebook starts on MIG device 0:101\d, and sees MIG-[0-9a-f-]{36} ", told)
    assert re.search(r"0:101\d # nvidia.com/mig-1g.10gb.shared 1 held, gone", told)
    assert "0:4031 [........] nvidia.com/mig-3g.40gb 1 free" in told
    assert "ok nvidia.com/mig-3g.40gb: 2 allocatable" in told


def test_a_story_that_does_not_come_out_as_told_fails(folder: Path) -> None:
    """When what is synced is not what git has, the check of step 1 says so, and the exit code is 1."""
    wrapper = folder / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\n{shutil.which("git")} "$@" || exit\ncase "$*" in *"show HEAD:"*) echo "# not committed";; esac\n'
    )
    wrapper.chmod(0o755)

    played = demo(
        folder, "--once", "--speed", "1000", "--listen", ANYWHERE, PATH=f"{wrapper.parent}:{os.environ['PATH']}"
    )

    assert played.returncode == 1, played.stdout
    assert "FAILED" in played.stdout
    assert "the agent names the blob that git has" in " ".join(played.stdout.split())
    assert "2 of 10" not in played.stdout


def test_a_story_without_git_says_what_is_missing(folder: Path) -> None:
    """Without git on PATH the exit code is 1 and the message names git."""
    played = demo(folder, "--once", "--listen", ANYWHERE, PATH=str(folder))

    assert played.returncode == 1
    assert "cannot run git: it is not on PATH" in played.stderr


def test_a_story_is_not_played_in_somebodys_work(folder: Path) -> None:
    """A directory that is not empty is refused, and left as it is."""
    mine = folder / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("")

    played = demo(folder, "--once", "--dir", str(mine))

    assert played.returncode == 1
    assert "it is not empty" in played.stderr
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("moment", "number"),
    [("git commit", signal.SIGINT), ("mps starting", signal.SIGTERM), ("allows a client", signal.SIGHUP)],
)
def test_a_story_can_be_interrupted(folder: Path, moment: str, number: signal.Signals) -> None:
    """Ctrl-C, the end of the terminal or of the demo's process in the middle of the story exit with 130 and leave
    nothing behind, no daemon either; and so does somebody who is impatient.
    """
    command = [*PLAYING, "--once", "--speed", "1000", "--mps-control", STAND_IN]
    with subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE, text=True) as playing:
        assert playing.stdout is not None
        for line in playing.stdout:
            if moment in line:
                break
        playing.send_signal(number)
        playing.send_signal(number)
        playing.stdout.read()
    assert playing.returncode == 130


def test_nobody_reads_on(folder: Path) -> None:
    """Where the other end of a pipe has seen enough the demo ends, and leaves nothing behind."""
    with subprocess.Popen(
        [*PLAYING, "--mps-control", STAND_IN],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as playing:
        assert playing.stdout is not None
        assert playing.stderr is not None
        for line in playing.stdout:
            if "mps starting" in line:
                break
        playing.stdout.close()
        assert "Traceback" not in playing.stderr.read()


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_an_address_that_was_asked_for_must_be_free(folder: Path, arguments: tuple[str, ...]) -> None:
    """Where it is taken the demo says so with exit code 1 before it has made or begun anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        played = demo(folder, *arguments, "--listen", listen, "--dir", str(folder / "new"))
    assert (played.returncode, played.stdout) == (1, "")
    assert f"nodeagent demo: cannot listen on {listen}: Address already in use (EADDRINUSE): " in played.stderr
    assert not (folder / "new").exists()


def test_what_is_no_address_is_said_in_words(folder: Path) -> None:
    """Without a number of the kernel's, which did not refuse it."""
    played = demo(folder, "--once", "--listen", "foo")
    assert (played.returncode, played.stdout) == (1, "")
    assert played.stderr == "nodeagent demo: cannot listen on foo: expected host:port, got 'foo'\n"


def test_the_usual_address_may_be_taken(folder: Path) -> None:
    """Where none was asked for, another port will do, and is named."""
    with ExitStack() as stack:
        with suppress(OSError):  # somebody else has it: so much the better
            stack.enter_context(socket.create_server(("127.0.0.1", 9400)))
        running = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "nodeagent", "demo", "--mps-control", STAND_IN],
                env=environment(folder), stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        assert running.stdout is not None
        page = next(line for line in running.stdout if "Status page: " in line)
        running.send_signal(signal.SIGINT)
        running.stdout.read()
    assert re.search(r"http://127\.0\.0\.1:\d+/", page)
    assert ":9400/" not in page
    assert running.returncode == 0


# --- step by step ---


class Terminal:
    """A demo on a terminal of its own, which a test types on."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.controller, terminal = pty.openpty()
        self.before = termios.tcgetattr(terminal)
        self.running = subprocess.Popen(
            [*PLAYING, *arguments],
            env=environment(folder, NO_COLOR="1", TERM="dumb"),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=lambda: os.login_tty(os.dup(terminal)),  # noqa: PLW1509 - the tests have no threads here
        )
        self.terminal = terminal
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until it is there."""
        while text not in self.shown:
            self.shown += os.read(self.controller, 65536).decode(errors="replace").replace("\r\n", "\n")

    def waits(self) -> bool:
        """Whether a key is waited for: the terminal gives single characters then."""
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON

    def type(self, keys: bytes) -> None:
        """As a person would: when a key is waited for."""
        eventually_sync(self.waits)
        os.write(self.controller, keys)

    def end(self) -> int:
        """Read the rest; the exit code."""
        while self.running.poll() is None:
            if select.select([self.controller], [], [], 0.05)[0]:
                self.shown += os.read(self.controller, 65536).decode(errors="replace").replace("\r\n", "\n")
        assert termios.tcgetattr(self.terminal) == self.before
        os.close(self.terminal)
        os.close(self.controller)
        return self.running.returncode


def test_each_step_waits_for_a_key(folder: Path) -> None:
    """The story stands before each step until a key is pressed, whichever; one that was pressed before does not count.
    Ctrl-C ends it, and leaves the terminal as it was.
    """
    terminal = Terminal(folder, "--step", "--speed", "1000", "--mps-control", STAND_IN)
    os.write(terminal.controller, b"xxx")
    terminal.until("press any key for: 1 of 10: whole GPUs\n")
    eventually_sync(terminal.waits)
    assert "== 1 of 10" not in terminal.shown
    terminal.type(b" ")
    terminal.until("== 1 of 10: whole GPUs ")
    terminal.until("press any key for: 2 of 10: ten share each GPU\n")
    assert "== 2 of 10" not in terminal.shown
    terminal.type(b"\x1b[C")
    terminal.until("press any key for: 3 of 10: a typo\n")
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert "== 3 of 10" not in terminal.shown
    assert "Traceback" not in terminal.shown


def test_a_terminal_that_closes_ends_the_steps(folder: Path) -> None:
    """At the end of the input too nobody can press a key any more."""
    terminal = Terminal(folder, "--step", "--speed", "1000", "--mps-control", STAND_IN)
    terminal.until("press any key for: 1 of 10")
    eventually_sync(terminal.waits)
    os.close(terminal.terminal)
    os.close(terminal.controller)
    assert terminal.running.wait(longer(30)) == 130


def test_without_a_terminal_there_is_no_key_to_wait_for(folder: Path) -> None:
    """In a pipe `--step` is an error that says so, and not a story that never goes on."""
    told = "cannot wait for a key between the steps: standard input is not a terminal"
    played = demo(folder, "--step", "--listen", ANYWHERE)
    assert (played.returncode, played.stdout) == (1, "")
    assert told in played.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *PLAYING, "--step"],
        env=environment(folder), capture_output=True, text=True, timeout=longer(60), check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stdout) == (1, "")
    assert told in closed.stderr


def test_a_program_that_is_not_there_is_told(folder: Path) -> None:
    """A control program that was asked for and is not there is an error that names it, before anything is started."""
    played = demo(folder, "--mps-control", str(folder / "control"))

    assert (played.returncode, played.stdout) == (1, "")
    assert f"cannot find {folder / 'control'}: there is no such program" in played.stderr


# --- the playground ---


def test_the_file_is_the_users_until_ctrl_c(folder: Path) -> None:
    """Without `--once` the demo says where the file is, follows edits, names mistakes, and ends with 0 on Ctrl-C; the
    directory stays with the user's last edit in it.
    """
    home = folder / "try"
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*PLAYING, "--dir", str(home), "--mps-control", STAND_IN],
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as running,
    ):
        file = home / "sharing.yaml"

        def said(text: str) -> None:
            eventually_sync(lambda: text in log.read_text(), within=30)

        try:
            said(str(file))
            said(f"{SHARED}   2 held 2 free")
            said(f"{MPS}      2 held 2 free, mps ready")
            said("20389 MiB and 25 % each")
            file.write_text(CONFIG.replace("timeSlicing: {replicas: 4}", "timeSlicing: {replica: 4}"))
            said('did you mean "replicas"?')
            file.write_text(CONFIG.replace("timeSlicing: {replicas: 4}", "timeSlicing: {replicas: 10}"))
            said(f"{SHARED}   2 held 8 free")
            (daemon,) = set(re.findall(r"mps: GPU 2: process (\d+)", log.read_text()))
            os.kill(int(daemon), signal.SIGKILL)
            said(f"{MPS}   2 held 2 unhealthy, mps failed")
            eventually_sync(lambda: len(set(re.findall(r"mps: GPU 2: process (\d+)", log.read_text()))) == 2, within=30)
        finally:
            running.send_signal(signal.SIGINT)
    assert running.returncode == 0, log.read_text()
    assert [line for line in log.read_text().splitlines() if len(line) > 80] == []
    assert "replicas: 10" in file.read_text()


def test_the_gpus_are_the_users_as_well(folder: Path) -> None:
    """What stands in node.yaml below the last GPU works as it stands there: a fault, which ends with the command that
    is printed then, and MIG devices, which come and go.
    """
    home, log = folder / "try", folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*PLAYING, "--dir", str(home), "--mps-control", STAND_IN],
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as running,
    ):

        def said(pattern: str) -> re.Match[str]:
            eventually_sync(lambda: re.search(pattern, log.read_text()) is not None, within=30)
            found = re.search(pattern, log.read_text())
            assert found is not None
            return found

        try:
            said(r"pods: .* started")
            (home / "node.yaml").write_text(GPUS.replace("# xids", "xids"))
            said(r"GPU 7  \[!{8}\]  nvidia.com/gpu +1 unhealthy, XID 79")
            command = said(r"When it is well:\n *nodeagent (clear-health) \\\n *(--state-dir) (.*) \\\n *(GPU-.*)\n")
            subprocess.run([sys.executable, "-m", "nodeagent", *command.groups()], check=True, capture_output=True)
            said(r"XID 79\n(.*\n)*.*GPU 7  \[\.{8}\]  nvidia.com/gpu +1 free")
            (home / "node.yaml").write_text(GPUS.replace("# mig", "mig"))
            said(r"7:4030 \[\.{8}\]  nvidia.com/mig-3g.40gb  1 free")
            said(r"GPU 7  -           nothing but its MIG devices is advertised")
            (home / "node.yaml").write_text(GPUS)
            said(r"7:4030 is no more")
        finally:
            running.send_signal(signal.SIGINT)
    assert running.returncode == 0, log.read_text()
    assert [line for line in log.read_text().splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("what", ["MIG devices destroyed", "GPUs taken out", "unhealthy and wanted back"])
async def test_pods_end_where_nothing_is_left_for_them(folder: Path, what: str) -> None:
    """A pod whose MIG device or GPU is not there any more ends by itself, and so does one that drains on a GPU with a
    fault; others start where there is room, and what was kept for them goes.
    """
    file, gpus = folder / "sharing.yaml", folder / "node.yaml"
    file.write_text(CONFIG)
    gpus.write_text(GPUS.replace("# mig", "mig"))
    (folder / "node").mkdir()
    node = Node(folder / "node", config=folder, gpus=gpus, listen=ANYWHERE, mps=choose(STAND_IN, folder / "node"))
    await node.start()
    playing = asyncio.create_task(Playground(Screen(io.StringIO()), node, file, linger=0.3, pause=0.1).run())

    def on(prefix: str) -> set[str]:
        return {strip.label for strip in node.strips() if strip.held + strip.draining and strip.name.startswith(prefix)}

    try:
        await eventually(lambda: len(on("7:")) == 3 and on("GPU 0"), within=30)
        if what == "MIG devices destroyed":
            gpus.write_text(GPUS)
            await eventually(lambda: node.strips()[7].whole, within=30)
            assert not [strip for strip in node.strips() if ":" in strip.label]
        elif what == "GPUs taken out":
            gpus.write_text(gpus_of(2))
            await eventually(lambda: not on("7:") and not on("GPU 2") and not on("GPU 3"), within=30)
        else:
            gpus.write_text(gpus_of(8, first="    xids: [{code: 79, seq: 1}]\n"))
            await eventually(lambda: node.strips()[0].fault == "XID 79", within=30)
            file.write_text(CONFIG.replace("[0, 1]", "[1]"))
            await eventually(lambda: node.strips()[0].whole and not on("GPU 0"), within=30)
        await eventually(lambda: sum(pod.active for pod in node.kubelet.pods) == PODS)
    finally:
        playing.cancel()
        await node.stop()
    with pytest.raises(asyncio.CancelledError):
        await playing


async def test_drains_can_be_seen_in_the_playground(folder: Path) -> None:
    """When a GPU with pods is to become whole its shares drain, the pods end by themselves, and as many start anew."""
    file, gpus = folder / "sharing.yaml", folder / "node.yaml"
    file.write_text(CONFIG)
    gpus.write_text(GPUS)
    (folder / "node").mkdir()
    control = choose(STAND_IN, folder / "node")
    node = Node(folder / "node", config=folder, gpus=gpus, listen=ANYWHERE, mps=control)
    shown = io.StringIO()
    await node.start()
    playing = asyncio.create_task(Playground(Screen(shown), node, file, linger=0.3, pause=0.1).run())
    try:
        await eventually(lambda: [strip.held for strip in node.strips()[:4]] == [2, 1, 2, 1], within=30)
        file.write_text(CONFIG.replace("[0, 1]", "[1]").replace("{replicas: 4}        #", "{replicas: 2}  #"))
        await eventually(lambda: node.strips()[0].whole, within=30)
        await eventually(lambda: all(strip.total == 2 for strip in node.strips()[2:4]), within=30)
        await eventually(lambda: sum(pod.active for pod in node.kubelet.pods) == PODS)
        for resource in (SHARED, MPS):
            assert re.search(rf"{resource} +[12] draining", shown.getvalue())
        told = r"mps: GPU 3: process \d+, 40779 MiB and 50 % each"
        await eventually(lambda: re.search(told, shown.getvalue()) is not None)
        assert not node.kubelet.violations
    finally:
        playing.cancel()
        await asyncio.wait((playing,))
        await node.stop()


# --- parts ---


async def test_another_port_serves_where_the_usual_one_is_taken(folder: Path) -> None:
    """With `any_port` a taken port is no reason not to start; without it, it is."""
    config, gpus = folder / "sharing.yaml", folder / "node.yaml"
    config.write_text(CONFIG)
    gpus.write_text(GPUS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        stubborn = Node(folder, config=config, gpus=gpus, listen=listen)
        with pytest.raises(CannotStart):
            await stubborn.start()
        await stubborn.stop()
        lenient = Node(folder, config=config, gpus=gpus, listen=listen, any_port=True)
        await lenient.start()
        try:
            assert listen not in lenient.url
            assert "nodeagent_build_info" in await lenient.metrics()
        finally:
            await lenient.stop()


def test_a_commit_is_what_git_has(tmp_path: Path) -> None:
    """The blob of a commit is the one that the agent computes, and a revert brings an earlier blob back."""
    repo = GitRepo(tmp_path / "repository", "sharing.yaml")
    repo.init()
    first = repo.commit("a: 1\n", "one")
    second = repo.commit("a: 2\n", "two")

    assert first.blob == Document("sharing.yaml", b"a: 1\n").git_blob
    assert repo.changed_lines() == ["-a: 1", "+a: 2"]
    reverted = repo.revert()
    assert (reverted.blob, reverted.content) == (first.blob, b"a: 1\n")
    assert len({first.id, second.id, reverted.id}) == 3


def test_what_git_refuses_is_told(tmp_path: Path) -> None:
    """A commit without a change is an error with git's own words."""
    repo = GitRepo(tmp_path, "sharing.yaml")
    repo.init()
    repo.commit("a: 1\n", "one")
    with pytest.raises(GitFailed, match="cannot run git commit"):
        repo.commit("a: 1\n", "again")


def test_temporary_files_are_where_sockets_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A long $TMPDIR does not make the paths of sockets too long, and the folder is gone afterwards."""
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with temporary_folder() as folder:
        assert len(str(folder)) < 50
    assert not folder.exists()


@pytest.mark.parametrize(
    ("variables", "colour"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], colour: bool
) -> None:
    """There is colour on a terminal unless $NO_COLOR or a dumb terminal says otherwise, and never elsewhere."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w", encoding="utf-8") as stream:
        assert Screen(stream).colour is colour
    assert not Screen(io.StringIO()).colour


def test_a_log_that_cannot_carry_a_character_gets_a_question_mark() -> None:
    """A character that the stream's encoding lacks does not end the demo."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Screen(stream).line("GPU → shared")
    assert raw.getvalue() == b"GPU ? shared\n"
