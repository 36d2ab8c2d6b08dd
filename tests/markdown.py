"""Just enough Markdown to hold the docs to their word: fenced blocks, links, anchors, and console transcripts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?) *#*$", re.MULTILINE)
_EXITS = re.compile(r"# exits (?P<code>\d+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it starts (line, from 1), its language, its text without the indentation of the fence."""

    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a transcript, the exit status that it must have, the output that follows (none: not compared)."""

    line: int
    text: str
    exits: int
    output: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Give the fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] for line in match["body"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, (match["info"].split() or [""])[0], body))
    return found


def links(text: str) -> list[str]:
    """Give the targets of a page's links, in order; those in code are none."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    return [match["target"] for match in _LINK.finditer(prose)]


def anchors(text: str) -> set[str]:
    """Give the anchors that GitHub makes of a page's headings."""
    titles = [match["title"].replace("`", "") for match in _HEADING.finditer(_FENCE.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(block: Block) -> list[Command]:
    """Read a transcript: `$ ` begins a command, `> ` continues it, the rest is output.

    `# exits N` at the end of a command's first line states its exit status.

    Raises:
        ValueError: the block begins with output.

    """
    read: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        if line.startswith("$ "):
            read.append((number, [line[2:]], []))
        elif not read:
            raise ValueError(f"line {number}: a transcript begins with `$ `")
        elif not read[-1][2] and (line == ">" or line.startswith("> ")):
            read[-1][1].append(line[2:])
        else:
            read[-1][2].append(line)
    return [_command(number, lines, output) for number, lines, output in read]


def _command(number: int, lines: list[str], output: list[str]) -> Command:
    status = _EXITS.search(lines[0])
    while output and not output[-1]:
        output.pop()
    return Command(number, "\n".join(lines), int(status["code"]) if status else 0, tuple(output))


def matches(expected: tuple[str, ...], actual: str) -> bool:
    """Tell whether the output is as the page shows it: `…` stands for any text, alone on a line for any lines."""
    pattern = ""
    for line in expected:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
    return re.fullmatch(pattern, actual.rstrip() + "\n" if actual.strip() else "") is not None


def pages(root: Path) -> list[Path]:
    """Give the pages for users: the README and everything in docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
