"""Writing a config as a file: what is read back means the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config.convert import to_yaml
from nodeagent.model.config import Contract, Match, Mode, Rule, SharingConfig
from tests.config.support import accepted

NAMES = st.sampled_from(["a", "on", "no", "true", "null", "0", "012", "1e3", "n", "small-inference", "x" * 63])
MODELS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=10)
MATCHES = st.builds(
    Match,
    indices=st.none() | st.frozensets(st.integers(0, 1023), min_size=1, max_size=4),
    uuids=st.none() | st.frozensets(st.from_regex(r"\AGPU-[-0-9A-Za-z_.]{1,40}\Z"), min_size=1, max_size=3),
    models=st.none() | st.lists(MODELS, min_size=1, max_size=3, unique=True).map(tuple),
    min_memory=st.none() | st.integers(1, 10**8).map(lambda kibibytes: kibibytes * 1024),
)
LIMITS = st.none() | st.integers(1, 100_000)


@st.composite
def configs(draw: st.DrawFn) -> SharingConfig:
    """A config of one rule, which can contradict no other, and a last one for every other GPU."""
    mode = draw(st.sampled_from(Mode))
    match, name, last = draw(MATCHES), draw(NAMES), Rule("the-rest", Match(), None, 0)
    if mode is Mode.WITHHELD:
        rule = Rule(name, match, None, 0)
    else:
        replicas = 1 if mode is Mode.EXCLUSIVE else draw(st.integers(1, 100_000))
        rule = Rule(name, match, Contract("example.com/gpu", mode), replicas, draw(LIMITS))
    rules = (rule,) if match.takes_all or set("".join(match.models or ("x",))) == {"*"} else (rule, last)
    timeout = draw(st.integers(0, 10**8)) / 1000
    return SharingConfig(draw(NAMES), rules, suspend=draw(st.booleans()), transition_timeout=timeout)


@given(configs())
def test_round_trip(config: SharingConfig) -> None:
    """Every config, written and read again, is the same config."""
    assert accepted(to_yaml(config)) == config


def test_notes_become_comments() -> None:
    """Notes are comments of the file, wrapped, and mean nothing."""
    config = SharingConfig("a", (Rule("r", Match(), None, 0),), notes=("word " * 60,))

    text = to_yaml(config)

    assert text.startswith("# word word")
    assert max(map(len, text.splitlines())) <= 110
    assert accepted(text) == config


def test_a_name_is_found() -> None:
    """A config without a name gets one; a given name goes first."""
    config = SharingConfig("", (Rule("r", Match(), None, 0),))

    assert accepted(to_yaml(config)) == replace(config, name="converted")
    assert accepted(to_yaml(config, name="a100")) == replace(config, name="a100")
