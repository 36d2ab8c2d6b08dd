"""`nodeagent mps-host`: the process that keeps the MPS daemons of a node, beside the agent."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable
from typing import Final

from nodeagent import logs, settings
from nodeagent.commands import variables
from nodeagent.commands.exits import NOT, OK, START_ANEW, USAGE, Failure
from nodeagent.settings import MpsHostSettings
from nodeagent.stopping import STOP_SECONDS, Signals

logger = logging.getLogger(__name__)

USAGE_LINE: Final = "nodeagent mps-host [OPTION ...]"

DESCRIPTION: Final = """\
Keep the MPS control daemons that the agent of this node asks for: one for each
GPU under MPS, with the limits of its shares. The host starts them, watches
them, gives them their limits back when a client has changed them, and sets the
compute mode of their GPUs. Agent and host speak through files in --mps-root.

The daemons do not end with the host. The next one takes over what it finds.
It needs root, NVIDIA's nvidia-cuda-mps-control and, unless --shm-size is 0,
the right to mount.

Each flag can be given as an environment variable instead, named in brackets;
a flag wins over its variable. Variables that look as if they were meant, and
that no option has, are told in the log.
"""

EPILOG: Final = """\
examples:
  nodeagent mps-host --driver nvml
  nodeagent mps-host --mps-root ./mps --driver simulated:node.yaml --shm-size 0

as the first process of a container, with --init:
  A container ends with its first process, and the daemons in it with it. So
  that process is a tiny one, which starts the host as its child and again
  whenever it ends. Process 1 always is; with hostPID nothing in a container is
  process 1. The end of the container still ends the daemons, and MPS for
  their clients: replace it when the GPUs are free.

signals:
  SIGTERM, SIGINT   stop within 5 seconds; daemons and their clients go on
  SIGHUP            read now what the agent asks for; an init hands it on
"""

EXITS: Final = {
    OK: "after SIGTERM",
    NOT: "cannot start: --mps-root cannot be used, nothing can be mounted",
    START_ANEW: "--mps-root or its lock was removed or replaced: start it anew",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the host, from the table in `settings`."""
    settings.add_arguments(parser, settings.MPS_HOST_OPTIONS)


def execute(arguments: argparse.Namespace) -> int:
    """Host until told to stop; as somebody's first process, have a child do it."""
    try:
        chosen = settings.read_mps_host(arguments)
    except settings.BadSetting as error:
        raise Failure(str(error), USAGE) from None
    shm_size = _size(chosen.shm_size)
    if chosen.init or os.getpid() == 1:
        # Before anything else is imported: this process stays, and its child imports all that again.
        from nodeagent.mps import init

        return init.run(_again(arguments))
    logs.set_up(chosen.log_format, chosen.log_level)
    _tell_of_variables(arguments)
    signals = Signals()
    signals.listen()
    from nodeagent.errors import CannotStart
    from nodeagent.mps.host import Superseded

    try:
        asyncio.run(_serve(chosen, shm_size, signals))
    except CannotStart as error:
        logger.critical("cannot start: %s", error)
        return signals.leave(NOT)
    except Superseded as error:
        logger.critical("%s: the daemons go on, and are to be looked after by a host that starts anew", error)
        signals.begin_to_end(START_ANEW)
        return signals.leave(START_ANEW)
    return signals.leave(OK)


def _size(text: str) -> int:
    from nodeagent.documents.quantities import parse_quantity

    if text == "0":
        return 0
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise Failure(f"--shm-size (or NODEAGENT_SHM_SIZE): {error}; or 0", USAGE) from None


def _tell_of_variables(arguments: argparse.Namespace) -> None:
    """A host that an agent has started was given all its options as flags, and has the agent's environment."""
    if all(getattr(arguments, option.name) is not None for option in settings.MPS_HOST_OPTIONS if not option.switch):
        return
    for line in variables.unread(os.environ, settings.MPS_HOST_OPTIONS, "mps-host"):
        logger.warning("%s", line)


def _again(arguments: argparse.Namespace) -> list[str]:
    """The command that hosts with these arguments and this environment, without an init of its own."""
    os.environ.pop("NODEAGENT_INIT", None)
    given = [
        f"{option.flag}={getattr(arguments, option.name)}"
        for option in settings.MPS_HOST_OPTIONS
        if not option.switch and getattr(arguments, option.name) is not None
    ]
    return [sys.executable, "-m", "nodeagent", "mps-host", *given]


async def _serve(chosen: MpsHostSettings, shm_size: int, signals: Signals) -> None:
    from nodeagent.devices.driver import open_driver
    from nodeagent.errors import CannotStart
    from nodeagent.mps.host import MpsHost, Unusable
    from nodeagent.watcher import DirectoryWatch

    watch = DirectoryWatch()

    def found() -> None:
        host.look_again()

    try:
        driver = open_driver(
            chosen.driver,
            node_name=chosen.node_name,
            subscribe=watch.subscribe,
            wake=found,
            driver_root=chosen.driver_root,
            nvml_library=chosen.nvml_library,
            xids=False,
        )
    except ValueError as error:
        raise CannotStart(str(error)) from error
    host = MpsHost(
        chosen.mps_root, gpus=driver, subscribe=watch.subscribe, program=chosen.mps_control, shm_size=shm_size
    )
    stop = asyncio.Event()

    def on_stop(number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        stop.set()

    def on_hangup(number: signal.Signals) -> None:
        logger.info("%s: looking again", number.name)
        host.look_again()

    signals.hand_to(
        asyncio.get_running_loop(), {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: on_hangup}
    )
    try:
        await _run_until(stop, watch.run(), driver.run(), host.run())
    except Unusable as error:
        raise CannotStart(str(error)) from error
    logger.info("stopped; the daemons go on")


async def _run_until(stop: asyncio.Event, *parts: Awaitable[None]) -> None:
    """Run all parts until told to stop, or one of them fails before that: what it raises, this raises."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    told = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait((told, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in done if told not in done else ():
            task.result()
    finally:
        for task in (told, *tasks):
            task.cancel()
        await asyncio.wait((told, *tasks), timeout=STOP_SECONDS)
