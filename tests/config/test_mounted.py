"""What agents among rendered manifests have mounted: what they would read is judged, and nothing else is a mistake."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest

from nodeagent.commands.checking import Checked, check_bytes
from nodeagent.config.workloads import MOST
from tests.config.test_configmap import NVIDIAS

GOOD = "version: v1"
BROKEN = NVIDIAS.replace("replicas: 4", "replicas: 0")


def agent(number: int = 0, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - anything may be there
    """A DaemonSet of ours: `args`, `env`, `envFrom`, `volumeMounts` and `volumes` may be others."""
    pod = {
        "nodeSelector": {"pool": str(number)},
        "volumes": changes.pop("volumes", [{"name": "config", "configMap": {"name": "sharing"}}]),
        "containers": [
            {
                "name": "nodeagent",
                "image": "nodeagent:1",
                "args": ["run", "--config=/config", "--driver=simulated:x", *changes.pop("args", [])],
                "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                **changes,
            }
        ],
    }
    metadata = {"name": f"agent-{number}" if number else "agent", "namespace": "gpu"}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def held(keys: dict[str, str], kind: str = "ConfigMap", name: str = "sharing") -> dict[str, Any]:
    """A ConfigMap or a Secret with these keys."""
    field = "data" if kind == "ConfigMap" else "stringData"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "gpu"}, field: keys}


def checked(*manifests: dict[str, Any]) -> Checked:
    """What `validate` says of these."""
    return check_bytes("---\n".join(json.dumps(one) + "\n" for one in manifests).encode(), "stdin")


def wrong(*manifests: dict[str, Any]) -> str:
    """The mistakes."""
    return "\n".join(map(str, checked(*manifests).violations))


TWO = {"a100": NVIDIAS, "t4": NVIDIAS}
FROM = {"valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}
ITEMS = [{"name": "config", "configMap": {"name": "sharing", "items": [{"key": "t4", "path": "t4"}]}}]


def projected(*names: str) -> list[dict[str, Any]]:
    """A volume of several ConfigMaps."""
    return [{"name": "config", "projected": {"sources": [{"configMap": {"name": name}} for name in names]}}]


@pytest.mark.parametrize("default", ["$(D)", "pools/a100", "..", "../x", "a b"])
@pytest.mark.parametrize("more", [[], ["--kube-api=on"]])
def test_a_default_that_is_no_name_is_noted(default: str, more: list[str]) -> None:
    """An agent with such an option does not start, and that is what is to be said."""
    found = checked(agent(args=[f"--config-default={default}", *more]), held(TWO))
    assert found.violations == ()
    assert any("has --config-default" in note and "does not start" in note for note in found.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"env": [{"name": "NODEAGENT_CONFIG_DEFAULT", **FROM}]},
        {"env": [{"name": "NODEAGENT_KUBE_API", **FROM}]},
        {"envFrom": [{"configMapRef": {"name": "x"}}]},
        {"env": [{"name": "D", **FROM}], "args": ["--config-default=$(D)"]},
        {"env": [{"name": "D", "value": "t4"}], "args": ["--config-default=$(D)"]},
        {"env": [{"name": "D", "value": "t4"}, {"name": "NODEAGENT_CONFIG_DEFAULT", "value": "$(D)"}]},
        {"args": ["--config-default", "t4"]},
        {"volumes": ITEMS},
    ],
)
def test_what_nodes_accept_is_no_mistake(changes: dict[str, Any]) -> None:
    """An option that only the cluster knows, and a mount of one key of two."""
    assert wrong(agent(**changes), held(TWO)) == ""
    assert "replicas" in wrong(agent(**changes), held({**TWO, "t4": BROKEN}))


def test_variables_that_make_each_other_long() -> None:
    """What Kubernetes would not put together is not put together here."""
    env = [{"name": "V0", "value": "xx"}, *({"name": f"V{n + 1}", "value": f"$(V{n})$(V{n})"} for n in range(60))]
    assert wrong(agent(env=env, args=["--config-default=$(V60)"]), held(TWO)) == ""


@pytest.mark.parametrize("names", [("revision", "sharing"), ("sharing", "revision")])
def test_a_volume_of_several_config_maps(names: tuple[str, str]) -> None:
    """An agent reads from all of them: each need not have every key."""
    revision = held({"revision": "abc"}, name="revision")
    pods = agent(volumes=projected(*names))
    assert wrong(pods, revision, held({"sharing.yaml": GOOD})) == ""
    assert "replicas" in wrong(pods, revision, held({"sharing.yaml": BROKEN}))


def test_a_secret_of_the_same_name() -> None:
    """It is not what the agent has."""
    assert wrong(agent(), held({"password": "x", "token.yaml": "y"}, "Secret"), held({"sharing.yaml": GOOD})) == ""
    by_secret = agent(volumes=[{"name": "config", "secret": {"secretName": "sharing"}}])
    assert 'expected the key "sharing.yaml"' in wrong(by_secret, held(TWO, "Secret"))


def one_by_one(path: str, key: str) -> dict[str, Any]:
    """A key that is mounted by subPath."""
    return {"name": "config", "mountPath": path, "subPath": key}


@pytest.mark.parametrize(
    ("mounts", "keys", "expected"),
    [
        ([one_by_one("/config/sharing.yaml", "sharing.yaml")], {"sharing.yaml": GOOD}, ""),
        ([one_by_one("/config/sharing.yaml", "pool.yaml")], {"pool.yaml": GOOD}, ""),
        ([one_by_one("/config/pool.yaml", "pool.yaml")], {"pool.yaml": GOOD}, ""),
        ([one_by_one("/config/sharing.yaml", "pool")], {"pool": BROKEN}, "replicas"),
        ([one_by_one("/config/sharing.yaml", "pool")], {"sharing.yaml": GOOD}, 'expected the key "pool"'),
    ],
)
def test_keys_that_are_mounted_one_by_one(mounts: list[dict[str, str]], keys: dict[str, str], expected: str) -> None:
    """Below the directory of the config a key is what the mount calls it, and never changes."""
    found = checked(agent(volumeMounts=mounts), held(keys))
    assert expected in "\n".join(map(str, found.violations))
    assert bool(found.violations) is bool(expected)
    assert any("by subPath, so that no change ever reaches it" in note for note in found.notes) or expected
    assert not any("as the only one" in note for note in found.notes)


def test_a_directory_that_a_volume_has_by_its_items() -> None:
    """Items may have paths with folders, of which the config is one."""
    listed = [{"key": "a", "path": "pools/sharing.yaml"}, {"key": "b", "path": "other/x"}]
    volumes = [{"name": "config", "configMap": {"name": "sharing", "items": listed}}]
    pods = agent(volumes=volumes, args=[])
    pods["spec"]["template"]["spec"]["containers"][0]["args"][1] = "--config=/config/pools"
    assert wrong(pods, held({"a": NVIDIAS, "b": NVIDIAS})) == ""
    assert "replicas" in wrong(pods, held({"a": BROKEN, "b": NVIDIAS}))


@pytest.mark.parametrize("text", ["hello", "foo: bar", "", NVIDIAS + "flags: 'open", "{{ if }}\ngarbage here"])
def test_labels_choose_keys_without_an_ending(text: str) -> None:
    """Where the agent goes by labels each key that a label can name has to be a config, whatever is in it."""
    keys = {"sharing.yaml": GOOD, "t4": text, "README.md": "hello"}
    assert "ConfigMap gpu/sharing, t4" in wrong(agent(args=["--kube-api=on"]), held(keys))
    assert wrong(agent(), held(keys)) == ""


def test_many_agents_cost_no_more_than_they_are() -> None:
    """Time grows with the manifests, and of so many agents only the first are looked at, which is noted."""
    config = held({f"k{number}": GOOD for number in range(900)} | {"sharing.yaml": GOOD})
    text = "---\n".join(json.dumps(one) + "\n" for one in [*(agent(n) for n in range(1, 1101)), config]).encode()
    before = process_time()
    found = check_bytes(text, "stdin")
    spent = process_time() - before
    assert found.notes[-1] == f"no more than {MOST} agents and MPS hosts are looked at"
    assert spent < 10 * baseline(text)


def baseline(text: bytes) -> float:
    """What it costs to read so many manifests of nobody."""
    before = process_time()
    check_bytes(text.replace(b"nodeagent", b"otheragent").replace(b'"ConfigMap"', b'"Kind"'), "stdin")
    return process_time() - before
