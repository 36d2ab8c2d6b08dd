"""Our own format: what each field means, and its defaults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config.load import load
from nodeagent.model.config import Contract, Document, Match, Mode, Rule, SharingConfig, Where
from tests.config.support import HEAD, TIME_SLICED, accepted, loaded, rejections, rules

FULL = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: a100-inference
spec:
  suspend: true
  rules:
    - name: small-inference
      match: {indices: [0, 1], models: ["*A100*", "*H100*"], minMemory: 40Gi}
      resource: nvidia.com/gpu.shared
      timeSlicing: {replicas: 10}
      maxSharesPerContainer: 1
    - name: broken-riser
      match:
        uuids: [GPU-4d9c1f10-0000-0000-0000-000000000002]
      withheld: {}
    - name: training
      exclusive: {}
  transition: {timeout: 90s}
"""


def test_everything() -> None:
    """Every field of a document arrives in the model, with the place of each rule."""
    config = accepted(FULL)

    assert config == SharingConfig(
        name="a100-inference",
        rules=(
            Rule(
                "small-inference",
                Match(indices=frozenset({0, 1}), models=("*A100*", "*H100*"), min_memory=40 << 30),
                Contract("nvidia.com/gpu.shared", Mode.TIME_SLICED),
                10,
                max_shares_per_container=1,
            ),
            Rule("broken-riser", Match(uuids=frozenset({"GPU-4d9c1f10-0000-0000-0000-000000000002"})), None, 0),
            Rule("training", Match(), Contract("nvidia.com/gpu", Mode.EXCLUSIVE), 1),
        ),
        suspend=True,
        transition_timeout=90.0,
    )
    assert config.rules[1].where == Where("spec.rules[1]", 13, 7)


def test_defaults() -> None:
    """What is not said is: not suspended, four hours, every GPU, no limit per container."""
    config = accepted(TIME_SLICED)

    assert not config.suspend
    assert config.transition_timeout == 4 * 3600
    assert config.rules[0].match == Match()
    assert config.rules[0].max_shares_per_container is None


def test_an_empty_match_is_every_gpu() -> None:
    """`match: {}` says the same as no match at all."""
    assert accepted(rules("- {name: all, match: {}, exclusive: {}}")).rules[0].match.takes_all


def test_comments_and_order_are_no_meaning() -> None:
    """A rewrite that only moves lines is equal to what was there before."""
    head = HEAD.replace("kind: SharingConfig\n", "")
    moved = f"{head}  rules:\n\n    # moved\n    - exclusive: {{}}\n      name: all\nkind: SharingConfig\n"

    assert accepted(moved) == accepted(rules("- {name: all, exclusive: {}}"))


def test_json_is_yaml() -> None:
    """A document in JSON is read like any other."""
    text = (
        '{"apiVersion": "nodeagent.io/v1alpha1", "kind": "SharingConfig", "metadata": {"name": "json"},'
        ' "spec": {"rules": [{"name": "all", "exclusive": {}}]}}'
    )

    assert accepted(text).name == "json"


def test_one_time_sliced_share_is_noted() -> None:
    """Time-slicing by one is allowed, with a note that says what is usual."""
    config = accepted(rules("- {name: one, resource: example.com/gpu, timeSlicing: {replicas: 1}}"))

    assert 'rule "one" makes one time-sliced share' in config.notes[0]


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "example.com/GPU_1.a-b", "a/b", f"{'d' * 244}/{'n' * 63}"])
def test_good_resource_names(resource: str) -> None:
    """Every name that Kubernetes takes for an extended resource is taken."""
    assert accepted(rules(f"- {{name: all, resource: {resource}, exclusive: {{}}}}")).rules[0].contract == Contract(
        resource, Mode.EXCLUSIVE
    )


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("gpu", "of the form DOMAIN/NAME"),
        ("/gpu", "of the form DOMAIN/NAME"),
        ("nvidia.com/", "of the form DOMAIN/NAME"),
        ("a/b/c", "of the form DOMAIN/NAME"),
        ("NVIDIA.com/gpu", "lower-case letters"),
        ("nvidia..com/gpu", "lower-case letters"),
        ("-nvidia.com/gpu", "lower-case letters"),
        ("nvidia.com/gpu-", "a letter or digit first and last"),
        ("nvidia.com/gpü", "a letter or digit first and last"),
        (f"nvidia.com/{'n' * 64}", "at most 63 characters after the /"),
        (f"{'d' * 245}/gpu", "at most 244 characters before the /"),
        ("kubernetes.io/gpu", "outside kubernetes.io"),
        ("node.kubernetes.io/gpu", "outside kubernetes.io"),
        ("requests.nvidia.com/gpu", 'does not begin with "requests."'),
        ('"nvidia.com/gpu\\n"', "only letters"),
    ],
)
def test_bad_resource_names(resource: str, expected: str) -> None:
    """A name that Kubernetes would refuse is an error that says which rule it breaks."""
    found = rejections(rules(f"- {{name: all, resource: {resource}, exclusive: {{}}}}"))

    assert any(expected in line for line in found)


def test_rejected_documents_still_have_their_bytes() -> None:
    """A rejected document keeps its identity, so that it can be found in Git."""
    found = loaded("nonsense")

    assert found.config is None
    assert found.document == Document("sharing.yaml", b"nonsense")


@given(st.data())
def test_damaged_documents(data: st.DataObject) -> None:
    """Whatever is cut out of a document or put into it, the answer is a config or violations, never an exception."""
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 30)))
    put = data.draw(st.text(alphabet="abn012:-{}[],&*!|\"'#% \n\t~<", max_size=8))

    found = load(Document("f", (FULL[:start] + put + FULL[end:]).encode()))

    assert (found.config is None) == bool(found.violations)
