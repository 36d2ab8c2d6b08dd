"""The documents that tests of the whole agent commit, in the words of their author: rules, and what is made of them."""

from __future__ import annotations

import json

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"
MPS = "nvidia.com/gpu.mps"

Rule = dict[str, object]


def time_sliced(replicas: int, resource: str = SHARED, *, at: list[int] | None = None, most: int | None = None) -> Rule:
    """`replicas` shares per GPU of those with the indices `at` (None: all), `most` of them per container."""
    limit = {} if most is None else {"maxSharesPerContainer": most}
    return {**_head(resource, at), "resource": resource, "timeSlicing": {"replicas": replicas}, **limit}


def exclusive(resource: str = GPU, *, at: list[int] | None = None) -> Rule:
    """Whole GPUs."""
    return {**_head(resource, at), "resource": resource, "exclusive": {}}


def mps(
    replicas: int,
    memory: str | None = None,
    threads: int | None = None,
    resource: str = MPS,
    *,
    at: list[int] | None = None,
    most: int | None = None,
) -> Rule:
    """`replicas` shares per GPU under MPS, with limits of their own where they are given."""
    terms: Rule = {"replicas": replicas}
    if memory is not None:
        terms["memoryPerReplica"] = memory
    if threads is not None:
        terms["threadPercentage"] = threads
    limit = {} if most is None else {"maxSharesPerContainer": most}
    return {**_head(resource, at), "resource": resource, "mps": terms, **limit}


def withheld(*, at: list[int] | None = None) -> Rule:
    """GPUs that are not advertised."""
    return {**_head("withheld", at), "withheld": {}}


def sharing(*rules: Rule, comment: str = "", **spec: object) -> bytes:
    """A sharing config of these rules and other keys of `spec`. A `comment` changes the bytes and nothing else."""
    named = [{**rule, "name": f"{rule['name']}-{number}"} for number, rule in enumerate(rules)]
    document = {
        "apiVersion": "nodeagent.io/v1alpha1",
        "kind": "SharingConfig",
        "metadata": {"name": "test"},
        "spec": {**spec, "rules": named},
    }
    return f"# {comment}\n{json.dumps(document)}\n".encode()


def shares(replicas: int, resource: str = SHARED, *, comment: str = "") -> bytes:
    """A sharing config that shares every GPU alike."""
    return sharing(time_sliced(replicas, resource), comment=comment)


def _head(name: str, at: list[int] | None) -> Rule:
    rule: Rule = {"name": name.rpartition("/")[2].replace(".", "-")}
    if at is not None:
        rule["match"] = {"indices": at}
    return rule
