"""`nodeagent clear-health`: a person's word that a GPU is well again."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from nodeagent import admin
from nodeagent.commands.exits import NOT, OK, UNREACHABLE, Failure
from nodeagent.settings import OPTIONS

DESCRIPTION: Final = """\
Tell the agent of this node that a GPU, or a MIG device, is well: no XID that
was reported until now stands against it any more, and its shares are offered
again. A GPU whose fault has not been mended reports the next XID soon, and is
unhealthy again. To be run on the node, by the owner of the state directory:

  kubectl exec -n NAMESPACE POD -- nodeagent clear-health GPU-...

A reload of the driver, or a reboot, clears all of them by itself.
"""

EPILOG: Final = """\
examples:
  nodeagent clear-health GPU-4d9c1f10-7a52-4b1e-9d3c-2f6b8e0a5c11
"""

EXITS: Final = {
    OK: "cleared",
    NOT: "there is nothing to clear, or it cannot be cleared by hand",
    UNREACHABLE: "no agent answers there",
}

_STATE_DIR: Final = next(option for option in OPTIONS if option.flag == "--state-dir")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which GPU, and where the agent keeps its state."""
    parser.add_argument("uuid", metavar="UUID", help="of the GPU or MIG device, as `nodeagent status` prints it")
    told = f"that of the agent [${_STATE_DIR.environment}] (default: {_STATE_DIR.default})"
    parser.add_argument(_STATE_DIR.flag, metavar=_STATE_DIR.metavar, help=told)


def execute(arguments: argparse.Namespace) -> int:
    """Ask, and say what the agent did."""
    directory = Path(arguments.state_dir or os.environ.get(_STATE_DIR.environment) or _STATE_DIR.default or "")
    try:
        answer = admin.ask(directory, "clear-health", arguments.uuid)
    except admin.Unreachable as error:
        raise Failure(str(error), UNREACHABLE) from None
    if not answer.done:
        raise Failure(answer.message, NOT)
    print(answer.message)
    return OK
