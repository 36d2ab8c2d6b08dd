"""`nodeagent status`: a node at a glance."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from nodeagent.commands import ages, client, status_report, terminal
from nodeagent.commands.exits import EXITS_ALWAYS, OK, Failure

DESCRIPTION: Final = """\
Show a node at a glance: whether it follows Git, which document it runs, what
is wrong, its GPUs with their shares, what waits for what, the last reload.
"""

EPILOG: Final = f"""\
examples:
  nodeagent status
  nodeagent status --agent gpu-node-7:9400
  nodeagent status -o json | jq .config.applied.gitBlob
  kubectl exec -n gpu ds/nodeagent -- nodeagent status

exit codes:
  0 in sync: the newest document is accepted and applied; 1 not in sync;
  3 the agent cannot be reached; {EXITS_ALWAYS}
"""

_NOT_IN_SYNC, _UNREACHABLE = 1, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which agent, and how to tell."""
    client.add_argument(parser)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to tell; json: all of it (default: text)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Ask once, and tell."""
    try:
        status = client.fetch_status(arguments.agent, whole=arguments.output == "json")
    except client.Unreachable as error:
        raise Failure(str(error), _UNREACHABLE) from None
    if arguments.output == "json":
        json.dump(status, sys.stdout, indent=2)
        print()
    else:
        for line in status_report.text(status, arguments.agent, terminal.of(), ages.now(status)):
            print(line)
    return OK if status["inSync"] else _NOT_IN_SYNC
