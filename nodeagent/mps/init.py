"""The first process of the host's container: starts the host as its child, so that its end ends no daemon.

When process 1 of a container ends, the kernel or the runtime ends all others: every daemon, and MPS for its clients.
The host is much more code, so it is not process 1. Daemons, whose parents are gone as soon as they run, become
our children and are reaped here. The standard library and nothing else, and as little of it as will do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
HOST_ENDS: Final = 4.7
"""Seconds after a signal to end within which the host must have ended; it sees to it itself a little sooner."""

STABLE: Final = 60.0
"""Seconds. A host that ran this long is started again after the first pause, another after twice the last one."""

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_FORWARDED: Final = _ENDING | {signal.SIGHUP}
# What would end us by default: as process 1 of a container nothing did, but with hostPID we are not. Not those that a
# fault of ours raises, nor those of a terminal that stop a process.
_IGNORED: Final = signal.valid_signals() - {
    *_FORWARDED,
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
}
_WATCHED: Final = _FORWARDED | _IGNORED | {signal.SIGCHLD}
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def run(command: Sequence[str], *, first_pause: float = FIRST_PAUSE) -> int:
    """Run `command` until we are told to end, and again whenever it ends by itself; what it ended with.

    SIGTERM and SIGINT tell us to, and are handed on to it, as is SIGHUP; other signals do nothing. To be called by the
    main thread of a process that has no children.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Signals wait until they are asked for: none is lost between two looks. Ignored by whoever started us, the ends of
    # children would not be told at all.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _Init(command, first_pause).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Init:
    def __init__(self, command: Sequence[str], first_pause: float) -> None:
        self._command = list(command)
        self._first_pause = first_pause
        self._stopping = False

    def run(self) -> int:
        pause = self._first_pause
        while True:
            begun = time.monotonic()
            try:
                host = self._start()
            except OSError as error:  # there is no room for one more process
                told = f"cannot start the MPS host: {error}"
            else:
                code = self._attend(host)
                if self._stopping:
                    return code
                told = f"the MPS host has ended with {code}"  # 0, too: somebody has told it to, and not us
            if time.monotonic() - begun >= STABLE:
                pause = self._first_pause
            _say(f"{told}; its daemons go on, and it is started again in {pause:g} s")
            if self._told_to_end(pause):
                return 0
            pause = min(2 * pause, LONGEST_PAUSE)

    def _start(self) -> int:
        """Start the host, which is told to end when we do; its pid."""
        init = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it listens to it: it reads at its start anyway
            if os.getppid() == init:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
                os.execvp(self._command[0], self._command)  # noqa: S606 - our own command, without a shell
        except BaseException as error:  # noqa: BLE001 - whatever it is, this copy of us must not go on
            _say(f"cannot start the MPS host: {error}")
        finally:
            os._exit(127)

    def _attend(self, host: int) -> int:
        """Hand signals on to the host until it has ended; what it ended with. One that cannot end is killed, and not
        waited for.
        """
        until: float | None = None
        while (code := _reap(host)) is None:
            if until is None:
                told = signal.sigwaitinfo(_WATCHED)
            elif (next_one := signal.sigtimedwait(_WATCHED, max(0.0, until - time.monotonic()))) is not None:
                told = next_one
            else:
                _say("the MPS host does not end: killing it")
                os.kill(host, signal.SIGKILL)  # it has not been reaped: the pid is its own
                return 0
            if told.si_signo in _FORWARDED:
                if told.si_signo in _ENDING and until is None:
                    self._stopping, until = True, time.monotonic() + HOST_ENDS
                os.kill(host, told.si_signo)
        return code

    def _told_to_end(self, within: float) -> bool:
        """Whether that has happened; reaps meanwhile."""
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            _reap(None)
            told = signal.sigtimedwait(_WATCHED, left)
            if told is not None and told.si_signo in _ENDING:
                return True
        return False


def _reap(host: int | None) -> int | None:
    """Reap everything that has ended. What the host ended with, as a shell tells it, if it is among them."""
    code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == host:
                code = os.waitstatus_to_exitcode(status)
    return 128 - code if code is not None and code < 0 else code


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"cannot set process option {option}: {os.strerror(ctypes.get_errno())}")


def _say(message: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"nodeagent: init: {message}\n")
        sys.stderr.flush()
