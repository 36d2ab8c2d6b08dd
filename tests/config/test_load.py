"""Our own format: what each field means, and its defaults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config.load import load
from nodeagent.model.config import (
    MIG_RESOURCES,
    Contract,
    Document,
    Match,
    Mode,
    MpsLimits,
    MpsTerms,
    Placement,
    Rule,
    SharingConfig,
    Where,
)
from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy
from nodeagent.model.inventory import Gpu
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
    - name: batch
      match: {indices: [2, 3]}
      resource: nvidia.com/gpu.mps
      mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 50, oversubscribe: true}
      maxSharesPerContainer: 2
    - name: broken-riser
      match:
        uuids: [GPU-4d9c1f10-0000-0000-0000-000000000002]
      withheld: {}
    - name: mig-notebooks
      match: {indices: [4], mig: ["1g.*", 2g.10gb]}
      resource: nvidia.com/mig.shared
      timeSlicing: {replicas: 2}
      placement: packed
    - name: training
      exclusive: {}
  transition: {timeout: 90s}
  health:
    ignoreXids: [13, 31, 43, 45, 68, 109, 63]
    recovery: {after: 10m, xids: [94]}
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
            Rule(
                "batch",
                Match(indices=frozenset({2, 3})),
                Contract("nvidia.com/gpu.mps", Mode.MPS),
                4,
                max_shares_per_container=2,
                mps=MpsTerms(9 << 30, 50, oversubscribe=True),
            ),
            Rule("broken-riser", Match(uuids=frozenset({"GPU-4d9c1f10-0000-0000-0000-000000000002"})), None, 0),
            Rule(
                "mig-notebooks",
                Match(indices=frozenset({4}), mig=("1g.*", "2g.10gb")),
                Contract("nvidia.com/mig.shared", Mode.TIME_SLICED),
                2,
                placement=Placement.PACKED,
            ),
            Rule("training", Match(), Contract("nvidia.com/gpu", Mode.EXCLUSIVE), 1),
        ),
        suspend=True,
        transition_timeout=90.0,
        health=HealthPolicy(APPLICATION_XIDS | {63}, recover_after=600.0, recoverable=frozenset({94})),
    )
    assert config.notes == ()
    assert config.rules[2].where == Where("spec.rules[2]", 18, 7)


def test_defaults() -> None:
    """What is not said is: not suspended, four hours, every GPU, no limit per container, distributed, NVIDIA's XIDs."""
    config = accepted(TIME_SLICED)

    assert not config.suspend
    assert config.transition_timeout == 4 * 3600
    assert config.rules[0].match == Match()
    assert config.rules[0].max_shares_per_container is None
    assert config.rules[0].placement is Placement.DISTRIBUTED
    assert config.health == HealthPolicy()
    assert config.mig


def test_defaults_under_mps() -> None:
    """Under MPS, what is not said is: a part of the GPU each, nothing beyond what it has, one share per container."""
    (rule,) = accepted(rules("- {name: all, resource: nvidia.com/gpu.mps, mps: {replicas: 3}}")).rules

    assert rule.mps == MpsTerms()
    assert rule.max_shares_per_container == 1
    assert rule.contract == Contract("nvidia.com/gpu.mps", Mode.MPS)
    a100 = Gpu("GPU-a", 0, "NVIDIA A100-SXM4-40GB", 40 << 30)
    assert rule.contract_for(a100) == Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(13653, 33, most=1))


@pytest.mark.parametrize(("memory", "limit"), [("9Gi", 9216), ("9728Mi", 9728), ("1Mi", 1)])
def test_memory_per_replica(memory: str, limit: int) -> None:
    """Memory is given in whole Mi or Gi, and is the limit of one share as it stands, whatever the GPU has."""
    text = f"- {{name: all, resource: nvidia.com/gpu.mps, mps: {{replicas: 4, memoryPerReplica: {memory}}}}}"
    (rule,) = accepted(rules(text)).rules

    for size in (16, 80):
        contract = rule.contract_for(Gpu("GPU-a", 0, "some", size << 30))
        assert contract is not None
        assert contract.limits == MpsLimits(limit, 25)


@pytest.mark.parametrize(("most", "limit"), [(1, 1), (2, 2), (4, 4), (9, 4)])
def test_shares_per_container_under_mps(most: int, limit: int) -> None:
    """A container may have as many shares as its rule says, of one GPU: more than the GPU has get a note."""
    text = f"- {{name: all, resource: a.io/mps, mps: {{replicas: 4}}, maxSharesPerContainer: {most}}}"
    config = accepted(rules(text))

    contract = config.rules[0].contract_for(Gpu("GPU-a", 0, "some", 40 << 30))
    assert contract is not None
    assert contract.limits == MpsLimits(10240, 25, most=limit)
    noted = (
        'rule "all" allows a container 9 shares, but a GPU has 4, and under MPS all shares of a container are of one'
    )
    assert [note.startswith(noted) for note in config.notes] == [True] * (most > 4)


@pytest.mark.parametrize("replicas", [1, 48])
def test_replicas_under_mps(replicas: int) -> None:
    """One share under MPS is as good as 48."""
    text = f"- {{name: all, resource: nvidia.com/gpu.mps, mps: {{replicas: {replicas}}}}}"
    config = accepted(rules(text))

    assert config.rules[0].replicas == replicas
    assert config.notes == ()


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


@pytest.mark.parametrize(
    ("match", "resource"),
    [
        ('{mig: ["*"]}', MIG_RESOURCES),
        ('{mig: ["1g.*"], uuids: [GPU-a, MIG-b]}', MIG_RESOURCES),
        ("{uuids: [MIG-a, MIG-b]}", MIG_RESOURCES),
        ("{uuids: [GPU-a]}", "nvidia.com/gpu"),
        ("{}", "nvidia.com/gpu"),
    ],
)
def test_mig_devices_are_called_by_their_profile(match: str, resource: str) -> None:
    """An exclusive rule that speaks of MIG devices alone gives each its profile's name, unless it has a name itself."""
    (rule,) = accepted(rules(f"- {{name: a, match: {match}, exclusive: {{}}}}")).rules
    assert rule.contract == Contract(resource, Mode.EXCLUSIVE)

    (rule,) = accepted(rules(f"- {{name: a, match: {match}, resource: a.io/b, exclusive: {{}}}}")).rules
    assert rule.contract == Contract("a.io/b", Mode.EXCLUSIVE)


@pytest.mark.parametrize("mig", ["1g.5gb", "1c.3g.20gb", "1g.10gb+me", "1g.12gb-me", "[1-3]g.*", "?g.40gb", "[!7]g.*"])
def test_patterns_for_profiles(mig: str) -> None:
    """Every profile of NVIDIA's, and every shell pattern over them, can be written."""
    assert accepted(rules(f"- {{name: a, match: {{mig: ['{mig}']}}, exclusive: {{}}}}")).rules[0].match.mig == (mig,)


def health(text: str) -> SharingConfig:
    """A config with this policy."""
    return accepted(f"{TIME_SLICED}  health: {text}\n")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("{}", HealthPolicy()),
        ("{recovery: never}", HealthPolicy()),
        ("{ignoreXids: [109, 13, 31, 43, 45, 68]}", HealthPolicy()),
        ("{ignoreXids: []}", HealthPolicy(frozenset())),
        ("{criticalXids: [79, 48]}", HealthPolicy(critical=frozenset({48, 79}))),
        ("{criticalXids: []}", HealthPolicy(critical=frozenset())),
        (
            "{criticalXids: [13, 94], recovery: {after: 90s, xids: [13]}}",
            HealthPolicy(critical=frozenset({13, 94}), recover_after=90.0, recoverable=frozenset({13})),
        ),
        (
            "{recovery: {after: 1h, xids: [94, 63]}}",
            HealthPolicy(recover_after=3600.0, recoverable=frozenset({63, 94})),
        ),
    ],
)
def test_health(text: str, policy: HealthPolicy) -> None:
    """`ignoreXids` stands instead of the default, `criticalXids` instead of either; XIDs that recover are named."""
    assert health(text).health == policy


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("{ignoreXids: [13, 31, 43, 45, 68, 109, 94]}", ""),
        (
            "{ignoreXids: [13, 31, 43, 45, 94]}",
            "so that a GPU is unhealthy after XID 68 (video processor exception), XID 109 (context switch timeout),",
        ),
        ("{criticalXids: []}", "health.criticalXids is empty: no XID makes a GPU unhealthy, all are only counted"),
        ("{recovery: {after: 10m, xids: [63, 94]}}", ""),
        (
            "{recovery: {after: 10m, xids: [79, 94]}}",
            "a GPU is offered again 10m after XID 79 (GPU has fallen off the bus), but usually works again only after",
        ),
    ],
)
def test_a_policy_that_may_not_be_meant_is_noted(text: str, note: str) -> None:
    """A default list that was replaced by accident, a policy of nothing, and a recovery from what takes a reset."""
    found = health(text).notes
    assert len(found) == bool(note)
    assert note in "".join(found)


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
