"""A rule together with the place where its author wrote it, so that the checks of all formats can name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.documents.tree import Path, Tree
from nodeagent.model.config import Rule, Where


@dataclass(frozen=True, slots=True)
class Sited:
    """`path` leads to the rule in `tree`; `keys` maps our names of its fields to the format's, where they differ."""

    rule: Rule
    tree: Tree
    path: Path
    keys: Mapping[str, Path] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """`rule "small" (line 7)`."""
        return f"{self.rule.called} (line {self.where().line})"

    def where(self, name: str | None = None) -> Where:
        """The place of a field of this rule, or of the rule itself; this too for a field that NVIDIA's file could have
        and has not.
        """
        if name is None or (self.rule.origin is not None and not self.gives(name)):
            return self.tree.where(self.path)
        return self.tree.where(self._path(name))

    def gives(self, name: str) -> bool:
        """Whether its author wrote a field, rather than leave it to its default."""
        return self._path(name) in self.tree.values

    def key(self, name: str) -> str:
        """What the format calls a field."""
        return str((self.keys.get(name) or (name,))[-1])

    def _path(self, name: str) -> Path:
        return (*self.path, *self.keys.get(name, (name,)))
