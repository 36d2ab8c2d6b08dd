"""A process that is told to end is gone in time, whatever its loop, its threads and its interpreter are busy with."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.waiting import longer

WITHIN = 1.5

PROGRAM = """
import asyncio, atexit, signal, sys, threading, time
from contextlib import suppress
from nodeagent.stopping import Signals

signals = Signals(within=float(sys.argv[1]))
signals.listen()
stop = asyncio.Event()

def heard(number):
    print(number.name, flush=True)
    if number is not signal.SIGHUP:
        stop.set()

def listen():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals.hand_to(asyncio.get_running_loop(), dict.fromkeys(numbers, heard))

def ready():
    print("ready", flush=True)

async def main():
    BODY

asyncio.run(main())
"""

HANGING = {
    "a turn that computes": """
    listen()
    ready()
    while True: pass
""",
    "a call that waits": """
    listen()
    ready()
    time.sleep(1000)
""",
    "a task that does not end": """
    listen()
    async def stubborn():
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    ready()
    await stop.wait()
""",
    "a thread that is joined": """
    listen()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    ready()
    await stop.wait()
""",
    "a thread of the loop": """
    listen()
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)
    ready()
    await stop.wait()
""",
    "what is done at the exit": """
    listen()
    atexit.register(time.sleep, 1000)
    ready()
    await stop.wait()
""",
    "an import, before anybody listens": """
    ready()
    time.sleep(1000)
""",
}


@contextmanager
def program(body: str) -> Iterator[subprocess.Popen[str]]:
    """It runs, and is ready."""
    lines = PROGRAM.replace("    BODY", body.strip("\n"))
    with subprocess.Popen([sys.executable, "-c", lines, str(WITHIN)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("what", HANGING)
def test_whatever_hangs(what: str, number: signal.Signals) -> None:
    """The time counts from the signal itself, and what has not ended by then is left: the exit code is 0."""
    with program(HANGING[what]) as process:
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=longer(30)) == 0
        assert time.monotonic() - begun < longer(WITHIN)


def test_what_came_before_anybody_listened() -> None:
    """A signal is not lost because nobody could take it yet: it is handed on as soon as somebody can."""
    body = """
    ready()
    sys.stdin.readline()
    await asyncio.sleep(0)
    listen()
    await stop.wait()
"""
    lines = PROGRAM.replace("    BODY", body.strip("\n"))
    with subprocess.Popen(
        [sys.executable, "-c", lines, "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
        process.stdin.write("go on\n")
        process.stdin.close()
        assert {process.stdout.readline(), process.stdout.readline()} == {"SIGHUP\n", "SIGTERM\n"}
        assert process.wait(timeout=longer(30)) == 0


def test_hangups_end_nothing() -> None:
    """However many come, and whatever else is signalled: the process goes on."""
    body = """
    listen()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    ready()
    await stop.wait()
"""
    with program(body) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "SIGHUP\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        assert process.wait(timeout=longer(30)) == 0


def test_an_end_of_one_s_own() -> None:
    """Who begins to end by himself is gone in time as well, with the exit code that he named."""
    body = """
    threading.Thread(target=time.sleep, args=(1000,)).start()
    signals.begin_to_end(75)
    ready()
"""
    with program(body) as process:
        assert process.wait(timeout=longer(30)) == 75
