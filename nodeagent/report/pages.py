"""The status page as it is served: made at most once a second for as many as look at it, and known by a tag.

A snapshot never changes, so that the tag says which one a page is of. It means nothing to another agent, nor to the
next process of this one.
"""

from __future__ import annotations

import secrets
import threading

from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import Snapshot
from nodeagent.report.dates import dated
from nodeagent.report.page import page


class Pages:
    """The newest page of one agent. For any thread."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(6)
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._number = 0
        self._made: tuple[str, int, bytes] = ("", 0, b"")

    def tag(self, snapshot: Snapshot, *, alive: bool) -> str:
        """The ETag of the page of the newest snapshot, and of whether the loop that makes them still turns."""
        with self._lock:
            if snapshot is not self._snapshot:
                self._snapshot, self._number = snapshot, self._number + 1
            return f'"{self._name}-{self._number}{"" if alive else "-stopped"}"'

    def page(self, shown: Snapshot, tag: str, now: Moment) -> bytes:
        """The page with that tag as it is now, give or take a second."""
        second = int(now.wall)
        known = self._made
        if known[:2] == (tag, second):
            return known[2]
        body = page(dated(shown, now), now.wall).encode()
        self._made = (tag, second, body)
        return body
