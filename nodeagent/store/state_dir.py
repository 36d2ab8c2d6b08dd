"""The state directory: everything that an agent leaves to the next one on this node.

Files, each sealed with its version and a checksum (see `durable.formats`):

- `applied.json`: the applied contract of the node, whatever its pool or config; written before it is advertised;
- `holds.json`: who holds what, as far as it cannot be asked again;
- `last-known-good`: the last accepted document, of this identity only: another pool's is never used;
- `config-selection`: which document of a directory the Node's labels selected last, and for which agent;
- `driver-change`: for what the agent has ended itself, so that it does so once;
- `lock`: held by the agent that runs.

A file that cannot be trusted is renamed to `<name>.corrupt-<n>` and told in `notices`; loading then goes on without it.
What stands in the applied contract of one GPU is its own: where only that cannot be trusted, the others are as they
were, and the file is copied to `<name>.corrupt-<n>`.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from nodeagent import clocks
from nodeagent.durable import atomic
from nodeagent.durable.atomic import Untrusted, naming
from nodeagent.durable.envelope import expect, member, optional, parse, seal, seconds, unseal
from nodeagent.durable.formats import FORMATS, Format, Formats
from nodeagent.durable.lock import FileLock
from nodeagent.model.config import Document
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import RenewalNote
from nodeagent.model.moment import Moment
from nodeagent.model.node import Selection, SelectionNote
from nodeagent.model.shares import Applied
from nodeagent.store import codec

T = TypeVar("T")


class Standing(Enum):
    """How an owner stands with its directory: it is as it was left, or is ours anew and what was written is gone, or
    another process has the lock that is there now.
    """

    OURS = auto()
    ANEW = auto()
    TAKEN = auto()


class MountGone(OSError):
    """What is mounted where the directory is was deleted: it has no name any more. Only another mount would help."""


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_APPLIED = "applied.json"


def boot_id() -> str:
    """What tells this boot of the machine from every other; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def look_at_applied(path: Path, boot_id: str) -> tuple[Applied, bool] | None:
    """The applied contract in the state directory `path`, and whether it is of this boot; None where there is none.
    For those who only look: no lock is needed, and nothing is set aside. Raises OSError and Untrusted.
    """
    data = atomic.read(path / _APPLIED)
    if data is None:
        return None
    applied, same_boot, _ = _decode_applied(FORMATS.applied, data, boot_id, now=0.0, zero=0.0)
    return applied, same_boot


def _decode_applied(form: Format, data: bytes, boot_id: str, now: float, zero: float) -> tuple[Applied, bool, str]:
    """The applied contract, whether it is of this boot, and what is wrong with the GPUs that are left out."""
    header, body = unseal(form, data)
    same_boot = member(header, "bootId", str) == boot_id
    applied, refused = codec.decode_each(body, now, zero=zero, same_boot=same_boot)
    return applied, same_boot, refused


class StateDir:
    """One directory, mode 0700, of which at most one agent is the owner.

    `identity` (pool and config name) keys the last known good; `boot_id` tells whether monotonic times on disk still
    mean something, and `clock` is asked how the wall clock shows them. Every method raises OSError, naming the file,
    when the disk refuses; loading what was never saved is None. Saving needs the lock, and that its file is the one at
    the path. Not for several threads at once, but that `keep` may be called beside the others.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: str,
        boot_id: str,
        clock: Callable[[], Moment] = clocks.now,
        formats: Formats = FORMATS,
    ) -> None:
        self._path = path
        self._formats = formats
        self._identity = identity
        self._boot_id = boot_id
        self._clock = clock
        self._lock = FileLock(path / "lock")
        self._applied = path / _APPLIED
        self._holds = path / "holds.json"
        self._last_known_good = path / "last-known-good"
        self._selection = path / "config-selection"
        self._renewal = path / "driver-change"
        self._left: set[Path] = set()
        self._trouble: OSError | None = None
        self.same_boot = False
        """After `load_applied`: whether what it found was written in this boot."""
        self.partial = False
        """After `load_applied`: whether GPUs were left out of what it found."""
        self.owes_times = False
        """After loading: whether there are times in it that the wall clock may have made of Unix seconds. It shall make
        them once: what was loaded is to be written, whatever that clock is set to until the next start."""
        self.notices: list[str] = []
        """What was set aside or left unused by loading, and why: for the log. The caller may clear it."""

    def acquire(self) -> bool:
        """Make the directory if need be, close it to others, and take the lock if it is free. Never waits."""
        self._make()
        return self._lock.acquire()

    @property
    def another_may_come_back(self) -> bool:
        """Whether the lock that another agent has is not at its path any more, which it may not have noticed yet."""
        return self._lock.another_may_come_back

    def keep(self) -> Standing:
        """Have the directory stay ours: one that was deleted, replaced, unmounted or mounted over is made, and its lock
        taken if that is free. Raises MountGone where that is in vain, OSError where it may not be.
        """
        try:
            found, self._trouble = self._keep(), None
        except OSError as error:
            self._trouble = error
            if _was_deleted(self._path):
                self._trouble = MountGone(error.errno, "cannot use state directory: it was deleted", str(self._path))
                raise self._trouble from error
            raise
        return found

    def _keep(self) -> Standing:
        if not self._lock.is_at_path:
            self._make()
            if not self._lock.retake():
                return Standing.TAKEN
        elif all(path.exists() for path in tuple(self._left)):
            return Standing.OURS
        self._left.clear()  # what is written from now on is looked for again
        return Standing.ANEW

    def leave(self, name: str) -> None:
        """Count a file that somebody else has put here among those whose absence `keep` tells."""
        self._left.add(self._path / name)

    def _make(self) -> None:
        with naming(self._path, "use state directory"):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A hostPath of type DirectoryOrCreate comes as 0755.
            if self._path.stat().st_mode & 0o777 != 0o700:
                self._path.chmod(0o700)

    def release(self) -> None:
        """Free the lock; nothing happens when it is not held."""
        self._lock.release()

    def save_applied(self, applied: Applied) -> None:
        """On disk, synced, when this returns; the old contract is on disk when it raises OSError."""
        body = codec.encode_applied(applied, zero=self._clock().zero)
        self._save(self._applied, self._formats.applied, {"bootId": self._boot_id}, body, sync=True)

    def load_applied(self, now: float) -> Applied | None:
        """The applied contract of this node, from whatever boot, pool or config; fences count from `now`, monotonic."""
        form, zero = self._formats.applied, self._clock().zero
        found = self._load(self._applied, lambda data: _decode_applied(form, data, self._boot_id, now, zero))
        applied, self.same_boot, refused = found or (None, False, "")
        self.partial = bool(refused)
        if refused:
            self._copy_aside(self._applied, f"{self._applied.name} is not used as a whole: {refused}")
        # Not what is from before a reboot: until it has been taken in, the file must go on saying that it is.
        elif applied is not None and self.same_boot:
            self.owes_times |= any(entry.xids for entry in applied.gpus.values())
        return applied

    def save_holds(self, holds: Holds) -> None:
        """Whole on disk, though not synced: after a power failure no pod of before holds anything by a grant."""
        body = codec.encode_holds(holds, zero=self._clock().zero)
        self._save(self._holds, self._formats.holds, {"bootId": self._boot_id}, body, sync=False)

    def load_holds(self, now: float) -> Holds | None:
        """The holds. From another boot: no kubelet, no grants, and times that count from `now` (see `decode_holds`)."""

        def decode(data: bytes) -> Holds:
            header, body = unseal(self._formats.holds, data)
            same_boot = member(header, "bootId", str) == self._boot_id
            return codec.decode_holds(body, now, same_boot=same_boot, zero=self._clock().zero)

        holds = self._load(self._holds, decode)
        self.owes_times |= holds is not None and bool(holds.draining)
        return holds

    def save_last_known_good(self, document: Document) -> None:
        """On disk, synced, when this returns; the old document is on disk when it raises OSError."""
        facts = {"identity": self._identity, "path": document.path, "revision": document.revision}
        self._save(self._last_known_good, self._formats.last_known_good, facts, document.data, sync=True)

    def load_last_known_good(self) -> Document | None:
        """The last accepted document of this identity; another identity's stays on disk, unused, and is a notice."""

        def decode(data: bytes) -> tuple[Document, str]:
            header, body = unseal(self._formats.last_known_good, data)
            document = Document(path=member(header, "path", str), data=body, revision=optional(header, "revision", str))
            return document, member(header, "identity", str)

        found = self._load(self._last_known_good, decode)
        if found is None:
            return None
        document, identity = found
        if identity != self._identity:
            name = self._last_known_good.name
            self.notices.append(
                f"{name} is not used: it belongs to {identity[:200]!r}, this agent is {self._identity!r}"
            )
            return None
        return document

    def save_selection(self, selection: Selection, keys: Sequence[str]) -> None:
        """On disk, synced, when this returns; the old selection is on disk when it raises OSError. `keys` are those of
        the labels that may select.
        """
        found = {"label": selection.key, "value": selection.value, "identity": self._identity, "labels": list(keys)}
        self._save(self._selection, self._formats.selection, {}, json.dumps(found).encode(), sync=True)

    def load_selection(self) -> SelectionNote | None:
        """What the Node's labels selected last, for whatever agent: the caller has to compare. 0.1.0 did not note down
        for which.
        """

        def decode(data: bytes) -> SelectionNote:
            _, body = unseal(self._formats.selection, data)
            found = expect(parse(body), "the selection", dict)
            keys = optional(found, "labels", list)
            return SelectionNote(
                Selection(optional(found, "label", str), optional(found, "value", str)),
                optional(found, "identity", str),
                None if keys is None else tuple(expect(key, "a label", str) for key in keys),
            )

        return self._load(self._selection, decode)

    def save_renewal(self, note: RenewalNote) -> None:
        """On disk, synced, when this returns; the old note is on disk when it raises OSError."""
        found = {"tried": sorted(note.tried), "times": note.times, "ended": note.ended, "helped": note.helped}
        body = json.dumps(found).encode()
        self._save(self._renewal, self._formats.renewal, {"bootId": self._boot_id}, body, sync=True)

    def load_renewal(self) -> RenewalNote | None:
        """For what an agent has ended itself on this boot; one of another boot says nothing."""

        def decode(data: bytes) -> RenewalNote:
            header, body = unseal(self._formats.renewal, data)
            found = expect(parse(body), "the note", dict)
            tried = frozenset(expect(key, "a trouble", str) for key in member(found, "tried", list))
            if member(header, "bootId", str) != self._boot_id:
                return RenewalNote()
            times, ended = max(member(found, "times", int), 0), seconds(found.get("ended", 0), "ended")
            return RenewalNote(tried, times, ended, optional(found, "helped", bool) or False)

        return self._load(self._renewal, decode)

    def _save(self, path: Path, form: Format, facts: dict[str, str | None], body: bytes, *, sync: bool) -> None:
        if not self._lock.held:
            raise RuntimeError(f"cannot write {path}: the state directory is not locked")
        self.demand_lock()
        atomic.write(path, seal(form, facts, body), sync=sync, permit=self.demand_lock)
        self.demand_lock()  # one that went meanwhile took the file with it
        self._left.add(path)

    def demand_lock(self) -> None:
        """Raises OSError where another agent may be the owner of what is at the path."""
        if not self._lock.is_at_path:
            message = "cannot use state directory: it or its lock was removed or replaced"
            found = self._trouble or OSError(errno.ESTALE, message, str(self._path))
            raise OSError(found.errno, found.strerror, found.filename)

    def _load(self, path: Path, decode: Callable[[bytes], T]) -> T | None:
        try:
            data = atomic.read(path)
            if data is None:
                return None
            self._left.add(path)
            return decode(data)
        except Untrusted as reason:
            self._set_aside(path, reason)
            return None

    def _set_aside(self, path: Path, reason: Untrusted) -> None:
        """The state is as lost with the file in place as without: the next save replaces it."""
        self._left.discard(path)
        self._aside(path, atomic.set_aside, f"{path.name} is not used: {reason}", "set")

    def _copy_aside(self, path: Path, what: str) -> None:
        """Keep a file of which a part is used for whoever looks into it; the next save replaces it."""
        self._aside(path, atomic.copy_aside, what, "copied")

    def _aside(self, path: Path, put: Callable[[Path], Path], what: str, done: str) -> None:
        try:
            target = put(path)
        except OSError as error:
            self.notices.append(f"{what}; it could not be {done} aside: {error.strerror}")
        else:
            self.notices.append(f"{what}; it was {done} aside as {target.name}")


def _was_deleted(path: Path) -> bool:
    """Whether the directory, or the one that it would be made in, has no name any more but stays where it is mounted:
    nothing can be made in it, now or ever.
    """
    for one in (path, *path.parents):
        try:
            return one.stat().st_nlink == 0
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return False
