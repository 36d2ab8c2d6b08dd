"""Recognises what came into a document by a tool or a clipboard and is no YAML: templates, diffs, fences, tabs."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from nodeagent.documents.syntax_scene import Cause, Scene, content, short

_FENCE: Final = re.compile(r"\s*(```|~~~)")
_HERE_DOCUMENT: Final = re.compile(r"<<[-~]?\s*(['\"]?)[A-Za-z_]+\1(?!\s*:)")
_HERE_END: Final = re.compile(r"\s*(?:EOF|EOT|END|EOL|YAML)\s*")
_PROMPT: Final = re.compile(r"(?:[\w.@:~/-]*[$#>]|PS>) +[a-z]+ ")
_DIFF: Final = re.compile(r"diff --git |--- (?:a/|/dev/null)|\+\+\+ (?:b/|/dev/null)|@@ -|Index: ")
_MARKUP: Final = re.compile(r"\s*<(?:!|\?xml|[a-zA-Z]+[ >])")
_SECTION: Final = re.compile(r"\[[\w.-]+\]\s*")
_NUMBERED: Final = re.compile(r"\s*[0-9]+(?:\t|[|│]|: )")
_COMMENT: Final = re.compile(r"(?:^|[\s,{\[])(//|/\*)")
_TEMPLATE: Final = re.compile(r"\{\{.*?(?:\}\}|$)|\{%.*?(?:%\}|$)|<%.*?(?:%>|$)")
_VARIABLE: Final = re.compile(r"\$\{[^}]*\}?|\$\([^)]*\)?")
_QUOTED: Final = re.compile(r""" "(?:[^"\\]|\\.)*" | '[^']*' """, re.VERBOSE)
_FEW: Final = 3


def pasted(scene: Scene) -> Cause | None:
    """What is no YAML at all, and where it begins."""
    for cause in (_first_line, _fence, _here_document, _diff, _template, _comment, _tab):
        found = cause(scene)
        if found is not None:
            return found
    return None


def _first_line(scene: Scene) -> Cause | None:
    """What shows in the first lines that all of it is something else."""
    filled = list(islice((number for number, line in enumerate(scene.lines) if line.strip()), _FEW))
    lines = [scene.text(number) for number in filled]
    if not lines:
        return None
    first = short(lines[0])
    several = len(lines) == _FEW
    checks = (
        (_MARKUP.match(lines[0]), f"HTML or XML: {first}"),
        (_DIFF.match(lines[0]), f"a diff: {first}; apply it to the file that it changes"),
        (_SECTION.fullmatch(lines[0]) and "=" in "".join(lines), f"TOML or INI: {first}"),
        (_PROMPT.match(lines[0]), f'a command of a shell, "{first}"; remove the line'),
        (several and all(line.startswith("+") for line in lines), 'a diff: lines begin with "+"; remove it from each'),
        (several and all(map(_NUMBERED.match, lines)), "lines that begin with their number; remove the numbers"),
        (
            lines[0].startswith("%") and "document start" in scene.problem,
            f'no --- in a line after "{first}"; write it, or remove this line',
        ),
    )
    return next((((filled[0] + 1, 1), f"expected YAML, got {what}") for found, what in checks if found), None)


def _fence(scene: Scene) -> Cause | None:
    for number in scene.around():
        if found := _FENCE.match(scene.text(number)):
            return (number + 1, found.start(1) + 1), f"expected YAML, got a Markdown fence, {found[1]}; remove the line"
    return None


def _here_document(scene: Scene) -> Cause | None:
    first = next((number for number, line in enumerate(scene.lines) if content(line)), 0)
    for number in (first, *scene.around()):
        line = scene.text(number)
        if _HERE_END.fullmatch(line) or (number == first and _HERE_DOCUMENT.search(line)):
            message = f'expected YAML, got "{short(line)}" of a shell\'s here-document; remove the line'
            return (number + 1, len(line) - len(line.lstrip()) + 1), message
    return None


def _diff(scene: Scene) -> Cause | None:
    top = next((line for line in scene.lines if content(line)), "")
    for number in scene.around():
        line = scene.text(number)
        alone = line.startswith("+") or (re.match(r"-\s{2,}\S", line) and not top.startswith("-"))
        if alone or _DIFF.match(line):
            return (
                number + 1,
                1,
            ), f'expected YAML, got a line of a diff, which begins with "{line[0]}"; remove the sign'
    return None


def _template(scene: Scene) -> Cause | None:
    for number in scene.around():
        line = _without_quoted(scene.text(number))
        if found := _TEMPLATE.search(line):
            shown = short(scene.text(number)[found.start() : found.end()])
            message = f"expected YAML, got the template {shown}; render it first, such as with `helm template`"
            return (number + 1, found.start() + 1), message
        if number == scene.line and (found := _VARIABLE.search(line)):
            message = f"expected YAML, got the variable {short(found[0])}; fill it in before, or put it in quotes"
            return (number + 1, found.start() + 1), message
    return None


def _comment(scene: Scene) -> Cause | None:
    for number in scene.around():
        if found := _COMMENT.search(_without_quoted(scene.text(number))):
            place = number + 1, found.start(1) + 1
            return place, f"expected a comment that begins with #, got {found[1]}; write # or remove the comment"
    return None


def _tab(scene: Scene) -> Cause | None:
    line = scene.text(scene.line)
    found = re.match(r"(?: |- )*\t", line)
    if found or scene.here.startswith("\t"):
        column = found.end() if found else scene.column + 1
        return (scene.line + 1, column), "expected spaces as indentation, got a tab; use spaces"
    return None


def _without_quoted(line: str) -> str:
    """A line with blanks instead of quoted texts and of its comment."""
    blanked = _QUOTED.sub(lambda found: " " * len(found[0]), line)
    return re.sub(r"(^|\s)#.*", lambda found: " " * len(found[0]), blanked)
