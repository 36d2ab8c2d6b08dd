"""`nodeagent plan`: what a commit would do to a node, before it does."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nodeagent.commands import client, gpus, mps_notes, plan_json, plan_report, stdin, terminal
from nodeagent.commands.checking import STDIN, STDIN_NAME
from nodeagent.commands.exits import DIFFERS, NOT, OK, UNREACHABLE, UNREADABLE, USAGE, Failure
from nodeagent.commands.preview import preview
from nodeagent.commands.rehearsal import Node
from nodeagent.config.bundle import load_bundle
from nodeagent.config.reading import read_document
from nodeagent.model.config import Document, Loaded, Unreadable, Violation
from nodeagent.model.health import HealthPolicy
from nodeagent.report.status_reader import (
    applied_from_status,
    inventory_from_status,
    moment_from_status,
    mps_from_status,
)
from nodeagent.state import unmatched
from nodeagent.state.desired import check, resolve
from nodeagent.state.health import Symptoms
from nodeagent.state.nodegpus import node_gpus

DESCRIPTION: Final = """\
Tell what a sharing config would do to a node, GPU by GPU and share by share:
what comes and goes at once, and what has to wait for which pods. Asks the
node's agent for what is applied and held; changes nothing. With --driver
instead: what it would do to a node with these GPUs and nothing on it, and with
an MPS host at work; a note says where that is not so on this machine. The GPUs
have the numbers then that the agent on this machine gives them, or that of
--state-dir.
"""

EPILOG: Final = """\
examples:
  nodeagent plan --config sharing.yaml
  nodeagent plan --config sharing.yaml --agent gpu-node-7:9400
  nodeagent plan --config sharing.yaml --driver simulated:node.yaml
  kubectl kustomize overlays/a100 | nodeagent plan --config -
"""

EXITS: Final = {
    OK: "the node would take it; with --detailed-exitcode: and nothing would change",
    NOT: "the config is rejected, or is not one config",
    DIFFERS: "something would change; only with --detailed-exitcode",
    UNREACHABLE: "the agent cannot be reached, or what it answers cannot be used",
    UNREADABLE: "the config, or the GPUs of --driver, cannot be read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which config, which node, and how to tell."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="PATH",
        help="a file with one sharing config, bare or in a ConfigMap; a directory with sharing.yaml in it; - for stdin",
    )
    on = parser.add_mutually_exclusive_group()
    client.add_argument(on)
    on.add_argument(
        "--driver", metavar="SPEC", help="ask no agent, take these GPUs: nvml (this machine's) or simulated:FILE"
    )
    gpus.add_state_dir(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to tell (default: text)")
    parser.add_argument(
        "--detailed-exitcode", action="store_true", help="exit with 2 instead of 0 where something would change"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Plan, and tell."""
    loaded = _load(arguments.config)
    if loaded.config is None:
        return _reject(loaded.violations, arguments.output)
    if arguments.state_dir is not None and not arguments.driver:
        raise Failure("--state-dir goes with --driver: an agent that is asked knows its numbers", USAGE)
    if arguments.driver:
        asked = _of_driver(arguments.driver, arguments.state_dir)
    else:
        asked = _of_agent(arguments.agent, loaded.config.health)
    desired = resolve(loaded.config, asked.node.gpus)
    violations = check(desired, loaded.document.path)
    if violations:
        return _reject(violations, arguments.output)
    found = preview(None if loaded.config.suspend else desired, asked.node)
    report = plan_report.Report(
        asked.name,
        asked.source,
        asked.runs,
        loaded,
        found,
        readable=asked.node.readable,
        notes=(
            *(str(remark) for remark in unmatched.remarks(loaded.config, asked.node.gpus) if remark.rule),
            *(mps_notes.notes(loaded.config, asked.node.gpus) if arguments.driver else ()),
        ),
    )
    if arguments.output == "json":
        print(plan_json.as_json(report))
    else:
        for line in plan_report.text(report, terminal.of()):
            print(line)
    return DIFFERS if found.changes and arguments.detailed_exitcode else OK


@dataclass(frozen=True, slots=True)
class _Asked:
    """A node, its name, where it is known from, and the document that it runs, as its status says it."""

    node: Node
    name: str
    source: str
    runs: Mapping[str, Any] | None


def _load(path: str) -> Loaded:
    """The one config that a path holds."""
    document: Document | Unreadable
    if path == STDIN:
        document = Document(STDIN_NAME, stdin.read())
    elif Path(path).is_fifo():
        # The shell's `--config <(kubectl kustomize ...)`; the agent itself takes files only.
        document = _read_pipe(path)
    else:
        document = read_document(Path(path))
    if isinstance(document, Unreadable):
        raise Failure(f"{document.message.rstrip('.')}: {document.path}", UNREADABLE)
    bundle = load_bundle(document.data, document.path)
    if bundle.all_violations:
        return Loaded(document, None, bundle.all_violations)
    # With presync-validate a pool has each of its configs twice.
    configs = list({loaded.document.data: loaded for loaded in reversed(bundle.configs)}.values())
    if len(configs) != 1:
        names = ", ".join(loaded.document.path for loaded in bundle.configs)
        raise Failure(f"cannot plan with {len(configs)} sharing configs at once: {names}", NOT)
    loaded = configs[0]
    return replace(loaded, document=replace(loaded.document, revision=loaded.document.revision or document.revision))


def _read_pipe(path: str) -> Document:
    try:
        return Document(path, Path(path).read_bytes())
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or str(error)).lower()}", UNREADABLE) from None


def _of_driver(spec: str, state_dir: str | None) -> _Asked:
    name = os.environ.get("NODE_NAME") or socket.gethostname()
    found, note = gpus.read_gpus(spec, state_dir, UNREADABLE)
    if note:
        print(f"nodeagent plan: {note}", file=sys.stderr)
    return _Asked(Node(found), name, spec, None)


def _of_agent(agent: str, policy: HealthPolicy) -> _Asked:
    """The node of an agent. What stands against its GPUs is judged by the policy of the new config."""
    try:
        status = client.fetch_status(agent)
        applied, held = applied_from_status(status)
        inventory = inventory_from_status(status)
        mps = mps_from_status(status)
        moment = moment_from_status(status)
    except client.Unreachable as error:
        raise Failure(str(error), UNREACHABLE) from None
    except ValueError as error:
        raise Failure(f"cannot read the status of {agent}: {error}", UNREACHABLE) from None
    node = Node(
        gpus=node_gpus(inventory, applied),
        applied=applied,
        held=held,
        holders={
            share["id"]: share["holder"] for gpu in status["gpus"] for share in gpu["shares"] if share.get("holder")
        },
        resources=frozenset(entry["resource"] for entry in status["resources"] if entry.get("registration")),
        readable=any(one["type"] == "PodResourcesReady" and one["status"] for one in status["conditions"]),
        mps=mps,
        symptoms=Symptoms(now=moment, policy=policy, driver_load=inventory.driver_load),
    )
    return _Asked(node, status["node"], agent, status["config"]["desired"])


def _reject(violations: tuple[Violation, ...], output: str) -> int:
    if output == "json":
        print(plan_json.rejected_as_json(violations))
    else:
        for violation in violations:
            print(violation, file=sys.stderr)
        print("nodeagent plan: the config is rejected: a node that has it keeps what is applied", file=sys.stderr)
    return NOT
