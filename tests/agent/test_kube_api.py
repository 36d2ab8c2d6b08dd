"""The whole agent and the Kubernetes API: what its Node says, and that nothing else depends on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from nodeagent.model.config import Document
from tests.agent.documents import SHARED, exclusive, shares, sharing
from tests.agent.harness import GPUS, NODE_NAME, InProcess, Node
from tests.fakes.api_server import ApiServer
from tests.waiting import eventually

STATE, BLOB, ERROR = "nodeagent.io/config.state", "nodeagent.io/config.blob", "nodeagent.io/config.error"
WRONG = shares(4).replace(b"replicas", b"replica")


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server that knows the agent's Node."""
    async with ApiServer(tmp_path / "api") as running:
        running.objects.add_node(NODE_NAME, {"zone": "a"})
        yield running
    # What the role of the component kube-api allows.
    assert {entry.what for entry in running.asked} <= {"watch nodes", "patch nodes", "create events", "patch events"}


async def speaking(node: Node, api: ApiServer, **changes: object) -> InProcess:
    """An agent that labels its Node."""
    return await node.agent(kube_api=True, kubeconfig=api.kubeconfig, **{"labels": "api", **changes})


async def says(api: ApiServer, **labels: str | None) -> None:
    """Wait until the Node says this; `__` in a key is a dot."""

    def seen() -> bool:
        found = api.objects.labels(NODE_NAME)
        wanted = {key.replace("__", "."): value for key, value in labels.items()}
        have = {key: found.get(f"nvidia.com/{key}", found.get(f"nodeagent.io/{key}")) for key in wanted}
        assert have == wanted
        return True

    await eventually(seen)


async def shows(features: Path, line: str) -> None:
    """Wait until the file of Node Feature Discovery has this line."""
    file = features / "nodeagent"
    await eventually(lambda: file.exists() and line in file.read_text(encoding="utf-8").splitlines())


def events(api: ApiServer) -> list[str]:
    """Reasons of the events, in the order in which they were told."""
    return [event["reason"] for event in api.objects.events.values()]


async def test_a_reload_is_told(node: Node, api: ApiServer) -> None:
    """Labels follow what is applied: while pods hold what is in the way, the Node says so, and what it still offers;
    events tell the same story in order; each step is one write, and others' labels stay.
    """
    node.commit(shares(4))
    agent = await speaking(node, api)
    await says(api, gpu__count="8", gpu__product="NVIDIA-H100-80GB-HBM3", gpu__replicas="4", config__state="applied")
    (pod,) = await node.hold(1)
    before = api.count("patch nodes")

    node.commit(sharing(exclusive()))
    await says(
        api, config__state="draining", config__settled="false", gpus__exclusive="7", **{"gpus__time-sliced": "1"}
    )
    await eventually(lambda: "ConfigAccepted" in events(api))
    assert agent.snapshot.drift
    await node.kubelet.end(pod)
    await says(api, config__state="applied", config__settled="true", gpus__exclusive="8", **{"gpus__time-sliced": None})
    await eventually(lambda: events(api)[-1:] == ["ConfigApplied"])
    assert "Drained" in events(api)
    assert api.objects.labels(NODE_NAME)["zone"] == "a"
    # Both ends of the change, one for each wave of the seven free GPUs, and one more where a turn came between list and
    # settling.
    assert 2 <= api.count("patch nodes") - before <= 7


async def test_what_is_accepted_and_whether_it_is_settled_are_written_as_one(node: Node, api: ApiServer) -> None:
    """No write has the one without the other, so nobody who waits for a document sees it accepted and takes the node
    for settled by what was said of the document before: whatever is graver than a drain in the state.
    """
    first, second = shares(4), sharing(exclusive())
    blobs = {name: Document("", data).git_blob[:12] for name, data in (("first", first), ("second", second))}
    node.commit(first)
    await speaking(node, api)
    await says(api, config__settled="true", **{"config__accepted-blob": blobs["first"]})
    (pod,) = await node.hold(1)
    node.commit(second)
    await says(api, config__settled="false", **{"config__accepted-blob": blobs["second"]})
    node.commit(WRONG)
    await says(api, config__state="rejected", config__settled="false", **{"config__accepted-blob": blobs["second"]})
    await node.kubelet.end(pod)
    await says(api, config__state="rejected", config__settled="true", **{"config__accepted-blob": blobs["second"]})

    writes = [
        entry.body["metadata"]["labels"]
        for entry in api.asked
        if isinstance(entry.body, dict) and "labels" in entry.body.get("metadata", {})
    ]
    told = [(write["nodeagent.io/config.accepted-blob"], write["nodeagent.io/config.settled"]) for write in writes]
    of_second = [settled for blob, settled in told if blob == blobs["second"]]
    assert (of_second[0], of_second[-1]) == ("false", "true")


async def test_a_rejection_is_told(node: Node, api: ApiServer) -> None:
    """The error is an annotation and an event while the document is there, and the labels name its blob."""
    node.commit(shares(4))
    agent = await speaking(node, api)
    await says(api, config__state="applied")
    applied = api.objects.labels(NODE_NAME)[BLOB]
    node.commit(WRONG)
    await says(api, config__state="rejected", config__settled="true", config__blob=applied)
    await eventually(lambda: events(api)[-1:] == ["ConfigRejected"])
    assert 'got "replica"; did you mean "replicas"?' in api.objects.annotations(NODE_NAME)[ERROR]
    await node.advertises({SHARED: 4 * GPUS})

    node.commit(shares(4))
    await says(api, config__state="applied", **{"config__rejected-blob": None})
    assert api.objects.annotations(NODE_NAME) == {}
    await eventually(lambda: agent.says("LabelsSynced").reason == "Synced")


async def test_sharing_does_not_depend_on_it(node: Node, api: ApiServer) -> None:
    """While the API server is away, configs are applied as ever, and it is told; when it is back the Node is right."""
    node.commit(shares(4))
    agent = await speaking(node, api)
    await says(api, gpu__replicas="4")
    await api.stop()
    node.commit(shares(6))
    await node.advertises({SHARED: 6 * GPUS})
    await eventually(lambda: agent.says("LabelsSynced").reason == "Unreachable")
    assert await agent.ready()
    assert await agent.metric("drift", kind="labels")
    status = await agent.status()
    assert status["kubeApi"] is True
    assert {"nvidia.com/gpu.replicas"} <= {entry["key"] for entry in status["labels"]["differences"]}
    await api.start()
    await says(api, gpu__replicas="6", config__state="applied")


async def test_config_by_label(node: Node, api: ApiServer) -> None:
    """A label of the Node selects the document: from one to the other, an unknown value that changes nothing, the API
    away in between, and back; nobody's share is lost.
    """
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": shares(4), "b.yaml": shares(6)})
    key = "nodeagent.io/config"
    agent = await speaking(node, api, config_labels=(key, "nvidia.com/device-plugin.config"))
    await node.advertises({SHARED: 2 * GPUS})
    api.objects.label(NODE_NAME, {key: "a"})
    await node.advertises({SHARED: 4 * GPUS})
    (pod,) = await node.hold(1)

    api.objects.label(NODE_NAME, {key: "nowhere"})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
    assert "there is no nowhere.yaml" in agent.says("ConfigAccepted").message
    await node.advertises({SHARED: 4 * GPUS})

    await api.stop()
    api.objects.label(NODE_NAME, {key: "b"})
    await eventually(lambda: agent.says("LabelsSynced").reason == "Unreachable")
    await node.advertises({SHARED: 4 * GPUS})
    await api.start()
    await node.advertises({SHARED: 6 * GPUS})

    api.objects.label(NODE_NAME, {key: None})
    await node.advertises({SHARED: 2 * GPUS})
    assert pod.ids()
    assert len(node.kubelet.registrations) == 1
    assert api.objects.labels(NODE_NAME)["zone"] == "a"


async def test_an_agent_that_starts_while_the_api_is_away(node: Node, api: ApiServer) -> None:
    """It goes on with the document that was selected before, and follows the label when it hears of it."""
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": shares(4), "b.yaml": shares(6)})
    key = "nodeagent.io/config"
    api.objects.label(NODE_NAME, {key: "a"})
    agent = await speaking(node, api, config_labels=(key,))
    await node.advertises({SHARED: 4 * GPUS})
    await eventually((node.state_dir / "config-selection").exists)
    await agent.stop()
    await api.stop()
    api.objects.label(NODE_NAME, {key: "b"})
    await speaking(node, api, config_labels=(key,))
    await node.advertises({SHARED: 4 * GPUS})
    await api.start()
    await node.advertises({SHARED: 6 * GPUS})


KEY = "nodeagent.io/config"


async def left(node: Node, api: ApiServer, **changes: object) -> None:
    """An agent of pool `a` has had what the label of the Node selects, the document for `a`, and has ended."""
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": shares(4), "b.yaml": shares(6)})
    api.objects.label(NODE_NAME, {KEY: "a"})
    agent = await speaking(node, api, pool="a", config_labels=(KEY,), **changes)
    await node.advertises({SHARED: 4 * GPUS})
    await eventually(lambda: agent.snapshot.in_sync)
    await eventually((node.state_dir / "config-selection").exists)
    await agent.stop()


async def keeps(node: Node, agent: InProcess, replicas: int = 4) -> None:
    """What is applied is all that is advertised, and it is told what is waited for."""
    await eventually(lambda: agent.snapshot.config.problem)
    assert "the labels of the node are not known yet" in agent.says("ConfigAccepted").message
    assert agent.snapshot.config.desired is None
    assert not agent.snapshot.config.using_last_known_good
    await node.advertises({SHARED: replicas * GPUS})
    sent = node.kubelet.record.message_count
    await agent.get("/status")
    assert node.kubelet.record.message_count == sent


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pool": "b"}, "it was made for 'a/sharing.yaml', and this agent is 'b/sharing.yaml'"),
        ({"pool": "a", "config_labels": ("x.io/config", KEY)}, f"this agent goes by x.io/config, {KEY}"),
        ({"pool": "a", "config_labels": ("x.io/config",)}, "this agent goes by x.io/config"),
    ],
    ids=["another pool", "another precedence", "another label"],
)
async def test_nothing_is_guessed_of_another_selection(
    node: Node, api: ApiServer, changes: dict[str, object], why: str
) -> None:
    """An agent that starts while the API is away, in another pool or with other labels than the one before it, keeps
    what is applied and advertises nothing else, neither what was selected then nor the last known good; with the first
    answer it has what the labels select.
    """
    await left(node, api)
    await api.stop()
    node.mount.write({"sharing.yaml": shares(3), "a.yaml": shares(5), "b.yaml": shares(6)})
    agent = await speaking(node, api, **{"config_labels": (KEY,), **changes})
    await keeps(node, agent)
    assert node.log.having("what an earlier agent was to read is not used", why)
    assert agent.says("LabelsSynced").reason == "Unreachable"
    api.objects.label(NODE_NAME, {KEY: "b", "x.io/config": "b"})
    await api.start()
    await node.advertises({SHARED: 6 * GPUS})
    await eventually(lambda: agent.snapshot.in_sync)


@pytest.mark.parametrize("trouble", ["forbidden", "no Node", "no answer that can be understood"])
async def test_nothing_is_guessed_whatever_the_api_says(node: Node, api: ApiServer, trouble: str) -> None:
    """An API that answers and does not say which labels the Node has is as good as one that is away; the condition has
    a reason of its own for it, and none that speaks of writing.
    """
    await left(node, api)
    reason = "NodeReadFailed"
    if trouble == "forbidden":
        api.forbidden.add("watch nodes")
        reason = "Forbidden"
    elif trouble == "no Node":
        api.objects.delete_node(NODE_NAME)
    else:
        api.fail("watch nodes", code=200, raw=b"<html>", times=1_000)
    agent = await speaking(node, api, pool="b", config_labels=(KEY,))
    await keeps(node, agent)
    await eventually(lambda: agent.says("LabelsSynced").reason == reason)
    api.forbidden.clear()
    api.faults.clear()
    if trouble == "no Node":
        api.objects.add_node(NODE_NAME)
    api.objects.label(NODE_NAME, {KEY: "b"})
    await node.advertises({SHARED: 6 * GPUS})


async def test_the_last_known_good_is_of_the_file_that_is_selected(node: Node, api: ApiServer) -> None:
    """Where the file that the label selects by now cannot be accepted, an agent that starts keeps what is applied: the
    last known good is of another file, and comes in force as soon as that one is selected.
    """
    await left(node, api)
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": WRONG, "b.yaml": WRONG})
    api.objects.label(NODE_NAME, {KEY: "b"})
    agent = await speaking(node, api, pool="a", config_labels=(KEY,))
    await eventually(lambda: agent.says("ConfigAccepted").reason == "SchemaError")
    assert agent.snapshot.config.desired is None
    await node.advertises({SHARED: 4 * GPUS})
    api.objects.label(NODE_NAME, {KEY: "nowhere"})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
    assert agent.snapshot.config.desired is None
    api.objects.label(NODE_NAME, {KEY: "a"})
    await eventually(lambda: agent.snapshot.config.using_last_known_good)
    await node.advertises({SHARED: 4 * GPUS})


async def test_labels_that_do_not_select_any_more(node: Node, api: ApiServer) -> None:
    """An agent that goes by no label follows the file for all nodes: the last known good of another is not used."""
    await left(node, api)
    node.mount.write({"sharing.yaml": WRONG, "a.yaml": shares(4)})
    agent = await node.agent(pool="a", config_labels=())
    await eventually(lambda: agent.says("ConfigAccepted").reason == "SchemaError")
    assert agent.snapshot.config.desired is None
    await node.advertises({SHARED: 4 * GPUS})


async def test_a_mount_that_is_away_as_well(node: Node, api: ApiServer) -> None:
    """Without the mount the last known good serves only where it is of the file that is selected: by the labels, or
    after a while by what an earlier agent of the same pool was told.
    """
    await left(node, api)
    await api.stop()
    away = node.mount.directory.rename(node.directory / "away")
    same = await speaking(node, api, pool="a", config_labels=(KEY,))
    await eventually(lambda: same.snapshot.config.using_last_known_good)
    await same.stop()
    other = await speaking(node, api, pool="a", config_labels=(KEY, "x.io/config"))
    await eventually(lambda: other.says("ConfigAccepted").reason == "Missing")
    await node.advertises({SHARED: 4 * GPUS})
    assert other.snapshot.config.desired is None
    api.objects.label(NODE_NAME, {"x.io/config": "b"})
    await api.start()
    await eventually(lambda: other.snapshot.config.using_last_known_good)
    away.rename(node.mount.directory)
    await eventually(lambda: other.snapshot.in_sync)
    await node.advertises({SHARED: 4 * GPUS})


async def test_a_start_waits_for_the_answer_and_for_nothing_else(node: Node, api: ApiServer) -> None:
    """Where a label chooses the config an agent asks the API once before it advertises what is chosen, and it writes
    nothing before: the pause of writes is none of the GPUs'. A few tries that fail before the first answer, as those of
    a network that is a moment behind, are no reason to go on without the label.
    """
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": shares(4)})
    api.objects.label(NODE_NAME, {KEY: "a"})
    api.fail("watch nodes", cut=True, times=2)
    await speaking(node, api, config_labels=(KEY,))
    await node.advertises({SHARED: 4 * GPUS})
    await says(api, config__state="applied")
    lists = [message for message in node.kubelet.record.messages if message.healthy]
    assert {len(message.healthy) for message in lists} == {4 * GPUS}
    assert [entry.what for entry in api.asked if entry.at < lists[0].at and "events" not in entry.what] == [
        "watch nodes"
    ] * 3
    assert not node.log.having("going on with what they were")


async def test_a_first_start_without_the_api(node: Node, api: ApiServer) -> None:
    """Where no agent was before nothing is advertised until the API answers, and then what the labels select."""
    node.mount.write({"sharing.yaml": shares(2), "a.yaml": shares(4)})
    api.objects.label(NODE_NAME, {KEY: "a"})
    await api.stop()
    agent = await speaking(node, api, config_labels=(KEY,))
    await eventually(lambda: agent.snapshot.config.problem)
    assert node.kubelet.registrations == []
    await api.start()
    await node.advertises({SHARED: 4 * GPUS})


async def test_a_label_that_was_taken_away_meanwhile(node: Node, api: ApiServer) -> None:
    """An agent of the same pool goes on with what the label said, and follows when it hears that there is none."""
    await left(node, api)
    await api.stop()
    agent = await speaking(node, api, pool="a", config_labels=(KEY,))
    await eventually(lambda: agent.snapshot.in_sync)
    await node.advertises({SHARED: 4 * GPUS})
    api.objects.label(NODE_NAME, {KEY: None})
    await api.start()
    await node.advertises({SHARED: 2 * GPUS})


async def test_the_taint_goes_with_the_first_config(node: Node, api: ApiServer) -> None:
    """It stays while no config is applied, and is removed as soon as one is."""
    taint = {"key": "nodeagent.io/starting", "effect": "NoSchedule"}
    api.objects.add_node(NODE_NAME, taints=[taint])
    node.commit(WRONG)
    await speaking(node, api, startup_taint="nodeagent.io/starting")
    await says(api, config__state="rejected")
    assert api.objects.taints(NODE_NAME) == [taint]
    node.commit(shares(2))
    await eventually(lambda: api.objects.taints(NODE_NAME) == [])


async def test_labels_by_file_and_the_rest_by_the_api(node: Node, api: ApiServer, tmp_path: Path) -> None:
    """With `nfd:DIR` the file has the labels, and the API gets events and the error, but no label."""
    features = tmp_path / "features.d"
    features.mkdir()
    node.commit(shares(4))
    agent = await speaking(node, api, labels=f"nfd:{features}")
    await shows(features, "nvidia.com/gpu.replicas=4")
    node.commit(WRONG)
    await shows(features, f"{STATE}=rejected")
    await eventually(lambda: ERROR in api.objects.annotations(NODE_NAME))
    await eventually(lambda: "ConfigRejected" in events(api))
    assert api.objects.labels(NODE_NAME) == {"zone": "a"}
    await eventually(lambda: agent.says("LabelsSynced").reason == "Synced")


async def test_a_file_without_the_api(node: Node, tmp_path: Path) -> None:
    """Node Feature Discovery alone needs no API; a directory that is not there is told."""
    features = tmp_path / "features.d"
    node.commit(shares(4))
    agent = await node.agent(labels=f"nfd:{features}")
    await eventually(lambda: agent.says("LabelsSynced").reason == "LabelWriteFailed")
    assert str(features) in agent.says("LabelsSynced").message
    features.mkdir()
    await eventually(lambda: agent.says("LabelsSynced").reason == "Synced")
    await shows(features, "nvidia.com/gpu.count=8")


async def test_a_health_event(node: Node, api: ApiServer) -> None:
    """A GPU that fails and recovers is told on the Node."""
    node.commit(shares(2))
    await speaking(node, api)
    await says(api, config__state="applied")
    node.simulate(health={3: "lost"})
    await says(api, config__state="degraded", gpu__count="7")
    node.simulate()
    await says(api, config__state="applied", gpu__count="8")
    await eventually(lambda: {"GpuUnhealthy", "GpuRecovered"} <= set(events(api)))


def test_nothing_is_imported_without_it() -> None:
    """An agent that does not speak to the API imports nothing of its client."""
    code = (
        "import sys, nodeagent.agent, nodeagent.cli, nodeagent.commands.wait; "
        "print([name for name in sys.modules if name.partition('.')[0] in {'lightkube', 'httpx2', 'msgspec'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_client_is_not_installed(node: Node) -> None:
    """An agent that should speak to the API and cannot does not start, and says what to install."""
    code = "import sys; sys.modules['lightkube'] = None; from nodeagent.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--config", str(node.mount.directory), "--kube-api", "on",
         "--state-dir", str(node.state_dir), "--driver", f"simulated:{node.simulation}", "--listen", "127.0.0.1:0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--kube-api on needs the client of the Kubernetes API" in done.stderr
    assert "pip install 'nodeagent[kubernetes]'" in done.stderr
