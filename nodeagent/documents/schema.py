"""Checks a document against a JSON Schema, and says what is wrong in words that its author can act on.

The schemas are those published for editors, so that an editor, CI and the agent never disagree. A schema may carry
`x-expected` beside any keyword: the words that follow "expected" for a value that fails there.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from nodeagent.documents.faults import Fault, faults_of, unknown_key
from nodeagent.documents.hints import Guide
from nodeagent.documents.scalars import UNUSABLE, Misread
from nodeagent.documents.tree import Path, Tree
from nodeagent.model.config import Stage, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

Schema = Mapping[str, object]

_IMPORTING = threading.Lock()


def schema_text(name: str) -> str:
    """The published schema of that name, such as `sharing-config-v1alpha1`, as it stands. Raises FileNotFoundError."""
    return files("nodeagent").joinpath("schemas", f"{name}.json").read_text("utf-8")


def load_schema(name: str) -> Schema:
    """The published schema of that name. Raises FileNotFoundError."""
    schema: Schema = json.loads(schema_text(name))
    return schema


def judge(tree: Tree, schema: Schema) -> tuple[Violation, ...]:
    """Everything that is wrong with a document: its YAML, and every way in which it breaks `schema` (stage schema), in
    the order of the file.

    A value that could not be read is among the problems of the tree; of that nothing more is said than how to write
    what its place takes. What is missing where something could not be read is not missed.
    """
    guide = _guide(tree, schema)
    found: list[Fault] = []
    for error in _validator(schema).iter_errors(cast("Any", tree.value)):
        if error.instance is not UNUSABLE:
            found.extend(faults_of(error, guide))
    # A mistyped key is one mistake, not also the absence of the key that was meant, or of what is around it.
    meant = {path[:length] for fault in found for path in fault.meant for length in range(1, len(path) + 1)}
    violations = {
        Violation(tree.file, tree.where(fault.path, key=fault.at_key), fault.message, Stage.SCHEMA)
        for fault in found
        if not any((*fault.path, missing) in meant for missing in fault.missing)
        and not (fault.missing and fault.path in tree.incomplete)
        and not (fault.at_key and fault.path in tree.borrowed)
    }
    unread = _unread(tree, schema, guide, {fault.path: fault for fault in found if fault.at_key})
    return tuple(sorted((*unread, *violations), key=lambda one: (one.where.line, one.where.column, one.message)))


def _unread(tree: Tree, schema: Schema, guide: Guide, unknown: Mapping[Path, Fault]) -> Iterator[Violation]:
    """The problems of the tree, with what is accepted in their places."""
    for problem in tree.problems:
        if problem not in tree.misread or not guide.asked():
            yield problem
            continue
        path, misread = tree.misread[problem]
        if misread is None:
            yield replace(problem, message=_of_key(path, guide) or problem.message)
            continue
        outer = next((path[:length] for length in range(1, len(path)) if path[:length] in unknown), None)
        if outer is None and path in unknown:
            outer = path
        if outer is not None:
            if not unknown[outer].meant:
                # Where a key means nothing, its value is not worth a report of its own.
                continue
            path = (*unknown[outer].meant[0], *path[len(outer) :])
        yield replace(problem, message=_of_word(path, misread, schema, guide))


def _of_key(path: Path, guide: Guide) -> str | None:
    """What to say of a word that is no key: the keys that there are, where they are known."""
    word = str(path[-1])
    if not guide.at(path[:-1]) or path[-1] in guide.keys(path[:-1]):
        return None
    return unknown_key(path, guide).message.replace(f'"{word}"', word or "nothing", 1)


def _of_word(path: Path, misread: Misread, schema: Schema, guide: Guide) -> str:
    """What to say of a word that may mean several things: only what its place takes."""
    schemas = guide.at(path)
    good = [choice for choice in misread.choices if guide.accepts(path, choice)]
    if good or not schemas:
        return misread.among(good or misread.choices)
    for part in schemas:
        for error in _validator(schema).evolve(schema=part).iter_errors(misread.word):
            error.relative_path.extendleft(reversed(path))
            (fault, *_) = faults_of(error, guide)
            return fault.message.replace(json.dumps(misread.word), misread.word, 1)
    return misread.among(misread.choices)


def _guide(tree: Tree, schema: Schema) -> Guide:
    validator = _validator(schema)
    return Guide(schema, tree.value, lambda part, value: validator.evolve(schema=part).is_valid(cast("Any", value)))


def _validator(schema: Schema) -> Validator:
    return _validator_class()(schema)


@cache
def _validator_class() -> type[Validator]:
    """The current draft, but `10.0` is no integer, and `$` in a pattern is the end of the text, as in every editor."""
    # Several threads read documents, and at the start of the agent all at once. Python resolves what it takes for a
    # deadlock between threads that import by giving one of them a module that is not whole.
    with _IMPORTING:
        from jsonschema import Draft202012Validator, validators

    def is_integer(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def pattern(_: object, expression: str, value: object, __: object) -> Iterator[ValidationError]:
        from jsonschema.exceptions import ValidationError

        if isinstance(value, str) and ("\n" in value or not re.search(expression, value, re.ASCII)):
            yield ValidationError(f"{value!r} does not match {expression!r}")

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    extend = cast("Callable[..., type[Validator]]", validators.extend)
    return extend(Draft202012Validator, {"pattern": pattern}, type_checker=checker)
