"""How an agent begins: what it remembers, what it finds, and who else is there."""

from __future__ import annotations

from enum import Enum

import pytest

from nodeagent.agent import Agent
from nodeagent.errors import CannotStart
from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing
from tests.agent.harness import GPUS, Node, Process, uuid
from tests.waiting import eventually, together

BAD = b"kind: [\n"


async def test_the_last_known_good_config_serves(node: Node) -> None:
    """An agent that starts on a bad document serves the last good one, and says so, until there is a better one."""
    node.commit(shares(4), revision="good")
    first = await node.agent()
    await node.advertises({SHARED: 32})
    await first.stop()

    node.commit(BAD)
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.says("ServingLastKnownGood").status)
    await eventually(agent.ready)
    assert await agent.metric("config_using_last_known_good") == 1
    assert await agent.metric("config_last_reload_successful") == 0
    assert await agent.metric("config_info", state="desired", revision="good") == 1
    assert not agent.snapshot.in_sync

    node.commit(shares(6))
    await node.advertises({SHARED: 48})
    await eventually(lambda: agent.snapshot.in_sync)
    assert not agent.says("ServingLastKnownGood").status
    assert await agent.metric("config_using_last_known_good") == 0


async def test_it_is_enforced_and_not_only_remembered(node: Node) -> None:
    """The last known good config holds on GPUs that were not there when it was accepted."""
    node.simulate(2)
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 8})
    await first.stop()

    node.mount.write({"revision": b""})
    node.simulate(3)
    agent = await node.agent()

    await node.advertises({SHARED: 12})
    assert agent.says("ConfigAccepted").reason == "Missing"
    assert agent.says("ServingLastKnownGood").status


async def test_nothing_accepted_serves_what_was_applied(node: Node) -> None:
    """Another pool's last known good config is never used. An agent without a config goes on serving what its node
    advertised, adds nothing, and is not ready; its first good document ends that without a moment of fewer shares.
    """
    node.simulate(2)
    node.commit(shares(4))
    first = await node.agent(pool="a")
    await node.advertises({SHARED: 8})
    (pod,) = await node.hold(1)
    await first.stop()

    node.commit(BAD)
    node.simulate(3)
    agent = await node.agent(pool="b")
    await node.advertises({SHARED: 8})
    await eventually(lambda: agent.says("Ready").reason == "NothingAccepted")
    assert not await agent.ready()
    assert await agent.live()
    assert not agent.says("ServingLastKnownGood").status
    assert node.log.having("last-known-good is not used: it belongs to 'a/sharing.yaml'")
    assert pod.ids() <= node.kubelet.free(SHARED) | node.kubelet.held(SHARED)

    node.kubelet.reset_fewest(SHARED)
    node.commit(shares(4))
    await node.advertises({SHARED: 12})
    await eventually(agent.ready)
    assert node.kubelet.fewest(SHARED) == 8


async def test_a_bare_node_without_a_config_advertises_nothing(node: Node) -> None:
    """Without a document that was ever accepted, an agent on a new node registers nothing and is not ready."""
    agent = await node.agent()
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")

    assert agent.says("Ready").reason == "NothingAccepted"
    assert not await agent.ready()
    assert node.kubelet.registrations == []

    node.commit(shares(4))
    await node.advertises({SHARED: 32})
    await eventually(agent.ready)


WRONG = shares(4).replace(b"replicas", b"replica").replace(b'resource"', b'resorce"')
NOT_YET = "Ready: NothingAccepted: no sharing config was ever accepted: "


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"sharing.yaml": WRONG}, ["{path}:", 'got "resorce"; did you mean', "(and ", 'got "replica"; did you mean']),
        ({"sharing.yaml": BAD}, ["{path}:"]),
        ({"sharing.yaml": b""}, ["{path}:1:1: "]),
        (
            {"other.yaml": shares(4), "third.yaml": shares(4)},
            ["there is no sharing.yaml; there are other.yaml, third.yaml"],
        ),
        (
            {"a.yaml": shares(4), "b.yaml": shares(4)},
            ["label nodeagent.io/config of the node is 'x', and there is no x.yaml; there are a.yaml, b.yaml"],
        ),
    ],
    ids=["mistakes", "no YAML", "empty", "missing", "no key for the label"],
)
async def test_a_cold_start_with_a_wrong_file_says_what_is_wrong(
    node: Node, files: dict[str, bytes], said: list[str]
) -> None:
    """The readiness probe answers with the mistake and its place, not only that nothing was ever accepted; and what is
    put right is served.
    """
    node.mount.write(files)
    labels = ("nodeagent.io/config",) if "a.yaml" in files else ()
    agent = await node.agent(config_labels=labels)
    if labels:
        agent.agent.take_labels({"nodeagent.io/config": "x"})
    path = str(node.mount.directory / "sharing.yaml")

    async def told() -> bool:
        answer = await agent.get("/readyz")
        body = answer.body.decode()
        assert answer.code == 503
        assert body.startswith(NOT_YET)
        for part in said:
            assert part.format(path=path) in body
        return True

    await eventually(told)
    node.mount.write({**files, "sharing.yaml": shares(4), "x.yaml": shares(4)})
    await node.advertises({SHARED: 32})
    await eventually(agent.ready)


class Restart(Enum):
    """How an agent ends before another one starts."""

    STOPPED = "stopped"
    KILLED = "killed"
    WITH_THE_KUBELET = "stopped, and the kubelet restarted"


async def test_a_restart_goes_on_where_it_was() -> None:
    """An agent that starts after another was stopped or killed in the middle of a drain, be it together with the
    kubelet, shows the list of the one before it, takes nothing away before it knows who holds what, and converges.
    """
    await together(_restart(how) for how in Restart)


async def _restart(how: Restart) -> None:
    async with Node(gpus=1) as node:
        node.commit(shares(10))
        first = await (node.process() if how is Restart.KILLED else node.agent())
        await node.advertises({SHARED: 10})
        pods = await node.hold(6)
        node.commit(shares(4))
        await node.advertises({SHARED: 6})
        before = node.kubelet.devices(SHARED)
        await (first.kill() if isinstance(first, Process) else first.stop())
        if how is Restart.WITH_THE_KUBELET:
            await node.kubelet.restart()

        agent = await node.agent()
        await node.advertises({SHARED: 6})
        assert node.kubelet.devices(SHARED) == before
        await eventually(lambda: agent.says("Draining").message == "2 held shares drain on GPU 0")
        assert await agent.ready()
        for pod in pods[:2]:
            await node.kubelet.end(pod)
        await node.advertises({SHARED: 4}, within=20.0)
        assert node.kubelet.devices(SHARED) == dict.fromkeys(sorted(node.kubelet.held(SHARED)), True)
        await eventually(lambda: agent.snapshot.in_sync)
        assert len(list(node.kubelet.device_plugins.glob("nodeagent-*"))) == 1


async def test_a_second_agent_waits_and_takes_over(node: Node) -> None:
    """A second agent on one state directory answers /livez and nothing else, touches nothing, and takes over when the
    first has gone.
    """
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    second = await node.agent()

    assert await second.live()
    assert not await second.ready()
    assert (await second.get("/status")).code == 503
    assert second.agent.snapshot is None
    await eventually(lambda: node.log.having("another agent has", "waiting"))
    node.commit(shares(5))
    await node.allocatable(40)
    assert len(node.kubelet.registrations) == 1

    await first.stop()
    await eventually(second.ready)
    await node.advertises({SHARED: 40})
    assert len(node.kubelet.registrations) == 2


async def test_an_agent_that_cannot_start_says_why(node: Node) -> None:
    """An address in use and a state directory that cannot be one are reasons not to start."""
    node.commit(shares(4))
    first = await node.agent()
    taken = f"127.0.0.1:{first.port}"
    with pytest.raises(CannotStart, match=f"^cannot listen on {taken}: Address already in use \\(EADDRINUSE\\): "):
        await node.agent(listen=taken)

    (node.directory / "file").write_bytes(b"")
    second = Agent(node.settings(state_dir=node.directory / "file"))
    with pytest.raises(CannotStart, match=f"^{node.directory / 'file'}: cannot use state directory: File exists"):
        await second.run()


@pytest.mark.parametrize("late", [False, True], ids=["driver", "late driver"])
async def test_taking_over_from_another_plugin(node: Node, late: bool) -> None:
    """Pods hold ids of NVIDIA's plugin before our first start: the ids stay on the list, those that Git does not want
    drain, and a GPU that pods hold in another mode changes when they have left; also where the driver comes last.
    """
    node.simulate(2)
    theirs, whole = await node.foreign(SHARED), await node.foreign(GPU)
    await theirs.register()
    await whole.register()
    high = f"{uuid(0)}::11"
    theirs.preferred = [high]
    await theirs.send([*(f"{uuid(0)}::{number}" for number in range(9)), high])
    await whole.send([uuid(1)])
    await node.allocatable(10)
    await node.allocatable(1, GPU)
    pods = [
        await node.kubelet.admit("shared", containers={"main": {SHARED: 1}}),
        await node.kubelet.admit("whole", containers={"main": {GPU: 1}}),
    ]
    assert [pod.ids() for pod in pods] == [{high}, {uuid(1)}]
    # When their streams end the kubelet has nothing healthy left; the auditor is told so, since it goes by lists alone.
    await theirs.send([], node.kubelet.devices(SHARED))
    await node.allocatable(0)
    await theirs.stop()
    await whole.stop()

    node.commit(shares(10))
    if late:
        node.simulation.unlink()
    agent = await node.agent()
    await eventually(lambda: agent.says("PodResourcesReady").status)
    if late:
        node.simulate(2)
    await node.advertises({SHARED: 10, GPU: 1})
    assert node.kubelet.devices(SHARED).keys() == {high, *(f"{uuid(0)}::{number}" for number in range(9))}
    await eventually(lambda: agent.says("Draining").status)

    await node.kubelet.end(pods[1])
    await node.allocatable(20)
    await eventually(lambda: agent.snapshot.in_sync)
    assert [entry.resource for entry in agent.snapshot.resources] == [SHARED]


async def test_the_implicit_rule_is_whole_gpus(node: Node) -> None:
    """GPUs that no rule matches are whole, under the name that everybody knows."""
    node.commit(sharing(exclusive(at=[0])))
    await node.agent()
    await node.advertises({GPU: GPUS})
