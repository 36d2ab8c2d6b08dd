"""From the Node's labels to the document that is read, and the memory of it.

The API may be away when an agent starts. What the labels said last is therefore on disk: an agent that hears nothing in
time reads what the one before it read. What is remembered is never more than that, and never wins over the Node; and
it counts only for an agent of the same pool that goes by the same labels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from nodeagent.config.selection import describe, file_names, select, unusable
from nodeagent.config.source import ConfigSource
from nodeagent.errand import Errand
from nodeagent.model.node import Selection, SelectionNote

_log = logging.getLogger(__name__)


class ByLabel:
    """Has `source` read what the first of the labels `keys` selects that is on the Node.

    `save` keeps a selection on disk, in a thread, or raises OSError; it is tried again after `again` seconds. `default`
    is the file for a node without any of the labels, where that was given.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        source: ConfigSource,
        save: Callable[[Selection], None],
        again: float = 30.0,
        default: str | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self._source = source
        self._save = save
        self._again = again
        self._default = default
        self._errand = Errand("config-selection", on_late=lambda: None)
        self._selection: Selection | None = None
        self._kept: Selection | None = None
        self._lost = False
        self._changed = asyncio.Event()

    def recall(self, note: SelectionNote | None, *, identity: str, accepted: str | None) -> None:
        """What is on disk, for an agent of this `identity`, which has `accepted` the document at this path before.
        Before `run`. What was selected for another pool or by another label is no reason to read anything.
        """
        if note is None:
            return
        if problem := unusable(note, identity, self._keys, accepted, self._default):
            _log.warning("what an earlier agent was to read is not used: %s", problem)
            return
        self._source.recall(note.selection)
        if note.identity is not None and note.keys is not None:
            self._kept = note.selection

    def take(self, labels: Mapping[str, str]) -> None:
        """All labels of the Node, as they are now. To be called on the loop."""
        selection = select(labels, self._keys)
        if selection == self._selection:
            return
        self._selection = selection
        _log.info("%s: of a directory of configs it is %s", describe(selection), self._named(selection))
        self._source.select(selection)
        self._changed.set()

    def _named(self, selection: Selection) -> str:
        return " or ".join(file_names(selection, self._default)) or "none"

    def rewrite(self) -> None:
        """What was kept is not on disk any more: keep it again. To be called on the loop."""
        self._lost = True
        self._changed.set()

    async def run(self) -> None:
        """Keep what is selected on disk, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._keep()

    async def _keep(self) -> None:
        selection = self._selection or self._kept
        if selection is None or (selection == self._kept and not self._lost):
            return
        self._lost = False
        try:
            # A write that hangs holds up nobody but this task.
            await self._errand.run(lambda: self._save(selection), None)
        except OSError as error:
            _log.warning("cannot remember which config is this node's: %s", error)
            self._lost = True
            asyncio.get_running_loop().call_later(self._again, self._changed.set)
        else:
            self._kept = selection
