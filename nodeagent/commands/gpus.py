"""The GPUs that a config is tried on where no agent is asked: those of a driver, or such as the config asks for."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from nodeagent.commands.exits import USAGE, Failure
from nodeagent.model.config import Loaded, Match, SharingConfig, Violation
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.state.desired import check, resolve

MOST: Final = 64

_MODEL: Final = "NVIDIA H100 80GB HBM3"
_MEMORY: Final = 80 << 30
_WILD: Final = re.compile(r"\[[^]]*\]|[*?]")


def read_inventory(spec: str, code: int) -> Inventory:
    """The GPUs that `spec`, as of `run --driver`, names. Raises Failure with `code` where they cannot be known."""
    from nodeagent.devices.driver import read_once
    from nodeagent.documents.strict import Rejected

    name = os.environ.get("NODE_NAME") or socket.gethostname()
    try:
        inventory = asyncio.run(read_once(spec, node_name=name))
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


def plausible(count: int, config: SharingConfig) -> Iterator[tuple[Gpu, ...]]:
    """Nodes of `count` GPUs on which the rules of `config` come to bear: a usual one, and one such as each rule asks
    for.

    Only what is asked for is known of a pool's GPUs, so a limit that a rule breaks must not hide behind a model that
    was made up.
    """
    usual = tuple(Gpu(f"GPU-{index:08x}-0000-4000-8000-{index:012x}", index, _MODEL, _MEMORY) for index in range(count))
    yield usual
    for rule in config.rules:
        if rule.match.models or rule.match.min_memory or rule.match.uuids:
            yield tuple(_such_as(rule.match, usual))


def faults(loaded: Loaded, nodes: Sequence[Sequence[Gpu]]) -> tuple[Violation, ...]:
    """What is wrong with a config on nodes with these GPUs, each thing once."""
    if loaded.config is None:
        return ()
    found = (one for gpus in nodes for one in check(resolve(loaded.config, gpus), loaded.document.path))
    return tuple(dict.fromkeys(found))


def idle_rules(config: SharingConfig, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """A note for each rule that decides nothing on a node with exactly these GPUs; one for all the rest may."""
    deciding = {config.rule_for(gpu).name for gpu in gpus}
    return tuple(
        f'rule "{rule.name}" decides for none of these {len(gpus)} GPUs'
        for rule in config.rules
        if rule.name not in deciding and not rule.match.takes_all
    )


def _such_as(match: Match, usual: Sequence[Gpu]) -> Iterator[Gpu]:
    uuids = sorted(match.uuids or ())
    model = _WILD.sub("", match.models[0]) if match.models else _MODEL
    for position, gpu in enumerate(usual):
        uuid = uuids[position] if position < len(uuids) else gpu.uuid
        yield replace(gpu, uuid=uuid, model=model, memory=max(_MEMORY, match.min_memory or 0))
