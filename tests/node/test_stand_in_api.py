"""The stand-in for the API server behaves as the real one where this project depends on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.model.node import NodeEvent, NodeObject
from nodeagent.node import api_problem, api_transport
from nodeagent.node.api_client import ApiClient, Seen
from nodeagent.node.api_problem import ApiProblem, Trouble
from tests.fakes.api_server import ApiServer
from tests.fakes.kube_objects import Objects, Refused

NODE = "node-1"
SEEN = Seen(0.0, 0.0, 1)


@pytest.fixture
def objects() -> Objects:
    """One Node with a label of its kubelet's."""
    found = Objects()
    found.add_node(NODE, {"host": "a"})
    return found


def apply(objects: Objects, manager: str, labels: dict[str, str], *, force: bool = False) -> Any:  # noqa: ANN401 - JSON
    """Server-side apply of labels."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}
    return objects.apply(NODE, body, manager, force=force)


class TestApply:
    """Server-side apply."""

    def test_what_is_not_applied_any_more_is_removed(self, objects: Objects) -> None:
        """But not what somebody else has written as well, and nothing that we never wrote."""
        apply(objects, "a", {"x": "1", "y": "1"})
        apply(objects, "b", {"y": "1"})
        apply(objects, "a", {})
        assert objects.labels(NODE) == {"host": "a", "y": "1"}

    def test_a_conflict(self, objects: Objects) -> None:
        """Another value than another manager's is refused; with force it is taken over, and the other one's next apply
        of nothing does not remove it.
        """
        apply(objects, "a", {"x": "1"})
        with pytest.raises(Refused, match='conflict with "a": \\.metadata\\.labels\\.x') as refused:
            apply(objects, "b", {"x": "2"})
        assert refused.value.code == 409
        apply(objects, "b", {"x": "2"}, force=True)
        apply(objects, "a", {})
        assert objects.labels(NODE)["x"] == "2"

    def test_an_update_takes_over(self, objects: Objects) -> None:
        """Whoever sets another value owns it, and who wrote before does not remove it any more."""
        apply(objects, "a", {"x": "1"})
        objects.label(NODE, {"x": "2"})
        owners = {entry["manager"]: entry["operation"] for entry in objects.get(NODE)["metadata"]["managedFields"]}
        assert owners == {"kubelet": "Update", "kubectl-label": "Update"}
        apply(objects, "a", {})
        assert objects.labels(NODE)["x"] == "2"

    def test_nothing_changes(self, objects: Objects) -> None:
        """An apply that says what there is makes no new version."""
        first = apply(objects, "a", {"x": "1"})
        assert apply(objects, "a", {"x": "1"}) == first


class TestTaints:
    """JSON patches."""

    def test_all_or_nothing(self, objects: Objects) -> None:
        """Where a test does not hold nothing is removed."""
        objects.add_node(NODE, taints=[{"key": "a", "effect": "NoSchedule"}])
        steps = [{"op": "remove", "path": "/spec/taints/0"}, {"op": "test", "path": "/spec/taints/0/key", "value": "a"}]
        with pytest.raises(Refused) as refused:
            objects.patch_taints(NODE, steps)
        assert refused.value.code == 422
        assert len(objects.taints(NODE)) == 1
        objects.patch_taints(NODE, list(reversed(steps)))
        assert objects.taints(NODE) == []


class TestLists:
    """Over HTTP, by the real client."""

    @pytest.mark.parametrize(
        ("selector", "found"),
        [
            ("pool=a", ["node-0", "node-2"]),
            ("pool=a,zone=z", ["node-2"]),
            ("zone", ["node-2", "node-3"]),
            ("pool in (a, b)", ["node-0", "node-1", "node-2", "node-3"]),
            ("pool=c", []),
        ],
    )
    async def test_selectors(self, tmp_path: Path, selector: str, found: list[str]) -> None:
        """As `kubectl get -l` reads them."""
        async with ApiServer(tmp_path) as server:
            for number in range(4):
                zone = {"zone": "z"} if number > 1 else {}
                server.objects.add_node(f"node-{number}", {"pool": "ab"[number % 2], **zone})
            api = ApiClient(server.kubeconfig)
            assert [node.name for node in await api.nodes(selector)] == found
            await api.close()

    async def test_pages(self, tmp_path: Path) -> None:
        """More nodes than one answer holds are all there."""
        async with ApiServer(tmp_path) as server:
            for number in range(1100):
                server.objects.add_node(f"node-{number:04}", {"pool": "a"})
            api = ApiClient(server.kubeconfig)
            assert len(await api.nodes("pool=a")) == 1100
            await api.close()
            assert server.count("list nodes") == 3

    async def test_a_list_without_an_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is taken in up to a bound."""
        monkeypatch.setattr(api_transport, "MOST_PAGE", 4 << 20)
        async with ApiServer(tmp_path) as server:
            api = ApiClient(server.kubeconfig)
            server.fail("list nodes", endless=True)
            with pytest.raises(ApiProblem, match="the answer has more than 4 MiB") as problem:
                await api.nodes("pool=a")
            await api.close()
        assert problem.value.trouble is Trouble.ODD

    @pytest.mark.parametrize(
        ("what", "ask"),
        [
            ("list nodes", lambda api: api.nodes("pool=a")),
            ("watch nodes", lambda api: anext(api.watch(NODE, 5, lambda: None))),
            ("patch nodes", lambda api: api.apply(NODE, {"x": "1"}, {})),
            ("patch nodes", lambda api: api.remove_taint(NodeObject(NODE, taints=("x",)), "x")),
            ("create events", lambda api: api.create_event("e1", NodeObject(NODE), NodeEvent("Drained", "x"), SEEN)),
            ("patch events", lambda api: api.repeat_event("x", SEEN)),
        ],
        ids=["list", "watch", "apply", "taint", "event", "event again"],
    )
    @pytest.mark.parametrize("code", [429, 503, 403])
    async def test_no_request_is_put_off_for_longer_than_a_minute(
        self, tmp_path: Path, what: str, ask: Callable[[ApiClient], Awaitable[object]], code: int
    ) -> None:
        """However long the API server wants to be left alone, whatever was asked of it."""
        async with ApiServer(tmp_path) as server:
            api = ApiClient(server.kubeconfig)
            server.fail(what, code=code, retry_after=999_999_999)
            with pytest.raises(ApiProblem) as problem:
                await ask(api)
            await api.close()
        assert problem.value.retry_after == api_problem.MOST_WAIT

    async def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path) -> None:
        """It is real TLS: another authority's word is not taken."""
        async with ApiServer(tmp_path / "a") as server, ApiServer(tmp_path / "b") as other:
            (tmp_path / "a" / "ca.crt").write_bytes((other.directory / "ca.crt").read_bytes())
            api = ApiClient(server.kubeconfig)
            with pytest.raises(ApiProblem, match="certificate verify failed") as problem:
                await api.nodes("x")
            await api.close()
        assert problem.value.trouble is Trouble.UNREACHABLE
