"""Writes a sharing config as a file in our own format: how NVIDIA's file becomes one that can say more."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from nodeagent.config.v1alpha1 import API_VERSION, KIND
from nodeagent.documents.quantities import format_duration, format_quantity
from nodeagent.documents.scalars import Misread, resolve
from nodeagent.model.config import (
    DEFAULT_TRANSITION_TIMEOUT,
    MIG_RESOURCES,
    Match,
    MaxUnavailable,
    Mode,
    MpsTerms,
    Placement,
    Rule,
    SharingConfig,
)
from nodeagent.model.handover import HandOver, ListStrategy
from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy
from nodeagent.model.printable import printable

DEFAULT_NAME: Final = "converted"

_PLAIN: Final = re.compile(r"[A-Za-z][-A-Za-z0-9._/]*")
_WIDTH: Final = 110

_WHOLE: Final = (
    "NVIDIA's migStrategy none would offer a GPU with MIG enabled as if it were whole; here its MIG devices are"
    " offered, as nvidia.com/mig-<profile>"
)

_BY_DEFAULT: Final = HandOver()


def notes(config: SharingConfig) -> tuple[str, ...]:
    """What is to be known of a config once it is written in our format, which cannot say all that NVIDIA's can."""
    return tuple(map(printable, (*config.notes, *_left_out(config))))


def _left_out(config: SharingConfig) -> Iterator[str]:
    if not config.mig:
        yield _WHOLE
    if config.labels.mig_strategy not in {None, "none"}:
        strategy = config.labels.mig_strategy
        yield (
            f"the label nvidia.com/mig.strategy, {strategy} with this file, follows with this format from how MIG"
            " devices are offered, and is there only where there are some"
        )
    if options := list(_options(config.handover.over(_BY_DEFAULT))):
        yield f"how devices are handed over is said by options of `nodeagent run`: {' '.join(options)}"
    if not config.labels.timestamp:
        yield "the label nvidia.com/gfd.timestamp, which gfd.noTimestamp leaves out, is there with this format"


def _options(wanted: HandOver) -> Iterator[str]:
    """What `run` must be given, besides what it does by default."""
    if wanted.strategies != _BY_DEFAULT.strategies:
        names = (strategy.value for strategy in ListStrategy if strategy in wanted.strategies)
        yield f"--device-list-strategy={','.join(names)}"
    if wanted.id_strategy is not _BY_DEFAULT.id_strategy:
        yield f"--device-id-strategy={wanted.id_strategy.value}"
    if wanted.device_specs:
        yield "--pass-device-specs"
    if wanted.dev_root != _BY_DEFAULT.dev_root:
        yield f"--dev-root={shlex.quote(wanted.dev_root)}"
    for option, given in (
        ("--gdrcopy-enabled", wanted.gdrcopy),
        ("--gds-enabled", wanted.gds),
        ("--mofed-enabled", wanted.mofed),
        ("--imex-channel-ids=0", bool(wanted.imex_channels)),
        ("--imex-required", wanted.imex_required),
    ):
        if given:
            yield option
    if wanted.annotation_prefix != _BY_DEFAULT.annotation_prefix:
        yield f"--cdi-annotation-prefix={wanted.annotation_prefix}"


def to_yaml(config: SharingConfig, *, name: str | None = None) -> str:
    """A document that loads as `config`, as far as our format can say it, its notes as comments.

    `name` replaces the config's own; one that has none (NVIDIA's file) is called `converted`. Memory is given in whole
    KiB (MiB under MPS) and times in whole milliseconds, as in every config that came from a file.
    """
    return "\n".join([*_lines(config, name or config.name or DEFAULT_NAME), ""])


def _lines(config: SharingConfig, name: str) -> Iterator[str]:
    for note in notes(config):
        # At hyphens an option would be torn.
        yield from textwrap.wrap(note, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
    yield f"apiVersion: {API_VERSION}"
    yield f"kind: {KIND}"
    yield "metadata:"
    yield f"  name: {_text(name)}"
    yield "spec:"
    if config.suspend:
        yield "  suspend: true"
    yield "  rules:"
    for rule in config.rules:
        yield from _rule(rule)
    if transition := list(_transition(config)):
        yield f"  transition: {{{', '.join(transition)}}}"
    if parts := list(_health(config.health)):
        yield f"  health: {{{', '.join(parts)}}}"


def _transition(config: SharingConfig) -> Iterator[str]:
    if config.transition_timeout != DEFAULT_TRANSITION_TIMEOUT:
        yield f"timeout: {format_duration(config.transition_timeout)}"
    if config.max_unavailable != MaxUnavailable():
        yield f"maxUnavailable: {config.max_unavailable}"


def _rule(rule: Rule) -> Iterator[str]:
    yield f"    - name: {_text(rule.name)}"
    criteria = list(_criteria(rule.match))
    if criteria:
        yield f"      match: {{{', '.join(criteria)}}}"
    if rule.contract is None:
        yield "      withheld: {}"
        return
    if rule.contract.resource != MIG_RESOURCES:
        yield f"      resource: {_text(rule.contract.resource)}"
    if rule.contract.mode is Mode.EXCLUSIVE:
        yield "      exclusive: {}"
    elif rule.mps is not None:
        yield f"      mps: {{{', '.join(_limits(rule.replicas, rule.mps))}}}"
    else:
        yield f"      timeSlicing: {{replicas: {rule.replicas}}}"
    if rule.max_shares_per_container != (1 if rule.mps is not None else None):
        yield f"      maxSharesPerContainer: {rule.max_shares_per_container}"
    if rule.placement is not Placement.DISTRIBUTED:
        yield f"      placement: {rule.placement.value}"


def _health(policy: HealthPolicy) -> Iterator[str]:
    if policy.critical is not None:
        yield f"criticalXids: {_numbers(policy.critical)}"
    elif policy.ignored != APPLICATION_XIDS:
        yield f"ignoreXids: {_numbers(policy.ignored)}"
    if policy.recover_after is not None:
        yield f"recovery: {{after: {format_duration(policy.recover_after)}, xids: {_numbers(policy.recoverable)}}}"


def _numbers(numbers: Iterable[int]) -> str:
    return f"[{', '.join(map(str, sorted(numbers)))}]"


def _limits(replicas: int, terms: MpsTerms) -> Iterator[str]:
    yield f"replicas: {replicas}"
    if terms.memory is not None:
        yield f"memoryPerReplica: {format_quantity(terms.memory, ('Gi', 'Mi'))}"
    if terms.threads is not None:
        yield f"threadPercentage: {terms.threads}"
    if terms.oversubscribe:
        yield "oversubscribe: true"


def _criteria(match: Match) -> Iterator[str]:
    if match.indices is not None:
        yield f"indices: {_numbers(match.indices)}"
    if match.uuids is not None:
        yield f"uuids: [{', '.join(map(_text, sorted(match.uuids)))}]"
    if match.models is not None:
        yield f"models: [{', '.join(map(_text, match.models))}]"
    if match.min_memory is not None:
        yield f"minMemory: {format_quantity(match.min_memory)}"
    if match.mig is not None:
        yield f"mig: [{', '.join(map(_text, match.mig))}]"


def _text(text: str) -> str:
    """A string in YAML: plain where every reader takes it for that string, else in quotes."""
    try:
        if _PLAIN.fullmatch(text) and resolve(text) == text:
            return text
    except Misread:
        pass
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
