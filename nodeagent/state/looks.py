"""How to look at the kubelet: when by `List`, of which pods by `Get`, and when to have its checkpoint written.

`List` makes the kubelet forget devices of pods that have ended, and with them every device that is being allocated at
that moment: the next pod can be given it again, also a device of another plugin. `Get` and the checkpoint do no such
thing, but cannot name a new pod. So `List` goes out

- when something is to be taken away and the last one is older than that decision (`list_at`);
- when something waits for pods of a GPU on which a share has a holder without a name (`list_at`, `LIST_GAP` apart):
  only with a name can the holder's end be seen at once;
- when the checkpoint names two pods for one share: both names are reported (`list_at`);
- when something waits for a share that the checkpoint names and `List` does not, or that was held before a kubelet
  restart (`list_at`, `LINGER_GAP` apart; `LIST_SELDOM` if its pod has a cgroup: it mostly runs, but the kubelet keeps
  the cgroup of one that has ended until its volumes are unmounted);
- when something waits for pods that `List` has shown (`list_at`, `LIST_SELDOM` apart): of pods that have ended and are
  still in the API, `Get` does not say the same on all kubelets;
- when pods without a name are there and nothing waits for them: for reports alone, so in a quiet moment only, and
  seldom (`names_at`).

After a `List` the kubelet knows which pods have ended, and its checkpoint may not. It is written anew with every list
of devices that is sent: sending ours again (`rewrites`) makes the file true. That ends what only the file still holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.kubelet import CheckpointEntry, Looks, PodListing, PodName
from nodeagent.model.shares import Applied
from nodeagent.state.holds import GRANT_GRACE, GRANT_SETTLED, UNLISTED_GRACE, running
from nodeagent.state.shared import by_checkpoint

LIST_GAP = 2.0
"""Seconds between two `List` that only learn names, at least."""

LINGER_GAP = 5.0
"""The same for what `List` does not show and the checkpoint keeps."""

LIST_SELDOM = 30.0
"""The same where something waits for pods that have names: `Get` may go on showing one that has ended and not been
deleted, such as a Job's.
"""

ASK_SELDOM = 5.0
"""Seconds for which an answer about a pod is good enough while nothing waits for its end. Much less than the interval
of looks then, so that each of them asks for every pod, also when one was asked for in between.
"""


def looks(
    listing: PodListing | None,
    holds: Holds,
    applied: Applied,
    *,
    interval: float,
    decision: float | None,
    waits: AbstractSet[str],
    shared: AbstractSet[str] = frozenset(),
) -> Looks:
    """The looks that are needed. `decision` is when what waits was decided, None where nothing waits; `waits` are the
    uuids of GPUs that wait for pods to end, `shared` those on which two pods were seen to have one share.
    """
    listed_at = listing.listed_at if listing is not None else float("-inf")
    silicon = {physical(uuid, applied) for uuid in waits}
    nameless = _nameless(holds, listing)
    pressing = [since for key, since in nameless if physical(_uuid(key), applied) in silicon]
    twice = by_checkpoint(listing)
    twins = [since for entry, since in holds.unnamed.items() if _key(entry) in twice]

    # The first one goes out anyway, and is enough for what only adds.
    needed = [] if decision is None or listing is None or listed_at >= decision else [decision]
    needed += [max(since + GRANT_SETTLED, listed_at + LIST_GAP) for since in (*pressing, *twins)]
    welcome = [max(since + GRANT_SETTLED, listed_at + LIST_GAP) for _, since in nameless]
    if holds.carried:
        runs = running(holds)
        for key in holds.carried:
            awaited = physical(_uuid(key), applied) in silicon
            (needed if awaited else welcome).append(listed_at + (LIST_SELDOM if key in runs else LINGER_GAP))
    if any(physical(_uuid(key), applied) in silicon for key in holds.listed):
        needed.append(listed_at + LIST_SELDOM)
    needed += [
        listed_at + gap
        for gap, run in ((LINGER_GAP, False), (LIST_SELDOM, True))
        if _lingering(listing, holds, applied, waits, run=run)
    ]
    return Looks(
        interval=interval,
        asks=_asks(listing, applied, silicon | {physical(uuid, applied) for uuid in shared}),
        list_at=min(needed, default=None),
        names_at=min(welcome, default=None),
    )


def rewrites(
    listing: PodListing | None, holds: Holds, applied: Applied, *, waits: AbstractSet[str], rewritten_at: float
) -> frozenset[str]:
    """Resources whose lists should be sent again now, since the checkpoint may hold what the newest `List` has ended.
    `rewritten_at` is when the `List` began after which that was last done. It is done once for each entry, and now and
    then for one that is waited for.
    """
    passed = listing.listed_at - rewritten_at if listing is not None else 0.0
    if passed < LIST_GAP:
        return frozenset()
    news = {_key(entry) for entry, since in holds.unlisted.items() if since + GRANT_SETTLED > rewritten_at}
    kept = frozenset[ShareKey]()
    if passed >= LINGER_GAP:
        kept = frozenset(holds.carried.keys() - running(holds)) | _lingering(listing, holds, applied, waits, run=False)
    if passed >= LIST_SELDOM:
        kept |= frozenset(holds.carried) | _lingering(listing, holds, applied, waits, run=True)
    return frozenset(resource for resource, _ in kept | news)


def physical(uuid: str, applied: Applied) -> str:
    """The GPU that a MIG device is part of; a GPU's own uuid."""
    entry = applied.gpus.get(uuid)
    return entry.gpu.physical if entry is not None else uuid


def _nameless(holds: Holds, listing: PodListing | None) -> list[tuple[ShareKey, float]]:
    """Shares whose holder only a `List` can name, and since when: new entries of the checkpoint, and grants that have
    not become one in time.
    """
    begun_at = listing.begun_at if listing is not None else float("-inf")
    entries = [(_key(entry), since) for entry, since in holds.unnamed.items()]
    overdue = [
        (key, at + GRANT_GRACE - GRANT_SETTLED) for key, at in holds.granted.items() if begun_at >= at + GRANT_GRACE
    ]
    return entries + overdue


def _lingering(
    listing: PodListing | None, holds: Holds, applied: Applied, waits: AbstractSet[str], *, run: bool
) -> frozenset[ShareKey]:
    """Shares of GPUs that wait for pods which count as held, since the checkpoint names them, and `List` does not:
    those whose pods have a cgroup, if they are to `run`, or the others.
    """
    silicon = {physical(uuid, applied) for uuid in waits}
    now = listing.begun_at if listing is not None else float("-inf")
    keys = {
        _key(entry)
        for entry, since in holds.unlisted.items()
        if holds.cgroups.get(entry.pod_uid, False) is run and (run or now < since + UNLISTED_GRACE)
    }
    return frozenset(key for key in keys if physical(_uuid(key), applied) in silicon)


def _asks(listing: PodListing | None, applied: Applied, silicon: AbstractSet[str]) -> Mapping[PodName, float]:
    found: dict[PodName, float] = {}
    for holder in listing.holders if listing is not None else ():
        uuids = {share.partition("::")[0] for share in holder.ids} & applied.gpus.keys()
        if uuids:
            awaited = any(physical(uuid, applied) in silicon for uuid in uuids)
            found[holder.name] = min(found.get(holder.name, ASK_SELDOM), 0.0 if awaited else ASK_SELDOM)
    return found


def _uuid(key: ShareKey) -> str:
    return key[1].partition("::")[0]


def _key(entry: CheckpointEntry) -> ShareKey:
    return entry.resource, entry.id
