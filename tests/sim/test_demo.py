"""The demo is the first thing that a new user sees: it must come out as told, say so, and say when it did not."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import CannotStart
from nodeagent.model.config import Document
from nodeagent.sim.git_repo import GitFailed, GitRepo
from nodeagent.sim.node import GPUS, Node, temporary_folder
from nodeagent.sim.playground import CONFIG, PODS, Playground
from nodeagent.sim.screen import Screen
from nodeagent.sim.strips import Strip
from tests.waiting import eventually, eventually_sync

ANYWHERE = "127.0.0.1:0"
SHARED = "nvidia.com/gpu.shared"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder whose path is short enough for the sockets of a demo."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as name:
        yield Path(name)


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
        timeout=100,
        check=False,
    )


# --- the story ---


def test_the_story_comes_out_as_told_whatever_the_users_git_is_set_to(folder: Path) -> None:
    """`--once` plays six commits and the metrics, exits 0 and leaves nothing behind: in 80 columns, without colour in a
    pipe, and not following the user's git configuration or environment.
    """
    (folder / ".gitconfig").write_text(
        "[user]\nuseConfigOnly = true\n[commit]\ngpgSign = true\n[core]\nautocrlf = true\nhooksPath = /nowhere\n"
    )
    played = demo(folder, "--once", "--speed", "1000", "--listen", ANYWHERE, GIT_DIR=str(folder / "elsewhere"))

    assert (played.returncode, played.stderr) == (0, ""), played.stdout + played.stderr
    assert [line for line in played.stdout.splitlines() if len(line) > 80] == []
    assert "\033" not in played.stdout
    assert "FAILED" not in played.stdout
    assert re.findall(r"^== (\d) of 6: ", played.stdout, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert "sharing.yaml:9:21: spec.rules[0].timeSlicing.replica:" in played.stdout
    assert f"{SHARED}: 1 registration" in played.stdout
    assert "nodeagent_in_sync 1.0" in played.stdout
    assert list((folder / "tmp").iterdir()) == []


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
    assert "2 of 6" not in played.stdout


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


def test_a_story_can_be_interrupted(folder: Path) -> None:
    """Ctrl-C in the middle of the story exits with 130 and leaves nothing behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "nodeagent", "demo", "--once", "--listen", ANYWHERE],
        env=environment(folder),
        stdout=subprocess.PIPE,
        text=True,
    ) as playing:
        assert playing.stdout is not None
        while "git commit" not in playing.stdout.readline():
            pass
        playing.send_signal(signal.SIGINT)
        playing.stdout.read()
    assert playing.returncode == 130
    assert list((folder / "tmp").iterdir()) == []


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
            [sys.executable, "-m", "nodeagent", "demo", "--dir", str(home), "--listen", ANYWHERE],
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
            said(f"{SHARED}  3 held 1 free")
            file.write_text(CONFIG.replace("replicas: 4", "replica: 4"))
            said('did you mean "replicas"?')
            file.write_text(CONFIG.replace("replicas: 4", "replicas: 10"))
            said(f"{SHARED}  3 held 7 free")
        finally:
            running.send_signal(signal.SIGINT)
    assert running.returncode == 0, log.read_text()
    assert [line for line in log.read_text().splitlines() if len(line) > 80] == []
    assert "replicas: 10" in file.read_text()
    assert list((folder / "tmp").iterdir()) == []


async def test_drains_can_be_seen_in_the_playground(folder: Path) -> None:
    """When a GPU with pods is to become whole its shares drain, the pods end by themselves, and as many start anew."""
    file, gpus = folder / "sharing.yaml", folder / "node.yaml"
    file.write_text(CONFIG)
    gpus.write_text(GPUS)
    node = Node(folder / "node", config=folder, gpus=gpus, listen=ANYWHERE)
    (folder / "node").mkdir()
    shown = io.StringIO()
    await node.start()
    playing = asyncio.create_task(Playground(Screen(shown), node, file, linger=0.3, pause=0.1).run())
    try:
        await eventually(lambda: [strip.held for strip in node.strips()[:2]] == [3, 3])
        file.write_text(CONFIG.replace("[0, 1]", "[0]"))
        await eventually(lambda: node.strips()[1].whole, within=30)
        await eventually(lambda: sum(pod.active for pod in node.kubelet.pods) == PODS)
        assert "3 draining" in shown.getvalue()
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
    ("strip", "bar", "words"),
    [
        (Strip(3, SHARED, held=6, free=4), "######....", "6 held 4 free"),
        (Strip(3, SHARED, held=4, draining=2, leaving=4), "####~~xxxx", "4 held 2 draining 4 leaving"),
        (Strip(0, "nvidia.com/gpu", whole=True, free=1), "[........]", "1 free"),
        (Strip(0, "nvidia.com/gpu", whole=True, draining=1), "[~~~~~~~~]", "1 draining"),
        (Strip(5, SHARED, held=3, free=5000), "5003 shares", "3 held 5000 free"),
        (Strip(6), "-", "nothing is advertised"),
    ],
)
def test_a_strip_shows_each_share(strip: Strip, bar: str, words: str) -> None:
    """A strip has one character per share as long as they fit, a frame for a whole GPU, and the counts in words."""
    line = strip.line(Screen(io.StringIO()), room=78)
    assert line.startswith(f"GPU {strip.index}  {bar} ")
    assert line.endswith(f" {words}")


def test_a_strip_fits_however_much_there_is_to_say() -> None:
    """A strip is never wider than its room, and never ends in the middle of a word."""
    strip = Strip(63, "example.com/a-very-long-name-of-a-resource", held=1000, draining=2000, free=3000, leaving=4000)
    line = strip.line(Screen(io.StringIO()), room=70)
    assert len(line) <= 70
    assert line.endswith(("held", "draining", "free", "leaving"))


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
