"""Whether a change of the config would be seen at all: how its file has been mounted.

A ConfigMap that is mounted as a directory changes by a link in it. One key of it that is mounted by `subPath` is the
file of the moment in which the container was made, and stays that. Nothing is wrong with it that reading could find,
but the kernel says what the mount is of: behind `..data` there are directories that are named for a time, and whoever
mounts what is in one of them mounts a copy that nobody changes.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

from nodeagent import mountinfo
from nodeagent.model.config import Following

_VERSION: Final = re.compile(r"/\.\.\d{4}(_\d\d){5}\.[^/]+(/|$)")
"""A directory in which the kubelet puts one version of a ConfigMap, a Secret or a projected volume."""

_SUB_PATHS: Final = "/volume-subpaths/"

_AGAIN: Final = 60.0
"""Seconds after which it is asked again though the file has the same place: mounts of a container seldom change."""


def following(file: Path, mounts: Path = mountinfo.SELF) -> Following:
    """How a file is mounted, which is there. Raises OSError."""
    place = os.path.realpath(file)
    mount = mountinfo.covering(mountinfo.read(mounts), place)
    if mount is None:
        return Following.FOLLOWED
    if _VERSION.search(mount.root) or _SUB_PATHS in mount.root:
        return Following.SUB_PATH
    if mount.point == place:
        return Following.SINGLE_FILE
    return Following.FOLLOWED


class Mounting:
    """Remembers how the file is mounted that was read last. Blocks: to be asked by one thread at a time."""

    def __init__(self, mounts: Path = mountinfo.SELF) -> None:
        self._mounts = mounts
        self._asked: tuple[str, float] | None = None
        self._found = Following.FOLLOWED

    def look(self, file: Path) -> Following:
        """How it is mounted; as it was where the kernel does not say."""
        place, now = os.path.realpath(file), time.monotonic()
        if self._asked is None or self._asked[0] != place or now - self._asked[1] >= _AGAIN:
            try:
                self._found = following(file, self._mounts)
            except OSError:
                return self._found
            self._asked = place, now
        return self._found
