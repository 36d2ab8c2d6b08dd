"""The outer form of every file in the state directory: one line of JSON that vouches for the bytes after it.

`{"version": 1, "kind": "applied", ..., "size": 123, "sha256": "..."}` newline, then the body as it is: a person can
read the file, `head -1` tells what it is, and no damaged, truncated or foreign body is ever looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import NoReturn, TypeVar

from nodeagent.durable.atomic import Untrusted

VERSION = 1
"""Of all files here together. An agent that finds another one sets the file aside rather than guess."""

_MAX_HEADER = 64 * 1024

T = TypeVar("T")


def seal(kind: str, facts: Mapping[str, object], body: bytes) -> bytes:
    """The bytes of a file of this kind; `facts` are further JSON members of its header."""
    header = {
        "version": VERSION,
        "kind": kind,
        **facts,
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + body


def unseal(kind: str, data: bytes) -> tuple[Mapping[str, object], bytes]:
    """(header, body). Raises Untrusted unless kind, version, size and checksum are right."""
    end = data.find(b"\n", 0, _MAX_HEADER)
    if end < 0:
        raise Untrusted("it has no header")
    header = parse(data[:end])
    if not isinstance(header, dict):
        raise Untrusted("its header is not an object")
    if header.get("version") != VERSION:
        raise Untrusted(f"its version is {header.get('version')!r}, this agent reads {VERSION}")
    if header.get("kind") != kind:
        raise Untrusted(f"its kind is {header.get('kind')!r}, expected {kind!r}")
    body = data[end + 1 :]
    if len(body) != member(header, "size", int):
        raise Untrusted(f"it holds {len(body)} bytes, its header promises {header['size']}")
    if hashlib.sha256(body).hexdigest() != member(header, "sha256", str):
        raise Untrusted("its checksum does not match")
    return header, body


def parse(data: bytes) -> object:
    """Strict JSON. Raises Untrusted."""
    try:
        value: object = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Untrusted(f"it is not JSON: {error}") from error
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def member(mapping: Mapping[str, object], key: str, kind: type[T]) -> T:
    """The member of exactly this type (True is no int here). Raises Untrusted."""
    return expect(mapping.get(key), key, kind)


def optional(mapping: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    """The same, where null or absence means None. Raises Untrusted."""
    return None if mapping.get(key) is None else member(mapping, key, kind)


def expect(value: object, name: str, kind: type[T]) -> T:
    """The value, if it is of exactly this type. Raises Untrusted."""
    if type(value) is not kind:
        raise Untrusted(f"{name}: expected {kind.__name__}, got {repr(value)[:40]}")
    return value
