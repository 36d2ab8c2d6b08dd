"""One watch over every directory that matters, which survives what happens to directories.

There is one for the whole agent because the idle cost of watchfiles comes from its `step`, once per watch. Directories
are watched, never files: a ConfigMap mount changes by swapping a symlink, which a watch on the file does not see. And a
directory that is deleted and made again is never seen again by the watch on it, so what is behind each path is looked
at once per `recheck`.

An event only wakes its subscriber, who looks at the newest state. So it does no harm that events merge, come twice, or
that everybody is woken once after a watch has begun, for what happened while it began.

Why these defaults. The library looks every `step` whether something has changed, and reports when a whole step brought
nothing new, or after `debounce`: an event takes one to two steps. Measured with three directories and both set alike,
200 `..data` swaps, then 30 s of idling:

    step     event to wake, p50   p99      idle, of one core
     30 ms                46 ms    59 ms   0.25 %
     40 ms                60 ms    80 ms   0.19 %
     50 ms                78 ms   102 ms   0.16 %
    100 ms               161 ms   200 ms   0.10 %
"""

from __future__ import annotations

import asyncio
import logging
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchfiles import Change, watch

_log = logging.getLogger(__name__)

Wake = Callable[[], None]
_Identity = tuple[int, int]

_STOPS_WITHIN: Final = 1.0
_BETWEEN_LOOKS: Final = 0.05


class DirectoryWatch:
    """Wakes subscribers when something in their directory changes, or the directory itself comes, goes or is replaced.

    `step_ms` and `debounce_ms` are handed to watchfiles; `recheck` is in seconds.
    """

    def __init__(self, *, step_ms: int = 40, debounce_ms: int = 40, recheck: float = 1.0) -> None:
        self._step_ms = step_ms
        self._debounce_ms = debounce_ms
        self._recheck = recheck
        self._lock = threading.Lock()
        self._subscribers: dict[str, tuple[Wake, ...]] = {}
        self._again = threading.Event()
        self._stopping = False
        self._complaint = ""

    def subscribe(self, directory: Path, wake: Wake) -> None:
        """Call `wake` on the loop of `run` for each change directly in `directory`, which need not exist yet.

        A path that is not a directory counts as absent. May be called before and while the watch runs.
        """
        path = str(directory.absolute())
        with self._lock:
            self._subscribers[path] = (*self._subscribers.get(path, ()), wake)
        self._again.set()

    async def run(self) -> None:
        """Watch until cancelled. Ends within a step; a watch that fails is begun anew after `recheck`."""
        loop = asyncio.get_running_loop()
        self._stopping = False

        def wake(directories: Iterable[str]) -> None:
            touched = frozenset(directories)
            if touched:  # a look that found nothing costs the loop nothing
                with suppress(RuntimeError):  # the loop has been closed: nobody is left to be woken
                    loop.call_soon_threadsafe(self._wake, touched)

        ended = asyncio.Event()

        def work() -> None:
            self._watch_all(wake)
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=work, name="directory-watch", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stopping = True
            self._again.set()
            # An interpreter that exits while this thread is inside the library's native code aborts. One that hangs in
            # a mount is not waited for, and holds up nobody meanwhile.
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOPS_WITHIN):
                    await ended.wait()
                thread.join()  # it has nothing left to do

    def _wake(self, directories: frozenset[str]) -> None:
        for directory in directories:
            for wake in self._subscribers.get(directory, ()):
                wake()

    def _watch_all(self, wake: Callable[[Iterable[str]], None]) -> None:
        """The thread: one watch after the other, each over the directories that are there when it begins."""
        known: dict[str, _Identity | None] = {}
        while not self._stopping:
            self._again.clear()
            found = self._look()
            wake(path for path, identity in found.items() if known.get(path) != identity)
            known = found
            try:
                self._watch(known, wake)
            except FileNotFoundError:
                self._again.wait(_BETWEEN_LOOKS)  # one went while the watch began: look again
            except Exception as error:  # noqa: BLE001 - whatever a watch fails with, looking goes on
                if str(error) != self._complaint:
                    _log.warning("cannot watch directories: %s; looking every %g s instead", error, self._recheck)
                self._complaint = str(error)
                self._again.wait(self._recheck)
                wake(known)

    def _watch(self, known: dict[str, _Identity | None], wake: Callable[[Iterable[str]], None]) -> None:
        """Returns when another path is to be watched, or what is behind a path has changed."""
        present = [path for path, identity in known.items() if identity is not None]
        if not present:
            self._again.wait(self._recheck)
            return
        begun = False
        for changes in watch(
            *present,
            watch_filter=None,
            debounce=self._debounce_ms,
            step=self._step_ms,
            stop_event=self._again,
            rust_timeout=round(self._recheck * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        ):
            wake(known if not begun else _touched(changes, known))
            begun, self._complaint = True, ""
            # A new directory may get the inode of the deleted one, so the deletion itself counts.
            if any(change is Change.deleted and path in known for change, path in changes) or self._look() != known:
                return

    def _look(self) -> dict[str, _Identity | None]:
        with self._lock:
            return {path: _identity(path) for path in self._subscribers}


def _touched(changes: Iterable[tuple[Change, str]], known: Iterable[str]) -> set[str]:
    paths = {path for _, path in changes}
    return (paths | {str(Path(path).parent) for path in paths}).intersection(known)


def _identity(path: str) -> _Identity | None:
    """What is behind a path: device and inode of a directory, else None."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None
