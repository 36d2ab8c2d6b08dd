"""Characters that nobody sees as what they are: named where they explain a mistake, else left alone."""

from __future__ import annotations

import pytest

from nodeagent.documents.lookalikes import retyped
from tests.config.support import HEAD, accepted, rejections, rules

ALL = "- name: all\n  resource: nvidia.com/gpu.shared\n  timeSlicing: {replicas: 4}\n"


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("{replicas: 4}", "{replicas:\u00a04}", "8:30", "a no-break space (U+00A0) where a space"),
        ("  timeSlicing", "\u2003\u2003timeSlicing", "8:5", "an em space (U+2003) where a space"),
        ("- name", "-\u2009name", "6:6", "a thin space (U+2009) where a space"),
        ("- name", "\u2014 name", "6:5", 'an em dash (U+2014) where "-"'),
        ("- name", "\u2022 name", "6:5", 'a bullet (U+2022) where "-"'),
        ("name: all", "name\u2236 all", "6:11", 'a ratio (U+2236) where ":"'),
        ("{replicas: 4}", "\uff5breplicas: 4\uff5d", "8:20", 'a fullwidth left curly bracket (U+FF5B) where "{"'),
        ("replicas: 4", "replicas: 4\u200b", "8:32", "a zero width space (U+200B), which nobody sees; remove it"),
        ("replicas: 4", "\u2060replicas: 4", "8:21", "a word joiner (U+2060), which nobody sees; remove it"),
        ("replicas", "r\u0435plicas", "8:22", 'a Cyrillic small letter ie (U+0435) where "e"'),
        ("all", "\u2019all\u2019", "6:13", "a right single quotation mark (U+2019) where a straight quote (')"),
        ("all", "\u00aball\u00bb", "6:13", "a left-pointing double angle quotation mark (U+00AB) where"),
        ("all", "all\u2011of", "6:16", 'a non-breaking hyphen (U+2011) where "-"'),
        ("all", '"all\u200d"', "6:13", 'got "all\\u200d"; it holds a zero width joiner (U+200D)'),
        ("all", "all\u3000# all of them", "6:16", "an ideographic space (U+3000) where a space"),
        ("all", "all\n  \uff03 all of them", "7:7", 'a fullwidth number sign (U+FF03) where "#"'),
        ("replicas: 4", "replicas: \u0664", "8:31", "expected"),
    ],
)
def test_named(old: str, new: str, place: str, said: str) -> None:
    """Where it stands, what it is, and what was meant."""
    found = rejections(rules(ALL.replace(old, new, 1)))
    assert any(line.startswith(f"sharing.yaml:{place}") and said in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- name: all", "- name: all  # \u201call\u201d \u2013 that is\u00a0all\uff1a every\u200b one, \u0430ll"),
        ("  resource", "  # \u00a0\u2014\u3000\n  resource"),
        ("  resource", '  match: {models: ["*\u00a0*", "\u201c*\u201d", \'\u0410100\', "\u202e"]}\n  resource'),
        ("  resource", "  match: {models: [\u0422\u0435\u0441\u043b\u0430*]}\n  resource"),
    ],
)
def test_left_alone(old: str, new: str) -> None:
    """Comments, quoted text, and words of another language."""
    accepted(rules(ALL.replace(old, new, 1)))


def test_one_mistake_is_told_once() -> None:
    """A key that is there but for a letter is not missing."""
    (found,) = rejections(HEAD.replace("metadata", "met\u0430data") + "  rules: [{name: a, exclusive: {}}]\n")
    assert found.startswith('sharing.yaml:3:4: ["met\u0430data"]: got a Cyrillic small letter a (U+0430)')


@pytest.mark.parametrize("character", "\u0085\u2028\u2029")
def test_line_breaks_of_some_readers(character: str) -> None:
    """What follows one in a comment is a comment to a person, and none to a YAML reader."""
    (found,) = rejections(HEAD + f"  # all GPUs{character}  suspend: true\n  rules: [{{name: a, exclusive: {{}}}}]\n")
    assert found.startswith("sharing.yaml:5:13: got a")
    assert "which only some readers take for the end of a line; remove it" in found


def test_retyped() -> None:
    """Every such character becomes what it looks like."""
    assert retyped("n\u0430m\u0435\uff1a\u3000\u201c\uff41\u2013b\u200b\u201d") == 'name: "a-b"'
