"""A process with one driver in it: prints the inventory as a line of JSON whenever the driver says that it differs.

Options are one JSON object as the only argument. A line on stdin makes the driver look again; the end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from nodeagent.devices.driver import Driver
from nodeagent.watcher import DirectoryWatch


async def main(options: dict[str, Any]) -> None:
    """Run until stdin ends."""
    watch = DirectoryWatch()

    def wake() -> None:
        print(json.dumps(asdict(driver.inventory), default=_plain), flush=True)  # noqa: T201  # that is its answer

    driver = _driver(options, watch, wake)
    ended = asyncio.Event()

    def command() -> None:
        if sys.stdin.readline():
            driver.refresh()
        else:
            ended.set()

    asyncio.get_running_loop().add_reader(sys.stdin, command)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(driver.run()), group.create_task(watch.run())]
        await ended.wait()
        for task in tasks:
            task.cancel()


def _driver(options: dict[str, Any], watch: DirectoryWatch, wake: Callable[[], None]) -> Driver:
    match options:
        case {"simulated": path, **rest}:
            from nodeagent.devices.simulated import SimulatedDriver

            return SimulatedDriver(Path(path), node_name="node", subscribe=watch.subscribe, wake=wake, **rest)
        case {"sysfs": sysfs, **rest}:
            from nodeagent.devices.nvml import NvmlDriver

            return NvmlDriver(wake=wake, sysfs=Path(sysfs), **rest)
    raise ValueError(options)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(value)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
