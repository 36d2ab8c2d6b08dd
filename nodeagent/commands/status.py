"""`nodeagent status`: a node at a glance."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from nodeagent.commands import ages, client, status_report, status_verdict, terminal
from nodeagent.commands.exits import DIFFERS, NOT, OK, UNREACHABLE, Failure
from nodeagent.report.verdict import Outcome, judge

DESCRIPTION: Final = """\
Show a node at a glance: first the gravest thing that is to be said of it, as
the status page does; then which document it runs, what is wrong, its GPUs with
their shares, what waits for what, the last reload. Into a pipe or a file all
names are whole; a terminal, or $COLUMNS, says how wide a line may be.
"""

EPILOG: Final = """\
examples:
  nodeagent status
  nodeagent status --agent gpu-node-7:9400
  nodeagent status -o json | jq .config.applied.gitBlob
  kubectl exec -n gpu ds/nodeagent -- nodeagent status
"""

EXITS: Final = {
    OK: "in sync, and nothing is wrong with the node",
    NOT: "something is wrong, or not in sync",
    DIFFERS: "nothing is wrong, and not in sync: a change is under way, or suspended; only with --detailed-exitcode",
    UNREACHABLE: "the agent cannot be reached, or has nothing to say yet",
}

_CODES: Final = {Outcome.AS_WANTED: OK, Outcome.DIFFERS: DIFFERS, Outcome.FAULTY: NOT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which agent, and how to tell."""
    client.add_argument(parser)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to tell; json: all of it (default: text)"
    )
    parser.add_argument(
        "--detailed-exitcode",
        action="store_true",
        help="exit with 2 instead of 1 where nothing is wrong and a change is under way, or suspended",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Ask once, and tell."""
    try:
        status = client.fetch_status(arguments.agent, whole=arguments.output == "json")
    except client.Unreachable as error:
        raise Failure(str(error), UNREACHABLE) from None
    if arguments.output == "json":
        json.dump(status, sys.stdout, indent=2)
        print()
    else:
        for line in status_report.text(status, arguments.agent, terminal.of(), ages.now(status)):
            print(line)
    code = _CODES[judge(status_verdict.situation(status)).outcome]
    return NOT if code == DIFFERS and not arguments.detailed_exitcode else code
