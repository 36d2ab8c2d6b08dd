"""Checks a document against a JSON Schema, and says what is wrong in words that its author can act on.

The schemas are those published for editors, so that an editor, CI and the agent never disagree. A schema may carry
`x-expected` beside any keyword: the words that follow "expected" for a value that fails there. At its top it may carry
`x-synonyms`, which key is meant by one that people know from elsewhere, and `x-instead`, what to do about such a key;
in both `around.key` is for `key` under `around` alone, and of a list the first word counts that is not given already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.resources import files
from itertools import islice

from nodeagent.documents.evaluate import findings
from nodeagent.documents.faults import Fault, faults_of
from nodeagent.documents.hints import EACH, Guide
from nodeagent.documents.lookalikes import Odd, named
from nodeagent.documents.tree import MOST_KEPT, Path, Tree
from nodeagent.documents.unread import unread
from nodeagent.model.config import Stage, Violation, Where

Schema = Mapping[str, object]


def schema_text(name: str) -> str:
    """The published schema of that name, such as `sharing-config-v1alpha1`, as it stands. Raises FileNotFoundError."""
    return files("nodeagent").joinpath("schemas", f"{name}.json").read_text("utf-8")


def load_schema(name: str) -> Schema:
    """The published schema of that name. Raises FileNotFoundError."""
    schema: Schema = json.loads(schema_text(name))
    return schema


def judge(tree: Tree, schema: Schema) -> tuple[Violation, ...]:
    """Everything that is wrong with a document: its YAML, and every way in which it breaks `schema` (stage schema), in
    the order of the file; of each the first MOST_KEPT.

    A value that could not be read is among the problems of the tree; of that nothing more is said than how to write
    what its place takes. What is missing where something could not be read is not missed.
    """
    guide = Guide(schema, tree.value)
    every = (fault for finding in findings(tree.value, schema) for fault in faults_of(finding, guide))
    found = list(islice(every, MOST_KEPT))
    # A mistyped key is one mistake, not also the absence of the key that was meant, or of what is around it.
    meant = {path[:length] for fault in found for path in fault.meant for length in range(1, len(path) + 1)}
    wrong = {fault.path for fault in found if not fault.again}
    violations = {
        _violation(tree, fault)
        for fault in found
        if not any(_is_among((*fault.path, missing), meant) for missing in fault.missing)
        and not (fault.missing and fault.path in tree.incomplete)
        and not (fault.at_key and fault.path in tree.borrowed)
        and not (fault.again and fault.path in wrong)
        and not (_is_among(fault.path, meant) and guide.empty(fault.path))
    }
    violations.update(_odd(tree, path, odd) for path, odd in islice(tree.odd_values.items(), MOST_KEPT) if odd.alone)
    violations.update(unread(tree, guide, found))
    return tuple(sorted(violations, key=lambda one: (one.where.line, one.where.column, one.message)))


def _is_among(path: Path, meant: Collection[Path]) -> bool:
    """Whether a place is meant, also as one of the items of a list, whichever that is."""
    return path in meant or tuple(EACH if isinstance(step, int) else step for step in path) in meant


def _violation(tree: Tree, fault: Fault) -> Violation:
    odd = (tree.odd_keys if fault.at_key else tree.odd_values).get(fault.path)
    if odd is None or fault.missing:
        return Violation(tree.file, tree.where(fault.path, key=fault.at_key), fault.message, Stage.SCHEMA)
    violation = _odd(tree, fault.path, odd)
    if odd.surely or fault.at_key:
        return violation
    return replace(violation, message=f"{fault.message}; it holds {named(odd.character)}")


def _odd(tree: Tree, path: Path, odd: Odd) -> Violation:
    where = Where(tree.where(path).path, odd.line, odd.column)
    return Violation(tree.file, where, odd.message, Stage.SCHEMA)
