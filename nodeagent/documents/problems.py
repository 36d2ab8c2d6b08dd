"""Keeps what is found wrong with the YAML of one document, while the rest of it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nodeagent.documents.scalars import Misread
from nodeagent.documents.tree import MOST_KEPT, Mark, Path, brief, dotted
from nodeagent.model.config import Stage, Violation, Where


class Problems:
    """The problems of a document; `misread`, `incomplete` and `borrowed` are as in a tree."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[Violation] = []
        self._unheard = 0
        self._anchors: dict[str, tuple[Path, int, Violation | None]] = {}
        self._solved: set[Violation] = set()
        self._used: list[str] = []
        self._templates = 0
        self.misread: dict[Violation, tuple[Path, Misread | None]] = {}
        self.incomplete: set[Path] = set()
        self.borrowed: set[Path] = set()

    @property
    def heard(self) -> bool:
        """Whether what is read now is worth a report of its own."""
        return not self._unheard

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """What is read meanwhile means nothing, and is not worth a report of its own."""
        self._unheard += 1
        yield
        self._unheard -= 1

    def all(self) -> tuple[Violation, ...]:
        """In the order of the file."""
        found = [problem for problem in self._found if problem not in self._solved]
        return tuple(sorted(found, key=lambda problem: (problem.where.line, problem.where.column)))

    def add(self, mark: Mark, path: Path, message: str | Callable[[], str]) -> Violation | None:
        """The problem, if it is kept."""
        if self._unheard or len(self._found) >= MOST_KEPT:
            return None
        told = message if isinstance(message, str) else message()
        self._found.append(self.violation(mark, path, told))
        return self._found[-1]

    def violation(self, mark: Mark, path: Path, message: str) -> Violation:
        """A problem that is not kept here."""
        return Violation(self._file, Where(dotted(path), *mark), message, Stage.PARSE)

    def word(self, mark: Mark, path: Path, misread: Misread) -> None:
        """A value that may mean several things."""
        if problem := self.add(mark, path, lambda: str(misread)):
            self.misread[problem] = path, misread

    def no_key(self, mark: Mark, path: Path, word: str) -> None:
        """A word that cannot be a key of the object at `path`."""
        shown = brief(word)
        if problem := self.add(mark, path, f'expected a string as key, got {shown or "nothing"}; write "{shown}"'):
            self.misread[problem] = (*path, word), None

    def take_back(self, mark: Mark) -> None:
        """The last problem, if it is of that place."""
        if self._found and (self._found[-1].where.line, self._found[-1].where.column) == mark:
            self.misread.pop(self._found.pop(), None)

    def anchor(self, name: str, mark: Mark, path: Path) -> None:
        """A value that has a name."""
        problem = self.add(mark, path, f"expected a value, got the anchor &{brief(name)}; remove it")
        self._anchors[name] = path, mark[0], problem

    def alias(self, name: str, mark: Mark, path: Path) -> None:
        """A reference to such a value, or a word that begins as if it were one."""
        self._used.append(name)
        if name not in self._anchors:
            word = f"*{name}"
            self.word(mark, path, Misread(word, lambda: ((word,), "a reference to a value that is not there")))
        elif self.add(mark, path, lambda: self._alias(name)):
            self._solve(name)

    def _alias(self, name: str) -> str:
        return f"expected a value, got the alias *{brief(name)}; write the value out{self._and(name)}"

    @contextmanager
    def merge(self, mark: Mark, path: Path) -> Iterator[None]:
        """A merge key, whose value is read meanwhile: what it brings is not known here, so that nothing is missed."""
        used = len(self._used)
        with self.unheard():
            yield
        self.incomplete.add(path)
        names = [name for name in dict.fromkeys(self._used[used:]) if name in self._anchors]
        without = "".join(map(self._and, names))
        if self.add(mark, path, f"expected a key, got the merge key <<; write the values out{without}"):
            for name in names:
                self._solve(name)

    def template(self, mark: Mark, path: Path) -> None:
        """What a template engine was to replace. One is enough to say what is to be done with all of them."""
        self.incomplete.add(path)
        self._templates += self.heard
        if self._templates == 1:
            self.add(
                mark, path, "expected a value, got a template, {{…}}; render it first, such as with `helm template`"
            )

    def _and(self, name: str) -> str:
        path, line, _ = self._anchors[name]
        alone = ", with its key if that is there for nothing else" if len(path) == 1 else ""
        return f", and remove the anchor &{brief(name)} in line {line}{alone}"

    def _solve(self, name: str) -> None:
        """An anchor goes with what refers to it, and is no mistake of its own."""
        path, _, problem = self._anchors[name]
        self.borrowed.add(path)
        if problem is not None:
            self._solved.add(problem)
