"""What the node says of itself through the Kubernetes API, and what people and pipelines ask it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from lightkube import ApiError, Client, SingleConfig
from lightkube.config.models import User
from lightkube.resources.core_v1 import Event, Node
from lightkube.types import PatchType

from tests.e2e import overlays
from tests.e2e.cluster import Cluster, configured, made_of, metadata
from tests.e2e.overlays import MADE_BY_E2E
from tests.e2e.patience import until
from tests.e2e.pool import Pool, blob
from tests.e2e.workload import Pods, exclusive, shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SHARED = "nvidia.com/gpu.shared"
FOREIGN = "nodeagent-e2e-foreign"
THE_POLICY = "speaks for that node alone"


def test_labels_say_what_is_applied(pool: Pool, pods: Pods, cluster: Cluster) -> None:
    """The Node's labels are those of what is applied: while pods hold what Git no longer wants they say so, and name
    the document that is accepted and the one that is applied.
    """
    first = blob(pool.overlay.config)
    until(lambda: cluster.labels().get("nodeagent.io/config.blob") == first[:12])
    assert cluster.labels()["nvidia.com/gpu.count"] == "4"
    assert cluster.labels()["nvidia.com/gpu.replicas"] == "8"
    assert cluster.labels()["nvidia.com/gpu.sharing-strategy"] == "time-slicing"
    held = pods.several(8, SHARED)
    pods.running(*held)
    until(lambda: len(pool.held()) == len(held))

    second = pool.commit(exclusive())
    until(lambda: cluster.labels().get("nodeagent.io/config.state") == "draining")
    until(lambda: cluster.labels().get("nodeagent.io/config.accepted-blob") == second[:12])
    assert cluster.labels().get("nodeagent.io/config.blob") != second[:12]
    # Of the same write as the blob: nobody who waits for this document takes the node for settled before it is.
    assert cluster.labels().get("nodeagent.io/config.settled") == "false"
    pods.end(*held)
    until(lambda: cluster.labels().get("nodeagent.io/config.settled") == "true")
    until(lambda: cluster.labels().get("nodeagent.io/config.state") == "applied")
    until(lambda: cluster.labels().get("nodeagent.io/config.blob") == second[:12])
    until(lambda: cluster.labels().get("nvidia.com/gpu.sharing-strategy") == "none")


def test_a_label_that_somebody_changes_is_put_right(pool: Pool, cluster: Cluster) -> None:
    """What somebody else writes over a label of the agent's does not stay; labels of others are not touched."""
    until(lambda: cluster.labels().get("nvidia.com/gpu.replicas") == "8")
    cluster.label({"nvidia.com/gpu.replicas": "800", "nodeagent.io/e2e-other": "stays"})
    until(lambda: cluster.labels().get("nvidia.com/gpu.replicas") == "8")
    assert cluster.labels()["nodeagent.io/e2e-other"] == "stays"
    cluster.label({"nodeagent.io/e2e-other": None})


def test_events_say_what_happens(pool: Pool, cluster: Cluster) -> None:
    """A config that is accepted and applied is an event each on the Node, with the document's blob id."""
    written = pool.apply(shared(5, remark="for its event"))

    def heard(reason: str) -> list[Event]:
        return [one for one in cluster.events() if one.reason == reason and written[:12] in (one.message or "")]

    until(lambda: heard("ConfigAccepted"))
    until(lambda: heard("ConfigApplied"))


def test_a_pipeline_waits_for_the_pool(pool: Pool, cluster: Cluster) -> None:
    """`nodeagent wait --pool` ends with 0 when every node of the pool is as the document says, with 1 when that does
    not come in time, and with 1 at once when a node rejects it.
    """
    text = shared(7)
    pool.write(text)
    asked = ("wait", "--kubeconfig", os.environ["KUBECONFIG"], "--pool", pool.overlay.pool, "--blob")
    done = cluster.nodeagent(*asked, blob(text), "--applied", "--timeout", "120s")
    assert done.returncode == 0, done.stderr + done.stdout
    never = cluster.nodeagent(*asked, blob(text + "# never written\n"), "--timeout", "2s")
    assert never.returncode == 1, never.stderr + never.stdout

    wrong = text.replace("replicas", "replica")
    pool.write(wrong)
    pool.nudging(lambda: cluster.labels().get("nodeagent.io/config.state") == "rejected")
    rejected = cluster.nodeagent(*asked, blob(wrong), "--timeout", "1h", within=120.0)
    assert rejected.returncode == 1, rejected.stderr + rejected.stdout
    assert 'did you mean "replicas"' in rejected.stderr + rejected.stdout


def test_a_plan_says_what_then_happens(pool: Pool, pods: Pods, cluster: Cluster, tmp_path: Path) -> None:
    """`nodeagent plan --agent` names, before a commit, the pods that it will wait for; and it is as it said."""
    held = pods.several(3, SHARED)
    pods.running(*held)
    until(lambda: set(pool.held().values()) == set(held))
    file = tmp_path / "sharing.yaml"
    file.write_text(exclusive(), encoding="utf-8")
    with pool.reached() as address:
        planned = cluster.nodeagent("plan", "--detailed-exitcode", "--config", str(file), "--agent", address)
    assert planned.returncode == 2, planned.stderr
    assert {name for name in held if f"nodeagent-e2e/{name}" in planned.stdout} == {*held}, planned.stdout
    pool.commit(file.read_text(encoding="utf-8"))
    until(lambda: any(share["state"] == "draining" for share in pool.shares().values()))
    assert set(pool.held().values()) == {*held}
    pods.end(*held)
    until(lambda: pool.status()["inSync"])
    with pool.reached() as address:
        again = cluster.nodeagent("plan", "--detailed-exitcode", "--config", str(file), "--agent", address)
    assert again.returncode == 0, again.stdout + again.stderr


class TestItsOwnNodeAlone:
    """The component `labels-api-own-node`."""

    @pytest.fixture
    def foreign(self, cluster: Cluster) -> Iterator[str]:
        """Another Node, without a kubelet."""
        cluster.client.create(made_of(Node, metadata={"name": FOREIGN, "labels": MADE_BY_E2E}))
        yield FOREIGN
        cluster.kubectl("delete", "node", FOREIGN, "--ignore-not-found")

    @pytest.fixture
    def policy(self, cluster: Cluster, tmp_path: Path) -> Iterator[None]:
        """It is installed."""
        folder = overlays.with_component("labels-api-own-node", tmp_path)
        cluster.kubectl("apply", "--kustomize", folder)
        yield
        cluster.kubectl("delete", "--kustomize", folder, "--ignore-not-found")

    def test_an_agent_changes_its_own_node_and_no_other(
        self, pool: Pool, cluster: Cluster, foreign: str, policy: None
    ) -> None:
        """With the token of an agent its own Node can be labelled, and no other; nor can an event be made about
        another. The agent itself goes on to label its Node.
        """
        with closing(as_agent(cluster, pool)) as agent:
            until(lambda: refused(agent, foreign))
            label(agent, cluster.node_name)
            agent.create(event_about(cluster.node_name))
            with pytest.raises(ApiError) as error:
                agent.create(event_about(foreign))
            assert THE_POLICY in str(error.value.status.message)
        written = pool.apply(shared(5, remark="under the policy"))
        until(lambda: cluster.labels().get("nodeagent.io/config.blob") == written[:12])
        cluster.label({"nodeagent.io/e2e-tried": None})

    def test_an_agent_may_do_nothing_else(self, pool: Pool, cluster: Cluster) -> None:
        """Its role lets it watch and patch Nodes, and make and patch events; beyond that it may do what every account
        may.
        """
        account = f"{pool.overlay.namespace}:nodeagent-{pool.overlay.pool}"
        assert allowed(cluster, account) - allowed(cluster, "default:nobody-has-this-name") == {
            ("nodes", "watch"),
            ("nodes", "patch"),
            ("events", "create"),
            ("events", "patch"),
        }


def allowed(cluster: Cluster, account: str) -> set[tuple[str, str]]:
    """What a service account may do, in every namespace: (resource or path, verb)."""
    asked = ("auth", "can-i", "--list", "--no-headers", "--as", f"system:serviceaccount:{account}")
    groups = ("system:serviceaccounts", "system:authenticated")
    listed = cluster.kubectl(*asked, *(f"--as-group={group}" for group in groups))
    found = set()
    for line in listed.splitlines():
        subject, verbs = line.split()[0], line.rpartition("[")[2].rstrip("]")
        if subject == "[]" or subject.startswith("["):
            subject = line.partition("[")[2].partition("]")[0]
        found |= {(subject, verb) for verb in verbs.split()}
    return found


def as_agent(cluster: Cluster, pool: Pool) -> Client:
    """A client with the token that the agent's pod has."""
    token = cluster.kubectl(
        *("exec", "--namespace", pool.overlay.namespace, str(metadata(pool.pod()).name), "--"),
        *("cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
    )
    current = configured()
    return Client(SingleConfig("agent", current.context, current.cluster, User(token=token.strip()), current.fname))


def label(client: Client, node: str) -> None:
    """Label a Node. Raises ApiError."""
    client.patch(Node, node, {"metadata": {"labels": {"nodeagent.io/e2e-tried": "yes"}}}, patch_type=PatchType.MERGE)


def refused(client: Client, node: str) -> bool:
    """Whether that is refused. Raises ApiError for what else is wrong."""
    try:
        label(client, node)
    except ApiError as error:
        if THE_POLICY not in str(error.status.message):
            raise
        return True
    return False


def event_about(node: str) -> Event:
    """An event on a Node."""
    return made_of(
        Event,
        metadata={"generateName": "e2e-", "namespace": "default"},
        involvedObject={"kind": "Node", "name": node, "apiVersion": "v1"},
        reason="Tried",
        message="tried",
        type="Normal",
        source={"component": "nodeagent"},
    )
