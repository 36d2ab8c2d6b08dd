"""Recognises mistakes with quotes, with brackets, and with signs that mean something to YAML where text was meant."""

from __future__ import annotations

import json
import re
from typing import Final

from nodeagent.documents.syntax_scene import Cause, Scene, Word, short, two_values

_CLOSING: Final = {"[": "]", "{": "}"}
_FEW: Final = 20
_WORDS: Final = re.compile(r"(?:[{,]|(?P<value>: +[^\s,:{}\[\]][^,:{}\[\]]*?)) *(?P<sign>[;|/]?) *(?P<key>[\w.-]+) *$")
"""What stands in an object before the place where a parser gave up."""

_SIGNS: Final = {
    "*": "begins a reference to a value",
    "&": "names a value",
    "!": "begins a type",
    "?": "begins a key",
    "|": "begins a text of several lines",
    ">": "begins a text of several lines",
}


def marks(scene: Scene) -> Cause | None:
    """A quote or a bracket that is open or too many, or a sign that cannot begin a plain text."""
    for cause in (_open_quote, _escape, _after_quote, _after_bracket, _sign, _bracket, _comma):
        found = cause(scene)
        if found is not None:
            return found
    return None


def _open_quote(scene: Scene) -> Cause | None:
    """A text that is quoted up to the end of the file, or to a quote that was to open another one."""
    quote = scene.text(scene.context_line)[scene.context_column : scene.context_column + 1]
    if scene.context == "while scanning a quoted scalar":
        return scene.opening, f"expected a closing {quote} for the one that opens here, got none up to the end"
    if scene.context == "while scanning a simple key" and quote in ("'", '"') and scene.line > scene.context_line:
        return scene.opening, _unclosed(quote, scene.line + 1)
    for word in reversed(scene.quoted):
        if word.end[0] > word.start[0] and word.end[0] in (scene.line + 1, scene.line) and _swallows(scene, word):
            return word.start, _unclosed(word.quote, word.end[0])
    return None


def _unclosed(quote: str, line: int) -> str:
    return f"expected a closing {quote} in this line, got none; the next one is in line {line}"


def _swallows(scene: Scene, word: Word) -> bool:
    """Whether a text of several lines has some in it that look like the document's own."""
    lines = range(word.start[0], min(word.end[0], word.start[0] + _FEW))
    return any(re.match(r"\s*(?:- )*[\w\"'.-]+:(?:\s|$)|\s*- ", scene.text(line)) for line in lines)


def _escape(scene: Scene) -> Cause | None:
    if "escape" not in scene.problem:
        return None
    found = scene.here[:2] if scene.here.startswith("\\") else scene.text(scene.line)[scene.column - 1 :][:2]
    message = f"expected an escape that YAML knows, got {found}; write \\{found}, or put the text in single quotes"
    return scene.at, message


def _after_quote(scene: Scene) -> Cause | None:
    """Text that follows a closing quote: another quote inside was not doubled, or a comma is missing."""
    word = scene.quoted[-1] if scene.quoted else None
    if word is None or word.end[0] != scene.line + 1 or word.end[1] > scene.column + 1:
        return None
    between = scene.text(scene.line)[word.end[1] - 1 : scene.column]
    allowed = r"[:,\]}#]|$" if scene.open_brackets else r"[:\]}#]|$"
    if between.strip() or re.match(allowed, scene.here):
        return None
    if scene.here[0] in "\"'" and scene.open_brackets:
        sign = "a comma" if scene.open_brackets[-1][0] == "[" else "a colon or a comma"
        return scene.at, f"expected {sign} before this, got none"
    if scene.here.strip() == ",":
        return scene.at, "expected the end of the value, got a comma; remove it"
    if scene.here.rstrip().endswith(word.quote):
        inside = "''" if word.quote == "'" else '\\"'
        return scene.at, f"expected the end of the value after the closing {word.quote}; write one inside as {inside}"
    shown = short(scene.here)
    return scene.at, f'expected the end of the value after the closing {word.quote}, got "{shown}"; close it after that'


def _after_bracket(scene: Scene) -> Cause | None:
    """Text that follows a closing bracket, as in `[TA]4*`."""
    before = scene.text(scene.line)[: scene.column].rstrip()
    if scene.open_brackets or before[-1:] not in ("]", "}") or re.match(r"[:#\]}]|$", scene.here):
        return None
    shown = short(scene.here)
    message = f'expected the end of the value after the closing {before[-1]}, got "{shown}"; put all of it in quotes'
    return scene.at, message + " if it is text"


def _sign(scene: Scene) -> Cause | None:
    """A plain text that begins with a sign of YAML's: `*T4*`, `%25`, `@x`, `>=40`."""
    line, column = scene.line, scene.column
    if re.match("while scanning an? (?:alias|anchor|tag|block scalar)|while parsing a tag", scene.context):
        line, column = scene.context_line, scene.context_column
    elif scene.here[:2] not in ("! ", "? ") and scene.problem != "found character that cannot start any token":
        if scene.text(scene.context_line).startswith("%") and "directive" in scene.context:
            message = "expected YAML, got a line that begins with %, an instruction to its reader; remove the line"
            return (scene.context_line + 1, 1), message
        return None
    sign = scene.text(line)[column : column + 1]
    end = r"\s#" if not scene.open_brackets else r"\s#|[,\]}]"
    word = re.split(end, scene.text(line)[column:])[0].strip()
    if not sign or not word:
        return None
    if scene.text(line)[: column + 2].strip() == "*":
        return (line + 1, column + 1), f'expected a list item, got "{short(word)}"; write "- {short(word[1:])}"'
    if sign == "!" and (" " in word or word == "!"):
        return (line + 1, column + 1), f"expected a value, got the tag {short(word.split()[0])}; remove it"
    why = _SIGNS.get(sign, "cannot begin a plain text")
    message = (
        f"expected a value, got {short(word)}, and {sign} {why}; write {json.dumps(short(word), ensure_ascii=False)}"
    )
    return (line + 1, column + 1), message


def _in_object(scene: Scene, found: re.Match[str]) -> Cause | None:
    """A comma or a colon that is missing between the words that `found` has: a value, if any, and a key."""
    line = scene.line + 1
    sign, key = found["sign"], found["key"]
    if scene.here.startswith(":") and sign:
        return (line, found.start("sign") + 1), f'expected a comma before "{short(key)}", got "{sign}"; write a comma'
    if scene.here.startswith(":") and found["value"]:
        return (line, found.start("key")), f'expected a comma before "{short(key)}", got none'
    if scene.here[:1] in ("[", "{") and not found["value"]:
        return (line, found.end("key") + 1), f'expected a colon after "{short(key)}", got none'
    return None


def _bracket(scene: Scene) -> Cause | None:
    """A bracket that is never closed, closed by another one, or closed twice."""
    sign = scene.here[:1]
    if sign and sign in "]}":
        outer = [bracket for bracket, _ in scene.open_brackets]
        if outer and _CLOSING[outer[-1]] == sign:
            return None
        if not outer or (_CLOSING[outer[-1]] in scene.here and sign not in [_CLOSING[bracket] for bracket in outer]):
            return scene.at, f"expected no {sign} here, where nothing is open that it closes; remove it"
        bracket, place = scene.open_brackets[-1]
        return place, f"expected {_CLOSING[bracket]} to close this {bracket}, got {sign} in line {scene.line + 1}"
    if not scene.open_brackets:
        return None
    bracket, place = scene.open_brackets[-1]
    left = scene.line >= len(scene.lines) - 1 and not scene.here.strip()
    if scene.here.startswith("- ") and scene.line + 1 > place[0]:
        return place, f"expected {_CLOSING[bracket]} to close this {bracket}, got a list item in line {scene.line + 1}"
    if left or (scene.line + 1 > place[0] and scene.indent(scene.line) <= scene.first_key(place[0] - 1)):
        return place, f"expected {_CLOSING[bracket]} to close this {bracket}, got none"
    return None


def _comma(scene: Scene) -> Cause | None:
    """A comma that is missing between two items, or too many."""
    if not scene.open_brackets:
        return None
    if scene.here.startswith(","):
        return scene.at, "expected an item before the comma, got none; remove one comma"
    if not scene.problem.startswith("did not find expected ','"):
        return None
    here = scene.text(scene.line)[: scene.column]
    if scene.here.startswith(": ") and (found := re.search(r": +([^\s,:{}\[\]]+)$", here)):
        value = short(re.split(r"[,\]}]", found[1] + scene.here)[0])
        return scene.at, two_values(value, "a comma between two keys")
    if scene.open_brackets[-1][0] == "{" and (found := _WORDS.search(here)):
        return _in_object(scene, found)
    if not re.match(r"[\w\"'*\[{.-]", scene.here):
        return None
    previous = scene.line if here.strip() else next(scene.before(scene.line), None)
    if previous is None:
        return None
    text = scene.text(previous)[: scene.column] if previous == scene.line else scene.text(previous)
    place = previous + 1, len(text.rstrip()) + 1
    return place, f"expected a comma before {short(scene.here)}, got none"
