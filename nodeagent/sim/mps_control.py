"""A stand-in for NVIDIA's `nvidia-cuda-mps-control`, for machines without it: the control daemon and its client.

It does what the MPS host and the agent need of the original, in the original's words (driver 535): limits are set and
read back with the same roundings, one daemon per pipe directory, `quit` for its own user only, an open socket that
holds everybody up while somebody says nothing on it. It starts no servers, as the original does where no CUDA program
comes. Daemon and client speak a protocol of their own, so that the two programs do not mix.

A copy of this file is the program, run by an interpreter without site-packages: the standard library alone is imported,
and little of it, since a client is started for every question.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

USAGE = """\
A stand-in for the CUDA MPS control program, which comes with nodeagent's demo.

  -d       start a daemon for the pipe directory $CUDA_MPS_PIPE_DIRECTORY, which
           logs in $CUDA_MPS_LOG_DIRECTORY
  no flag  send each line of stdin to that daemon, and print what it answers
"""

_HELLO = b"\0"
_END = b"\0"
_MOST = 64 * 1024
_BACKLOG = 128
_GIB = 1024


class Daemon:
    """What one daemon knows: the limits that clients would get, and how it answers commands."""

    def __init__(self) -> None:
        self._threads = 100.0
        self._memory: dict[int, int] = {}
        self.ends = False

    def answer(self, command: str, *, privileged: bool) -> tuple[str, str]:
        """The lines for the client, and for the log; `privileged` clients may end it."""
        name, first, second = (*command.split(), "", "", "")[:3]
        match name:
            case "get_default_active_thread_percentage":
                told = f"{self._threads:.1f}"
            case "set_default_active_thread_percentage":
                return self._set_threads(first)
            case "get_default_device_pinned_mem_limit":
                memory = self._memory.get(_number(first), 0)
                if not memory:
                    return "", "No default pinned memory limit set for the device!"
                told = f"{memory}M" if memory < _GIB else f"{memory // _GIB}G"
            case "set_default_device_pinned_mem_limit":
                memory = _number(second) * (_GIB if _unit(second) in {"g", "G"} else 1)
                # All that can be seen to come of a uuid is that the limit of device 0 is lost.
                self._memory[_number(first)] = memory if first.isdigit() else 0
                told = ""
            case "get_server_list":
                told = ""
            case "ps":
                told = "Server not found"
            case "quit":
                self.ends = privileged
                if privileged:
                    return "", "Exit with status 0"
                told = "Not enough privilege to execute quit command"
            case _:
                told = f'Unknown command "{name}"'
        return told, told

    def _set_threads(self, percentage: str) -> tuple[str, str]:
        try:
            threads = float(percentage)
        except ValueError:
            threads = 0.0
        if 0 < threads <= 100:
            self._threads = threads
            return f"{threads:.1f}", f"{threads:.1f}"
        told = f"{self._threads:.1f}"
        return told, f"Invalid percentage, expected between (0.0, 100.0]\n{told}"


def _number(text: str) -> int:
    """The number that a text begins with; 0 where it begins with none."""
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits else 0


def _unit(text: str) -> str:
    """The character after that number. Only a G means anything; whatever else there is, or nothing, is MiB."""
    return text.lstrip("0123456789")[:1]


# --- the daemon ------------------------------------------------------------------------------------------------------


def start(pipe: Path, logs: Path) -> int:
    """Start a daemon; it listens on return. The exit code."""
    logs.mkdir(mode=0o700, exist_ok=True)
    reading, writing = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(reading)
            _become_daemon(pipe, logs, writing)
        os._exit(0)
    os.wait()
    os.close(writing)
    return 0 if os.read(reading, 1) else 1


def _become_daemon(pipe: Path, logs: Path, ready: int) -> None:
    """Serve, in a session of its own, and end this process. What goes wrong before it listens is said."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.umask(0)
        pipe.mkdir(mode=0o777, exist_ok=True)
        lock = os.open(pipe / "control_lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        os.umask(0o022)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (logs / "server.log").touch()
        with (logs / "control.log").open("a", encoding="utf-8", errors="replace", buffering=1) as log:
            _serve(pipe / "control", log, ready)
        code = 0
    except BlockingIOError:
        print("An instance of this daemon is already running", file=sys.stderr, flush=True)
    except OSError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _serve(control: Path, log: TextIO, ready: int) -> None:
    """Answer one client after the other, until one of them ends it."""
    daemon = Daemon()
    control.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(control))
        listener.listen(_BACKLOG)
        control.chmod(0o666)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.close(nothing)
        _tell(log, f"Starting control daemon using socket {control}")
        _tell(log, f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={control.parent}")
        os.write(ready, b"\0")
        os.close(ready)
        while not daemon.ends:
            connection, _ = listener.accept()
            with connection:
                _tell(log, "Accepting connection...")
                try:
                    _attend(daemon, connection, log)
                except ConnectionError:
                    _tell(log, "UI closed")


def _attend(daemon: Daemon, connection: socket.socket, log: TextIO) -> None:
    """Answer one client, for as long as it stays. Raises ConnectionError."""
    if connection.recv(_MOST) != _HELLO:
        _tell(log, "User did not send valid credentials")
        return
    _tell(log, "NEW UI")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    while data := connection.recv(_MOST):
        command = data.decode(errors="replace").removesuffix("\n")
        _tell(log, f"Cmd:{command}")
        told, logged = daemon.answer(command, privileged=uid in {0, os.geteuid()})
        for line in logged.splitlines():
            _tell(log, line)
        connection.sendall(told.encode() + _END)
        if daemon.ends:
            return
    _tell(log, "UI closed")


def _tell(log: TextIO, text: str) -> None:
    now = time.time()
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03}"
    log.write(f"[{when} Control {os.getpid():5}] {text}\n")


# --- the client ------------------------------------------------------------------------------------------------------


def ask(pipe: Path, lines: Iterable[bytes]) -> int:
    """Send each line to the daemon, and print what it answers. The exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(str(pipe / "control"))
        except OSError:
            print("Cannot find MPS control daemon process", file=sys.stderr)
            return 1
        try:
            connection.sendall(_HELLO)
            for line in lines:
                connection.sendall(line.removesuffix(b"\n") + b"\n")  # an empty message would be taken for the end
                answer = connection.recv(_MOST)
                if not answer.endswith(_END):
                    raise ConnectionResetError
                told = answer.removesuffix(_END).decode()
                if told:
                    print(told, flush=True)
                elif line.split()[:1] == [b"quit"]:
                    break
        except OSError:
            print("Cannot send command to MPS control daemon process", file=sys.stderr)
            return 1
    return 0


def main(arguments: list[str]) -> int:
    """Be the daemon or the client. The exit code."""
    if "--help" in arguments:
        print(USAGE)
        return 0
    pipe, logs = (os.environ.get(f"CUDA_MPS_{name}_DIRECTORY") for name in ("PIPE", "LOG"))
    if arguments == [] and pipe:
        return ask(Path(pipe), sys.stdin.buffer)
    if arguments == ["-d"] and pipe and logs:
        return start(Path(pipe), Path(logs))
    print("cannot tell what to do: see --help", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
