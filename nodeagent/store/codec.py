"""The applied contract and the holds as bytes, and back.

Decoding is as strict as the model: what `save` could not have written is `Untrusted`, never repaired. The applied
contract decides which ids the kubelet is told of after a restart; a guess could withdraw a share that a pod holds. What
a newer writer may add (`durable.formats`) is passed over.

What the driver calls a GPU at the moment, its index and the minor number of its device node, is not among it: the next
agent may find another GPU under it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.contracts import decode_contract, decode_enum, encode_contract
from nodeagent.durable.envelope import check_text, expect, member, optional, parse, seconds
from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, MigAttributes, MigDevice
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.moment import remembered
from nodeagent.model.shares import Applied, AppliedGpu, share_id, split_share_id
from nodeagent.store.ranges import pack, unpack

_MOST_DIGITS = 20
"""Of a number of 64 bits."""

_TOLD = 8
"""So many faults of one file are told, at most."""


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def encode_applied(applied: Applied, *, zero: float = 0.0) -> bytes:
    """One JSON object, GPUs in order of index. `zero` as in `Moment`."""
    return _dump({"gpus": [_encode_gpu(entry, zero) for entry in applied.ordered()]})


def _encode_gpu(entry: AppliedGpu, zero: float) -> dict[str, object]:
    gpu, contract = entry.gpu, entry.contract
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "model": gpu.model,
        "memory": gpu.memory,
        "computeCapability": gpu.compute_capability,
        "pciBusId": gpu.pci_bus_id,
        "numaNode": gpu.numa_node,
        "health": gpu.health.value,
        "message": gpu.message,
        "contract": None if contract is None else encode_contract(contract),
        "numbers": pack(entry.numbers),
        "fenced": pack(entry.fences),
        "leaving": entry.leaving,
        "maxSharesPerContainer": entry.max_shares_per_container,
        "unseen": entry.unseen,
        "fault": entry.fault,
        "migEnabled": gpu.mig_enabled,
        "mig": None if gpu.mig is None else _encode_mig(gpu.mig),
        "migCapable": gpu.mig_capable,
        "pciClass": gpu.pci_class,
        "clique": gpu.clique,
        "provisional": gpu.provisional,
        # In Unix seconds for an agent from before monotonic times, and then in those.
        "xids": {str(xid): _unix(at, zero) for xid, at in entry.xids.items()},
        "xidsAt": {str(xid): at for xid, at in entry.xids.items()},
        "driverLoad": entry.driver_load,
    }


def _encode_mig(device: MigDevice) -> dict[str, object]:
    return {
        "parent": device.parent,
        "profile": device.profile,
        "gpuInstance": device.gpu_instance,
        "computeInstance": device.compute_instance,
        "attributes": None if device.attributes is None else asdict(device.attributes),
    }


def decode_applied(body: bytes, now: float, *, zero: float = 0.0, same_boot: bool = True) -> Applied:
    """The applied contract; fences count from `now` (monotonic seconds) on. `zero` as in `Moment`. Raises Untrusted."""
    applied, refused = decode_each(body, now, zero=zero, same_boot=same_boot)
    if refused:
        raise Untrusted(refused)
    return applied


def decode_each(body: bytes, now: float, *, zero: float = 0.0, same_boot: bool = True) -> tuple[Applied, str]:
    """The same of each GPU by itself: those whose entry can be trusted, and what is wrong with the others. Raises
    Untrusted where no entry can be, or it is not known what the entries are.
    """
    gpus: dict[str, AppliedGpu] = {}
    refused: list[str] = []
    items = member(expect(parse(body), "file", dict), "gpus", list)
    told = Counter(uuid for item in items if isinstance(item, dict) and isinstance(uuid := item.get("uuid"), str))
    for item in items:
        try:
            entry = _decode_gpu(expect(item, "gpu", dict), now, zero, same_boot=same_boot)
        except Untrusted as error:
            refused.append(str(error))
        else:
            gpus[entry.gpu.uuid] = entry
    twice = [uuid for uuid in gpus if told[uuid] > 1]
    refused += [f"GPU {uuid[:80]!r} is there twice" for uuid in twice]
    if refused and len(gpus) == len(twice):
        raise Untrusted(_few(refused))
    return Applied({uuid: entry for uuid, entry in gpus.items() if uuid not in twice}), _few(refused)


def _few(told: Sequence[str]) -> str:
    return "; ".join(told[:_TOLD]) + (f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else "")


def _decode_gpu(item: Mapping[str, object], now: float, zero: float, *, same_boot: bool) -> AppliedGpu:
    uuid = member(item, "uuid", str)
    try:
        entry = _decode_entry(uuid, item, now, zero, same_boot=same_boot)
    except Untrusted as error:
        raise Untrusted(f"GPU {uuid[:80]!r}: {error}") from error
    return entry


def _decode_entry(uuid: str, item: Mapping[str, object], now: float, zero: float, *, same_boot: bool) -> AppliedGpu:
    gpu = Gpu(
        uuid=uuid,
        index=member(item, "index", int),
        model=member(item, "model", str),
        memory=member(item, "memory", int),
        compute_capability=_capability(optional(item, "computeCapability", list)),
        pci_bus_id=optional(item, "pciBusId", str),
        numa_node=optional(item, "numaNode", int),
        health=decode_enum(GpuHealth, member(item, "health", str)),
        message=member(item, "message", str),
        # An agent from before MIG and XIDs wrote nothing of them.
        mig_enabled=optional(item, "migEnabled", bool) or False,
        mig=_mig(optional(item, "mig", dict)),
        # An agent from before labels wrote nothing of these.
        mig_capable=optional(item, "migCapable", bool) or False,
        pci_class=optional(item, "pciClass", str),
        clique=optional(item, "clique", str),
        # An agent from before it wrote nothing of this: its numbers stay as they are.
        provisional=optional(item, "provisional", bool) or False,
    )
    entry = AppliedGpu(
        gpu=gpu,
        contract=_contract(optional(item, "contract", dict)),
        numbers=unpack(member(item, "numbers", str)),
        fences=dict.fromkeys(sorted(unpack(member(item, "fenced", str))), now),
        leaving=optional(item, "leaving", bool) or False,  # an agent from before waves wrote none
        max_shares_per_container=optional(item, "maxSharesPerContainer", int),
        unseen=member(item, "unseen", bool),
        fault=optional(item, "fault", str) or "",  # an agent from before MPS wrote none
        xids=_xids(
            _times(optional(item, "xids", dict), optional(item, "xidsAt", dict), now, zero, same_boot=same_boot)
        ),
        driver_load=optional(item, "driverLoad", str),
    )
    _check(entry)
    return entry


def _check(entry: AppliedGpu) -> None:
    """What is true of every `AppliedGpu` that the planner makes."""
    _check_texts(entry)
    wrong = None
    if not entry.gpu.uuid or entry.gpu.index < 0 or entry.gpu.memory < 0:
        wrong = "its facts are impossible"
    elif not entry.fences.keys() <= entry.numbers:
        wrong = "shares are fenced that are not advertised"
    elif entry.gpu.mig is not None and (entry.gpu.mig_enabled or entry.gpu.mig.parent == entry.gpu.uuid):
        wrong = "it is a GPU and a MIG device at once"
    elif entry.contract is None and entry.numbers:
        wrong = "shares are advertised without a contract"
    elif entry.contract is not None and entry.contract.mode is Mode.EXCLUSIVE and not entry.numbers <= {0}:
        wrong = "an exclusive GPU has more than one share"
    elif entry.max_shares_per_container is not None and entry.max_shares_per_container < 1:
        wrong = "its limit per container is below 1"
    if wrong:
        raise Untrusted(wrong)


def _check_texts(entry: AppliedGpu) -> None:
    """JSON can carry text that UTF-8 cannot, and numbers that a list for the kubelet cannot."""
    gpu, contract = entry.gpu, entry.contract
    texts = (
        gpu.uuid,
        gpu.model,
        gpu.message,
        gpu.pci_bus_id,
        gpu.pci_class,
        gpu.clique,
        entry.fault,
        entry.driver_load,
    )
    of_mig = (gpu.mig.parent, gpu.mig.profile) if gpu.mig is not None else ()
    for text in (*texts, *of_mig, contract.resource if contract is not None else None):
        check_text(text or "", "text")
    if gpu.numa_node is not None and not -(2**63) <= gpu.numa_node < 2**63:
        raise Untrusted(f"numaNode: expected a number of 64 bits, got {gpu.numa_node}")


def _capability(value: list[object] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if len(value) < 2:
        raise Untrusted("computeCapability: expected [major, minor]")
    return expect(value[0], "major", int), expect(value[1], "minor", int)


def _mig(value: Mapping[str, object] | None) -> MigDevice | None:
    if value is None:
        return None
    return MigDevice(
        parent=member(value, "parent", str),
        profile=member(value, "profile", str),
        gpu_instance=member(value, "gpuInstance", int),
        compute_instance=member(value, "computeInstance", int),
        attributes=_attributes(optional(value, "attributes", dict)),
    )


def _attributes(value: Mapping[str, object] | None) -> MigAttributes | None:
    return (
        None
        if value is None
        else MigAttributes(**{one.name: member(value, one.name, int) for one in fields(MigAttributes)})
    )


def _xids(times: Mapping[str, float]) -> dict[int, float]:
    if not all(xid.isascii() and xid.isdigit() and len(xid) <= _MOST_DIGITS for xid in times):
        raise Untrusted("xids: expected numbers")
    return {int(xid): at for xid, at in times.items()}


def _unix(at: float, zero: float) -> float:
    """By a wall clock that may be set to any time; none before 1970 is read."""
    return max(zero + at, 0.0)


def _times(
    unix: Mapping[str, object] | None,
    monotonic: Mapping[str, object] | None,
    now: float,
    zero: float,
    *,
    same_boot: bool,
) -> dict[str, float]:
    """The monotonic times if an agent that knows of them wrote them in this boot, else what follows from the Unix ones
    (see `remembered`).
    """
    known = (monotonic or {}) if same_boot else {}
    found = {key: remembered(seconds(at, "time"), zero, now) for key, at in (unix or {}).items()}
    return found | {key: _time(at, now) for key, at in known.items() if key in found}


def _contract(value: Mapping[str, object] | None) -> Contract | None:
    return None if value is None else decode_contract(value)


def encode_holds(holds: Holds, *, zero: float = 0.0) -> bytes:
    """One JSON object; ids are grouped by resource, GPU and container, numbers as ranges. `zero` as in `Moment`."""
    return _dump(
        {
            "kubelet": holds.kubelet,
            "listed": _pack_keys(holds.listed),
            "carried": _pack_keys(holds.carried),
            # An agent from before it reads the one above alone.
            "carriedSince": [
                {"since": at, "carried": _pack_keys(key for key, since in holds.carried.items() if since == at)}
                for at in sorted({*holds.carried.values()})
            ],
            "granted": [[resource, share, at] for (resource, share), at in holds.granted.items()],
            "unlisted": [
                [entry.pod_uid, entry.container, entry.resource, entry.id, at] for entry, at in holds.unlisted.items()
            ],
            "ended": _pack_entries(holds.ended),
            # In Unix seconds for an agent from before monotonic times, and then in those.
            "draining": {uuid: _unix(at, zero) for uuid, at in holds.draining.items()},
            "drainingAt": dict(holds.draining),
        }
    )


def decode_holds(body: bytes, now: float, *, same_boot: bool, zero: float = 0.0) -> Holds:
    """The holds. Raises Untrusted.

    Monotonic times mean nothing after a reboot: then `unlisted` entries and what was carried count from `now`, grants
    are gone (the pods that they were for were admitted by a kubelet that is no more, and are in its checkpoint if it
    admitted them) and no kubelet process is known, so that the first listing is taken for a restarted kubelet's; a
    drain is as old as the wall clock says, and no older than the boot. A time later than `now` is `now`. `zero` as in
    `Moment`.
    """
    value = expect(parse(body), "file", dict)
    granted: dict[ShareKey, float] = {}
    for row in member(value, "granted", list):
        resource, share, at = _row(row, 3)
        granted[expect(resource, "resource", str), expect(share, "id", str)] = _time(at, now)
    unlisted: dict[CheckpointEntry, float] = {}
    for row in member(value, "unlisted", list):
        *texts, at = _row(row, 5)
        entry = CheckpointEntry(*(expect(text, "entry", str) for text in texts))
        unlisted[entry] = _time(at, now) if same_boot else now
    holds = Holds(
        kubelet=optional(value, "kubelet", str) if same_boot else None,
        listed=_unpack_keys(member(value, "listed", dict)),
        carried=_carried(value, now, same_boot=same_boot),
        granted=granted if same_boot else {},
        unlisted=unlisted,
        ended=_unpack_entries(member(value, "ended", list)),
        draining=_times(
            member(value, "draining", dict), optional(value, "drainingAt", dict), now, zero, same_boot=same_boot
        ),
    )
    keys = {*holds.listed, *holds.carried, *holds.granted}
    for resource in {key[0] for key in keys} | {entry.resource for entry in (*holds.unlisted, *holds.ended)}:
        check_text(resource, "resource")
    return holds


def _carried(value: Mapping[str, object], now: float, *, same_boot: bool) -> dict[ShareKey, float]:
    """What was carried, and since when; from `now` on where that is not said."""
    carried = dict.fromkeys(_unpack_keys(member(value, "carried", dict)), now)
    for item in optional(value, "carriedSince", list) or () if same_boot else ():
        group = expect(item, "carriedSince", dict)
        keys = _unpack_keys(member(group, "carried", dict))
        carried |= dict.fromkeys(keys & carried.keys(), _time(group.get("since"), now))
    return carried


def _time(value: object, now: float) -> float:
    return min(seconds(value, "time"), now)


def _row(value: object, length: int) -> list[object]:
    """The first members of a row, which may have got more since."""
    row = expect(value, "row", list)
    if len(row) < length:
        raise Untrusted(f"row: expected {length} members, got {len(row)}")
    return row[:length]


def _pack_ids(ids: Iterable[str]) -> dict[str, object]:
    """Ids of the form `<uuid>::<number>` by uuid as ranges; any other (an exclusive GPU's, a foreign one) as it is."""
    plain: list[str] = []
    numbered: dict[str, list[int]] = {}
    for share in ids:
        uuid, number = _split(share)
        if number is None:
            plain.append(share)
        else:
            numbered.setdefault(uuid, []).append(number)
    return {"ids": sorted(plain), "shares": {uuid: pack(numbers) for uuid, numbers in sorted(numbered.items())}}


def _split(share: str) -> tuple[str, int | None]:
    try:
        uuid, number = split_share_id(share)
    except ValueError:
        return share, None
    return (share, None) if number is None else (uuid, number)


def _unpack_ids(value: object) -> Iterator[str]:
    group = expect(value, "ids", dict)
    for share in member(group, "ids", list):
        yield expect(share, "id", str)
    for uuid, numbers in member(group, "shares", dict).items():
        for number in unpack(expect(numbers, "numbers", str)):
            yield share_id(uuid, Mode.TIME_SLICED, number)


def _pack_keys(keys: Iterable[ShareKey]) -> dict[str, object]:
    by_resource: dict[str, list[str]] = {}
    for resource, share in keys:
        by_resource.setdefault(resource, []).append(share)
    return {resource: _pack_ids(ids) for resource, ids in sorted(by_resource.items())}


def _unpack_keys(value: Mapping[str, object]) -> frozenset[ShareKey]:
    return frozenset((resource, share) for resource, group in value.items() for share in _unpack_ids(group))


def _pack_entries(entries: Iterable[CheckpointEntry]) -> list[object]:
    by_container: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        by_container.setdefault((entry.pod_uid, entry.container, entry.resource), []).append(entry.id)
    return [[*container, _pack_ids(ids)] for container, ids in sorted(by_container.items())]


def _unpack_entries(value: list[object]) -> frozenset[CheckpointEntry]:
    entries: list[CheckpointEntry] = []
    for item in value:
        *texts, group = _row(item, 4)
        pod_uid, container, resource = (expect(text, "entry", str) for text in texts)
        entries.extend(CheckpointEntry(pod_uid, container, resource, share) for share in _unpack_ids(group))
    return frozenset(entries)
