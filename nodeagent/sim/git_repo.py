"""A real local git repository with one file in it: where the demo's commits are made.

What a commit carries is read back from git, never from the working tree, so that what the node is shown is what a
GitOps tool would have synced. The user's own git configuration (signing, hooks, line endings, an identity that is not
there) has no say.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nodeagent import refusals

_SETTINGS = {
    "user.name": "nodeagent demo",
    "user.email": "demo@nodeagent.invalid",
    "init.defaultBranch": "main",
    "commit.gpgSign": "false",
    "core.autocrlf": "false",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "gc.auto": "0",
}

_SECONDS = 30.0


class GitFailed(Exception):
    """git is not there, or said no. The message tells which command and why."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its id, the content of the file in it, and the id of the blob that is that content."""

    id: str
    blob: str
    content: bytes

    @property
    def short(self) -> str:
        """As much of the id as `git log --oneline` shows."""
        return self.id[:7]


class GitRepo:
    """A repository in `directory` (made when absent) that carries `file`. All methods block and raise GitFailed."""

    def __init__(self, directory: Path, file: str) -> None:
        self.directory = directory
        self.file = file

    def init(self) -> None:
        """Make the repository; nothing happens where there is one."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GitFailed(f"cannot make {self.directory}: {error.strerror}") from error
        self._git("init", "--quiet", "--template=")

    def commit(self, content: str, message: str) -> Commit:
        """Write the file and commit it."""
        (self.directory / self.file).write_text(content, encoding="utf-8")
        self._git("add", "--", self.file)
        self._git("commit", "--quiet", "--message", message)
        return self.head()

    def revert(self) -> Commit:
        """`git revert` the newest commit."""
        self._git("revert", "--no-edit", "HEAD")
        return self.head()

    def head(self) -> Commit:
        """The newest commit."""
        return Commit(
            id=self._git("rev-parse", "HEAD").decode().strip(),
            blob=self._git("rev-parse", f"HEAD:{self.file}").decode().strip(),
            content=self._git("show", f"HEAD:{self.file}"),
        )

    def changed_lines(self) -> list[str]:
        """The lines that the newest commit takes away (`-…`) and brings (`+…`), as git shows them."""
        shown = self._git("show", "--format=", "--no-color", "--no-ext-diff", "--unified=0", "HEAD").decode()
        _, _, hunks = shown.partition("\n@@")
        return [line for line in hunks.splitlines() if line.startswith(("-", "+"))]

    def _git(self, *arguments: str) -> bytes:
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        try:
            done = subprocess.run(
                ["git", *settings, *arguments],
                cwd=self.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise GitFailed("cannot run git: it is not on PATH") from error
        except OSError as error:
            raise GitFailed(f"cannot run git: {refusals.named(error)}") from error
        except subprocess.TimeoutExpired as error:
            raise GitFailed(f"cannot run git: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise GitFailed(f"cannot run git {arguments[0]}: {said or f'it exited {done.returncode}'}")
        return done.stdout


def _environment() -> dict[str, str]:
    """Ours, without what would lead git to another repository, identity or configuration."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**ours, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
