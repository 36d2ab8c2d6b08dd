"""Documents of every kind of wrong, and what must hold of the reader whatever it is given.

`near` takes a document that is right and spoils it: nothing where something is expected, other types, words that YAML
readers take for different things, keys that are none, anchors, tags, duplicates, characters that nobody sees. `bytes_`
spoils the text of one, byte by byte. `judge` is the oracle.
"""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml
from hypothesis import strategies as st

from nodeagent.commands import checking, findings, gpus
from nodeagent.config.bundle import load_bundle
from nodeagent.config.convert import to_yaml
from nodeagent.config.load import load
from nodeagent.devices import simulation_file
from nodeagent.documents.strict import Rejected
from nodeagent.model.config import Document, Loaded, Violation

EXAMPLES: Final = Path(__file__).parent.parent.parent / "examples"
SEEDS: Final = tuple(
    path.read_bytes() for path in sorted((*EXAMPLES.glob("*.yaml"), *(EXAMPLES / "simulated").glob("*.yaml")))
)
LONGEST: Final = 2000
"""Characters of one violation, its place and its file included."""

_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 47, 1025, 10**29, 1.5, "", "a", "x" * 300, "nvidia.com/gpu", "GPU-1", "MIG-1", "*"),
    *("0:0", "\x07\x1b[2J", "\u202e", "a\nb", [], {}, [None], [[]], [47, "47", True, 1, 1.0], [{}], {"a": None}),
)
_WORDS: Final = (
    *("", "~", "012", "00", "no", "on", "Null", "1:30", "2001-01-01", "1e5", ".inf", "0x1F", "1_000"),
    *("*a", "*", "&a b", "&a", "!t x", "!!int 5", "!%C0%80 x", "!<%> x", "{{ x }}", "[", "]", "{", "}"),
    *("- x", "? x", "a: b", "%", "@", "`", "|", ">-", '"', "'", "\u00a0x", "x\u200b", "\u201cx\u201d"),
    *("\u22121", "x\uff1a y", "\u2028", "\u0430", "#x", "\tx", "\U000e0001", "9" * 5000, "y" * 5000),
    "2001-01-01T" + "1" * 500,
)
_KEYS: Final = (
    *("", "a", "<<", "012", "no", "*a", "&a b", "!t x", "? [a]", "[a]", "{a: b}", "{{ x }}", "n\u0430me", "na\u200bme"),
    *("\u00a0name", "\u2013 name", "Name", "nmae", "x" * 200, '"a\\nb"', '"\\u202e"', "kind", "data", "name", "~"),
)


@st.composite
def near(draw: st.DrawFn) -> bytes:
    """A document that is right but for a few things."""
    dice = draw(st.randoms(use_true_random=False))
    tree = yaml.safe_load(dice.choice(SEEDS))
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 5))):
        _spoil(tree, dice)
    return _written(tree, dice, dice.choice((0.0, 0.0, 0.02, 0.1))).encode("utf-8", "surrogatepass")


@st.composite
def bytes_(draw: st.DrawFn) -> bytes:
    """A document with some bytes changed, taken away, put in twice or moved."""
    dice = draw(st.randoms(use_true_random=False))
    data = dice.choice(SEEDS)
    for _ in range(dice.choice((1, 1, 2, 4, 10))):
        data = _damaged(data, dice)
    return data


def _damaged(data: bytes, dice: random.Random) -> bytes:
    at, length = dice.randrange(len(data) + 1), dice.choice((0, 1, 1, 2, 8, 40))
    taken, rest = data[at : at + length], data[at + length :]
    instead = (
        b"",
        dice.choice(_WORDS).encode(),
        bytes([dice.randrange(256)]),
        bytes([dice.choice(b"\n \t:-#'\"{}[],&*!|>%@`\0\x1b")]) + taken,
        taken * dice.choice((2, 20)),
        rest[:20],
    )
    return data[:at] + dice.choice(instead) + rest


def judge(data: bytes) -> Loaded:
    """What a document means; on the whole way, the reader and all who tell of it keep their word."""
    loaded = load(Document("f.yaml", data))
    assert (loaded.config is None) == bool(loaded.violations)
    _told(loaded.violations, data)
    for named in (True, False):
        checked = checking.check_bytes(data, "f.yaml", named=named)
        _told(checked.violations, data)
        assert all(line.isprintable() for line in (*findings.text([checked]), *findings.github([checked])))
        json.loads(findings.as_json([checked]))
        if checked.valid and checked.simulated_gpus is None:
            assert any(one.config is not None for one in checked.configs)
    _told(load_bundle(data, "f.yaml").all_violations, data)
    _told(load_bundle(_config_map(data), "f.yaml").all_violations, _config_map(data))
    try:
        simulation_file.parse(data, "f.yaml", "node")
    except Rejected as rejected:
        _told(rejected.violations, data)
    if loaded.config is not None:
        again = load(Document("g.yaml", to_yaml(loaded.config).encode()))
        assert not again.violations
        _told(gpus.faults(loaded, list(gpus.plausible(4, loaded.config))), data)
    return loaded


def _told(violations: tuple[Violation, ...], data: bytes) -> None:
    """Each has a place in the file, a length, and nothing that acts on a terminal."""
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    breaks = sum(data.count(one.encode()) for one in "\u0085\u2028\u2029")
    for violation in violations:
        assert 1 <= violation.where.line <= lines + breaks + 1
        assert violation.where.column >= 1
        assert violation.message
        assert len(str(violation)) <= LONGEST
        assert str(violation).isprintable()
        json.loads(json.dumps(findings.violation_as_json(violation)))


def _config_map(data: bytes) -> bytes:
    text = textwrap.indent(data.decode("utf-8", "replace"), "    ", lambda _: True)
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  sharing.yaml: |\n{text}\n".encode()


def _spoil(tree: Any, dice: random.Random) -> None:  # noqa: ANN401 - whatever YAML makes
    """Put something else somewhere."""
    places = list(_places(tree))
    if not places:
        return
    inside, key = dice.choice(places)
    other, its = dice.choice(places)
    value = inside.pop(key) if isinstance(inside, dict) else inside[key]
    instead = (
        deepcopy(dice.choice(_VALUES)),
        _Word(dice.choice(_WORDS)),
        [value] * dice.choice((1, 2, 2, 3, 300)),
        {_Word(dice.choice(_KEYS)): value},
        deepcopy(other.get(its) if isinstance(other, dict) else other[its]),
        value,
    )
    if isinstance(inside, list):
        inside[key : key + dice.choice((0, 1))] = [dice.choice(instead)]
    elif dice.random() < 0.8:
        inside[key if dice.random() < 0.7 else _Word(dice.choice(_KEYS))] = dice.choice(instead)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


class _Word(str):
    """Written as it is, without quotes."""

    __slots__ = ()


def _written(value: Any, dice: random.Random, often: float) -> str:  # noqa: ANN401
    """YAML in flow style, where a word is now and then another one."""
    if dice.random() < often:
        return dice.choice(_WORDS)
    if isinstance(value, _Word):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_written(item, dice, often) for item in value)}]"
    if isinstance(value, dict):
        pairs = [f"{_key(key, dice, often)}: {_written(item, dice, often)}" for key, item in value.items()]
        if pairs and dice.random() < often:
            pairs.append(dice.choice(pairs))
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


def _key(key: object, dice: random.Random, often: float) -> str:
    return dice.choice(_KEYS) if dice.random() < often else str(key)
