"""The compute modes that were set on simulated GPUs: what a real GPU keeps while processes come and go.

They are in a file beside the simulation file, so that all processes that simulate the same node see the same ones, and
so that they outlive whoever set them. Whoever wants the GPUs as the simulation file has them removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodeagent.model.inventory import ComputeMode


class ComputeModes:
    """The modes that were set, by uuid, in the file `<simulation file>.compute-modes.json`. Its methods block."""

    def __init__(self, simulation_file: Path) -> None:
        self._path = simulation_file.with_name(f"{simulation_file.name}.compute-modes.json")
        self._fresh = self._path.with_name(f".{self._path.name}.tmp")

    def read(self) -> dict[str, ComputeMode]:
        """What was set. A file that cannot be read, or is damaged, is one in which nothing is."""
        try:
            told = json.loads(self._path.read_bytes())
            return {str(uuid): ComputeMode(mode) for uuid, mode in told.items()}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def keep(self, uuid: str, mode: ComputeMode, unset: ComputeMode) -> None:
        """Set one, and leave the others as they are. Raises OSError.

        `unset` is the mode of a GPU of which none was set. Setting what is so already changes nothing, but fails where
        nothing could be set.
        """
        with self._alone():
            found = self.read()
            modes = {**found, uuid: mode}
            text = json.dumps({one: modes[one].value for one in sorted(modes)}, indent=1)
            try:
                self._fresh.write_text(f"{text}\n", encoding="ascii")
                if found.get(uuid, unset) is mode:
                    self._fresh.unlink()
                else:
                    self._fresh.replace(self._path)
            except OSError:
                with suppress(OSError):
                    self._fresh.unlink()
                raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else write; the lock is on the directory, as both files in it are replaced rather than changed."""
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
