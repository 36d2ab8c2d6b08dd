"""A directory of several documents, of which a label of the Node selects one."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.agent.documents import SHARED, shares
from tests.agent.harness import GPUS, InProcess, Node
from tests.waiting import eventually

OURS, NVIDIAS = "nodeagent.io/config", "nvidia.com/device-plugin.config"
BOTH = (OURS, NVIDIAS)

FILES = {"sharing.yaml": shares(2), "a.yaml": shares(4), "b.yaml": shares(6)}


@pytest.fixture
def several(node: Node) -> Node:
    """A node whose mount has three documents."""
    node.mount.write(FILES)
    return node


async def has(node: Node, agent: InProcess, name: str, replicas: int) -> None:
    """Wait until the node is as the document of this name says, and every report names that."""
    await node.advertises({SHARED: replicas * GPUS})
    file = str(node.mount.directory / name)
    await eventually(lambda: agent.snapshot.in_sync and agent.snapshot.config.path == file)
    status = await agent.status()
    assert status["config"]["path"] == file
    assert status["config"]["applied"]["path"] == file
    assert agent.says("ConfigAccepted").status


async def test_a_config_map_of_nvidias_config_manager(node: Node) -> None:
    """Keys without an ending, in NVIDIA's format: the label names one, and where it says nothing the option does."""
    file = (
        "version: v1\nsharing: {{timeSlicing: {{renameByDefault: true, resources: [{{name: gpu, replicas: {}}}]}}}}\n"
    )
    node.mount.write({"tesla-t4": file.format(4).encode(), "a100": file.format(6).encode()})
    agent = await node.agent(config_labels=BOTH, config_default="a100")
    agent.agent.take_labels({})
    await has(node, agent, "a100", 6)
    agent.agent.take_labels({NVIDIAS: "tesla-t4"})
    await has(node, agent, "tesla-t4", 4)
    agent.agent.take_labels({NVIDIAS: ""})
    await has(node, agent, "a100", 6)


async def test_labels_switch_between_documents(several: Node) -> None:
    """Each change of the label is a reload like a commit: nobody's share is lost, an unknown value changes nothing and
    says what there is, the way back heals at once, and without a label it is the document for all.
    """
    agent = await several.agent(config_labels=BOTH)
    agent.agent.take_labels({OURS: "a"})
    await has(several, agent, "a.yaml", 4)
    assert several.log.having("label nodeagent.io/config of the node is 'a'", "a.yaml")
    pods = await several.hold(3)
    held = several.kubelet.held(SHARED)

    agent.agent.take_labels({OURS: "b", "zone": "x"})
    await has(several, agent, "b.yaml", 6)

    sent = several.kubelet.record.message_count
    agent.agent.take_labels({OURS: "x", "zone": "x"})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
    message = (
        "cannot read config: label nodeagent.io/config of the node is 'x', and there is no x.yaml; "
        "there are a.yaml, b.yaml, sharing.yaml"
    )
    assert agent.says("ConfigAccepted").message == message
    assert several.log.having("config failed", message)
    assert (await agent.status())["config"]["path"] == str(several.mount.directory / "x.yaml")
    assert await agent.metric("drift", kind="config") == 1
    assert await agent.ready()
    await several.advertises({SHARED: 6 * GPUS})

    agent.agent.take_labels({OURS: "b"})
    await has(several, agent, "b.yaml", 6)
    assert several.kubelet.record.message_count == sent

    agent.agent.take_labels({NVIDIAS: "a"})
    await has(several, agent, "a.yaml", 4)
    agent.agent.take_labels({})
    await has(several, agent, "sharing.yaml", 2)
    assert several.kubelet.held(SHARED) == held
    assert len(several.kubelet.registrations) == 1
    for pod in pods:
        await several.kubelet.end(pod)


async def test_a_selected_document_that_is_rejected_changes_nothing(several: Node) -> None:
    """A label is no way around the checks, and a commit that mends the selected document is followed."""
    several.mount.write({**FILES, "b.yaml": b"kind: [\n"})
    agent = await several.agent(config_labels=BOTH)
    agent.agent.take_labels({OURS: "a"})
    await has(several, agent, "a.yaml", 4)

    agent.agent.take_labels({OURS: "b"})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "ParseError")
    await several.advertises({SHARED: 4 * GPUS})
    several.mount.write(FILES)
    await has(several, agent, "b.yaml", 6)


@pytest.mark.parametrize("labels", [{OURS: "a"}, {}], ids=["label", "no label"])
async def test_nothing_is_lost_while_the_labels_are_not_known(several: Node, labels: Mapping[str, str]) -> None:
    """An agent that starts and hears nothing of the Node goes on with what was selected, sends no other list, follows
    commits to that document, and takes the label that was changed meanwhile when it hears of it.
    """
    name, replicas = ("a.yaml", 4) if labels else ("sharing.yaml", 2)
    first = await several.agent(config_labels=BOTH)
    first.agent.take_labels(labels)
    await has(several, first, name, replicas)
    kept = several.state_dir / "config-selection"
    await eventually(
        lambda: kept.exists() and json.loads(kept.read_bytes().partition(b"\n")[2])["value"] == labels.get(OURS)
    )
    (pod,) = await several.hold(1)
    before = several.kubelet.devices(SHARED)
    await first.stop()

    agent = await several.agent(config_labels=BOTH)
    await has(several, agent, name, replicas)
    assert several.log.having("the labels of the node are not known yet")
    assert several.kubelet.devices(SHARED) == before
    several.mount.write({**FILES, name: shares(5)})
    await has(several, agent, name, 5)

    agent.agent.take_labels({OURS: "b"})
    await has(several, agent, "b.yaml", 6)
    assert pod.ids() <= several.kubelet.held(SHARED)


async def test_a_new_node_says_what_it_waits_for(several: Node) -> None:
    """Where nothing is remembered nothing is guessed: the reason is told until the labels are there."""
    agent = await several.agent(config_labels=BOTH)
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Unreadable")
    assert agent.says("ConfigAccepted").message == "cannot read config: the labels of the node are not known yet"
    assert agent.says("Ready").reason == "NothingAccepted"
    assert several.kubelet.registrations == []

    agent.agent.take_labels({OURS: "a"})
    await has(several, agent, "a.yaml", 4)


async def test_a_file_is_read_whatever_the_labels_say(several: Node) -> None:
    """Labels select in a directory; a path that names a file is that file."""
    agent = await several.agent(config=several.mount.directory / "b.yaml", config_labels=BOTH)
    agent.agent.take_labels({OURS: "a"})
    await has(several, agent, "b.yaml", 6)
