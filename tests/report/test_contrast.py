"""Contrast on the status page, worked out from its colours: texts 4.5, what is drawn 3, in both schemes.

Those are the numbers of WCAG 2.2 (1.4.3, 1.4.11). `test_live_page.py` looks at each text of a page in a real browser.
"""

from __future__ import annotations

import re

import pytest

from nodeagent.report.page_style import STYLE

TEXTS = (
    *((colour, ground) for colour in ("text", "muted", "held") for ground in ("page", "card")),
    *(("text", f"{tone}-soft") for tone in ("ok", "warn", "bad")),
    *((tone, f"{tone}-soft") for tone in ("ok", "warn", "bad")),
)
"""What is written, and on what."""

DRAWN = (
    *((colour, "card") for colour in ("free-line", "held", "drain", "fence", "bad")),
    ("free-line", "free"),
    *((tone, ground) for tone in ("ok", "warn", "bad") for ground in ("page", f"{tone}-soft")),
    ("held", "page"),
)
"""What is drawn, and what it touches: shares on their card, with what shows through their patterns; the outline of a
free share on both sides; the border of a verdict on both sides; the ring around what has the focus.
"""

DECORATION = {"line"}
"""Lines between things that are apart without them."""


def schemes() -> dict[str, dict[str, str]]:
    """The colours of each scheme, by name."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = {"light": dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))}
    return found | {"dark": found["light"] | dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark))}


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Between 1 and 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_wcag_says() -> None:
    """The known ones."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_what_is_drawn_can_be_seen(scheme: str) -> None:
    """Every pair that touches."""
    colours = schemes()[scheme]
    told = {(pair, least): contrast(*(colours[name] for name in pair)) for pairs, least in ((TEXTS, 4.5), (DRAWN, 3.0))
            for pair in pairs}  # fmt: skip
    assert {pair: ratio for (pair, least), ratio in told.items() if ratio < least} == {}


def test_no_colour_is_forgotten() -> None:
    """Each variable is in a pair, each is defined in both schemes, and no rule has a colour that is not a variable."""
    light, dark = schemes().values()
    named = {name for pair in (*TEXTS, *DRAWN) for name in pair}
    assert light.keys() - DECORATION == named
    assert all(light[name] != dark[name] for name in light)
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(|\bopacity\b", rules) == []


def test_states_differ_without_colour() -> None:
    """In grey each state still looks like none of the others: empty, full, stripes, dots, crosses."""
    rules = dict(re.findall(r"\.share\.([a-z]+) \{(.*?)\}", STYLE, re.DOTALL))
    assert rules.keys() == {"free", "held", "draining", "fenced", "unhealthy"}
    shapes = {
        state: frozenset(re.findall(r"(?:repeating-)?(?:linear|radial)-gradient\((\w+)|border-style: (\w+)", rule))
        for state, rule in rules.items()
        if state not in {"free", "held"}
    }
    assert len(set(shapes.values())) == len(shapes)
    assert all(shapes.values())
    assert "border-color: var(--free-line)" in rules["free"]
    assert "border-color" not in rules["held"]
