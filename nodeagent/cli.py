"""Commands and exit codes, no logic.

Only the module of the command that was asked for is imported: what `nodeagent run` does not need is not paid for on
every node, and help is there at once.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from nodeagent import __version__
from nodeagent.commands.exits import BROKEN_PIPE, INTERNAL, INTERRUPTED, TABLE, USAGE, Failure, listed
from nodeagent.model.printable import legible

COMMANDS: Final = {
    "run": "the agent of this node",
    "validate": "check sharing configs, as CI should before a merge",
    "plan": "what a sharing config would do to a node",
    "status": "a node at a glance",
    "wait": "until a node has accepted, or applied, a document",
    "clear-health": "a person's word that a GPU is well again",
    "mps-host": "the process that keeps a node's MPS daemons",
    "schema": "print a JSON Schema",
    "convert": "NVIDIA's device plugin file as a sharing config",
    "demo": "a simulated node to try things on",
}

_DESCRIPTION: Final = """\
A Kubernetes node agent that makes a GPU node be what a file in Git says it
should be: its GPUs are advertised whole, time-sliced, under MPS, by MIG device
or not at all, and follow the file live, without disturbing a running pod.
"""

_EPILOG: Final = """\
examples:
  nodeagent demo --once                  watch it work, without a GPU
  nodeagent validate sharing.yaml        before a merge
  nodeagent plan --config sharing.yaml   before a rollout
  nodeagent status                       on a node

`nodeagent COMMAND --help` tells what a command does, with examples and its
exit codes, which mean the same of all of them.

"""

_WIDTH: Final = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`arguments`: those of the process) and return its exit code. Never raises."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _take_any_text()
    try:
        code = _dispatch(given)
        _flush()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else INTERNAL
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Without this Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        traceback.print_exc()
        print(f"nodeagent: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("this is a fault of nodeagent: please report it with the lines above", file=sys.stderr)
        return INTERNAL
    return code


def _dispatch(given: Sequence[str]) -> int:
    name = next((word for word in given if not word.startswith("-")), None)
    parser = _parser(name)
    parsed = parser.parse_args(given)
    if parsed.command is None:
        parser.print_help()
        return USAGE
    try:
        code: int = _module(parsed.command).execute(parsed)
    except Failure as failure:
        _flush()
        print(legible(f"nodeagent {parsed.command}: {failure}"), file=sys.stderr)
        return failure.code
    return code


def _module(command: str) -> ModuleType:
    return import_module(f"nodeagent.commands.{command.replace('-', '_')}")


def _take_any_text() -> None:
    """A file name that is no text, or a terminal that knows ASCII only, must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Have the reader's refusal, if any, now. A process may have been started without stdout."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _parser(name: str | None) -> argparse.ArgumentParser:
    """The parser, complete for the command of that name; of the others it knows what they are for."""
    parser = _Parser(
        prog="nodeagent", description=_DESCRIPTION, epilog=_EPILOG + listed(TABLE), formatter_class=_Overview
    )
    parser.add_argument("--version", action="version", version=f"nodeagent {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=_Parser)
    for command, summary in COMMANDS.items():
        if command == name:
            module = _module(command)
            chosen = commands.add_parser(
                command,
                help=summary,
                description=module.DESCRIPTION,
                epilog=f"{module.EPILOG}\n{listed(module.EXITS)}",
                formatter_class=_Formatter,
                usage=getattr(module, "USAGE_LINE", None),
            )
            module.add_arguments(chosen)
        else:
            commands.add_parser(command, help=summary)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and never wider than a terminal of 80 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_WIDTH - 2)


class _Overview(_Formatter):
    """Each command with its summary on one line: argparse forgets how far it indents the longest."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 4 + max(map(len, COMMANDS))


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 64 and point to the help, instead of printing half of it."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{**options, "allow_abbrev": False})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {legible(message)}\ntry `{self.prog} --help`\n")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse, in our words and with a suggestion."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentError(action, f"expected one of {', '.join(known)}, got {value!r}{hint}")
