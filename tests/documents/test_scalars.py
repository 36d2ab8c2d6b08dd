"""What unquoted words mean: only what all YAML readers agree on."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.documents.scalars import Misread, resolve


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("10", 10),
        ("-3", -3),
        ("0.5", 0.5),
        ("10.0", 10.0),
        ("4h", "4h"),
        ("9Gi", "9Gi"),
        ("1.2.3", "1.2.3"),
        ("GPU-0", "GPU-0"),
        ("nvidia.com/gpu", "nvidia.com/gpu"),
        ("yEs", "yEs"),
        ("none", "none"),
        ("-", "-"),
        ("a100", "a100"),
        ("2024", 2024),
    ],
)
def test_agreed(word: str, value: object) -> None:
    """A word that all readers take for the same thing is that thing."""
    found = resolve(word)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "mend"),
    [
        ("no", 'write false or "no"'),
        ("On", 'write true or "On"'),
        ("YES", 'write true or "YES"'),
        ("y", 'write true or "y"'),
        ("True", 'write true or "True"'),
        ("NULL", 'write null or "NULL"'),
        ("012", 'write 12 or "012"'),
        ("1_000", 'write 1000 or "1_000"'),
        ("+5", 'write 5 or "+5"'),
        ("0x1F", 'write 31 or "0x1F"'),
        ("0o17", 'write 15 or "0o17"'),
        ("0b101", 'write 5 or "0b101"'),
        ("1:30", 'write "1:30"'),
        (".5", 'write 0.5 or ".5"'),
        ("5.", 'write 5 or "5."'),
        ("1e3", 'write 1000 or "1e3"'),
        (".inf", 'write ".inf"'),
        (".nan", 'write ".nan"'),
        ("2024-05-06", 'write "2024-05-06"'),
        ("1" * 40, "write a shorter number"),
    ],
)
def test_disputed(word: str, mend: str) -> None:
    """A word that readers take for different things is an error that says how to write each of them."""
    with pytest.raises(Misread, match="expected") as caught:
        resolve(word)

    assert mend in str(caught.value)


@given(st.text(alphabet="0123456789abefinostruxyNOTY_+-.:~ ", max_size=8).map(str.strip))
def test_never_differs_from_what_another_reader_says(word: str) -> None:
    """Where we take a word, PyYAML takes it for the same value."""
    try:
        mine = resolve(word)
        theirs = yaml.safe_load(f"[{word}]" if word else "[null]")
    except (Misread, yaml.YAMLError):
        return
    if len(theirs) == 1 and not isinstance(theirs[0], dict | list):
        assert theirs[0] == mine
        assert type(theirs[0]) is type(mine)
