"""`nodeagent wait`: a pipeline's question, answered by the node itself: has it taken what I committed?"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from nodeagent.commands import client
from nodeagent.commands.client import Status
from nodeagent.commands.exits import NOT, OK, UNREACHABLE, USAGE, Failure
from nodeagent.commands.status_names import by_name
from nodeagent.documents.quantities import parse_duration

DESCRIPTION: Final = """\
Wait until a node has accepted the document with a git blob id, or with
--applied until every GPU is as it says. Neither Argo CD nor Flux can tell: a
ConfigMap is healthy as soon as it exists, a minute before nodes see it. Ends
at once, with the errors, when the node rejects this very document.

With --pool it is every node of a pool that is waited for, such as a canary
pool before the others get the commit. The Kubernetes API is asked, not the
agents: it knows the nodes by the labels that agents write (`run --labels`).
"""

EPILOG: Final = """\
examples:
  nodeagent wait --blob "$(git hash-object sharing.yaml)"
  nodeagent wait --blob 3b18e512d --applied --timeout 30m \\
      --agent gpu-node-7:9400
  nodeagent wait --blob "$(git hash-object canary.yaml)" --pool canary \\
      --nodes 3 --timeout 20m
  nodeagent wait --blob 3b18e512d --selector gpu=h100,zone=a
"""

EXITS: Final = {
    OK: "the node has it, or all nodes of the pool",
    NOT: "not in time, or a node rejects it",
    UNREACHABLE: "the agent, or the Kubernetes API, was never reachable",
}

_EVERY: Final = 0.5
_BLOB: Final = re.compile(r"[0-9a-f]{7,40}")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which document, how far, for how long, on which node."""
    parser.add_argument(
        "--blob",
        required=True,
        type=_blob,
        metavar="ID",
        help="what `git hash-object FILE` prints, or at least 7 characters of it",
    )
    parser.add_argument(
        "--applied", action="store_true", help="wait until it is applied: nothing drains any more either"
    )
    parser.add_argument(
        "--timeout", type=_duration, default=300.0, metavar="DURATION", help="such as 90s or 30m (default: 5m)"
    )
    client.add_argument(parser)
    pool = parser.add_argument_group("all nodes of a pool")
    pool.add_argument("--pool", type=_pool, metavar="NAME", help="every node with the label nodeagent.io/pool=NAME")
    pool.add_argument(
        "--selector",
        type=_selector,
        metavar="LABELS",
        help="every node with these labels instead, as of `kubectl get nodes -l`",
    )
    pool.add_argument(
        "--nodes",
        type=_number,
        metavar="N",
        help="so many nodes at least: fewer are waited for, and none are never enough (default: 1)",
    )
    pool.add_argument(
        "--kubeconfig",
        metavar="PATH",
        help="how to reach the API (default: the pod's service account, else $KUBECONFIG)",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Ask again and again, and say what has changed."""
    if arguments.pool or arguments.selector:
        from nodeagent.commands import wait_pool

        if arguments.agent != client.DEFAULT_AGENT:
            raise Failure("--agent is about one node: it cannot be with --pool or --selector", USAGE)
        return wait_pool.execute(arguments)
    for flag in ("nodes", "kubeconfig"):
        if getattr(arguments, flag) is not None:
            raise Failure(f"--{flag} is about a pool: it needs --pool or --selector", USAGE)
    begun = time.monotonic()
    end = begun + arguments.timeout
    told, reached = "", False
    while True:
        left = end - time.monotonic()
        try:
            # No name for the status: one that may be large is not kept until the next one is read.
            answer = judge(
                client.fetch_status(arguments.agent, timeout=min(client.TIMEOUT, max(left, 0.1))),
                arguments.blob,
                applied=arguments.applied,
            )
        except client.Unreachable as error:
            progress = str(error)
        else:
            reached = True
            if answer.verdict is Verdict.YES:
                print(f"{answer.message}, after {time.monotonic() - begun:.1f} s")
                return OK
            if answer.verdict is Verdict.NEVER:
                raise Failure(answer.message, NOT)
            progress = answer.message
        if progress != told:
            print(progress, file=sys.stderr, flush=True)
            told = progress
        left = end - time.monotonic()
        if left <= 0:
            raise Failure(f"not within {arguments.timeout:g} s", NOT if reached else UNREACHABLE)
        time.sleep(min(_EVERY, left))


class Verdict(Enum):
    """Whether the wait is over."""

    YES = "yes"
    NOT_YET = "not yet"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status says of the document that is waited for."""

    verdict: Verdict
    message: str


def judge(status: Status, blob: str, *, applied: bool) -> Answer:
    """Whether the node has accepted, or applied, the document whose git blob id begins with `blob`."""
    node, config = status["node"], status["config"]
    if _is(config["desired"], blob):
        found = config["desired"]["gitBlob"]
        if not applied:
            return Answer(Verdict.YES, f"{node}: accepted {found}")
        if _settled(status, blob):
            return Answer(Verdict.YES, f"{node}: applied {found}")
        return Answer(Verdict.NOT_YET, f"{node}: accepted {found[:12]}, not applied yet: {_why(status)}")
    if _is(config["newest"], blob) and config["violations"]:
        errors = [
            f"{one['file']}:{one['line']}:{one['column']}: {one['path'] + ': ' if one['path'] else ''}{one['message']}"
            for one in config["violations"]
        ]
        return Answer(Verdict.NEVER, "\n  ".join([f"{node} rejects {config['newest']['gitBlob']}:", *errors]))
    if config["newest"] is None:
        return Answer(Verdict.NOT_YET, f"{node}: no document: {config['problem'] or 'not read yet'}")
    other = config["newest"]["gitBlob"][:12]
    return Answer(Verdict.NOT_YET, f"{node}: its newest document is still {other}")


def _is(document: dict[str, Any] | None, blob: str) -> bool:
    return document is not None and document["gitBlob"].startswith(blob)


def _settled(status: Status, blob: str) -> bool:
    """Whether everything is as the accepted document wants it, which is `blob`. An older agent does not say so."""
    settled: bool | None = status.get("settled")
    if settled is not None:
        return settled
    # That it was applied once is not enough: another document may have been accepted in between.
    applied_now = _is(status["config"]["applied"], blob) and status["observedGeneration"] == status["generation"]
    return applied_now and not _refused(status)


def _refused(status: Status) -> list[str]:
    """The GPUs of which nothing can be planned, and why. An older agent plans all or nothing."""
    called: dict[str, str] = {gpu.uuid: name for name, gpu in by_name(status).items()}
    refused: list[dict[str, str]] = status["plan"].get("refused", [])
    return [f"{called.get(one['uuid'], one['uuid'])} cannot be planned for: {one['message']}" for one in refused]


def _why(status: Status) -> str:
    if status["suspended"]:
        return "spec.suspend is true"
    if obstacles := _obstacles(status["config"]):
        return f"it is at odds with these GPUs: {obstacles[0]['message']}"
    waits: list[str] = [*_refused(status), *(wait["text"] for wait in status["plan"]["waits"])]
    if waits:
        return waits[0] + (f" (and {len(waits) - 1} more)" if len(waits) > 1 else "")
    wrong = next((drift for drift in status["drift"] if drift["kind"] != "config"), None)
    return f"{wrong['subject']}: {wrong['have']}" if wrong is not None else "on its way"


def _obstacles(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Why the accepted document cannot be applied; an older agent does not say so of its own."""
    own: list[dict[str, Any]] = config.get("obstacles", [])
    same = config["newest"] is not None and config["newest"]["gitBlob"] == config["desired"]["gitBlob"]
    return own or (list(config["violations"]) if same else [])


def _blob(text: str) -> str:
    if not _BLOB.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"expected 7 to 40 hexadecimal characters of a git blob id, got {text!r}")
    return text.lower()


def _pool(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected the name of a pool, a label value, got {text!r}")
    return text


def _selector(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected labels such as gpu=h100,zone=a, got nothing")
    return text.strip()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of nodes, 1 or more, got {text!r}")
    return int(text)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
