r"""Which shares are held: the one place that knows what proves that a pod has, or may have, a share.

The kubelet and the node offer five witnesses, and each alone is wrong at times:

- `List` names every pod and what it has. It leaves out plain init containers, and shows nothing for a while after a
  kubelet restart. It can free a device that is being allocated, so it goes out seldom (see `looks`).
- `Get` says of one pod, by its name, what `List` would say, and frees nothing. It knows no pod that was never named,
  and goes on showing what a pod had that has finished and is not deleted.
- The checkpoint shows what every pod was given, init containers too, by the pod's UID and without its name. It keeps
  finished pods until the next admission that asks for a device.
- Allocate, which is ours, says neither for which pod nor when it ends.
- The pod's cgroup is there as long as anything of the pod runs, whoever knows of it, by the pod's UID. It comes when
  the kubelet first does something for the pod, which may be long after Allocate where the network is not ready. Not
  every kubelet makes one, and the agent does not see it everywhere.

A share counts as held when

- the last `List` shows it for a pod, and `Get` has not said since that the pod has ended (`listed`); or
- Allocate granted it (`granted`). The grant ends when a `List` or `Get` begun `GRANT_SETTLED` later shows the share
  (where there is no checkpoint to read, for a pod that this very look has asked for); when a look begun that much
  later finds a new entry of it in the checkpoint, which takes over; or when a `List` begun `GRANT_GRACE` later does not
  show it: that pod was not admitted; or
- the checkpoint names it and no `List` has been asked about that entry (`unnamed`), however long that takes; or
- the checkpoint names it and `List` does not (`unlisted`: an init container, or a pod that ended before it was named),
  as long as its pod has a cgroup, and otherwise for at most `UNLISTED_GRACE`; or
- it was held when the kubelet restarted, until the restarted kubelet shows it or drops it from its checkpoint
  (`carried`), for as long as what is unlisted.

Whatever the other witnesses say, a pod that had a cgroup and has none any more has ended. One that never had one, and
that `List` does not show, has ended when it is `CGROUP_GRACE` old.

How each way of life of a share is seen:

| the share's pod | held is known by | its end is known by |
|---|---|---|
| is admitted and runs | grant, then its new entry, then its name | its cgroup; `Get` by its name |
| finishes and is not deleted | its name | its cgroup; a `List` |
| fails or ends before it has a name | grant, then its entry | its cgroup; the checkpoint that is written after the \
next admission, or after one `List` (see `looks.rewrites`) |
| is not admitted after our Allocate | grant, and its entry if there is one | one `List`, and that checkpoint |
| has it in an init container alone | grant, then its entry | its cgroup; that checkpoint; otherwise by time |
| comes and goes between two looks | grant, then its entry | as one that ends before it has a name |
| is deleted by force | its name | `Get`, at once, as by `List`: before its processes end |
| is static | as any pod | its cgroup; `Get` by the name of the static pod |
| is followed by another with the same id | grant, then an entry with another UID | its own witnesses |
| outlives a kubelet restart | `carried`, then `List` | its cgroup; `Get`; that checkpoint if it ended meanwhile |

So a `List` is needed to learn names: once for all pods that have come since the last one. While nothing drains, names
matter for reports only. Whatever is not known for certain counts as held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.kubelet import CheckpointEntry, PodListing

GRANT_GRACE = 10.0
"""Seconds after which a grant that `List` does not show is taken for failed."""

GRANT_SETTLED = 0.1
"""Seconds between a grant and the beginning of a look that may speak for it: as long as the kubelet may take to enter
what Allocate has answered into its books. Early, since a pod that fails at once is there for half a second."""

GRANT_LATE = 1.0
"""Seconds after which a grant is looked for once more, if that look has not found it."""

UNLISTED_GRACE = 3600.0
"""Seconds for which what `List` never shows counts as held, where its pod has no cgroup that could be seen."""

CGROUP_GRACE = 300.0
"""Seconds that a pod may take from its admission until it has a cgroup, as where the network of the node is not ready.
"""


def held(holds: Holds, now: float) -> frozenset[ShareKey]:
    """Every share that a pod has, or may have."""
    unnamed = map(_key, holds.unnamed)
    return frozenset().union(holds.listed, _carried(holds, now), holds.granted, unnamed, _unlisted(holds, now))


def grant(holds: Holds, keys: Iterable[ShareKey], now: float) -> Holds:
    """Record what Allocate gives away, before it answers. Allocate may repeat: the newest counts."""
    given = dict.fromkeys(keys, now)
    # A static pod may begin anew under the UID that it had: its end of before says nothing of it.
    before = {entry.pod_uid for entry in _entries(holds) if _key(entry) in given} if holds.cgroups else set()
    return replace(
        holds,
        granted={**holds.granted, **given},
        cgroups={uid: there for uid, there in holds.cgroups.items() if uid not in before},
    )


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
    if listing.kubelet != holds.kubelet:
        # Without an earlier kubelet there was no restart: what was granted then is a fresh agent's caution, not a pod.
        before = held(holds, now) if holds.kubelet is not None else holds.listed
        holds = replace(holds, carried={**dict.fromkeys(before, now), **holds.carried})
    if entries is None or listing.cgroups is None:
        holds = _without_sight(holds, listing.begun_at)
    else:
        holds = _by_cgroups(holds, entries, listing.cgroups, listed)
    over = _over(holds, entries) if entries is not None else frozenset[ShareKey]()
    kept = {_key(entry) for entry in entries} if entries is not None else holds.carried.keys()
    gone = listed | over
    holds = replace(
        holds,
        kubelet=listing.kubelet,
        listed=listed - over,
        carried={key: at for key, at in holds.carried.items() if key in kept and key not in gone},
    )
    holds = _by_list(holds, entries, listing.begun_at) if listing.by_list else _by_get(holds, entries, listing.begun_at)
    holds = _without_granted(holds, listing, read=entries is not None)
    if entries is None or listing.cgroups is None:
        return holds
    return _without_cgroup(holds, listing.cgroups, listing.begun_at)


def _by_cgroups(
    holds: Holds, entries: frozenset[CheckpointEntry], cgroups: frozenset[str], listed: AbstractSet[ShareKey]
) -> Holds:
    """What the pods' cgroups say of the checkpoint's entries: whose pod has ended, and whose has begun after all. It
    may have waited long for its network, or be a static one that begins anew under the UID that it had.
    """
    uids = {entry.pod_uid for entry in entries}
    found = {uid: uid in cgroups for uid in uids if uid in cgroups or uid in holds.cgroups}
    begun = {uid for uid, there in found.items() if there and not holds.cgroups.get(uid, False)}
    ended = {entry for entry in holds.ended if entry.pod_uid not in begun or _key(entry) in listed}
    ended |= {entry for entry in entries if not found.get(entry.pod_uid, True)}
    return replace(holds, cgroups=found, ended=frozenset(ended))


def _without_sight(holds: Holds, now: float) -> Holds:
    """Nothing is seen of the pods that run: what they hold by their cgroups counts for a bounded time from now on.
    Those that have ended still have.
    """
    if not any(holds.cgroups.values()):
        return holds
    runs = running(holds)
    alive = {uid for uid, there in holds.cgroups.items() if there}
    return replace(
        holds,
        cgroups=dict.fromkeys(holds.cgroups.keys() - alive, False),
        carried={key: now if key in runs else since for key, since in holds.carried.items()},
        unlisted={entry: now if entry.pod_uid in alive else since for entry, since in holds.unlisted.items()},
    )


def _over(holds: Holds, entries: frozenset[CheckpointEntry]) -> frozenset[ShareKey]:
    """Shares of which the checkpoint names nobody but pods that had a cgroup and have none any more."""
    if all(holds.cgroups.values()):
        return frozenset()
    over = {_key(entry) for entry in entries if not holds.cgroups.get(entry.pod_uid, True)}
    return frozenset(over - {_key(entry) for entry in entries if holds.cgroups.get(entry.pod_uid, True)})


def _without_cgroup(holds: Holds, cgroups: frozenset[str], begun_at: float) -> Holds:
    """Without what no `List` shows, and whose pod has had the time to get a cgroup and has none."""
    runs = running(holds)
    gone = {
        entry
        for entry, since in holds.unlisted.items()
        if entry.pod_uid not in cgroups and begun_at >= since + CGROUP_GRACE
    }
    return replace(
        holds,
        carried={key: at for key, at in holds.carried.items() if key in runs or begun_at < at + CGROUP_GRACE},
        unlisted={entry: since for entry, since in holds.unlisted.items() if entry not in gone},
        ended=holds.ended | gone,
    )


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
    left = entries - ended
    unlisted = {entry: at for entry, at in holds.unlisted.items() if entry in left}
    unnamed = {entry: holds.unnamed.get(entry, begun_at) for entry in left if entry not in unlisted}
    return replace(holds, unnamed=unnamed, unlisted=unlisted, ended=ended)


def _without_granted(holds: Holds, listing: PodListing, *, read: bool) -> Holds:
    """Grants end where another witness takes over, or where `List` says that there is nothing to be taken over. `read`:
    the entries are those of the checkpoint as it is now.
    """
    begun_at = listing.begun_at
    # An entry from before the grant is of the pod before: its own witnesses may end it at any moment.
    since: dict[ShareKey, float] = {}
    for entry, first in (*holds.unnamed.items(), *holds.unlisted.items()) if read else ():
        since[_key(entry)] = max(first, since.get(_key(entry), first))
    # What a pod of before had is shown until it is asked for again; a `List` begun after the grant knows better.
    asked = holds.listed & {
        (one.resource, share) for one in listing.holders if one.name in listing.asked for share in one.ids
    }

    def over(key: ShareKey, at: float) -> bool:
        if begun_at < at + GRANT_SETTLED:
            return False
        listed = key in asked or (key in holds.listed and (read or listing.by_list) and listing.listed_at > at)
        return listed or since.get(key, at) > at or (listing.by_list and begun_at >= at + GRANT_GRACE)

    return replace(holds, granted={key: at for key, at in holds.granted.items() if not over(key, at)})


def next_change(holds: Holds, now: float) -> float | None:
    """When time alone makes `held` say something else, in monotonic seconds."""
    ends = (since + UNLISTED_GRACE for since in (*holds.unlisted.values(), *holds.carried.values()))
    return min((end for end in ends if end > now), default=None)


def look_due(holds: Holds, looked_at: float) -> float | None:
    """When the next look must begin, at the earliest, to say more of the grants than the one begun at `looked_at`: when
    it can find the pod, and when a pod that it does not find was not admitted. None where no other look would.
    """
    ends = (at + wait for at in holds.granted.values() for wait in (GRANT_SETTLED, GRANT_LATE, GRANT_GRACE))
    return min((end for end in ends if end > looked_at), default=None)


def running(holds: Holds) -> frozenset[ShareKey]:
    """Shares that the checkpoint names for a pod that has a cgroup."""
    return frozenset(_key(entry) for entry in _entries(holds) if holds.cgroups.get(entry.pod_uid, False))


def unproven(holds: Holds, now: float) -> dict[ShareKey, float]:
    """Shares that count as held though PodResources names nobody who has them, and since when that is so."""
    found = {_key(entry): since for entry, since in holds.unlisted.items()} | dict(holds.carried)
    counts = _unlisted(holds, now) | _carried(holds, now)
    return {key: since for key, since in found.items() if key in counts and key not in holds.listed}


def _carried(holds: Holds, now: float) -> frozenset[ShareKey]:
    late = {key for key, since in holds.carried.items() if now >= since + UNLISTED_GRACE}
    return frozenset(holds.carried.keys() - (late - running(holds) if late else late))


def _unlisted(holds: Holds, now: float) -> frozenset[ShareKey]:
    return frozenset(
        _key(entry)
        for entry, since in holds.unlisted.items()
        if now < since + UNLISTED_GRACE or holds.cgroups.get(entry.pod_uid, False)
    )


def _entries(holds: Holds) -> Iterator[CheckpointEntry]:
    yield from holds.unnamed
    yield from holds.unlisted
    yield from holds.ended


def _key(entry: CheckpointEntry) -> ShareKey:
    return entry.resource, entry.id


def _uuid(share: str) -> str:
    return share.partition("::")[0]
