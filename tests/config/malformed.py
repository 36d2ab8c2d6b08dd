"""Every malformed document that we could think of: data files, and a few that are too large to keep as files.

Beside each `NAME.yaml` stands `NAME.expected`: one line per violation, `STAGE LINE:COLUMN: PATH: MESSAGE`. To write
them anew after a change of words, run `python -m tests.config.malformed` and read the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodeagent.config.load import load
from nodeagent.model.config import Document, Violation

DIRECTORY = Path(__file__).parent.parent / "data" / "malformed"


def documents() -> dict[str, bytes]:
    """Name to bytes, all malformed."""
    found = {path.stem: path.read_bytes() for path in sorted(DIRECTORY.glob("*.yaml"))}
    return found | dict(_large())


def told(violation: Violation) -> str:
    """A violation as the `.expected` files have it."""
    return f"{violation.stage.value} {str(violation).removeprefix(violation.file + ':')}"


def _large() -> Iterator[tuple[str, bytes]]:
    yield "large-over-a-mebibyte", b"# " + b"x" * (1 << 20)
    yield "large-list", b"a: [" + b"1, " * 20_001 + b"]\n"
    yield "large-nesting", b"a: " + b"[" * 40_000 + b"]" * 40_000
    yield "large-nesting-of-objects", b"{a: " * 40_000 + b"}" * 40_000
    yield "large-nesting-of-keys", b"? " * 40_000
    yield "large-block-nesting", b"- " * 40_000


def _rewrite() -> None:
    for path in DIRECTORY.glob("*.yaml"):
        loaded = load(Document(path.name, path.read_bytes()))
        path.with_suffix(".expected").write_text("".join(f"{told(one)}\n" for one in loaded.violations), "utf-8")


if __name__ == "__main__":
    _rewrite()
