"""What the host records of one daemon, so that the next one knows: on the disk before it is true, gone when all is."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from nodeagent.durable import atomic
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import Record, decode_record, encode_record

logger = logging.getLogger(__name__)


class RecordFile:
    """The record of one daemon at `path`, and as it was last known."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self.known: Record | None = None

    async def load(self) -> None:
        """Know what is on the disk. A damaged one is set aside, and is none. Raises OSError."""
        self.known = await self._disk.do(self._read)

    def _read(self) -> Record | None:
        try:
            data = atomic.read(self._path)
            return None if data is None else decode_record(data)
        except atomic.Untrusted as error:
            kept = atomic.set_aside(self._path)
            logger.warning("cannot use %s: %s; it is kept as %s", self._path, error, kept.name)
            return None

    async def save(self, record: Record) -> None:
        """On the disk, synced, on return. Raises OSError."""

        def write() -> None:
            self._path.parent.mkdir(mode=0o755, exist_ok=True)
            atomic.write(self._path, encode_record(record), sync=True)

        await self._disk.do(write)
        self.known = record

    async def note(self, record: Record) -> None:
        """Save what no daemon should suffer for when it cannot be saved."""
        self.known = record
        try:
            await self.save(record)
        except OSError as error:
            logger.warning("%s", reason(error))

    async def remove(self) -> None:
        """There is nothing left to know of. Raises OSError."""
        await self._disk.do(partial(self._path.unlink, missing_ok=True))
        self.known = None
