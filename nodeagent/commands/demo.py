"""`nodeagent demo`: a node to try things on, without a GPU and without a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from nodeagent.commands.exits import INTERRUPTED, NOT, OK

DESCRIPTION: Final = """\
Start a simulated node with 8 GPUs, a stand-in kubelet and an agent, and watch
the node follow its sharing config: with --once through a story of commits to a
real git repository, else through your own edits of sharing.yaml and node.yaml.
Needs no GPU, no cluster and no privilege.
"""

EPILOG: Final = """\
examples:
  nodeagent demo --once       a story of commits, a minute and a half, then exit
  nodeagent demo --step       the same; each step begins when you press a key
  nodeagent demo              stay up, so that you can edit the file
  nodeagent demo --dir ./try  the same, with the files in ./try
"""

EXITS: Final = {
    OK: "the story went as told, or you have stopped it",
    NOT: "it did not, or could not start",
    INTERRUPTED: "the story was interrupted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How the demo is played."""
    parser.add_argument("--once", action="store_true", help="play the story and exit instead of staying up")
    parser.add_argument(
        "--step",
        action="store_true",
        help="play the story, each step of it when a key is pressed; standard input must be a terminal",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where the repository, or the files to edit, are kept (a temporary directory)",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="address of the agent's status page, metrics and status; it must be free (default: 127.0.0.1:9400, or any "
        "free port where that is taken)",
    )
    parser.add_argument(
        "--mps-control",
        metavar="PATH",
        help="the program of the MPS daemons: a path, a name on PATH, or `stand-in` for the one that comes with the "
        "demo (nvidia-cuda-mps-control if that is on PATH, else the stand-in)",
    )
    parser.add_argument(
        "--speed", type=_speed, metavar="N", default=1.0, help="divide the pauses for reading by N (default: 1)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Play, or stay up."""
    from nodeagent.sim.demo import run_demo

    return run_demo(
        once=arguments.once or arguments.step,
        step=arguments.step,
        directory=arguments.dir,
        listen=arguments.listen,
        speed=arguments.speed,
        mps_control=arguments.mps_control,
    )


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1000, got {text!r}")
    return speed
