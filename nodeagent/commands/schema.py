"""`nodeagent schema`: the published JSON Schemas, for editors and for checks elsewhere."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from nodeagent.commands.exits import OK
from nodeagent.documents.schema import schema_text

SCHEMAS: Final = {
    "sharing-config": ("sharing-config-v1alpha1", "the sharing config, nodeagent.io/v1alpha1 (default)"),
    "nvidia-v1": ("nvidia-v1", "what is taken of NVIDIA's device plugin file, version: v1"),
    "simulated-node": ("simulated-node-v1alpha1", "the file of --driver simulated:FILE"),
    "status": ("status-v1alpha1", "what an agent answers at /status"),
}
"""By the name on the command line: the name of the file without its end, and what the schema describes."""

DESCRIPTION: Final = "Print the JSON Schema (draft 2020-12) of:\n\n" + "\n".join(
    f"  {name:<15} {what}" for name, (_, what) in SCHEMAS.items()
)

EPILOG: Final = """\
examples:
  nodeagent schema > sharing-config.json
  nodeagent schema status

An editor with a YAML language server checks a file while it is written when
the file begins with
  # yaml-language-server: $schema=./sharing-config.json
"""

EXITS: Final = {OK: "printed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which schema."""
    parser.add_argument(
        "name",
        nargs="?",
        choices=tuple(SCHEMAS),
        metavar="NAME",
        default="sharing-config",
        help="which schema (default: sharing-config)",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print it as it is published."""
    sys.stdout.write(schema_text(SCHEMAS[arguments.name][0]))
    return OK
