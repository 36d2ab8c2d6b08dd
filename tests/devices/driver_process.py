"""A process with one driver in it: prints inventory and XIDs as a line of JSON whenever it says that they differ.

Options are one JSON object as the only argument. An empty line on stdin makes the driver look again; one with JSON,
`{"ask": NUMBER, "method": NAME, "arguments": [...]}`, calls a method of the driver, and `{"answer": NUMBER, ...}` is
printed when it has ended. A line `restart` has what follows the driver run anew, as after a failure. The end of stdin
ends the process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nodeagent.devices.driver import Driver
from nodeagent.model.inventory import ComputeMode, DriverError
from nodeagent.watcher import DirectoryWatch


async def main(options: dict[str, Any]) -> None:
    """Run until stdin ends."""
    watch = DirectoryWatch()
    follows = options.pop("follows")
    driver = _driver(options, watch, lambda: _tell_news(driver))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch.run()), *([group.create_task(driver.run())] if follows else [])]
        async for line in commands:
            if line == b"restart\n":
                tasks[1].cancel()
                await asyncio.wait((tasks[1],))
                tasks[1] = group.create_task(driver.run())
            elif line.strip():
                tasks.append(group.create_task(_answer(driver, json.loads(line))))
            else:
                driver.refresh()
        for task in tasks:
            task.cancel()


async def _answer(driver: Driver, asked: dict[str, Any]) -> None:
    """Call a method and print what it returns, or what it says that it cannot do."""
    uuid, *mode = asked["arguments"]
    method = getattr(driver, asked["method"])
    try:
        _tell({"answer": asked["ask"], "value": await method(uuid, *map(ComputeMode, mode))})
    except DriverError as error:
        _tell({"answer": asked["ask"], "error": str(error)})


def _tell_news(driver: Driver) -> None:
    _tell({"seen": base64.b64encode(pickle.dumps((driver.inventory, driver.xids))).decode()})


def _tell(value: object) -> None:
    print(json.dumps(value, default=_plain), flush=True)  # noqa: T201  # that is its answer


def _driver(options: dict[str, Any], watch: DirectoryWatch, wake: Callable[[], None]) -> Driver:
    match options:
        case {"simulated": path, **rest}:
            from nodeagent.devices.simulated import SimulatedDriver

            return SimulatedDriver(Path(path), node_name="node", subscribe=watch.subscribe, wake=wake, **rest)
        case {"sysfs": sysfs, **rest}:
            from nodeagent.devices.nvml import NvmlDriver

            return NvmlDriver(wake=wake, sysfs=Path(sysfs), **_places(rest))
    raise ValueError(options)


def _places(options: dict[str, Any]) -> dict[str, Any]:
    """Options with paths where the driver takes some."""
    paths = {
        name: Path(options[name]) for name in ("driver_root", "library", "procfs") if options.get(name) is not None
    }
    return {**options, **paths}


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(value)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
