"""Writes a sharing config as a file in our own format: how NVIDIA's file becomes one that can say more."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Final

from nodeagent.config.v1alpha1 import API_VERSION, KIND
from nodeagent.documents.quantities import format_duration, format_quantity
from nodeagent.documents.scalars import Misread, resolve
from nodeagent.model.config import DEFAULT_TRANSITION_TIMEOUT, Match, Mode, Rule, SharingConfig

DEFAULT_NAME: Final = "converted"

_PLAIN: Final = re.compile(r"[A-Za-z][-A-Za-z0-9._/]*")
_WIDTH: Final = 110


def to_yaml(config: SharingConfig, *, name: str | None = None) -> str:
    """A document that loads as `config`, its notes as comments.

    `name` replaces the config's own; one that has none (NVIDIA's file) is called `converted`. Memory is given in whole
    KiB and times in whole milliseconds, as in every config that came from a file.
    """
    return "\n".join([*_lines(config, name or config.name or DEFAULT_NAME), ""])


def _lines(config: SharingConfig, name: str) -> Iterator[str]:
    for note in config.notes:
        yield from textwrap.wrap(note, _WIDTH, initial_indent="# ", subsequent_indent="#   ")
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
    if config.transition_timeout != DEFAULT_TRANSITION_TIMEOUT:
        yield f"  transition: {{timeout: {format_duration(config.transition_timeout)}}}"


def _rule(rule: Rule) -> Iterator[str]:
    yield f"    - name: {_text(rule.name)}"
    criteria = list(_criteria(rule.match))
    if criteria:
        yield f"      match: {{{', '.join(criteria)}}}"
    if rule.contract is None:
        yield "      withheld: {}"
        return
    yield f"      resource: {_text(rule.contract.resource)}"
    if rule.contract.mode is Mode.EXCLUSIVE:
        yield "      exclusive: {}"
    else:
        yield f"      timeSlicing: {{replicas: {rule.replicas}}}"
    if rule.max_shares_per_container is not None:
        yield f"      maxSharesPerContainer: {rule.max_shares_per_container}"


def _criteria(match: Match) -> Iterator[str]:
    if match.indices is not None:
        yield f"indices: [{', '.join(map(str, sorted(match.indices)))}]"
    if match.uuids is not None:
        yield f"uuids: [{', '.join(map(_text, sorted(match.uuids)))}]"
    if match.models is not None:
        yield f"models: [{', '.join(map(_text, match.models))}]"
    if match.min_memory is not None:
        yield f"minMemory: {format_quantity(match.min_memory)}"


def _text(text: str) -> str:
    """A string in YAML: plain where every reader takes it for that string, else in quotes."""
    try:
        if _PLAIN.fullmatch(text) and resolve(text) == text:
            return text
    except Misread:
        pass
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
