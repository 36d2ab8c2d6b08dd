"""The Node object over the real client, TLS and HTTP: right at the end, whatever the API server does."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from nodeagent import clocks
from nodeagent.model.node import NodeEvent, NodeObject, NodeReport, NodeStatus, SyncReason
from nodeagent.node import api_problem, api_transport
from nodeagent.node.api_client import ApiClient, Seen
from nodeagent.node.api_node import ApiNode
from nodeagent.node.both import FileAndApi
from nodeagent.node.label_file import LabelFile
from nodeagent.node.pace import Pace
from tests.fakes.api_server import ApiServer, Fault
from tests.waiting import WITHIN, eventually

NODE = "gpu-node-1"
COUNT, STATE, ERROR = "nvidia.com/gpu.count", "nodeagent.io/config.state", "nodeagent.io/config.error"
APPLIED = NodeReport({COUNT: "8", STATE: "applied"}, settled=True)
DRAINING = NodeReport({COUNT: "8", STATE: "draining"}, settled=True)
REJECTED = NodeReport({STATE: "rejected"}, {ERROR: "sharing.yaml:9:21: no"})
TAINT = "nodeagent.io/starting"

QUICK = Pace(
    settle=(0.0, 0.02), backoff=(0.05, 0.4), contest=(0.2, 1.0), watch=(30, 30), brief=0.3, refill=0.3, burst=3
)


class Speaker:
    """One ApiNode that runs, with what it was told by the API."""

    def __init__(self, server: ApiServer, pace: Pace, **options: Any) -> None:  # noqa: ANN401 - those of ApiNode
        self.heard: list[dict[str, str]] = []
        self.woken = 0
        self.node = ApiNode(
            NODE,
            wake=self._wake,
            pace=pace,
            **{
                "on_labels": self._hear,
                "connect": lambda: ApiClient(server.kubeconfig),
                "labels": True,
                "taint": None,
                **options,
            },
        )

    @property
    def status(self) -> NodeStatus:
        return self.node.status

    def _hear(self, labels: Mapping[str, str]) -> None:
        self.heard.append(dict(labels))

    def _wake(self) -> None:
        self.woken += 1

    async def synced(self) -> None:
        await eventually(lambda: self.status.reason is SyncReason.SYNCED)

    async def hears(self, zone: str) -> None:
        await eventually(lambda: [labels.get("zone") for labels in self.heard[-1:]] == [zone])

    async def says(self, reason: SyncReason) -> None:
        await eventually(lambda: self.status.reason is reason)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server that knows one Node, with a label of its kubelet's."""
    async with ApiServer(tmp_path / "api") as running:
        running.objects.add_node(NODE, {"kubernetes.io/hostname": NODE})
        yield running


@asynccontextmanager
async def speaking(server: ApiServer, pace: Pace = QUICK, **options: Any) -> AsyncIterator[Speaker]:  # noqa: ANN401
    """A Node that is being spoken for."""
    speaker = Speaker(server, pace, **options)
    task = asyncio.create_task(speaker.node.run())
    try:
        yield speaker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def passed(seconds: float) -> None:
    """What is counted is counted in a span of time."""
    end = asyncio.get_running_loop().time() + seconds
    await eventually(lambda: asyncio.get_running_loop().time() >= end)


async def counted(server: ApiServer, times: int) -> None:
    """The only event has happened so often."""
    await eventually(lambda: [event["count"] for event in server.objects.events.values()] == [times])


class TestWriting:
    """What is written, and when."""

    async def test_what_is_wanted_is_written_once(self, server: ApiServer) -> None:
        """One write tells all of it; nobody else's label is touched; nothing is written when it is wanted again."""
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            assert server.objects.labels(NODE) == {"kubernetes.io/hostname": NODE, **APPLIED.labels}
            speaker.node.want(NodeReport(dict(APPLIED.labels), settled=True))
            server.objects.heartbeat(NODE)
            server.objects.label(NODE, {"zone": "a"})
            await speaker.hears("a")
        assert server.count("patch nodes") == 1
        assert server.count("watch nodes") == 1
        assert len(server.asked) == 2

    async def test_changes_close_together_are_one_write(self, server: ApiServer) -> None:
        """What changes within the time for settling is written together, as it is at its end."""
        async with speaking(server, Pace(settle=(0.2, 0.2))) as speaker:
            for report in (REJECTED, DRAINING, APPLIED):
                speaker.node.want(report)
            await speaker.synced()
            speaker.node.want(DRAINING)
            await speaker.says(SyncReason.PENDING)
            speaker.node.want(APPLIED)
            await speaker.synced()
        assert server.count("patch nodes") == 1

    async def test_what_is_not_said_any_more_is_removed(self, server: ApiServer) -> None:
        """Labels and annotations that we wrote go when they no longer hold, also those of an agent before this one;
        those of others stay.
        """
        server.objects.label(NODE, {"team": "ml"})
        async with speaking(server) as speaker:
            speaker.node.want(REJECTED)
            await speaker.synced()
            assert server.objects.annotations(NODE) == REJECTED.annotations
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            assert server.objects.annotations(NODE) == {}
        async with speaking(server, labels=False) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.OFF)
        assert server.objects.labels(NODE) == {"kubernetes.io/hostname": NODE, "team": "ml"}

    async def test_an_agent_that_starts_again_writes_nothing(self, server: ApiServer) -> None:
        """Where the Node says already what it should, there is no write."""
        for _ in range(2):
            async with speaking(server) as speaker:
                speaker.node.want(APPLIED)
                await speaker.synced()
        assert server.count("patch nodes") == 1

    async def test_a_stolen_label_is_put_right(self, server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
        """Somebody else's value is replaced, once for each time, and the log names the label."""
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.objects.label(NODE, {COUNT: "1"}, manager="gpu-feature-discovery")
            await eventually(lambda: server.objects.labels(NODE)[COUNT] == "8")
            await speaker.synced()
        assert server.count("patch nodes") == 2
        assert f"somebody else has changed {COUNT} of the Node: it is 1 and should be 8" in caplog.text

    async def test_whoever_keeps_stealing_is_answered_ever_more_slowly(self, server: ApiServer) -> None:
        """Two writers do not drive each other: the pauses grow."""
        pauses = []
        async with speaking(server, Pace(settle=(0.0, 0.0), contest=(0.1, 60.0))) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            for _ in range(5):
                begun = asyncio.get_running_loop().time()
                server.objects.label(NODE, {COUNT: "1"}, manager="other")
                await eventually(lambda: server.objects.labels(NODE)[COUNT] == "8", every=0.002)
                pauses.append(asyncio.get_running_loop().time() - begun)
                await speaker.synced()
        assert server.count("patch nodes") == 6
        assert [pause >= least for pause, least in zip(pauses, (0, 0.05, 0.1, 0.2, 0.4), strict=True)] == [True] * 5

    async def test_a_real_change_does_not_wait_for_a_thief(self, server: ApiServer) -> None:
        """While somebody else's label is left alone it is told as drift, and whatever changes is written at once."""
        async with speaking(server, Pace(settle=(0.0, 0.0), contest=(600.0, 600.0))) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.objects.label(NODE, {COUNT: "1"}, manager="other")
            await eventually(lambda: server.objects.labels(NODE)[COUNT] == "8")
            await speaker.synced()
            server.objects.label(NODE, {COUNT: "2"}, manager="other")
            await eventually(lambda: [(one.key, one.have) for one in speaker.status.differences] == [(COUNT, "2")])
            speaker.node.want(DRAINING)
            await eventually(lambda: server.objects.labels(NODE)[STATE] == "draining")
            assert server.objects.labels(NODE)[COUNT] == "8"


class TestTaint:
    """The taint of nodes that have no config yet."""

    async def test_it_goes_when_a_config_is_applied(self, server: ApiServer) -> None:
        """Every taint with the key, whatever its effect, and no other."""
        other = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
        taints = [
            {"key": TAINT, "effect": "NoSchedule"}, other, {"key": TAINT, "value": "x", "effect": "NoExecute"},
        ]  # fmt: skip
        server.objects.add_node(NODE, taints=taints)
        async with speaking(server, taint=TAINT) as speaker:
            speaker.node.want(REJECTED)
            await speaker.synced()
            assert server.objects.taints(NODE) == taints
            speaker.node.want(APPLIED)
            await eventually(lambda: server.objects.taints(NODE) == [other])

    async def test_a_taint_that_has_moved_is_not_mistaken(self, server: ApiServer) -> None:
        """Where the taints have changed since they were seen nothing is removed but by a new look."""
        server.objects.add_node(
            NODE, taints=[{"key": "a", "effect": "NoSchedule"}, {"key": TAINT, "effect": "NoSchedule"}]
        )
        async with speaking(server, taint=TAINT) as speaker:
            await eventually(lambda: server.watches == 1)
            server.deaf = True
            server.objects.patch_taints(NODE, [{"op": "remove", "path": "/spec/taints/0"}])
            speaker.node.want(APPLIED)
            await eventually(lambda: server.count("patch nodes") >= 2)
            server.deaf = False
            server.objects.heartbeat(NODE)
            await eventually(lambda: server.objects.taints(NODE) == [])


class TestFaults:
    """What an API server can do to an agent."""

    @pytest.mark.parametrize(
        "fault",
        [{"code": 409}, {"code": 500}, {"code": 503}, {"code": 200, "raw": b"<html>"}, {"cut": True}, {"code": 422}],
        ids=["409", "500", "503", "no JSON", "cut", "422"],
    )
    async def test_a_write_that_fails_is_tried_again(self, server: ApiServer, fault: dict[str, Any]) -> None:
        """After three failures it is written, with pauses that grow, and once."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("patch nodes", times=3, **fault)
            speaker.node.want(APPLIED)
            await speaker.synced()
        assert server.objects.labels(NODE)[COUNT] == "8"
        writes = [entry.at for entry in server.asked if entry.what == "patch nodes"]
        assert len(writes) == 4
        assert [later - earlier >= 0.025 for earlier, later in pairwise(writes)] == [True] * 3

    async def test_the_server_says_how_long_it_wants_to_be_left_alone(self, server: ApiServer) -> None:
        """429 with Retry-After: nothing is written before that time."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("patch nodes", code=429, retry_after=1)
            speaker.node.want(APPLIED)
            await speaker.synced()
        first, second = [entry.at for entry in server.asked if entry.what == "patch nodes"]
        assert second - first >= 1.0

    @pytest.mark.parametrize("what", ["patch nodes", "watch nodes"])
    async def test_a_server_that_wants_to_be_left_alone_for_ever(self, server: ApiServer, what: str) -> None:
        """No wait that it names is longer than a minute; and meanwhile nothing is called in sync that is not, or of
        which nobody knows.
        """
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.fail(what, code=429, retry_after=999_999_999, message="no")
            if what == "watch nodes":
                await passed(QUICK.brief)
                server.close_watches()
                await speaker.says(SyncReason.READ_FAILED)
            else:
                speaker.node.want(DRAINING)
                await speaker.says(SyncReason.WRITE_FAILED)
            assert speaker.status.message.endswith(f"the node {NODE}: no")
            asked = server.count(what)
            await passed(0.5)
            assert server.count(what) == asked
            assert speaker.status.reason is not SyncReason.SYNCED

    async def test_what_is_not_owed_any_more_has_not_failed(self, server: ApiServer) -> None:
        """A write that failed and need not be made any more is no trouble."""
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.fail("patch nodes", code=500, times=1_000)
            speaker.node.want(DRAINING)
            await speaker.says(SyncReason.WRITE_FAILED)
            speaker.node.want(APPLIED)
            await speaker.synced()

    @pytest.mark.parametrize(
        ("what", "reason"),
        [("watch nodes", SyncReason.READ_FAILED), ("patch nodes", SyncReason.WRITE_FAILED), ("create events", None)],
    )
    async def test_an_answer_without_an_end(
        self, server: ApiServer, what: str, reason: SyncReason | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is not taken in beyond a bound, and told in words of its own; nothing else is held up."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail(what, endless=True, times=3)
            if what == "watch nodes":
                server.close_watches()
            speaker.node.want(APPLIED)
            speaker.node.tell([NodeEvent("Drained", "first"), NodeEvent("Drained", "second")])
            if reason is not None:
                words = f"has more than {api_transport.MOST_OBJECT >> 20} MiB"
                await eventually(lambda: words in speaker.status.message and speaker.status.reason is reason)
            await speaker.synced()
            await eventually(lambda: server.faults[what].times == 0 or "has more than" in caplog.text)
        assert server.objects.labels(NODE)[COUNT] == "8"
        assert 0 < server.flooded <= 3 * (api_transport.MOST_OBJECT + (16 << 20))

    @pytest.mark.parametrize("what", ["watch nodes", "patch nodes"])
    async def test_an_answer_that_is_compressed(self, server: ApiServer, what: str) -> None:
        """Nobody asks for one, since nobody knows what becomes of it: it is not taken in."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail(what, code=200, raw=gzip.compress(bytes(1 << 20)), encoding="gzip", times=4)
            server.close_watches()
            speaker.node.want(APPLIED)
            await eventually(lambda: "is encoded as 'gzip'" in speaker.status.message)
            await speaker.synced()

    async def test_words_have_a_bound(self, server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
        """What an API server says at length is in no condition and no log at that length."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            for what in ("patch nodes", "create events"):
                server.fail(what, code=400, message="no " * (1 << 19))
            speaker.node.want(APPLIED)
            speaker.node.tell([NodeEvent("Drained", "first")])
            await speaker.says(SyncReason.WRITE_FAILED)
            assert speaker.status.message.startswith(f"cannot label the node {NODE}: no no")
            assert len(speaker.status.message) == api_problem.MOST_WORDS
            await eventually(lambda: "cannot tell the event" in caplog.text)
            assert all(len(record.getMessage()) < 2 * api_problem.MOST_WORDS for record in caplog.records)

    @pytest.mark.parametrize(
        "raw",
        [b"[1]", b"null", b"{}", b'{"message": 7, "code": "x"}', b'{"status": {"message": []}}', b"\xff", b"{" * 5_000],
    )
    @pytest.mark.parametrize("code", [200, 403, 500])
    async def test_an_answer_that_is_something_else(self, server: ApiServer, raw: bytes, code: int) -> None:
        """Whatever comes in JSON's name, it is an answer that is not understood or refused, and no fault of ours."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            for what in ("watch nodes", "patch nodes", "create events"):
                server.fail(what, code=code, raw=raw, kind="application/json", times=2)
            server.close_watches()
            speaker.node.want(APPLIED)
            speaker.node.tell([NodeEvent("Drained", str(number)) for number in range(3)])
            await eventually(lambda: server.faults["patch nodes"].times == 0)
            await speaker.synced()
            await eventually(lambda: server.objects.events)

    async def test_an_annotation_with_the_end_of_a_line(self, server: ApiServer) -> None:
        """Whoever writes a character into an annotation that ends a line elsewhere ends no line of the watch."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.objects.annotate(NODE, {"note": "one\x85two\u2028three"})
            server.objects.label(NODE, {"zone": "d"})
            await speaker.hears("d")
        assert server.count("watch nodes") == 1

    async def test_somebody_elses_value_has_a_bound(self, server: ApiServer) -> None:
        """An annotation that somebody has made long is shown by its beginning."""
        async with speaking(server, Pace(settle=(60.0, 60.0))) as speaker:
            server.objects.annotate(NODE, {ERROR: "x" * 200_000})
            speaker.node.want(REJECTED)
            await eventually(lambda: len(speaker.status.differences) == 2)
        assert max(len(one.have or "") for one in speaker.status.differences) == 1000

    async def test_a_server_that_hangs(self, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A write without an answer is given up, told, and tried again."""
        monkeypatch.setattr(api_transport, "DEADLINE", 0.3)
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("patch nodes", hang=True, times=2)
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.UNREACHABLE)
            assert speaker.status.message == f"cannot label the node {NODE}: no answer in time"
            await speaker.synced()
        assert server.count("patch nodes") == 3

    async def test_a_watch_that_hangs_before_it_begins(
        self, server: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is given up as soon as any request is."""
        monkeypatch.setattr(api_transport, "DEADLINE", 0.3)
        server.fail("watch nodes", hang=True)
        async with speaking(server):
            await eventually(lambda: server.watches == 1)
        assert server.count("watch nodes") == 2

    async def test_a_watch_that_has_died_without_a_word(
        self, server: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends with its time, and what was missed is heard then."""
        monkeypatch.setattr(api_transport, "DEADLINE", 0.3)
        async with speaking(server, Pace(backoff=(0.05, 0.1), watch=(1, 1), brief=0.2)) as speaker:
            await eventually(lambda: server.watches == 1)
            server.deaf = True
            server.objects.label(NODE, {"zone": "b"})
            await speaker.hears("b")

    async def test_an_expired_token(self, server: ApiServer) -> None:
        """The token is read anew when it is not taken any more; while there is none that is, that is told."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.rotate_token()
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.expire_token()
            speaker.node.want(DRAINING)
            await speaker.says(SyncReason.FORBIDDEN)
            server.rotate_token()
            await speaker.synced()

    async def test_a_right_that_is_missing(self, server: ApiServer) -> None:
        """The condition has the API server's words; with the right it goes on by itself."""
        server.forbidden.add("patch nodes")
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.FORBIDDEN)
            assert 'cannot patch resource "nodes" in API group ""' in speaker.status.message
            assert {entry.key for entry in speaker.status.differences} == {COUNT, STATE}
            await eventually(lambda: server.count("patch nodes") >= 4)
            server.forbidden.clear()
            await speaker.synced()

    async def test_a_watch_that_is_closed(self, server: ApiServer) -> None:
        """It is opened anew, at once, and nothing is missed."""
        async with speaking(server, Pace(settle=(0.0, 0.0), brief=0.1)) as speaker:
            for number in range(3):
                await eventually(lambda: server.watches == 1)
                await passed(0.2)
                server.close_watches()
                server.objects.label(NODE, {"zone": str(number)})
                await speaker.hears(str(number))
        assert server.count("watch nodes") == 4

    async def test_a_server_that_ends_every_watch_at_once(self, server: ApiServer) -> None:
        """No hot loop: the pauses grow as after errors."""
        server.fail("watch nodes", code=200, raw=b"", times=10_000)
        async with speaking(server, Pace(backoff=(0.1, 10.0))):
            await passed(2.0)
        assert 3 <= server.count("watch nodes") <= 7

    async def test_a_watch_that_has_fallen_behind(self, server: ApiServer) -> None:
        """410 Gone: the watch is opened anew, and what was missed is heard."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.deaf = True
            server.objects.label(NODE, {"zone": "c"})
            server.deaf = False
            server.fail_watches()
            await speaker.hears("c")
        assert server.count("watch nodes") == 2

    async def test_versions_that_begin_anew(self, server: ApiServer) -> None:
        """A cluster that was restored from a backup has older versions, and is right all the same: what a watch says is
        believed when it has said so for a while.
        """
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.objects.version = 1
            server.objects.label(NODE, {"zone": "f", COUNT: None})
            server.close_watches()
            await speaker.hears("f")
            await eventually(lambda: server.objects.labels(NODE).get(COUNT) == "8")
            await speaker.synced()

    async def test_a_node_that_is_not_there_yet(self, server: ApiServer) -> None:
        """It is told, and labelled as soon as its kubelet has registered it."""
        server.objects.delete_node(NODE)
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.READ_FAILED)
            assert speaker.status.message == f"the node {NODE} is not there"
            server.objects.add_node(NODE)
            await speaker.synced()
        assert server.count("watch nodes") == 1

    async def test_the_api_server_is_away(self, server: ApiServer) -> None:
        """It is told, nothing is lost, and what has changed meanwhile is written once."""
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            await server.stop()
            await speaker.says(SyncReason.UNREACHABLE)
            for report in (REJECTED, DRAINING):
                speaker.node.want(report)
            await server.start()
            await speaker.synced()
        assert server.objects.labels(NODE) == {"kubernetes.io/hostname": NODE, **DRAINING.labels}
        assert server.count("patch nodes") == 2

    async def test_a_start_without_an_api_server(self, server: ApiServer) -> None:
        """Labels that nobody has read are unknown, and not empty: nobody is told of them."""
        await server.stop()
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.UNREACHABLE)
            assert f"cannot watch the node {NODE}" in speaker.status.message
            assert speaker.heard == []
            await server.start()
            await speaker.synced()

    async def test_nobody_says_where_the_api_is(self, server: ApiServer) -> None:
        """A kubeconfig that is missing is told, and looked for again."""
        away = server.kubeconfig.rename(server.directory / "away")
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.UNREACHABLE)
            assert speaker.status.message.startswith("cannot reach the Kubernetes API: Configuration file ")
            away.rename(server.kubeconfig)
            await speaker.synced()

    @pytest.mark.parametrize(
        "text",
        ["", "a: [", "[]", "1", "\0", "kind: Config", "current-context: x", "{users: 1, contexts: 2, clusters: 3}",
         "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [], users: []}",
         "{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}"],
    )  # fmt: skip
    async def test_a_kubeconfig_that_is_none(
        self, server: ApiServer, caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        """Whatever is in it, it is told, it is no fault of ours, and it is read again."""
        whole = server.kubeconfig.read_text(encoding="utf-8")
        server.kubeconfig.write_text(text, encoding="utf-8")
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.UNREACHABLE)
            server.kubeconfig.write_text(whole, encoding="utf-8")
            await speaker.synced()
        assert not [record for record in caplog.records if record.exc_info]

    async def test_a_node_that_is_deleted_and_comes_back(self, server: ApiServer) -> None:
        """It is labelled again as soon as its kubelet has registered it."""
        async with speaking(server) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            server.objects.delete_node(NODE)
            await speaker.says(SyncReason.READ_FAILED)
            assert speaker.status.message == f"the node {NODE} has been deleted"
            server.objects.add_node(NODE)
            await speaker.synced()
        assert server.objects.labels(NODE) == APPLIED.labels


class Faulty(ApiClient):
    """A client in which something that nobody has thought of goes wrong in one place, while it does."""

    where = ""
    fault: BaseException | None = None
    times = 0

    def _stumble(self, where: str) -> None:
        kind = type(self)
        if kind.fault is not None and where == kind.where:
            kind.times += 1
            raise kind.fault

    async def watch(
        self, name: str, seconds: int, opened: Callable[[], None]
    ) -> AsyncGenerator[NodeObject | None, None]:
        self._stumble("watch")
        async with aclosing(super().watch(name, seconds, opened)) as changes:
            async for change in changes:
                yield change

    async def apply(self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> NodeObject:
        self._stumble("apply")
        return await super().apply(name, labels, annotations)

    async def create_event(self, name: str, node: NodeObject, event: NodeEvent, seen: Seen) -> None:
        self._stumble("create_event")
        await super().create_event(name, node, event, seen)


FAULTS = [RuntimeError("no"), KeyError("x"), AssertionError(), OSError(5, "no"), asyncio.CancelledError(), EOFError()]


class TestFaultsOfOurOwn:
    """Reading, writing and telling events go wrong one by one, never together."""

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
    @pytest.mark.parametrize("where", ["watch", "apply", "create_event"])
    async def test_a_fault_of_one_is_none_of_the_others(
        self, server: ApiServer, caplog: pytest.LogCaptureFixture, where: str, fault: BaseException
    ) -> None:
        """Whatever one of them meets, however often, it is logged once with its traceback and the condition tells it;
        the others go on, and it goes on when that is over.
        """

        class Client(Faulty):
            pass

        Client.where, Client.fault = where, None
        async with speaking(server, connect=lambda: Client(server.kubeconfig)) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            Client.fault = fault
            server.close_watches()
            speaker.node.want(DRAINING)
            server.objects.label(NODE, {"zone": "e"})
            number = itertools.count()

            async def stumbled() -> bool:
                if where == "create_event":
                    speaker.node.tell([NodeEvent("Drained", f"lost {next(number)}")])
                    await passed(0.05)
                return Client.times >= 3

            await eventually(stumbled)
            if where != "watch":
                await speaker.hears("e")
            if where != "apply":
                await eventually(lambda: server.objects.labels(NODE)[STATE] == "draining")
            if where != "create_event":
                speaker.node.tell([NodeEvent("Drained", "told")])
                await eventually(lambda: server.objects.events)
                await eventually(lambda: repr(fault) in speaker.status.message)
                reason = SyncReason.READ_FAILED if where == "watch" else SyncReason.WRITE_FAILED
                assert speaker.status.reason is reason
            Client.fault = None
            await speaker.hears("e")
            await speaker.synced()
            speaker.node.tell([NodeEvent("Drained", "told")])
            await eventually(lambda: "told" in [event["message"] for event in server.objects.events.values()])
        assert server.objects.labels(NODE)[STATE] == "draining"
        assert len([record for record in caplog.records if record.exc_info]) == 1

    async def test_whoever_hears_of_the_labels_stumbles(self, server: ApiServer) -> None:
        """Labels that somebody could not take are told again, and nothing is read or written the less."""
        heard: list[dict[str, str]] = []

        def hear(labels: Mapping[str, str]) -> None:
            heard.append(dict(labels))
            if len(heard) < 3:
                raise RuntimeError("no")

        async with speaking(server, on_labels=hear) as speaker:
            speaker.node.want(APPLIED)
            await speaker.synced()
            await eventually(lambda: len(heard) >= 3)
        assert server.objects.labels(NODE)[COUNT] == "8"

    async def test_a_write_is_not_cut_by_a_new_connection(self, server: ApiServer) -> None:
        """Whatever becomes of the watch: what is being sent is sent, once."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            hold = asyncio.Event()
            server.fail("patch nodes", hold=hold)
            server.fail("create events", hold=hold)
            speaker.node.want(APPLIED)
            speaker.node.tell([NodeEvent("Drained", "once")])
            await eventually(lambda: server.count("patch nodes") == server.count("create events") == 1)
            server.fail("watch nodes", code=500, times=4)
            server.close_watches()
            await eventually(lambda: server.watches == 1 and server.count("watch nodes") >= 6)
            hold.set()
            await speaker.synced()
            await eventually(lambda: server.objects.events)
        assert server.count("patch nodes") == server.count("create events") == 1

    async def test_a_wait_outlives_a_connection(self, server: ApiServer) -> None:
        """A write that the server wants to have later is not made sooner because the watch has failed meanwhile."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("patch nodes", code=429, retry_after=3, message="later")
            speaker.node.want(APPLIED)
            await speaker.says(SyncReason.WRITE_FAILED)
            server.fail("watch nodes", code=500, times=4)
            server.close_watches()
            await eventually(lambda: server.watches == 1 and server.count("watch nodes") >= 6)
            await speaker.synced()
        first, second = [entry.at for entry in server.asked if entry.what == "patch nodes"]
        assert second - first >= 3.0

    async def test_the_file_and_the_api(self, server: ApiServer, tmp_path: Path) -> None:
        """Labels by file and the rest by the API: a fault of either is none of the other."""

        class Broken(LabelFile):
            async def run(self) -> None:
                raise RuntimeError("no")

        speaker = Speaker(server, QUICK, labels=False)
        task = asyncio.create_task(FileAndApi(Broken(tmp_path, wake=lambda: None), speaker.node).run())
        try:
            speaker.node.tell([NodeEvent("Drained", "told")])
            await eventually(lambda: server.objects.events)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def test_why_the_labels_are_not_known(self, server: ApiServer, tmp_path: Path) -> None:
        """It is what the API says, also where the file of labels has a trouble of its own."""
        await server.stop()
        speaker = Speaker(server, QUICK, labels=False)
        both = FileAndApi(LabelFile(tmp_path / "away", wake=lambda: None), speaker.node)
        assert both.unheard == "the Node has not been read yet"
        task = asyncio.create_task(both.run())
        try:
            both.want(APPLIED)
            await eventually(lambda: both.status.reason is SyncReason.WRITE_FAILED)
            await eventually(lambda: f"cannot watch the node {NODE}" in both.unheard)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class TestStart:
    """An agent whose config is chosen by a label waits for the Node's labels."""

    async def test_the_first_tries_follow_each_other_quickly(self, server: ApiServer) -> None:
        """A network that is a moment behind the agent costs no pause that is meant for an API server in trouble."""
        server.fail("watch nodes", cut=True, times=4)
        pace = Pace(backoff=(600.0, 600.0), settle=(600.0, 600.0), first=(0.01, 600.0))
        async with speaking(server, pace) as speaker:
            speaker.node.want(APPLIED)
            await eventually(lambda: speaker.heard)
        assert server.count("watch nodes") == 5
        assert server.count("patch nodes") == 0

    def test_the_pauses_of_the_first_tries(self) -> None:
        """Two tries that fail cost at most 0.3 s together; after that they grow as ever."""
        pace = Pace()
        assert sum(max(pace.after(failures, pace.first) for _ in range(200)) for failures in (1, 2)) <= 0.3
        assert all(pace.after(20, pace.first) >= 30.0 for _ in range(200))


class TestEvents:
    """Events, told once and never in a flood."""

    async def test_an_event_is_told_on_the_node(self, server: ApiServer) -> None:
        """With who tells it, of what, when, and its words."""
        async with speaking(server) as speaker:
            speaker.node.tell([NodeEvent("ConfigRejected", "rejected blob 1", warning=True)])
            await eventually(lambda: server.objects.events)
        (event,) = server.objects.events.values()
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": f"uid-{NODE}-1"}
        assert (event["reason"], event["message"], event["type"]) == ("ConfigRejected", "rejected blob 1", "Warning")
        assert (event["source"], event["count"]) == ({"component": "nodeagent", "host": NODE}, 1)
        assert event["firstTimestamp"] == event["lastTimestamp"]

    async def test_the_same_again_is_counted(self, server: ApiServer) -> None:
        """It is one event with a number, unless the API server has forgotten it."""
        again = NodeEvent("GpuUnhealthy", "GPU 3 hangs", warning=True)
        async with speaking(server) as speaker:
            for asked in (1, 2, 3):
                speaker.node.tell([again])
                await counted(server, asked)
            server.objects.events.clear()
            speaker.node.tell([again])
            await eventually(lambda: len(server.objects.events) == 1)
        assert server.count("create events") == 2

    @pytest.mark.parametrize("lost", [Fault(code=504, done=True, times=3), Fault(cut=True, done=True, times=3)])
    async def test_an_answer_that_is_lost_makes_no_other_event(self, server: ApiServer, lost: Fault) -> None:
        """What the API server has taken in is there once, with the number of times that it has happened."""
        server.faults["create events"] = replace(lost)
        event = NodeEvent("Drained", "GPU 1")
        async with speaking(server, Pace(backoff=(0.01, 0.02))) as speaker:
            speaker.node.tell([event])
            await eventually(lambda: server.count("create events") >= 2)
            speaker.node.tell([event])
            await counted(server, 2)
            await eventually(lambda: server.count("create events") == 4)
        assert len(server.objects.events) == 1

    @pytest.mark.parametrize("step", [86_400.0, -86_400.0])
    async def test_a_clock_that_is_set_makes_no_other_event(
        self, server: ApiServer, monkeypatch: pytest.MonkeyPatch, step: float
    ) -> None:
        """The same again is counted, and when it came last is by the clock of now."""
        again = NodeEvent("GpuUnhealthy", "GPU 3 hangs", warning=True)
        real = time.time
        async with speaking(server) as speaker:
            speaker.node.tell([again])
            await counted(server, 1)
            monkeypatch.setattr(clocks.HERE, "wall", lambda: real() + step)
            speaker.node.tell([again])
            await counted(server, 2)
        (event,) = server.objects.events.values()
        last = datetime.fromisoformat(event["lastTimestamp"]).timestamp()
        assert abs(last - (real() + step)) < WITHIN

    async def test_a_flood_is_slowed_down(self, server: ApiServer) -> None:
        """So many are told at once, and the others one by one."""
        async with speaking(server, Pace(burst=3, refill=60.0)) as speaker:
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(10)])
            await eventually(lambda: server.count("create events") == 3)
            speaker.node.want(APPLIED)
            await speaker.synced()
        assert server.count("create events") == 3

    async def test_events_wait_for_an_api_server_that_is_away(
        self, server: ApiServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In their order, those that repeat as a number, and of too many the oldest are dropped, which is logged."""
        await server.stop()
        async with speaking(server, Pace(backoff=(0.05, 0.1), burst=100)) as speaker:
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(51)])
            speaker.node.tell([NodeEvent("Drained", "GPU 50"), NodeEvent("Drained", "GPU 50")])
            await server.start()
            await eventually(lambda: len(server.objects.events) == 50)
        told = list(server.objects.events.values())
        assert [event["message"] for event in told] == [f"GPU {index}" for index in range(1, 51)]
        assert told[-1]["count"] == 3
        assert "not told: Drained: GPU 0" in caplog.text

    async def test_a_flood_while_one_waits_for_its_turn(
        self, server: ApiServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The event whose turn it is next is told, however many come meanwhile; of those the oldest are dropped, and
        the others follow.
        """
        async with speaking(server, Pace(burst=1, refill=0.3)) as speaker:
            speaker.node.tell([NodeEvent("Drained", "first")])
            await eventually(lambda: server.count("create events") == 1)
            speaker.node.tell([NodeEvent("Drained", "next")])
            await passed(0.1)
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(60)])
            await eventually(lambda: len(server.objects.events) >= 4)
        told = [event["message"] for event in server.objects.events.values()]
        assert told[:4] == ["first", "next", "GPU 10", "GPU 11"]
        assert "not told: Drained: next" not in caplog.text
        assert "not told: Drained: GPU 9" in caplog.text

    async def test_a_flood_while_one_is_being_sent_that_fails(self, server: ApiServer) -> None:
        """It is the next one all the same, with the times that it has happened meanwhile, and then come the newest."""
        async with speaking(server, Pace(backoff=(0.2, 0.4), burst=100)) as speaker:
            await eventually(lambda: server.watches == 1)
            hold = asyncio.Event()
            server.fail("create events", code=503, times=2)
            speaker.node.tell([NodeEvent("Drained", "first")])
            await eventually(lambda: server.count("create events") == 1)
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(120)])
            await eventually(lambda: server.count("create events") == 2)
            server.fail("create events", hold=hold)
            speaker.node.tell([NodeEvent("Drained", "first")])
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(120, 170)])
            await eventually(lambda: server.count("create events") == 3)
            speaker.node.tell([NodeEvent("Drained", "first")])
            hold.set()
            await eventually(lambda: len(server.objects.events) == 50)
            told = list(server.objects.events.values())
            await eventually(lambda: told[0]["count"] == 3)
        assert [event["message"] for event in told] == ["first", *(f"GPU {index}" for index in range(121, 170))]

    async def test_an_api_server_that_comes_back_is_told_at_once(self, server: ApiServer) -> None:
        """Tries that failed do not count for the flood."""
        async with speaking(server, Pace(backoff=(0.01, 0.02), burst=3, refill=600.0)) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("create events", code=503, times=10)
            speaker.node.tell([NodeEvent("Drained", f"GPU {index}") for index in range(3)])
            await eventually(lambda: len(server.objects.events) == 3)

    async def test_an_event_that_is_refused_holds_nothing_up(self, server: ApiServer) -> None:
        """One that the API server does not want is logged and dropped; the next one is told."""
        async with speaking(server) as speaker:
            await eventually(lambda: server.watches == 1)
            server.fail("create events", code=400)
            speaker.node.tell([NodeEvent("Drained", "first"), NodeEvent("Drained", "second")])
            await eventually(lambda: server.objects.events)
        assert [event["message"] for event in server.objects.events.values()] == ["second"]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nodeagent")
