"""`nodeagent run`: the agent itself."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from typing import Final

from nodeagent import heap, logs, settings
from nodeagent.commands import variables
from nodeagent.commands.exits import NOT, OK, START_ANEW, USAGE, Failure
from nodeagent.settings import Settings
from nodeagent.stopping import Signals

logger = logging.getLogger(__name__)

USAGE_LINE: Final = "nodeagent run --config PATH [OPTION ...]"

DESCRIPTION: Final = """\
Run the agent of this node: advertise its GPUs to the kubelet as the sharing
config says, and follow the config while it changes. A config that is wrong
never ends the agent: what is applied stays, and /status says what is wrong.

Each flag can be given as an environment variable instead, named in brackets;
a flag wins over its variable. Variables that look as if they were meant, and
that no option has, are told in the log.
"""

EPILOG: Final = """\
examples:
  nodeagent run --config /etc/nodeagent
  nodeagent run --config sharing.yaml --driver simulated:node.yaml \\
      --kubelet-dir ./kubelet --state-dir ./state --listen 127.0.0.1:9400

signals:
  SIGTERM, SIGINT   stop in order, within 5 seconds; pods keep their GPUs
  SIGHUP            look at the config and the GPUs again
"""

EXITS: Final = {
    OK: "after SIGTERM",
    NOT: "cannot start: an address in use, an unusable path",
    START_ANEW: "the state directory was deleted under its mount, or with --restart-on-driver-change the driver was"
    " replaced: start it anew, a new container mounts or loads it anew",
}


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
    for line in variables.unread(os.environ, settings.OPTIONS, "run"):
        logger.warning("%s", line)
    heap.be_frugal()
    signals = Signals()
    signals.listen()
    return signals.leave(asyncio.run(_serve(chosen, signals)))


async def _serve(chosen: Settings, signals: Signals) -> int:
    """The exit code of the last of the agents that this process is, one after the other."""
    from nodeagent.agent import Agent
    from nodeagent.errors import CannotStart
    from nodeagent.ownership import Ending

    try:
        while True:
            agent = Agent(chosen)
            signals.hand_to(asyncio.get_running_loop(), agent.signal_handlers)
            ending = await agent.run()
            if ending is not Ending.TAKEN:
                break
    except CannotStart as error:
        # The log, not stderr as it comes: this line must be of the format that a pipeline reads.
        logger.critical("cannot start: %s", error)
        return NOT
    code = OK if ending is Ending.TOLD else START_ANEW
    # What is left, tasks that do not end or threads that hang, is not waited for.
    signals.begin_to_end(code)
    return code
