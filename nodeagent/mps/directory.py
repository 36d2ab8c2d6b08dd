"""The directories of daemons, kept and emptied beside clients who may write into one of them at any moment.

Pods mount a daemon's pipe directory, and it stays the same one from one daemon to the next: a container that runs would
never reach a daemon in another one. But a container that runs as root can leave anything there, and a daemon that
starts follows what it finds: a symlink `control_lock` makes it create, or open, a file of somebody else's. So each
start gets a directory that nobody has seen, and what the daemon has made there is moved into the pipe directory when it
listens. That is a rename, which replaces whatever is in its place and follows nothing.

The daemon finds the new directory under the path that the pipe directory always has: by a mount that nobody else sees
(`launch`), or, where nothing may be mounted, because the two change their names while it starts.

Removing what was left follows no link and needs no more descriptors or stack the deeper it was nested.
"""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nodeagent.durable.atomic import naming
from nodeagent.mps import mounts
from nodeagent.mps.files import Layout

logger = logging.getLogger(__name__)

MODE = 0o755
"""Clients of any user pass through these; nothing in them is for others but the sockets."""

_SWEEPS: Final = 100
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
_HAVE_NONE: Final = (errno.ENODATA, errno.ENOTSUP)
_IN_THE_WAY: Final = (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST)
_LAST: Final = "control"
"""Of what a daemon makes: whoever finds this one finds all."""


def make_root(root: Path) -> None:
    """The MPS root is there, and others may pass through it. Raises OSError."""
    with naming(root, "use MPS root"):
        root.mkdir(mode=MODE, parents=True, exist_ok=True)
        _open_to_others(root)


def prepare(layout: Layout, gpu: str, *, swap: bool) -> None:
    """An empty pipe directory, an empty directory for the start of a daemon, and one for logs. Raises OSError.

    `swap`: the two have each other's place, until `publish`. To be called while no daemon runs.
    """
    pipe, start, kept = _places(layout, gpu)
    with naming(pipe, "make pipe directory"):
        for directory in (layout.directory(gpu), layout.log(gpu)):
            directory.mkdir(mode=MODE, exist_ok=True)
            _open_to_others(directory)
        _take_back(pipe, start, kept)
        remove(_old(pipe))
        if not clear(pipe):
            if os.path.lexists(pipe):
                logger.warning("%s is made anew: containers that have it have to be started again", pipe)
            _make(start)
            _set_aside(pipe)
            start.rename(pipe)
        _make(start)
        if swap:
            pipe.rename(kept)
            start.rename(pipe)


def publish(layout: Layout, gpu: str) -> None:
    """What a daemon has made at its start is in the pipe directory. Raises OSError.

    Also for a host that was killed before it could: without a start that is to be ended so, nothing happens.
    """
    pipe, start, kept = _places(layout, gpu)
    with naming(pipe, "fill pipe directory"):
        _take_back(pipe, start, kept)
        with suppress(FileNotFoundError), _opened(start) as source:
            with _opened(pipe) as target, os.scandir(source) as entries:
                for name in sorted((entry.name for entry in entries), key=lambda name: (name == _LAST, name)):
                    _move(name, source, target)
            remove(start)


def clear(pipe: Path) -> bool:
    """Whether the pipe directory that is there can stay: ours, open to others for reading alone, and empty now.

    Otherwise there is none, or something that is to be replaced. To be called while no daemon runs. Raises OSError.
    """
    if not mounts.is_clear(pipe):  # what somebody has mounted there is not ours to empty
        return False
    try:
        with _opened(pipe) as directory:
            # Whoever is root in a container can have changed all of this.
            if os.fstat(directory).st_uid != os.geteuid():
                os.fchown(directory, os.geteuid(), -1)
            for name in _ACLS:
                _drop_attribute(directory, name)
            os.fchmod(directory, MODE)
            return _emptied(directory)
    except OSError:
        return False


def remove_pipe(layout: Layout, gpu: str) -> None:
    """The pipe directory is gone, with whatever is in it. Raises OSError."""
    pipe, start, kept = _places(layout, gpu)
    _take_back(pipe, start, kept)
    _set_aside(pipe)
    remove(start)


def _places(layout: Layout, gpu: str) -> tuple[Path, Path, Path]:
    """The pipe directory, that of a start, and where the pipe directory is while the two have each other's place."""
    pipe = layout.pipe(gpu)
    return pipe, layout.start(gpu), pipe.with_name("pipe.kept")


def _take_back(pipe: Path, start: Path, kept: Path) -> None:
    """Everything is in its own place, whatever a start has left."""
    if not os.path.lexists(kept):
        return
    if os.path.lexists(pipe):
        remove(start)
        pipe.rename(start)
    kept.rename(pipe)


def _old(pipe: Path) -> Path:
    return pipe.with_name("pipe.old")


def _set_aside(pipe: Path) -> None:
    _refuse_mounts(pipe)
    old = _old(pipe)
    remove(old)
    # Out of the way first: who still mounts it may go on filling it.
    with suppress(FileNotFoundError):
        pipe.rename(old)
    remove(old)


def _refuse_mounts(path: Path) -> None:
    if not mounts.is_clear(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _make(path: Path) -> None:
    """A new, empty directory."""
    remove(path)
    path.mkdir(mode=MODE)
    _open_to_others(path)


def _move(name: str, source: int, target: int) -> None:
    """Move an entry to another directory, in the place of what is there; clients may be putting things there."""
    for _ in range(_SWEEPS):
        try:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            with suppress(FileNotFoundError):
                os.rename(name, uuid.uuid4().hex, src_dir_fd=target, dst_dir_fd=target)
        else:
            return
    raise FileExistsError(errno.EEXIST, f"somebody else goes on making something called {name}")


def _open(directory: Path) -> int:
    """A descriptor of a directory, not of what a link points to."""
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = _open(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _drop_attribute(directory: int, name: str) -> None:
    try:
        os.removexattr(directory, name)
    except OSError as error:
        if error.errno not in _HAVE_NONE:
            raise


def remove(path: Path) -> None:
    """Nothing is there any more; links are removed, never followed. Raises OSError, also where something is mounted.

    What is in a directory below is moved up before that directory is removed.
    """
    with naming(path, "remove directory"):
        _refuse_mounts(path)
        try:
            top = _open(path)
        except FileNotFoundError:
            return
        except NotADirectoryError:  # a link to a directory, too
            path.unlink(missing_ok=True)
            return
        try:
            _emptied(top)
        finally:
            os.close(top)
        path.rmdir()


def _emptied(top: int) -> bool:
    """Remove all that is in a directory, by its descriptor. False: somebody goes on adding to it."""
    return any(not _sweep(top) for _ in range(_SWEEPS))


def _sweep(top: int) -> bool:
    """Remove all that is in a directory now, by its descriptor. Whether there was anything."""
    with os.scandir(top) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    below = [name for name, is_directory in found if is_directory]
    for name, is_directory in found:
        if not is_directory:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=top)
    while below:
        name = below.pop()
        with suppress(FileNotFoundError, NotADirectoryError):
            below += _empty_into(top, name)
    return bool(found)


def _empty_into(top: int, name: str) -> list[str]:
    """Remove the directory `name` in `top`; the names in `top` that the directories in it have now."""
    moved = []
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        with os.scandir(inner) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for entry, is_directory in found:
            if is_directory:
                moved.append(uuid.uuid4().hex)
                os.rename(entry, moved[-1], src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(entry, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
    return moved


def _open_to_others(directory: Path) -> None:
    """Mode 0755 whatever the umask was, or somebody made of it."""
    if directory.lstat().st_mode & 0o7777 != MODE:
        directory.chmod(MODE)
