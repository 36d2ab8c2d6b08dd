"""What the stand-in kubelet saw, and an auditor that judges each list as it arrives.

The rules are the product's promises: a held id is never withdrawn, and a free one never dropped before it was sent as
Unhealthy. Tests assert on what is recorded here instead of racing with the plugin. The last list of a resource is
remembered across restarts of both sides, since the promises hold across them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

IDS_TOLD = 5
"""How many ids a message names before it only counts."""


def some(ids: Iterable[str]) -> str:
    """A few of the ids, for a message."""
    ordered = sorted(ids)
    more = f" and {len(ordered) - IDS_TOLD} more" if len(ordered) > IDS_TOLD else ""
    return ", ".join(ordered[:IDS_TOLD]) + more


@dataclass(frozen=True, slots=True)
class ListMessage:
    """One ListAndWatch message that became the list of its resource: id -> healthy. `at` in monotonic seconds."""

    at: float
    resource: str
    endpoint: str
    devices: Mapping[str, bool]

    @property
    def healthy(self) -> frozenset[str]:
        return frozenset(id_ for id_, healthy in self.devices.items() if healthy)


@dataclass(frozen=True, slots=True)
class RegistrationRecord:
    """One Register call. `over_live_stream`: the resource had a live stream then. `error` is what the plugin was
    told, if refused.
    """

    at: float
    resource: str
    endpoint: str
    over_live_stream: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """One ListAndWatch stream that ended; `by_kubelet` when the kubelet closed it (a restart, or as an old stream's
    end took it along).
    """

    at: float
    resource: str
    endpoint: str
    by_kubelet: bool
    reason: str


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A promise that a message of the plugin broke, and the ids concerned."""

    at: float
    resource: str
    rule: str
    ids: frozenset[str]

    def __str__(self) -> str:
        return f"{self.resource}: {self.rule}: {some(self.ids)}"


@dataclass(frozen=True, slots=True)
class Crash:
    """Where the real kubelet would have died: ids that vanished from the list while they were being allocated."""

    at: float
    resource: str
    pod: str
    ids: frozenset[str]

    def __str__(self) -> str:
        return f"the kubelet crashed: {self.resource}: vanished while pod {self.pod} was given them: {some(self.ids)}"


class History:
    """Records of one stand-in kubelet, the newest `limit` of each kind (None: all), and running totals."""

    def __init__(self, *, limit: int | None = None) -> None:
        self.messages: deque[ListMessage] = deque(maxlen=limit)
        self.registrations: deque[RegistrationRecord] = deque(maxlen=limit)
        self.streams_ended: deque[StreamEnd] = deque(maxlen=limit)
        self.violations: list[BrokenRule] = []
        self.crashes: list[Crash] = []
        self.message_count = 0
        self.registration_count = 0
        self.stream_end_count = 0
        self.on_message: Callable[[ListMessage], None] | None = None
        self._newest: dict[str, ListMessage] = {}
        self._fewest: dict[str, int] = {}

    def newest(self, resource: str) -> ListMessage | None:
        """The last list of the resource, whoever sent it and whether or not its stream still lives."""
        return self._newest.get(resource)

    def message(self, message: ListMessage, held: frozenset[str]) -> None:
        """Record and judge one list; `held` are the ids of its resource that running pods hold."""
        previous = self._newest.get(message.resource)
        if previous is not None:
            self._judge(previous.devices, message, held)
        self._newest[message.resource] = message
        self.messages.append(message)
        self.message_count += 1
        self.allocatable(message.resource, sum(message.devices.values()))
        if self.on_message is not None:
            self.on_message(message)

    def registration(self, record: RegistrationRecord) -> None:
        self.registrations.append(record)
        self.registration_count += 1

    def stream_ended(self, record: StreamEnd) -> None:
        self.streams_ended.append(record)
        self.stream_end_count += 1

    def broken(self, resource: str, rule: str, ids: Iterable[str]) -> None:
        self.violations.append(BrokenRule(time.monotonic(), resource, rule, frozenset(ids)))

    def allocatable(self, resource: str, count: int) -> None:
        """Note how many devices of a resource are allocatable from now on."""
        self._fewest[resource] = min(count, self._fewest.get(resource, count))

    def fewest(self, resource: str) -> int:
        """Fewest allocatable devices at any moment since the first list or the last `reset_fewest`; 0 for an unknown
        resource.
        """
        return self._fewest.get(resource, 0)

    def reset_fewest(self, resource: str, count: int) -> None:
        """Start counting the fewest anew, at what is allocatable now."""
        self._fewest[resource] = count

    def _judge(self, previous: Mapping[str, bool], message: ListMessage, held: frozenset[str]) -> None:
        dropped = previous.keys() - message.devices.keys()
        if withdrawn := dropped & held:
            self.broken(message.resource, "a held id was withdrawn", withdrawn)
        if unfenced := {id_ for id_ in dropped if previous[id_] and id_ not in held}:
            self.broken(message.resource, "an id was dropped without having been Unhealthy first", unfenced)
