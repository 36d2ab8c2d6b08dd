"""Which shares are held: the one place that knows what proves that a pod has, or may have, a share.

The kubelet offers three witnesses, and each alone is wrong at times (FACTS): PodResources `List` leaves out plain init
containers, and shows nothing for a while after a kubelet restart; the checkpoint keeps finished pods until the next
admission; Allocate says neither for which pod nor when it ends. A share counts as held when

- the last `List` shows it; or
- Allocate granted it, until a `List` begun `GRANT_GRACE` later does not show it. A `List` begun `GRANT_SETTLED` after
  the grant that shows it takes over: the grant has reached its pod, and from then on what `List` says is enough; or
- the checkpoint names it and it was never listed (an init container), for at most `UNLISTED_GRACE`; or
- it was held when the kubelet restarted, until the restarted kubelet has listed it or dropped it from its checkpoint.

The checkpoint only ever adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.kubelet import CheckpointEntry, PodListing

GRANT_GRACE = 10.0
"""Seconds after which a grant that `List` does not show is taken for failed."""

GRANT_SETTLED = 1.0
"""Seconds between a grant and the beginning of a `List` that may speak for it: before that it may still show the id's
last pod."""

UNLISTED_GRACE = 3600.0
"""Seconds for which an entry of the checkpoint that `List` never shows counts as held."""


def held(holds: Holds, now: float) -> frozenset[ShareKey]:
    """Every share that a pod has, or may have."""
    return frozenset().union(holds.listed, holds.carried, holds.granted, _unlisted(holds, now))


def grant(holds: Holds, keys: Iterable[ShareKey], now: float) -> Holds:
    """Record what Allocate gives away, before it answers. Allocate may repeat: the newest counts."""
    return replace(holds, granted={**holds.granted, **dict.fromkeys(keys, now)})


def observe(holds: Holds, listing: PodListing, uuids: AbstractSet[str], now: float) -> Holds:
    """Take in one look at the kubelet. Only ids of the GPUs `uuids` count: other plugins' devices are none of ours."""
    listed = frozenset(
        (holder.resource, share) for holder in listing.holders for share in holder.ids if _uuid(share) in uuids
    )
    entries = (
        None
        if listing.checkpoint is None
        else frozenset(entry for entry in listing.checkpoint if _uuid(entry.id) in uuids)
    )
    carried = holds.carried
    if listing.kubelet != holds.kubelet:
        # Without an earlier kubelet there was no restart: what was granted then is a fresh agent's caution, not a pod.
        carried = held(holds, now) if holds.kubelet is not None else holds.carried | holds.listed
    carried -= listed
    # The checkpoint is read after `List`: where a share was granted in between, the one shows its last pod, the other
    # its next one, and no entry has been listed yet.
    told = frozenset(key for key in listed if listing.begun_at > holds.granted.get(key, float("-inf")))
    if entries is not None:
        carried &= {_key(entry) for entry in entries}
    return replace(
        holds,
        kubelet=listing.kubelet,
        listed=listed,
        carried=carried,
        granted={key: at for key, at in holds.granted.items() if _still_granted(key, at, listing.begun_at, listed)},
        unlisted=_still_unlisted(holds, entries, told, listing.begun_at),
        ended=_ended(holds, entries, told),
    )


def next_change(holds: Holds, now: float) -> float | None:
    """When time alone makes `held` say something else, in monotonic seconds."""
    ends = (since + UNLISTED_GRACE for since in holds.unlisted.values())
    return min((end for end in ends if end > now), default=None)


def look_due(holds: Holds, looked_at: float) -> float | None:
    """When the next `List` must begin, at the earliest, to say more of the grants than the one begun at `looked_at`.

    A pod that comes and goes between two looks would be known from the checkpoint alone, and so count as running until
    the next admission: a look follows each grant as soon as it can speak for it.
    """
    return min(
        (at + (GRANT_SETTLED if looked_at < at + GRANT_SETTLED else GRANT_GRACE) for at in holds.granted.values()),
        default=None,
    )


def _still_granted(key: ShareKey, at: float, begun_at: float, listed: AbstractSet[ShareKey]) -> bool:
    return begun_at < at + (GRANT_SETTLED if key in listed else GRANT_GRACE)


def _still_unlisted(
    holds: Holds, entries: frozenset[CheckpointEntry] | None, listed: AbstractSet[ShareKey], begun_at: float
) -> dict[CheckpointEntry, float]:
    if entries is None:
        return {entry: at for entry, at in holds.unlisted.items() if _key(entry) not in listed}
    return {
        entry: holds.unlisted.get(entry, begun_at)
        for entry in entries
        if _key(entry) not in listed and entry not in holds.ended
    }


def _ended(
    holds: Holds, entries: frozenset[CheckpointEntry] | None, listed: AbstractSet[ShareKey]
) -> frozenset[CheckpointEntry]:
    """Entries that have been listed once: `List` speaks for them, and when it no longer does, their pod has ended."""
    if entries is None:
        return holds.ended | {entry for entry in holds.unlisted if _key(entry) in listed}
    return frozenset(entry for entry in entries if entry in holds.ended or _key(entry) in listed)


def _unlisted(holds: Holds, now: float) -> frozenset[ShareKey]:
    return frozenset(_key(entry) for entry, since in holds.unlisted.items() if now < since + UNLISTED_GRACE)


def _key(entry: CheckpointEntry) -> ShareKey:
    return entry.resource, entry.id


def _uuid(share: str) -> str:
    return share.partition("::")[0]
