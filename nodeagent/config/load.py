"""From bytes to a sharing config, or to everything that is wrong with them.

Pure: the agent, `nodeagent validate` in CI and the tests all decide by this one function.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

from nodeagent.config import health, nvidia_v1, v1alpha1
from nodeagent.config.formats import Format, format_of, not_for_us
from nodeagent.config.semantics import check_rules
from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.schema import Schema, judge, load_schema
from nodeagent.documents.strict import Rejected, Tree, examine
from nodeagent.documents.tree import MOST_KEPT
from nodeagent.model.config import Document, Loaded, SharingConfig, Violation, mistakes

_SCHEMAS: Final = {Format.V1ALPHA1: v1alpha1.SCHEMA, Format.NVIDIA_V1: nvidia_v1.SCHEMA}

MOST_VIOLATIONS: Final = 50
"""A document with more is reported with as many, and with one more that says how many others there are."""


def load(document: Document) -> Loaded:
    """What a document means. Never raises for its content: what is wrong with it is in `violations`, all of it at once.

    Schema faults are reported together with what is wrong with the YAML; contradictions between rules (stage
    semantic) only for a document without either, since they would follow from them.
    """
    try:
        tree = examine(document.data, document.path)
    except Rejected as rejected:
        return Loaded(document, None, bounded(rejected.violations))
    return load_tree(document, tree)


def load_tree(document: Document, tree: Tree) -> Loaded:
    """As `load`, of a document that has been read already: positions are those of the tree."""
    config, violations = _read(tree)
    return Loaded(document, config, bounded(violations))


def _read(tree: Tree) -> tuple[SharingConfig | None, tuple[Violation, ...]]:
    meant = format_of(tree.value)
    if meant is None:
        return None, _of_another_kind(tree)
    faults = judge(tree, _schema(meant))
    if faults:
        return None, faults
    if meant is Format.NVIDIA_V1:
        faults = nvidia_v1.check(tree)
        if faults:
            return None, faults
        config, sited = nvidia_v1.parse(tree)
        faults = check_rules(sited)
    else:
        config, sited = v1alpha1.parse(tree)
        faults = _in_order((*check_rules(sited), *health.check(tree)))
    return (None, faults) if faults else (config, ())


def _of_another_kind(tree: Tree) -> tuple[Violation, ...]:
    """What a document is cannot be said of one that was not read; one word is no document, however it is read."""
    words = [misread.word for _, misread in tree.misread.values() if misread is not None]
    if tree.value is UNUSABLE and words:
        return (not_for_us(replace(tree, value=words[0])),)
    if tree.problems and (tree.value is UNUSABLE or () in tree.incomplete):
        return tree.problems
    return (*tree.problems, not_for_us(tree))


@cache
def _schema(meant: Format) -> Schema:
    return load_schema(_SCHEMAS[meant])


def _in_order(violations: tuple[Violation, ...]) -> tuple[Violation, ...]:
    return tuple(sorted(violations, key=lambda one: (one.where.line, one.where.column)))


def bounded(violations: tuple[Violation, ...]) -> tuple[Violation, ...]:
    """All of them, up to a number that nobody reads and that status and log can still carry."""
    if len(violations) <= MOST_VIOLATIONS + 1:
        return violations
    rest = mistakes(violations[MOST_VIOLATIONS:])
    # What reads documents ends with MOST_KEPT of a kind.
    told = f"{rest} {'or ' if rest + MOST_VIOLATIONS >= MOST_KEPT else ''}more mistakes from here on"
    return (*violations[:MOST_VIOLATIONS], replace(violations[MOST_VIOLATIONS], message=told, stands_for=rest))
