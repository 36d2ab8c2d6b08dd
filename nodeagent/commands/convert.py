"""`nodeagent convert`: NVIDIA's file as one of ours, which can say more."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from nodeagent.commands import stdin
from nodeagent.commands.checking import STDIN, STDIN_NAME
from nodeagent.commands.exits import NOT, OK, UNREADABLE, Failure
from nodeagent.config.bundle import Bundle, load_bundle
from nodeagent.config.convert import DEFAULT_NAME, notes, to_yaml
from nodeagent.model.config import Loaded, SharingConfig

DESCRIPTION: Final = """\
Print the sharing config that means the same as the config file of NVIDIA's
device plugin (version: v1), bare or in a ConfigMap. Where the two programs
would differ, a note on stderr and a comment in the file say how.
"""

EPILOG: Final = """\
examples:
  nodeagent convert nvidia.yaml > sharing.yaml
  nodeagent convert --name a100-inference nvidia.yaml
  kubectl get configmap nvdp-configs -o yaml | nodeagent convert --config t4 -
"""

EXITS: Final = {
    OK: "converted",
    NOT: "the file, or the name, is invalid",
    UNREADABLE: "the file cannot be read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, and what the config is to be called."""
    parser.add_argument("file", metavar="FILE", help="the file, or - for stdin")
    parser.add_argument(
        "--config",
        metavar="KEY",
        help="which one, of a file with several: its key in the ConfigMap, with or without .yaml, or NAME/KEY",
    )
    parser.add_argument("--name", metavar="NAME", help=f"its metadata.name (default: {DEFAULT_NAME})")


def execute(arguments: argparse.Namespace) -> int:
    """Convert one config."""
    data, file = _read(arguments.file)
    config = _chosen(load_bundle(data, file), file, arguments.config)
    text = to_yaml(config, name=arguments.name)
    again = load_bundle(text.encode(), "--name")
    if again.all_violations:
        raise Failure(f"cannot use that name: {again.all_violations[0].message}", NOT)
    for note in notes(config):
        print(f"note: {note}", file=sys.stderr)
    sys.stdout.write(text)
    return OK


def _chosen(bundle: Bundle, file: str, key: str | None) -> SharingConfig:
    """The config to be converted: the only one, or that of the key. What is wrong with others is no obstacle."""
    found = [loaded for loaded in bundle.configs if key is None or _is_called(loaded, key)]
    whole = bundle.all_violations if key is None else bundle.violations
    wrong = whole or tuple(one for loaded in found for one in loaded.violations)
    if wrong:
        for violation in wrong:
            print(violation, file=sys.stderr)
        raise Failure(f"cannot convert {file}: it is not valid", NOT)
    if len(found) == 1 and (config := found[0].config) is not None:
        return config
    names = ", ".join(loaded.document.path for loaded in found or bundle.configs)
    if not found:
        raise Failure(f"cannot convert {key}: there is no config of that name, but {names}", NOT)
    choose = "choose one by --config KEY" if key is None else "choose one by --config NAME/KEY"
    raise Failure(f"cannot convert {len(found)} configs at once: {names}; {choose}", NOT)


def _is_called(loaded: Loaded, wanted: str) -> bool:
    """Whether a config in a ConfigMap is that of this key, or of the key in the ConfigMap of this name."""
    name, _, key = wanted.rpartition("/")
    place, _, found = loaded.document.path.removesuffix(")").rpartition(", ")
    of_that_map = not name or re.split("[ /]", place)[-1] == name or place.endswith(f" {name}")
    return of_that_map and found in {key, f"{key}.yaml"}


def _read(path: str) -> tuple[bytes, str]:
    if path == STDIN:
        return stdin.read(), STDIN_NAME
    try:
        return Path(path).read_bytes(), path
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or str(error)).lower()}", UNREADABLE) from None
