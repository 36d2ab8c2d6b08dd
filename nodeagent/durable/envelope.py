"""The outer form of every file that outlives a process: one line of JSON that vouches for the bytes after it.

`{"version": 1, "kind": "applied", ..., "size": 123, "sha256": "..."}` newline, then the body as it is: a person can
read the file, `head -1` tells what it is, and no damaged, truncated or foreign body is ever looked at. Which versions
there are of which kind, and what may change within one, is said in `formats`.

A file is damaged, or another's, in more ways than one can think of. Whatever its bytes are, who reads it here gets a
value, or Untrusted with a message of sane length, and nothing else: numbers are finite and of 64 bits at most.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Collection, Mapping
from typing import NoReturn, TypeVar

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.formats import UNDECLARED, Format

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

MAX_SECONDS = 1e11
"""No clock here says so much: as Unix seconds it is the year 5138."""

_MAX_HEADER = 64 * 1024
_MAX_INT = 2**64

T = TypeVar("T")


class OtherVersion(Untrusted):
    """The file is of a version that is not read here, and may well be right."""


def seal(form: Format, facts: Mapping[str, object], body: bytes, declared: Collection[int] = UNDECLARED) -> bytes:
    """The bytes of a file of this kind; `facts` are further JSON members of its header. The body is of the version that
    is written for who reads the `declared` ones.
    """
    header = {
        "version": form.written_for(declared),
        "kind": form.kind,
        **facts,
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + body


def unseal(form: Format, data: bytes) -> tuple[Mapping[str, object], bytes]:
    """(header, body). Raises Untrusted unless kind, version, size and checksum are right, OtherVersion where it is the
    version alone.
    """
    end = data.find(b"\n", 0, _MAX_HEADER)
    if end < 0:
        raise Untrusted("it has no header")
    header = parse(data[:end])
    if not isinstance(header, dict):
        raise Untrusted("its header is not an object")
    if header.get("kind") != form.kind:
        raise Untrusted(f"its kind is {reprlib.repr(header.get('kind'))}, expected {form.kind!r}")
    version = header.get("version")
    if type(version) is not int or version not in form.reads:
        reads = " and ".join(map(str, form.reads))
        raise OtherVersion(f"its version is {reprlib.repr(version)}, this agent reads {reads}")
    body = data[end + 1 :]
    if len(body) != member(header, "size", int):
        raise Untrusted(f"it holds {len(body)} bytes, its header promises {header['size']}")
    if hashlib.sha256(body).hexdigest() != member(header, "sha256", str):
        raise Untrusted("its checksum does not match")
    return header, body


def version_of(data: bytes) -> int | None:
    """The version that a file says it has; None where it does not say."""
    try:
        header = parse(data[: max(0, data.find(b"\n", 0, _MAX_HEADER))])
    except Untrusted:
        return None
    version = header.get("version") if isinstance(header, dict) else None
    return version if type(version) is int else None


def parse(data: bytes) -> object:
    """Strict JSON, in which no key is twice in one object and all numbers are finite. Raises Untrusted."""
    try:
        value: object = json.loads(
            data, parse_constant=_refuse, parse_float=_float, parse_int=_int, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:
        raise Untrusted(f"it is not JSON: {str(error)[:200]}") from error
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:40])


def _int(text: str) -> int:
    # By its length first: text of thousands of digits is not converted at all.
    value = int(text) if len(text.lstrip("-")) <= len(str(_MAX_INT)) else _MAX_INT
    return value if abs(value) < _MAX_INT else _refuse(text[:40])


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def member(mapping: Mapping[str, object], key: str, kind: type[T]) -> T:
    """The member of exactly this type (True is no int here). Raises Untrusted."""
    return expect(mapping.get(key), key, kind)


def optional(mapping: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    """The same, where null or absence means None. Raises Untrusted."""
    return None if mapping.get(key) is None else member(mapping, key, kind)


def expect(value: object, name: str, kind: type[T]) -> T:
    """The value, if it is of exactly this type. Raises Untrusted."""
    if type(value) is not kind:
        # Not the plain repr: of what is nested deeply, or huge, there is none.
        raise Untrusted(f"{name}: expected {kind.__name__}, got {reprlib.repr(value)}")
    return value


def seconds(value: object, name: str) -> float:
    """A time, in seconds since the boot or of Unix. Raises Untrusted."""
    found = float(value) if type(value) is int else expect(value, name, float)
    if not 0 <= found < MAX_SECONDS:
        raise Untrusted(f"{name}: expected a time, got {found!r}")
    return found


def check_text(text: str, name: str) -> None:
    """JSON can carry half of a pair of surrogates, which nothing else can. Raises Untrusted."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Untrusted(f"{name}: expected text, got {reprlib.repr(text)}") from error


def parse_text(data: bytes) -> object:
    """`parse`, of something in which every text can be written as UTF-8. Raises Untrusted."""
    value = parse(data)
    if _SURROGATE.search(data):
        check_text(json.dumps(value, ensure_ascii=False), "text")
    return value
