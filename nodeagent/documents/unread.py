"""What to say of a word that readers of YAML take for different things, where a schema says what its place takes."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

from nodeagent.documents.faults import Fault, faults_of, unknown_key
from nodeagent.documents.hints import Guide
from nodeagent.documents.mends import written
from nodeagent.documents.scalars import Misread
from nodeagent.documents.tree import Path, Tree, brief
from nodeagent.model.config import Violation


def unread(tree: Tree, guide: Guide, faults: Sequence[Fault]) -> Iterator[Violation]:
    """The problems of a tree, of which each names only what is accepted; `faults` are all against the schema."""
    unknown = {fault.path: fault for fault in faults if fault.at_key}
    wrong = {fault.path for fault in faults if not fault.at_key and not fault.missing}
    for problem in tree.problems:
        if problem not in tree.misread or not guide.asked():
            yield problem
            continue
        path, misread = tree.misread[problem]
        if misread is None:
            yield replace(problem, message=_of_key(path, guide) or problem.message)
        elif (place := _meant(path, unknown)) is not None and (guide.at(place) or not _within(place, wrong)):
            yield replace(problem, message=_of_word(place, misread, guide))


def _meant(path: Path, unknown: Mapping[Path, Fault]) -> Path | None:
    """Where a value was meant to stand. None: its key means nothing, so that it is not worth a report of its own."""
    for length in range(1, len(path) + 1):
        fault = unknown.get(path[:length])
        if fault is not None:
            return (*fault.meant[0], *path[length:]) if fault.meant else None
    return path


def _within(path: Path, wrong: Container[Path]) -> bool:
    """Whether it stands in something that is wrong as a whole."""
    return any(path[:length] in wrong for length in range(len(path)))


def _of_key(path: Path, guide: Guide) -> str | None:
    """The keys that there are, where they are known and this word is none of them."""
    word = str(path[-1])
    if not guide.at(path[:-1]) or word in guide.keys(path[:-1]):
        return None
    return unknown_key(path, guide).message.replace(f'"{brief(word)}"', brief(word) or "nothing", 1)


def _of_word(path: Path, misread: Misread, guide: Guide) -> str:
    """How to write what may be meant and is accepted, else what else is wrong with the word as a text."""
    good = [choice for choice in misread.choices if guide.accepts(path, choice)]
    given = [choice for choice in good if choice in guide.siblings(path)]
    if given:
        return f"expected each item once, got {misread.word}; remove it, {written(given[0])} is in the list already"
    finding = None if good else guide.finding(path, misread.word)
    if finding is None:
        return misread.among(good or misread.choices)
    (fault, *_) = faults_of(finding, guide)
    return fault.message.replace(json.dumps(misread.word, ensure_ascii=False), misread.word, 1)
