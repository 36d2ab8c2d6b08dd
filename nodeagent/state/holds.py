r"""Which shares are held: the one place that knows what proves that a pod has, or may have, a share.

The kubelet offers four witnesses, and each alone is wrong at times:

- `List` names every pod and what it has. It leaves out plain init containers, and shows nothing for a while after a
  kubelet restart. It can free a device that is being allocated, so it goes out seldom (see `looks`).
- `Get` says of one pod, by its name, what `List` would say, and frees nothing. It knows no pod that was never named.
- The checkpoint shows what every pod was given, init containers too, by the pod's UID and without its name. It keeps
  finished pods until the next admission that asks for a device.
- Allocate, which is ours, says neither for which pod nor when it ends.

A share counts as held when

- the last `List` shows it for a pod, and `Get` has not said since that the pod has ended (`listed`); or
- Allocate granted it (`granted`). The grant ends when a `List` or `Get` begun `GRANT_SETTLED` later shows the share
  (where there is no checkpoint to read, for a pod that this very look has asked for); when a look begun that much
  later finds a new entry of it in the checkpoint, which takes over; or when a `List` begun `GRANT_GRACE` later does not
  show it: that pod was not admitted; or
- the checkpoint names it and no `List` has been asked about that entry (`unnamed`), however long that takes; or
- the checkpoint names it and `List` does not (`unlisted`: an init container, or a pod that ended before it was named),
  for at most `UNLISTED_GRACE`; or
- it was held when the kubelet restarted, until the restarted kubelet shows it or drops it from its checkpoint
  (`carried`).

How each way of life of a share is seen:

| the share's pod | held is known by | its end is known by |
|---|---|---|
| is admitted and runs | grant, then its new entry, then its name | `Get` by its name |
| fails or ends before it has a name | grant, then its entry | the checkpoint that is written after the next \
admission, or after one `List` (see `looks.rewrites`) |
| is not admitted after our Allocate | grant, and its entry if there is one | one `List`, and that checkpoint |
| has it in an init container alone | grant, then its entry | that checkpoint; after an hour in any case |
| comes and goes between two looks | grant, then its entry | as one that ends before it has a name |
| is deleted by force | its name | `Get`, at once, as by `List`: before its processes end |
| is static | as any pod | `Get` by the name of the static pod |
| is followed by another with the same id | grant, then an entry with another UID | its own witnesses |
| outlives a kubelet restart | `carried`, then `List` | `Get`; that checkpoint if it ended meanwhile |

So a `List` is needed to learn names: once for all pods that have come since the last one. While nothing drains, names
matter for reports only. Whatever is not known for certain counts as held.
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
    unnamed = map(_key, holds.unnamed)
    return frozenset().union(holds.listed, holds.carried, holds.granted, unnamed, _unlisted(holds, now))


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
    if entries is not None:
        carried &= {_key(entry) for entry in entries}
    holds = replace(holds, kubelet=listing.kubelet, listed=listed, carried=carried)
    holds = _by_list(holds, entries, listing.begun_at) if listing.by_list else _by_get(holds, entries, listing.begun_at)
    return _without_granted(holds, _confirmed(holds, listing), listing, read=entries is not None)


def _confirmed(holds: Holds, listing: PodListing) -> frozenset[ShareKey]:
    """Shares whose listed holder is the newest one, once a grant has settled: a pod that was asked now is, and one that
    was asked before is where a follower would be seen in the checkpoint.
    """
    if listing.by_list or listing.checkpoint is not None:
        return holds.listed
    asked = [holder for holder in listing.holders if holder.name in listing.asked]
    return holds.listed & {(holder.resource, share) for holder in asked for share in holder.ids}


def _by_list(holds: Holds, entries: frozenset[CheckpointEntry] | None, begun_at: float) -> Holds:
    """What `List` says of the checkpoint's entries: it speaks for every pod that it can know."""
    # The checkpoint is read after `List`: where a share was granted in between, the one shows its last pod, the other
    # its next one, and no entry has been listed yet.
    told = frozenset(key for key in holds.listed if begun_at > holds.granted.get(key, float("-inf")))
    if entries is None:
        named = {entry for known in (holds.unnamed, holds.unlisted) for entry in known if _key(entry) in told}
        unnamed = {entry: at for entry, at in holds.unnamed.items() if entry not in named}
        unlisted = {entry: at for entry, at in holds.unlisted.items() if entry not in named}
        return replace(holds, unnamed=unnamed, unlisted=unlisted, ended=holds.ended | named)
    ended = frozenset(entry for entry in entries if entry in holds.ended or _key(entry) in told)
    unnamed, unlisted = {}, {}
    for entry in entries - ended:
        first_seen = holds.unlisted.get(entry, holds.unnamed.get(entry, begun_at))
        # An entry that is this young may have been written after `List` was answered.
        asked = entry in holds.unlisted or begun_at >= first_seen + GRANT_SETTLED
        (unlisted if asked else unnamed)[entry] = first_seen
    return replace(holds, unnamed=unnamed, unlisted=unlisted, ended=ended)


def _by_get(holds: Holds, entries: frozenset[CheckpointEntry] | None, begun_at: float) -> Holds:
    """What a look by `Get` says of the checkpoint's entries: which are new, and which are gone."""
    if entries is None:
        return holds
    ended = holds.ended & entries
    unlisted = {entry: at for entry, at in holds.unlisted.items() if entry in entries}
    unnamed = {entry: holds.unnamed.get(entry, begun_at) for entry in entries - ended if entry not in unlisted}
    return replace(holds, unnamed=unnamed, unlisted=unlisted, ended=ended)


def _without_granted(holds: Holds, confirmed: AbstractSet[ShareKey], listing: PodListing, *, read: bool) -> Holds:
    """Grants end where another witness takes over, or where `List` says that there is nothing to be taken over. `read`:
    the entries are those of the checkpoint as it is now.
    """
    begun_at = listing.begun_at
    # The kubelet replaces the file in one step: as long as it names the share for a pod without a name, it names this
    # pod or will have done so when the other one leaves it.
    written = {_key(entry) for entry in holds.unnamed} if read else set()
    since = {_key(entry): at for entry, at in holds.unlisted.items()} if read else {}

    def over(key: ShareKey, at: float) -> bool:
        if begun_at < at + GRANT_SETTLED:
            return False
        taken_over = key in confirmed or key in written or since.get(key, at) > at
        return taken_over or (listing.by_list and begun_at >= at + GRANT_GRACE)

    return replace(holds, granted={key: at for key, at in holds.granted.items() if not over(key, at)})


def next_change(holds: Holds, now: float) -> float | None:
    """When time alone makes `held` say something else, in monotonic seconds."""
    ends = (since + UNLISTED_GRACE for since in holds.unlisted.values())
    return min((end for end in ends if end > now), default=None)


def look_due(holds: Holds, looked_at: float) -> float | None:
    """When the next look must begin, at the earliest, to say more of the grants than the one begun at `looked_at`: when
    it can find the pod, and when a pod that it does not find was not admitted. None where no other look would.
    """
    ends = (at + wait for at in holds.granted.values() for wait in (GRANT_SETTLED, GRANT_GRACE))
    return min((end for end in ends if end > looked_at), default=None)


def _unlisted(holds: Holds, now: float) -> frozenset[ShareKey]:
    return frozenset(_key(entry) for entry, since in holds.unlisted.items() if now < since + UNLISTED_GRACE)


def _key(entry: CheckpointEntry) -> ShareKey:
    return entry.resource, entry.id


def _uuid(share: str) -> str:
    return share.partition("::")[0]
