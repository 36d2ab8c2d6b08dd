"""The directories of daemons, made and removed beside clients who may write into one of them.

Pods mount a daemon's pipe directory, and a container that runs as root can leave anything there. The daemon follows
what it finds: a symlink `control_lock` makes it create, or empty, a file of somebody else's. So each start gets a
directory that nobody has seen, under the path that it always has; and removing the old one follows no link and needs no
more descriptors or stack the deeper it was nested.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from nodeagent.durable.atomic import naming
from nodeagent.mps.files import Layout

MODE = 0o755
"""Clients of any user pass through these; nothing in them is for others but the sockets."""

_SWEEPS = 100


def make_root(root: Path) -> None:
    """The MPS root is there, and others may pass through it. Raises OSError."""
    with naming(root, "use MPS root"):
        root.mkdir(mode=MODE, parents=True, exist_ok=True)
        _open_to_others(root)


def fresh_pipe(layout: Layout, gpu: str) -> None:
    """Put a new, empty pipe directory in the place of the old one, and have a directory for logs. Raises OSError.

    For a moment there is none: it is called while no daemon runs.
    """
    pipe = layout.pipe(gpu)
    with naming(pipe, "make pipe directory"):
        for directory in (layout.directory(gpu), layout.log(gpu)):
            directory.mkdir(mode=MODE, exist_ok=True)
            _open_to_others(directory)
        fresh = pipe.with_name("pipe.new")
        remove(fresh)
        fresh.mkdir(mode=MODE)
        _open_to_others(fresh)
        remove_pipe(layout, gpu)
        fresh.rename(pipe)


def remove_pipe(layout: Layout, gpu: str) -> None:
    """The pipe directory is gone, with whatever is in it. Raises OSError."""
    pipe = layout.pipe(gpu)
    old = pipe.with_name("pipe.old")
    remove(old)
    # Out of the way first: who still mounts it may go on filling it.
    with suppress(FileNotFoundError):
        pipe.rename(old)
    remove(old)


def remove(path: Path) -> None:
    """Nothing is there any more; links are removed, never followed. Raises OSError.

    What is in a directory below is moved up before that directory is removed.
    """
    with naming(path, "remove directory"):
        try:
            top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except NotADirectoryError:  # a link to a directory, too
            path.unlink(missing_ok=True)
            return
        try:
            for _ in range(_SWEEPS):  # somebody may be adding to it
                if not _sweep(top):
                    break
        finally:
            os.close(top)
        path.rmdir()


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
