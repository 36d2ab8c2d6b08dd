"""`nodeagent convert`: NVIDIA's file as one of ours, which can say more."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from nodeagent.commands import stdin
from nodeagent.commands.checking import STDIN, STDIN_NAME
from nodeagent.commands.exits import NOT, OK, UNREADABLE, Failure
from nodeagent.config.bundle import load_bundle
from nodeagent.config.convert import DEFAULT_NAME, notes, to_yaml

DESCRIPTION: Final = """\
Print the sharing config that means the same as the config file of NVIDIA's
device plugin (version: v1), bare or in a ConfigMap. Where the two programs
would differ, a note on stderr and a comment in the file say how.
"""

EPILOG: Final = """\
examples:
  nodeagent convert nvidia.yaml > sharing.yaml
  nodeagent convert --name a100-inference nvidia.yaml
"""

EXITS: Final = {
    OK: "converted",
    NOT: "the file, or the name, is invalid",
    UNREADABLE: "the file cannot be read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, and what the config is to be called."""
    parser.add_argument("file", metavar="FILE", help="the file, or - for stdin")
    parser.add_argument("--name", metavar="NAME", help=f"its metadata.name (default: {DEFAULT_NAME})")


def execute(arguments: argparse.Namespace) -> int:
    """Convert one config."""
    data, file = _read(arguments.file)
    bundle = load_bundle(data, file)
    if bundle.all_violations:
        for violation in bundle.all_violations:
            print(violation, file=sys.stderr)
        raise Failure(f"cannot convert {file}: it is not valid", NOT)
    if len(bundle.configs) != 1:
        names = ", ".join(loaded.document.path for loaded in bundle.configs)
        raise Failure(f"cannot convert {len(bundle.configs)} configs at once: {names}", NOT)
    config = bundle.configs[0].config
    assert config is not None  # noqa: S101 - there are no violations
    text = to_yaml(config, name=arguments.name)
    again = load_bundle(text.encode(), "--name")
    if again.all_violations:
        raise Failure(f"cannot use that name: {again.all_violations[0].message}", NOT)
    for note in notes(config):
        print(f"note: {note}", file=sys.stderr)
    sys.stdout.write(text)
    return OK


def _read(path: str) -> tuple[bytes, str]:
    if path == STDIN:
        return stdin.read(), STDIN_NAME
    try:
        return Path(path).read_bytes(), path
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or str(error)).lower()}", UNREADABLE) from None
