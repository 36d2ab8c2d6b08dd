"""Writing a config as a file: what is read back means the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config.convert import notes, to_yaml
from nodeagent.model.config import (
    MIB,
    MIG_RESOURCES,
    Contract,
    Match,
    Mode,
    MpsTerms,
    Placement,
    Rule,
    SharingConfig,
)
from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy
from tests.config.support import accepted

NAMES = st.sampled_from(["a", "on", "no", "true", "null", "0", "012", "1e3", "n", "small-inference", "x" * 63])
MODELS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=10)
PROFILES = st.from_regex(r"\A[-0-9a-ln-z.+*?!\[\]]{1,12}\Z") | st.sampled_from(
    ["*", "1g.5gb", "1g.10gb+me", "1e3", "7.0"]
)
KINDS = st.sampled_from(["GPU", "MIG"])
UUIDS = st.frozensets(st.from_regex(r"\A-[-0-9A-Za-z_.]{1,40}\Z"), min_size=1, max_size=3)
MATCHES = st.builds(
    Match,
    indices=st.none() | st.frozensets(st.integers(0, 1023), min_size=1, max_size=4),
    uuids=st.none() | st.builds(lambda kind, uuids: frozenset(kind + uuid for uuid in uuids), KINDS, UUIDS),
    models=st.none() | st.lists(MODELS, min_size=1, max_size=3, unique=True).map(tuple),
    min_memory=st.none() | st.integers(1, 10**8).map(lambda kibibytes: kibibytes * 1024),
    mig=st.none() | st.lists(PROFILES, min_size=1, max_size=3, unique=True).map(tuple),
)
LIMITS = st.none() | st.integers(1, 100_000)
MEBIBYTES = st.integers(1, 10**9 - 1) | st.integers(1, 10**6).map(lambda gibibytes: gibibytes * 1024)
TERMS = st.builds(
    MpsTerms,
    memory=st.none() | MEBIBYTES.map(lambda mebibytes: mebibytes * MIB),
    threads=st.none() | st.integers(1, 100),
    oversubscribe=st.booleans(),
).filter(lambda terms: terms.memory is not None or not terms.oversubscribe)
XIDS = st.frozensets(st.integers(1, 999), max_size=8)


@st.composite
def policies(draw: st.DrawFn) -> HealthPolicy:
    """A policy that contradicts itself in nothing."""
    one, critical = draw(XIDS), draw(st.booleans())
    policy = HealthPolicy(critical=one) if critical else HealthPolicy(draw(st.just(APPLICATION_XIDS) | st.just(one)))
    recoverable = frozenset(xid for xid in draw(XIDS) | one if policy.is_critical(xid))
    if not recoverable or draw(st.booleans()):
        return policy
    return replace(policy, recover_after=float(draw(st.integers(1, 10**8))), recoverable=recoverable)


@st.composite
def configs(draw: st.DrawFn) -> SharingConfig:
    """A config of one rule, which can contradict no other, and a last one for every other GPU."""
    mode = draw(st.sampled_from(Mode))
    match, name, last = draw(MATCHES), draw(NAMES), Rule("the-rest", Match(), None, 0)
    resource, placement = "example.com/gpu", Placement.DISTRIBUTED
    if mode is Mode.WITHHELD:
        rule = Rule(name, match, None, 0)
    elif mode is Mode.MPS:
        match = replace(match, mig=None, uuids=None if match.parts else match.uuids)
        replicas, most = draw(st.integers(1, 48)), draw(st.integers(1, 100_000))
        placement = draw(st.sampled_from(Placement))
        rule = Rule(name, match, Contract(resource, mode), replicas, most, draw(TERMS), placement)
    else:
        replicas = 1 if mode is Mode.EXCLUSIVE else draw(st.integers(1, 100_000))
        if match.mig_only:
            resource = draw(st.sampled_from([resource, MIG_RESOURCES])) if mode is Mode.EXCLUSIVE else resource
        if match.mig_only or mode is Mode.TIME_SLICED:
            placement = draw(st.sampled_from(Placement))
        rule = Rule(name, match, Contract(resource, mode), replicas, draw(LIMITS), placement=placement)
    whole = match.mig is None and replace(match, models=None).takes_all and "*" in "".join(match.models or ("*",))
    rules = (rule,) if whole else (rule, last)
    timeout = draw(st.integers(0, 10**8)) / 1000
    return SharingConfig(
        draw(NAMES), rules, suspend=draw(st.booleans()), transition_timeout=timeout, health=draw(policies())
    )


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


def test_what_cannot_be_said_is_noted() -> None:
    """Our format offers MIG devices always: a config that does not is written with a note that says so."""
    config = SharingConfig("a", (Rule("r", Match(), None, 0),), mig=False, notes=("one",))

    first, second = notes(config)

    assert first == "one"
    assert second.startswith("NVIDIA's migStrategy none would offer a GPU with MIG enabled as if it were whole")
    assert to_yaml(config).startswith("# one\n# NVIDIA's migStrategy none")
    assert accepted(to_yaml(config)) == replace(config, mig=True)
    assert notes(replace(config, mig=True)) == ("one",)


def test_a_note_ends_with_its_line() -> None:
    """Whatever a path holds, the comment that names it is one, and acts on no terminal."""
    text = 'version: v1\nflags: {nvidiaDevRoot: "/a\\u2028spec: b\\e[2J", plugin: {passDeviceSpecs: true}}\n'
    config = accepted(text)
    assert all(note.isprintable() for note in notes(config))
    assert accepted(to_yaml(config)).rules == config.rules
