"""`nodeagent validate`: what CI asks before a merge, decided by the same code as the agent decides."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from nodeagent.commands import findings, gpus, mps_notes, stdin
from nodeagent.commands.checking import STDIN, Checked, check_paths, said, with_violations
from nodeagent.commands.exits import NOT, OK, UNREADABLE, USAGE, Failure
from nodeagent.model.config import SharingConfig, Violation
from nodeagent.model.inventory import Gpu
from nodeagent.state import unmatched

DESCRIPTION: Final = """\
Check sharing configs as the agent does, all mistakes at once, each with line
and column. A file may be a bare sharing config, NVIDIA's device plugin file,
a ConfigMap with one, a SimulatedNode, or all that `kubectl kustomize` prints.
In directories every *.yaml and *.yml is looked at; what holds no config is
skipped with a note, while a file that you name must hold one. With --driver a
note says which GPUs could not come under MPS on this machine, and why.
"""

EPILOG: Final = """\
examples:
  nodeagent validate sharing.yaml
  nodeagent validate --gpus 8 pools/
  nodeagent validate --driver simulated:node.yaml sharing.yaml
  kubectl kustomize overlays/a100 | nodeagent validate -
  nodeagent validate -o github pools/       in a GitHub workflow
"""

EXITS: Final = {
    OK: "all valid",
    NOT: "something is invalid",
    UNREADABLE: "something cannot be read: a file, a directory, or the GPUs of --driver",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to check, on which GPUs, and how to tell."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a directory, or - for stdin")
    parser.add_argument(
        "-o", "--output", choices=("text", "json", "github"), default="text", help="how to tell (default: text)"
    )
    on = parser.add_mutually_exclusive_group()
    on.add_argument(
        "--gpus",
        type=_gpu_count,
        metavar="N",
        help=f"also check what depends on the node, for nodes of N GPUs (1 to {gpus.MOST})",
    )
    on.add_argument(
        "--driver",
        metavar="SPEC",
        help="also check what depends on the node, for these GPUs: nvml (this machine's) or simulated:FILE",
    )
    gpus.add_state_dir(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Check everything, then tell."""
    piped = stdin.read() if STDIN in arguments.paths else None
    if arguments.state_dir is not None and not arguments.driver:
        raise Failure("--state-dir goes with --driver", USAGE)
    those, note = gpus.read_gpus(arguments.driver, arguments.state_dir, UNREADABLE) if arguments.driver else (None, "")
    if note:
        print(f"nodeagent validate: {note}", file=sys.stderr)
    found = [_on_gpus(checked, arguments.gpus, those) for checked in check_paths(arguments.paths, piped)]
    for line in _told(found, arguments.output):
        print(line)
    if any(checked.problem is not None for checked in found):
        return UNREADABLE
    return NOT if any(checked.violations for checked in found) else OK


def _on_gpus(checked: Checked, count: int | None, those: Sequence[Gpu] | None) -> Checked:
    """What the GPUs of a node make of the configs in a file."""
    bundle = checked.bundle
    if those is None and count is None:
        return checked
    apart = {id(one) for one in bundle.apart}
    wrong: list[Violation] = []
    told: list[str] = []
    for one in bundle.found:
        config = one.loaded.config
        if config is None:
            continue
        nodes = [those] if those is not None else list(gpus.plausible(count or 0, config))
        faults = gpus.faults(one.loaded, nodes)
        wrong += [replace(bundle.outside(one, fault), file=checked.file) for fault in faults]
        if id(one) in apart:
            notes = _on_these(config, count or 0, those, judge_mps=not faults)
            told += [said(one, note, several=len(apart) > 1) for note in notes]
    return with_violations(checked, wrong, told)


def _on_these(config: SharingConfig, count: int, those: Sequence[Gpu] | None, *, judge_mps: bool) -> tuple[str, ...]:
    """What is to be noted of a config on these GPUs, or on so many of which nothing else is known."""
    if those is None:
        return tuple(map(str, unmatched.remarks_on_count(config, count)))
    hosted = mps_notes.notes(config, those) if judge_mps else ()
    return (*map(str, unmatched.remarks(config, those)), *hosted)


def _told(found: Sequence[Checked], output: str) -> Iterator[str]:
    if output == "json":
        yield findings.as_json(found)
    else:
        yield from findings.github(found) if output == "github" else findings.text(found)


def _gpu_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= gpus.MOST:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {gpus.MOST}, got {text!r}")
    return int(text)
