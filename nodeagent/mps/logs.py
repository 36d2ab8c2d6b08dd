"""What the daemons log, told in our log, and their files kept small.

A daemon writes `control.log` and `server.log` for ever: each command costs it 240 bytes, and we ask it every two
seconds. It appends (535 opens them with O_APPEND), and it keeps writing to a file that was renamed. So the newest part
of a file that has grown too large is copied aside and the file is truncated in place; lines of that very moment may be
missing in the copy. One that does not append would leave a hole there, which takes no room and is not read.

Pods can have a daemon log what they like. Lines are bounded in length and in number, and hold nothing that could pass
for a line of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nodeagent.durable import atomic
from nodeagent.errand import Errand, Hangs
from nodeagent.mps.disk import reason

logger = logging.getLogger(__name__)

FILES: Final = ("control.log", "server.log")
LARGEST: Final = 1024 * 1024
"""Bytes of a file before it is truncated, and of the copy of its newest part."""

LONGEST_LINE: Final = 500
MOST_LINES: Final = 50
PER_SECONDS: Final = 10.0

_MOST_READ: Final = 256 * 1024
_DEADLINE: Final = 5.0

_HEAD = re.compile(r"\[[-0-9]{10} [:.0-9]{12} +([A-Za-z][A-Za-z ]{0,20}?) +([0-9]+)\] ?(.*)")
# What our own questions leave behind: see `control`.
_OURS = re.compile(
    r"Accepting connection\.\.\.|NEW UI|UI closed|Unable to accept connection|User did not send valid credentials"
    r"|Cmd:get_.*"
    r"|[0-9]+\.[0-9]|[0-9]+[GM]|No default pinned memory limit set for the device!"
)
_BAD = re.compile(r"fatal|fail|error|crash|unable|cannot|exit(ed)? with status [1-9]", re.IGNORECASE)


class DaemonLogs:
    """Follows the logs of the daemon of one GPU in `directory`, looking every `interval` seconds.

    What is in the files at the first look was told before, by whoever followed them then.
    """

    def __init__(self, directory: Path, uuid: str, *, interval: float = 1.0, largest: int = LARGEST) -> None:
        self._uuid = uuid
        self._interval = interval
        self._files = [_File(directory / name, largest) for name in FILES]
        self._errand = Errand(f"mps-logs-{uuid}", on_late=lambda: None)
        self._turn = asyncio.Lock()
        self._limit = RateLimit(MOST_LINES, PER_SECONDS)
        self._complaints: list[str] = []

    async def run(self) -> None:
        """Follow until cancelled. Nothing that a file or a disk does, or a machine without threads, raises."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Tell what is new."""
        async with self._turn:
            await self._look()

    async def _look(self) -> None:
        try:
            lines, complaints = await self._errand.run(self._read, _DEADLINE)
        except Hangs:
            lines, complaints = [], ["no answer from the disk"]
        except Exception as error:  # noqa: BLE001 - as when no thread can be started: unfollowed, they would grow
            lines, complaints = [], [_words(error)]
        for complaint in complaints:
            if complaint not in self._complaints:
                logger.warning("%s: cannot follow its logs: %s", self._uuid, complaint)
        self._complaints = complaints
        if passed_over := self._limit.passed_over(time.monotonic()):
            logger.warning("%s: %d lines more than can be told are in its logs", self._uuid, passed_over)
        for level, text in map(shown, lines):
            if level <= logging.DEBUG or self._limit.admits(time.monotonic()):
                logger.log(level, "%s: %s", self._uuid, text)

    def _read(self) -> tuple[list[str], list[str]]:
        """The lines that have come since the last look, and what was wrong. Blocks."""
        lines: list[str] = []
        complaints = []
        for file in self._files:
            try:
                file.news(lines)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other one is followed
                complaints.append(_words(error))
        return lines, complaints


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return reason(error)
    return str(error) if isinstance(error, atomic.Untrusted) else f"{type(error).__name__}: {error}"


class RateLimit:
    """Admits `most` in each `seconds`, and counts the rest."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._begun = 0.0
        self._admitted = 0
        self._refused = 0

    def admits(self, now: float) -> bool:
        """Whether one more is let through."""
        if now >= self._begun + self._seconds:
            self._begun, self._admitted = now, 0
        self._admitted += 1
        if self._admitted <= self._most:
            return True
        self._refused += 1
        return False

    def passed_over(self, now: float) -> int:
        """How many were refused, told once, when the time in which they were is over."""
        if now < self._begun + self._seconds:
            return 0
        refused, self._refused = self._refused, 0
        return refused


class _File:
    """One log: what is new in it, and its size."""

    def __init__(self, path: Path, largest: int) -> None:
        self._path = path
        self._largest = largest
        self._looked = False
        self._file = (0, 0)
        self._offset = 0

    def news(self, lines: list[str]) -> None:
        """Add the whole lines since the last call to `lines`. Truncates a file that is too large.

        Raises OSError, Untrusted; what was added by then is news all the same.
        """
        looked, self._looked = self._looked, True
        with _opened(self._path) as descriptor:
            if descriptor is None:
                return
            found = os.fstat(descriptor)
            file = found.st_dev, found.st_ino
            if not looked:
                self._file, self._offset = file, found.st_size
            if self._file != file or found.st_size < self._offset:
                self._file, self._offset = file, 0
            lines += self._read(descriptor, found.st_size)
            # Blocks, since holes take no room; bytes, since the last block is not full.
            if min(found.st_size, found.st_blocks * 512) > self._largest:
                self._truncate(descriptor)

    def _read(self, descriptor: int, size: int) -> list[str]:
        if size == self._offset:
            return []
        self._offset = os.lseek(descriptor, self._offset, os.SEEK_DATA)
        missed = max(0, size - _MOST_READ - self._offset)
        data = os.pread(descriptor, _MOST_READ, self._offset + missed)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == _MOST_READ:
            whole = len(data)
        self._offset += missed + whole
        lines = data[:whole].decode(errors="replace").lstrip("\0").removesuffix("\n").split("\n") if whole else []
        return [f"{missed} bytes of {self._path} are not told", *lines[1:]] if missed else lines

    def _truncate(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        try:
            newest = os.pread(descriptor, self._largest, max(0, size - self._largest))
            atomic.write(self._path.with_name(f"{self._path.name}.1"), newest, sync=False)
        finally:  # where there is no room for a copy, there is none for a log either
            os.ftruncate(descriptor, 0)
            self._offset = 0


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of a regular file, None when there is none. Links are not followed."""
    try:
        with atomic.naming(path, "open file"):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise atomic.Untrusted(f"{path} is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def shown(line: str) -> tuple[int, str]:
    """The level at which a line of a daemon is told, and the words: without its time, since ours has one."""
    head = _HEAD.fullmatch(line)
    text = line if head is None else head[3]
    level = logging.DEBUG if _OURS.fullmatch(text) else logging.WARNING if _BAD.search(text) else logging.INFO
    if head is not None:
        text = f"{head[1].lower()} {head[2]}: {text}"
    if len(text) > LONGEST_LINE:
        text = f"{text[:LONGEST_LINE]}…"
    return level, "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
