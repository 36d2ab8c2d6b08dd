"""`nodeagent wait`: a pipeline's question is answered as soon as it can be, and never by yesterday's answer."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from nodeagent.cli import main
from nodeagent.commands.wait import Verdict, judge
from nodeagent.model.plan import Plan, Refusal
from nodeagent.model.snapshot import ConfigState, DocumentInfo, Snapshot
from nodeagent.report.status import to_json
from tests.commands.conftest import Serve, nodeagent
from tests.report import builders

GOOD, OLDER, BAD = builders.document("good"), builders.document("older"), builders.document("bad")


def state(**changes: Any) -> Snapshot:  # noqa: ANN401 - fields of ConfigState
    """A node that has accepted and applied GOOD, but for `changes`."""
    config = replace(
        ConfigState("/etc/nodeagent", GOOD, GOOD, GOOD, GOOD, generation=3, observed_generation=3), **changes
    )
    return builders.snapshot(config=config, settled=config.observed_generation == config.generation)


def verdict(snapshot: Snapshot, blob: str, *, applied: bool = False) -> tuple[Verdict, str]:
    """What a status says of a document; that of an agent which does not say whether it is settled says the same."""
    status: Any = json.loads(json.dumps(to_json(snapshot)))
    answer = judge(status, blob, applied=applied)
    del status["settled"]
    assert judge(status, blob, applied=applied) == answer
    return answer.verdict, answer.message


def test_accepted_is_enough_unless_more_is_asked_for() -> None:
    """A document that is in force is accepted, whether or not anything drains; applied is when nothing does."""
    draining = state(applied=OLDER, observed_generation=2)
    assert verdict(draining, GOOD.git_blob)[0] is Verdict.YES
    assert verdict(draining, GOOD.git_blob, applied=True)[0] is Verdict.NOT_YET
    assert verdict(state(), GOOD.git_blob[:7], applied=True)[0] is Verdict.YES


def test_an_earlier_time_does_not_count() -> None:
    """A -> B -> A: that A was applied before B is no answer while the second A is on its way."""
    assert verdict(state(observed_generation=1), GOOD.git_blob, applied=True)[0] is Verdict.NOT_YET


def test_a_gpu_that_cannot_be_planned_for_is_not_as_the_document_says() -> None:
    """Whatever was applied before; that the document is accepted is as true as ever."""
    refused = replace(
        builders.snapshot(builders.gpu_status(builders.gpu(0), "ff")),
        config=state().config,
        plan=Plan(refused=(Refusal(builders.gpu(0).uuid, "broken"),)),
        settled=False,
    )
    said, message = verdict(refused, GOOD.git_blob, applied=True)
    assert said is Verdict.NOT_YET
    assert "not applied yet: GPU 0 cannot be planned for: broken" in message
    assert verdict(refused, GOOD.git_blob)[0] is Verdict.YES


def test_what_it_waits_for_is_told() -> None:
    """Not yet is said with the reason: pods, a suspension, or another document in the mount."""
    said, message = verdict(builders.troubled(), builders.document("good").git_blob, applied=True)
    assert said is Verdict.NOT_YET
    assert "GPU 0: waiting for the pods on 2 shares that Git no longer wants (and 1 more)" in message
    suspended = state(applied=OLDER, observed_generation=2, suspended=True)
    assert "spec.suspend is true" in verdict(suspended, GOOD.git_blob, applied=True)[1]
    assert f"its newest document is still {GOOD.git_blob[:12]}" in verdict(state(), BAD.git_blob)[1]
    gone = state(newest=None, problem="cannot read config: there is no such file")
    assert "no document: cannot read config" in verdict(gone, BAD.git_blob)[1]


@pytest.mark.parametrize("changes", [{}, {"newest": BAD, "violations": (builders.violation(),)}])
def test_what_is_not_as_the_document_says_any_more_is_not_applied(changes: dict[str, Any]) -> None:
    """It was applied for good, and now something drains again, whatever Git says since: the node says so itself."""
    status: Any = json.loads(json.dumps(to_json(replace(state(**changes), settled=False))))
    assert judge(status, GOOD.git_blob, applied=True).verdict is Verdict.NOT_YET
    assert judge(status, GOOD.git_blob, applied=False).verdict is Verdict.YES


@pytest.mark.parametrize("newest", [GOOD, BAD, None])
def test_what_keeps_a_document_from_these_gpus_is_told(newest: DocumentInfo | None) -> None:
    """Where it is the newest one itself the obstacle stands among the mistakes of that."""
    at_odds = (builders.violation("two kinds of GPU have one name"),)
    how = {"violations": at_odds} if newest is GOOD else {"obstacles": at_odds}
    status: Any = json.loads(json.dumps(to_json(replace(state(newest=newest, **how), settled=False))))
    message = judge(status, GOOD.git_blob, applied=True).message
    assert message.endswith("not applied yet: it is at odds with these GPUs: two kinds of GPU have one name")


@pytest.mark.parametrize("applied", [False, True])
def test_this_very_document_rejected_is_the_end(applied: bool) -> None:
    """A rejection of the document is final; one of another document is not."""
    rejecting = state(newest=BAD, violations=(builders.violation(),))
    said, message = verdict(rejecting, BAD.git_blob, applied=applied)
    assert said is Verdict.NEVER
    assert "/etc/nodeagent/sharing.yaml:12:17: spec.rules[0].timeSlicing.replicas: expected" in message
    assert verdict(rejecting, OLDER.git_blob)[0] is Verdict.NOT_YET


def test_it_ends_as_soon_as_the_node_has_it(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is told once per change on stderr, the answer on stdout, exit code 0."""
    agent = serve(state(newest=OLDER, desired=OLDER, applied=OLDER))
    timer = threading.Timer(1.2, lambda: setattr(agent, "snapshot", state()))
    timer.start()
    assert main(["wait", "--blob", GOOD.git_blob, "--agent", agent.address, "--timeout", "60s"]) == 0
    timer.join()
    told = capsys.readouterr()
    assert told.err == f"gpu-node-1: its newest document is still {OLDER.git_blob[:12]}\n"
    assert told.out.startswith(f"gpu-node-1: accepted {GOOD.git_blob}, after ")


def test_a_rejection_ends_it_at_once(serve: Serve) -> None:
    """Exit code 1 long before the timeout, with the errors."""
    agent = serve(state(newest=BAD, violations=(builders.violation(),)))
    done = nodeagent("wait", "--blob", BAD.git_blob, "--agent", agent.address, "--timeout", "1h")
    assert done.returncode == 1
    assert f"nodeagent wait: gpu-node-1 rejects {BAD.git_blob}:\n" in done.stderr
    assert "expected an integer of at least 2" in done.stderr


def test_time_is_limited(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """After the timeout it is exit code 1, or 3 when the agent was never reachable."""
    arguments = ["wait", "--blob", BAD.git_blob, "--timeout", "300ms", "--agent"]
    assert main([*arguments, serve(state()).address]) == 1
    assert capsys.readouterr().err.endswith("nodeagent wait: not within 0.3 s\n")
    assert main([*arguments, "127.0.0.1:1"]) == 3
    assert "cannot reach the agent at http://127.0.0.1:1: connection refused" in capsys.readouterr().err


def test_an_agent_that_starts_late_is_waited_for(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """An agent that cannot answer yet is asked again."""
    agent = serve(None)
    timer = threading.Timer(0.7, lambda: setattr(agent, "snapshot", state()))
    timer.start()
    assert main(["wait", "--blob", GOOD.git_blob, "--applied", "--agent", agent.address, "--timeout", "60s"]) == 0
    timer.join()
    assert "503" in capsys.readouterr().err
