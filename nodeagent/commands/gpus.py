"""The GPUs that a config is tried on where no agent is asked: those of a driver, or such as the config asks for."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from nodeagent import settings
from nodeagent.commands.exits import USAGE, Failure
from nodeagent.durable.atomic import Untrusted
from nodeagent.model.config import Loaded, Match, SharingConfig, Violation
from nodeagent.model.inventory import Gpu, Inventory, MigDevice
from nodeagent.model.shares import Applied
from nodeagent.state.desired import check, resolve
from nodeagent.state.nodegpus import node_gpus, unseen
from nodeagent.store.state_dir import boot_id, look_at_applied

MOST: Final = 64
STATE_DIR: Final = next(option for option in settings.OPTIONS if option.flag == "--state-dir")

_MODEL: Final = "NVIDIA H100 80GB HBM3"
_MEMORY: Final = 80 << 30
_PROFILES: Final = ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
"""What such a GPU can be divided into, and how many slices it has for that."""
_SLICES: Final = 7
_WILD: Final = re.compile(r"\[[^]]*\]|[*?]")


def read_inventory(spec: str, code: int) -> Inventory:
    """The GPUs that `spec`, as of `run --driver`, names. Raises Failure with `code` where they cannot be known."""
    from nodeagent.devices.driver import read_once
    from nodeagent.documents.strict import Rejected

    name = os.environ.get("NODE_NAME") or socket.gethostname()
    root, library = settings.read_driver_place()
    try:
        inventory = asyncio.run(read_once(spec, node_name=name, driver_root=root, nvml_library=library))
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    except OSError as error:
        file = spec.partition(":")[2]
        raise Failure(f"cannot read {file}: {(error.strerror or str(error)).lower()}", code) from None
    except Rejected as rejected:
        raise Failure("\n".join(map(str, rejected.violations)), code) from None
    if not inventory.complete:
        raise Failure(f"cannot list the GPUs: {inventory.message}", code)
    return inventory


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Whose agent's numbers of GPUs are meant."""
    told = "with --driver: number the GPUs as the agent does that keeps its state there (default with nvml: that of"
    told += f" the agent [${STATE_DIR.environment}], {STATE_DIR.default})"
    parser.add_argument(STATE_DIR.flag, metavar=STATE_DIR.metavar, help=told)


def read_gpus(spec: str, directory: str | None, code: int) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that `spec` names with the numbers that the agent of the state directory gives them, and what is to be
    said of these numbers. Without a directory the agent of this machine is meant if the GPUs are this machine's, and
    what cannot be read of it is said; otherwise the numbers are the driver's. Raises Failure with `code`.
    """
    inventory = read_inventory(spec, code)
    place = Path(directory or os.environ.get(STATE_DIR.environment) or STATE_DIR.default or "")
    try:
        if directory is not None and not place.is_dir():
            raise Failure(f"cannot read {place}: expected the state directory of an agent", code)
        applied = _remembered(place) if directory is not None or spec == "nvml" else Applied()
    except (OSError, Untrusted) as error:
        if directory is not None:
            raise Failure(f"cannot read what the agent of {place} remembers: {_why(error)}", code) from None
        note = f"the GPUs have the driver's numbers, which the agent may count otherwise: cannot read {place}"
        return node_gpus(inventory, Applied()), f"{note}: {_why(error)}"
    return node_gpus(inventory, applied), ""


def _remembered(directory: Path) -> Applied:
    found = look_at_applied(directory, boot_id())
    if found is None:
        return Applied()
    applied, same_boot = found
    return applied if same_boot else unseen(applied)


def _why(error: OSError | Untrusted) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def plausible(count: int, config: SharingConfig) -> Iterator[tuple[Gpu, ...]]:
    """Nodes of `count` GPUs on which the rules of `config` come to bear: a usual one, and one such as each rule asks
    for.

    Only what is asked for is known of a pool's GPUs, so a limit that a rule breaks must not hide behind a model that
    was made up; nor is one broken by memory that was. They have what limits under MPS add up to, but where `minMemory`
    lets in GPUs that have less. On a node for MIG devices all are of one profile, so that they may have one name.
    """
    sums = (rule.replicas * rule.mps.memory for rule in config.rules if rule.mps is not None and rule.mps.memory)
    memory = max([_MEMORY, *sums])
    usual = tuple(Gpu(f"GPU-{index:08x}-0000-4000-8000-{index:012x}", index, _MODEL, memory) for index in range(count))
    yield usual
    for rule in config.rules:
        if rule.match.mig_only:
            yield from (tuple(_partitioned(rule.match, glob, usual)) for glob in rule.match.mig or ("*",))
        elif rule.match.models or rule.match.min_memory or rule.match.uuids:
            yield tuple(_such_as(rule.match, usual))


def faults(loaded: Loaded, nodes: Sequence[Sequence[Gpu]]) -> tuple[Violation, ...]:
    """What is wrong with a config on nodes with these GPUs, each thing once."""
    if loaded.config is None:
        return ()
    found = (one for gpus in nodes for one in check(resolve(loaded.config, gpus), loaded.document.path))
    return tuple(dict.fromkeys(found))


def _such_as(match: Match, usual: Sequence[Gpu]) -> Iterator[Gpu]:
    uuids = sorted((match.uuids or frozenset()) - match.parts)
    model = _WILD.sub("", match.models[0]) if match.models else _MODEL
    for position, gpu in enumerate(usual):
        uuid = uuids[position] if position < len(uuids) else gpu.uuid
        yield replace(gpu, uuid=uuid, model=model, memory=match.min_memory or gpu.memory)


def _partitioned(match: Match, glob: str, usual: Sequence[Gpu]) -> Iterator[Gpu]:
    """A node whose GPUs, those that a rule speaks of, consist of as many MIG devices of one profile as they can."""
    profile = next((one for one in _PROFILES if fnmatchcase(one, glob)), _WILD.sub("", glob))
    slices, _, memory = profile.rpartition("c.")[2].partition("g.")
    size = match.min_memory or _number(memory, 1) << 30
    uuids = iter(sorted(match.parts))
    for gpu in _such_as(replace(match, min_memory=None), usual):
        if not Match(match.indices, (match.uuids or frozenset()) - match.parts or None).matches(gpu):
            yield gpu
            continue
        yield replace(gpu, mig_enabled=True)
        for instance in range(max(_SLICES // _number(slices, 1), 1)):
            uuid = next(uuids, f"MIG-{gpu.index:08x}-0000-4000-8000-{instance:012x}")
            part = MigDevice(gpu.uuid, profile, instance, 0)
            yield replace(gpu, uuid=uuid, memory=size, mig=part)


def _number(text: str, otherwise: int) -> int:
    """The number that a text begins with, if it is one of at least 1."""
    found = re.match("[1-9][0-9]{0,3}", text)
    return int(found[0]) if found is not None else otherwise
