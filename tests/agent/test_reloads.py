"""Documents that are accepted: what the kubelet sees of them, and what is said."""

from __future__ import annotations

import re
import textwrap

from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced, withheld
from tests.agent.harness import Node
from tests.agent.stories import reload_back_and_forth
from tests.waiting import eventually


async def test_what_a_config_says_in_vain_is_told_once(node: Node) -> None:
    """In the notes, with what there is instead, and in one line of the log for each document; the config is followed.
    What was put right is no longer said.
    """
    node.simulate(2)
    node.commit(sharing(exclusive(at=[0, 9]), time_sliced(4)))
    agent = await node.agent(pool="inference")
    await node.advertises({GPU: 1, SHARED: 4})
    index = "no GPU of this node has the index 9; there are GPUs 0-1"
    pool = 'the config is called "test", and this node is of the pool "inference"'
    notes = (await agent.status())["config"]["notes"]
    assert [pool in notes[0], index in notes[1]] == [True, True]
    assert index in (await agent.get("/")).body.decode()
    assert [len(node.log.having("config: ", part)) for part in (pool, index)] == [1, 1]
    node.simulate(3)
    await node.advertises({GPU: 1, SHARED: 8})
    assert await eventually(lambda: node.log.having("config: ", "there are GPUs 0-2"))
    assert len(node.log.having("config: ", pool)) == 1

    node.commit(sharing(exclusive(at=[0]), time_sliced(4)))
    await eventually(lambda: len(node.log.having("config: ", pool)) == 2)
    await eventually(lambda: len(agent.snapshot.config.notes) == 1)
    assert agent.snapshot.in_sync


async def test_reloads_disturb_nothing(node: Node) -> None:
    """Over ten reloads between ten and four shares no stream ends, nothing registers again, and there are never fewer
    healthy shares than the smaller count asks for.
    """
    await reload_back_and_forth(node, 10)


async def test_the_same_meaning_is_unchanged(node: Node) -> None:
    """A document that means the same, or has another revision only, is `unchanged`: nothing is sent, and it is what
    the node is said to run.
    """
    node.commit(shares(4, comment="one"), revision="r1")
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)
    sent = node.kubelet.record.message_count

    node.commit(shares(4, comment="one"), revision="r2")
    await eventually(lambda: agent.snapshot.config.applied and agent.snapshot.config.applied.revision == "r2")
    node.commit(shares(4, comment="two"), revision="r2")
    await eventually(lambda: len(agent.snapshot.reloads) == 3)

    assert [reload.result.value for reload in agent.snapshot.reloads] == ["unchanged", "unchanged", "accepted"]
    assert await agent.metric("config_reloads_total", result="unchanged") == 2
    assert agent.snapshot.in_sync
    assert agent.snapshot.config.generation == 1
    assert node.kubelet.record.message_count == sent


async def test_one_line_says_it_all(node: Node) -> None:
    """A reload is one line in the log: blob id, revision, what changes, what drains, how long it took."""
    node.commit(shares(10), revision="r1")
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    await node.fill(0, 6)
    before = len(node.log.having("config accepted"))

    node.commit(shares(4), revision="main@sha1:5f3c")
    await eventually(lambda: len(node.log.having("config accepted")) > before)

    blob = agent.snapshot.config.newest
    assert blob is not None
    (line,) = node.log.having("config accepted", blob.git_blob)
    assert re.fullmatch(
        rf"config accepted: blob {blob.git_blob}, revision main@sha1:5f3c: "
        r"GPUs 0-7: time-sliced nvidia.com/gpu.shared x10 -> time-sliced nvidia.com/gpu.shared x4; "
        r"held shares drain: 2 on GPU 0.* \(drained, \d+ ms\)",
        line,
    ), line
    assert len(node.log.having(blob.git_blob)) == 1


async def test_rules_stand_side_by_side(node: Node) -> None:
    """Each GPU is what the first rule that matches it says: shared by different numbers, whole, or withheld."""
    node.commit(
        sharing(
            time_sliced(10, at=[0, 1]),
            time_sliced(3, at=[2]),
            withheld(at=[3]),
            time_sliced(2, "example.com/half", at=[4]),
            exclusive(),
        )
    )
    agent = await node.agent()

    await node.advertises({SHARED: 23, "example.com/half": 2, GPU: 3})

    assert node.of_gpu(3) == node.of_gpu(3, GPU) == {}
    await eventually(lambda: agent.snapshot.in_sync)
    assert {gpu.gpu.index: gpu.rule for gpu in agent.snapshot.gpus if gpu.gpu.index > 4} == dict.fromkeys(
        (5, 6, 7), "gpu-4"
    )


async def test_nvidias_file_is_followed(node: Node) -> None:
    """The file that NVIDIA's plugin reads gives the resources that it would give, and can be left for ours."""
    theirs = """\
        version: v1
        sharing:
          timeSlicing:
            renameByDefault: true
            resources: [{name: nvidia.com/gpu, replicas: 4}]
    """
    node.commit(textwrap.dedent(theirs).encode())
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    sent = node.kubelet.record.message_count

    node.commit(shares(4))
    await eventually(lambda: agent.snapshot.in_sync and len(agent.snapshot.reloads) == 2)
    assert node.kubelet.record.message_count == sent


async def test_one_name_goes_over_to_another_mode(node: Node) -> None:
    """Where whole GPUs are to be shared under the name they have, the free ones are, and the one that a pod holds
    follows when it has ended.
    """
    node.commit(sharing(exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 8})
    (holder,) = await node.hold(1, GPU)

    node.commit(sharing(time_sliced(2, GPU)))
    await node.advertises({GPU: 15})
    assert node.of_gpu(0, GPU) == dict.fromkeys(holder.ids(), True)
    await node.looked()
    await node.kubelet.end(holder)
    await node.advertises({GPU: 16})
    await eventually(lambda: agent.snapshot.in_sync)
    assert node.kubelet.streams_ended == []
    assert len(node.kubelet.registrations) == 1


async def test_suspended_keeps_what_is_applied(node: Node) -> None:
    """While `suspend` is true nothing that Git says is done, whatever follows; then the newest is."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    sent = node.kubelet.record.message_count

    node.commit(sharing(time_sliced(6), suspend=True))
    await eventually(lambda: agent.says("Suspended").status)
    node.commit(sharing(exclusive(), suspend=True))
    await eventually(lambda: agent.snapshot.config.generation == 3)

    assert node.kubelet.record.message_count == sent
    assert agent.says("Ready").status
    assert not agent.snapshot.in_sync
    assert await agent.metric("drift", kind="config") == 1

    node.commit(shares(6))
    await node.advertises({SHARED: 48})
    await eventually(lambda: agent.snapshot.in_sync)
    assert not agent.says("Suspended").status


async def test_another_mode_waits_for_its_pods(node: Node) -> None:
    """A GPU whose shares are held changes its mode when the last has left; its free shares go at once, what is held
    stays Healthy, and no other GPU notices. The old resource stays registered until nobody holds any of it; then no
    series of it is left.
    """
    node.commit(sharing(time_sliced(4, at=[0]), exclusive()), revision="r1")
    agent = await node.agent()
    await node.advertises({SHARED: 4, GPU: 7})
    (holder,) = await node.hold(1)
    (held,) = holder.ids()
    node.kubelet.reset_fewest(GPU)

    node.commit(sharing(exclusive()), revision="r2")
    await node.advertises({SHARED: 1, GPU: 7})
    assert node.kubelet.devices(SHARED) == {held: True}
    assert agent.says("Draining").status
    assert agent.says("Ready").status
    assert await agent.metric("shares", resource=SHARED, state="draining") == 1
    assert await agent.metric("in_sync") == 0
    assert node.kubelet.streams_ended == []

    await node.looked()
    await node.kubelet.end(holder)
    await node.allocatable(8, GPU)
    await eventually(lambda: agent.snapshot.in_sync)
    await eventually(lambda: [end.resource for end in node.kubelet.streams_ended] == [SHARED])
    assert node.kubelet.devices(SHARED) == {}
    assert node.kubelet.fewest(GPU) == 7
    assert [entry.resource for entry in agent.snapshot.resources] == [GPU]
    metrics = (await agent.get("/metrics")).body.decode()
    assert SHARED not in metrics
    assert 'revision="r1"' not in metrics

    node.commit(sharing(time_sliced(4, at=[0]), exclusive()))
    await node.allocatable(4, SHARED)
