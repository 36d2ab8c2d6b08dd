"""`nodeagent run`: the agent itself."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Final

from nodeagent import heap, logs, settings
from nodeagent.commands.exits import EXITS_ALWAYS, OK, USAGE, Failure
from nodeagent.settings import Settings

logger = logging.getLogger(__name__)

USAGE_LINE: Final = "nodeagent run --config PATH [OPTION ...]"

DESCRIPTION: Final = """\
Run the agent of this node: advertise its GPUs to the kubelet as the sharing
config says, and follow the config while it changes. A config that is wrong
never ends the agent: what is applied stays, and /status says what is wrong.

Each flag can be given as an environment variable instead, named in brackets;
a flag wins over its variable.
"""

EPILOG: Final = f"""\
examples:
  nodeagent run --config /etc/nodeagent
  nodeagent run --config sharing.yaml --driver simulated:node.yaml \\
      --kubelet-dir ./kubelet --state-dir ./state --listen 127.0.0.1:9400

signals:
  SIGTERM, SIGINT   stop in order, within 5 seconds; pods keep their GPUs
  SIGHUP            look at the config and the GPUs again

exit codes:
  0 after SIGTERM, 1 cannot start (address in use, unusable path),
  {EXITS_ALWAYS}
"""

_CANNOT_START: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the agent, from the table in `settings`."""
    settings.add_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until told to stop."""
    try:
        chosen = settings.read(arguments)
    except settings.BadSetting as error:
        raise Failure(str(error), USAGE) from None
    logs.set_up(chosen.log_format, chosen.log_level)
    heap.be_frugal()
    from nodeagent.errors import CannotStart

    try:
        asyncio.run(_serve(chosen))
    except CannotStart as error:
        # The log, not stderr as it comes: this line must be of the format that a pipeline reads.
        logger.critical("cannot start: %s", error)
        return _CANNOT_START
    return OK


async def _serve(chosen: Settings) -> None:
    from nodeagent.agent import Agent

    agent = Agent(chosen)
    agent.handle_signals(asyncio.get_running_loop())
    await agent.run()
