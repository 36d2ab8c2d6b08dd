"""Variables of the environment that look as if they were for us, and that nothing reads: each with what to write.

A variable that is misspelt, or that NVIDIA's plugin would read, is as good as not set. So a process says at its start
which ones it passes over. Of values nothing is told but whether they are what the kubelet makes of a Service.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from nodeagent.settings import ENVIRONMENT_PREFIX, MPS_HOST_OPTIONS, OPTIONS, Option

_OF_A_SERVICE: Final = r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
_SERVICE: Final = re.compile(rf"NODEAGENT(_[A-Z0-9_]+?)?_{_OF_A_SERVICE}")
"""What the kubelet sets for a Service whose name begins with `nodeagent` (service links)."""

_LINK: Final = re.compile(rf"_({_OF_A_SERVICE}|PORT)$")
"""How variables of service links end, whatever the Service is called."""

_SERVICE_ADDRESS: Final = re.compile(r"NODEAGENT(_[A-Z0-9_]+)?_PORT")
_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")

_PREFIXES: Final = ("NODEAGENT_", "NODE_AGENT_")
_NEAR: Final = 0.6
_MOST: Final = 40
_LONGEST: Final = 80

_NO_OPTION: Final = "no option has that name"
_IN_FILE: Final = "in the sharing config"
_NO_SPEC: Final = "has no counterpart: the container toolkit makes the CDI specification"
_STAYS_UP: Final = "has no counterpart: without a driver the agent stays up, is not ready, and says why"
_FALLBACKS: Final = "has no counterpart: of its fallbacks `named` and `single` always hold"
_NO_SIDECAR: Final = "has no counterpart: the agent itself follows the label and the file"
_HEALTH: Final = f"is spec.health {_IN_FILE}"
_DRIVER_ROOT: Final = "is NODEAGENT_DRIVER_ROOT (--driver-root)"
_MIG: Final = f"is flags.migStrategy {_IN_FILE}, or in our own format match.mig of a rule"
_LABELS: Final = "is NODEAGENT_LABELS (--labels): the agent writes the labels itself"

NVIDIA: Final[Mapping[str, str]] = {
    "CDI_DISABLE_HOOKS": _NO_SPEC,
    "CDI_ENABLED": "is NODEAGENT_DEVICE_LIST_STRATEGY (--device-list-strategy) with a CDI strategy",
    "CDI_FEATURE_FLAGS": _NO_SPEC,
    "CDI_ROOT": "is NODEAGENT_CDI_DIRS (--cdi-dirs)",
    "CONFIG_FILE": "is NODEAGENT_CONFIG (--config)",
    "CONFIG_FILE_DST": _NO_SIDECAR,
    "CONFIG_FILE_SRCDIR": "is NODEAGENT_CONFIG (--config), which may be a directory",
    "CONTAINER_DRIVER_ROOT": _DRIVER_ROOT,
    "DEFAULT_CONFIG": "is NODEAGENT_CONFIG_DEFAULT (--config-default)",
    "DEVICE_DISCOVERY_STRATEGY": "is NODEAGENT_DRIVER (--driver)",
    "DP_DISABLE_HEALTHCHECKS": _HEALTH,
    "DP_ENABLE_HEALTHCHECKS": _HEALTH,
    "DRIVER_ROOT_CTR_PATH": _DRIVER_ROOT,
    "FAIL_ON_INIT_ERROR": _STAYS_UP,
    "FALLBACK_STRATEGIES": _FALLBACKS,
    "GFD_CONFIG_FILE": "is NODEAGENT_CONFIG (--config)",
    "GFD_FAIL_ON_INIT_ERROR": _STAYS_UP,
    "GFD_MACHINE_TYPE_FILE": "is NODEAGENT_MACHINE_TYPE_FILE (--machine-type-file)",
    "GFD_MIG_STRATEGY": _MIG,
    "GFD_NO_TIMESTAMP": f"is flags.gfd.noTimestamp {_IN_FILE}",
    "GFD_ONESHOT": "has no counterpart: the agent keeps the labels as long as it runs",
    "GFD_OUTPUT_FILE": "is NODEAGENT_LABELS=nfd:DIR (--labels)",
    "GFD_SLEEP_INTERVAL": "has no counterpart: the agent writes labels when they change",
    "GFD_USE_NODE_FEATURE_API": _LABELS,
    "KUBELET_SOCKET": "is NODEAGENT_DEVICE_PLUGINS_DIR (--device-plugins-dir), the directory of that socket",
    "MIG_STRATEGY": _MIG,
    "NODE_LABEL": "is NODEAGENT_CONFIG_LABEL (--config-label)",
    "NVIDIA_CDI_HOOK_PATH": _NO_SPEC,
    "NVIDIA_CTK_PATH": _NO_SPEC,
    "NVIDIA_DRIVER_ROOT": f"{_DRIVER_ROOT}, and for device nodes NODEAGENT_DEV_ROOT (--dev-root)",
    "NVIDIA_DEV_ROOT": "is NODEAGENT_DEV_ROOT (--dev-root)",
    "PROCESS_TO_SIGNAL": _NO_SIDECAR,
    "SEND_SIGNAL": _NO_SIDECAR,
    "SHARED_DEVICES_ALLOCATION_POLICY": f"is flags.plugin.sharedDevicesAllocationPolicy {_IN_FILE}",
    "USE_NODE_FEATURE_API": _LABELS,
}
"""Variables of NVIDIA's device plugin, feature discovery and config manager (0.20) that have another name here, or
none. Those of an option of ours without our prefix are not listed: they are found by their name.
"""

_KINDS: Final = {"CDI_": _NO_SPEC, "DP_": _HEALTH, "GFD_": _LABELS}
"""Other variables of NVIDIA's, by their first letters."""

_MEANT: Final = {
    "ADDRESS": "LISTEN",
    "BIND": "LISTEN",
    "DEBUG": "LOG_LEVEL",
    "HOSTNAME": "NODE_NAME",
    "METRICS": "LISTEN",
    "NODE": "NODE_NAME",
    "PORT": "LISTEN",
    "VERBOSE": "LOG_LEVEL",
    "VERBOSITY": "LOG_LEVEL",
}
"""What a word probably asks for that is in the name of no option."""

_PLACES: Final = frozenset({"DIR", "DIRECTORY", "FILE", "PATH"})
"""Words that people add to the name of an option that has a path."""

_TWINS: Final = {"NODEAGENT_SHM_SIZE": "NODEAGENT_MPS_SHM_SIZE", "NODEAGENT_MPS_SHM_SIZE": "NODEAGENT_SHM_SIZE"}
"""One size that agent and MPS host call by different names."""


def unread(environment: Mapping[str, str], options: Sequence[Option], command: str) -> list[str]:
    """A line for each variable that looks as if it were for `command`, which has these `options`, and that nothing
    reads. One that is empty counts as not set; one that the other of agent and MPS host has is told where its size has
    another name here: both may be given one set of variables.
    """
    known = {option.environment: option for option in options}
    others = {option.environment for option in (*OPTIONS, *MPS_HOST_OPTIONS)} - known.keys()
    found = []
    for name, value in sorted(environment.items()):
        if not value or name in known or _is_of_a_service(name, value):
            continue
        if name in others:
            twin = _TWINS.get(name)
            if twin is not None and not environment.get(twin):
                found.append(f"{command} does not read {name}: here it is {_told(known[twin])}")
        elif (why := _why(name, known, command)) is not None:
            found.append(why)
    if len(found) > _MOST:
        found.sort(key=lambda line: _NO_OPTION in line and "did you mean" not in line)
        more = len(found) - _MOST
        found[_MOST:] = [f"{more} more variables are not read" if more > 1 else "1 more variable is not read"]
    return found


def _why(name: str, known: Mapping[str, Option], command: str) -> str | None:
    """Why a variable is not read, and what to write; None where it is somebody else's."""
    shown = _shown(name)
    plain = re.sub(r"[^A-Z0-9]", "_", name.upper())
    prefix = next((prefix for prefix in _PREFIXES if plain.startswith(prefix)), None)
    if prefix is None:
        return _of_nvidia(name, shown, known)
    wanted = ENVIRONMENT_PREFIX + plain.removeprefix(prefix)
    if wanted in known:
        return f"{shown} is not read: it is {_told(known[wanted])}"
    bare = wanted.removeprefix(ENVIRONMENT_PREFIX)
    if bare in NVIDIA:
        return f"{shown} is not read: NVIDIA's {bare} {NVIDIA[bare]}"
    nearest = _nearest(wanted, known)
    hint = (
        f": did you mean {_told(known[nearest])}?"
        if nearest
        else f"; `nodeagent {command} --help` lists those that are"
    )
    return f"{shown} is not read: {_NO_OPTION}{hint}"


def _of_nvidia(name: str, shown: str, known: Mapping[str, Option]) -> str | None:
    whose = f"{shown} is NVIDIA's and is not read here"
    if name in NVIDIA:
        return f"{whose}: it {NVIDIA[name]}"
    if name in _SAME_HERE:
        ours = f"{ENVIRONMENT_PREFIX}{name}"
        return f"{whose}: it is {_told(known[ours]) if ours in known else ours}"
    if _LINK.search(name):
        return None
    kind = next((kind for kind in _KINDS if name.startswith(kind)), None)
    return f"{whose}: it {_KINDS[kind]}" if kind is not None else None


_SAME_HERE: Final = frozenset(
    {
        "CDI_ANNOTATION_PREFIX",
        "DEVICE_ID_STRATEGY",
        "DEVICE_LIST_STRATEGY",
        "GDRCOPY_ENABLED",
        "GDS_ENABLED",
        "IMEX_CHANNEL_IDS",
        "IMEX_REQUIRED",
        "MOFED_ENABLED",
        "MPS_ROOT",
        "PASS_DEVICE_SPECS",
    }
)
"""Variables of NVIDIA's that have our prefix here, and no other difference."""


def _told(option: Option) -> str:
    return f"{option.environment} ({option.flag})"


def _nearest(wanted: str, known: Iterable[str]) -> str | None:
    """The option whose words are nearest to these: letter by letter, with the words in any order."""
    import difflib  # most starts have nothing to compare

    bare = {name.removeprefix(ENVIRONMENT_PREFIX): name for name in known}
    given = wanted.removeprefix(ENVIRONMENT_PREFIX)[:_LONGEST]
    rest, _, last = given.rpartition("_")
    if last in _PLACES and rest in bare:
        return bare[rest]
    close = difflib.get_close_matches(given, bare, n=1, cutoff=_NEAR)
    if close:
        return bare[close[0]]
    words = set(given.split("_")) - {""}
    shared = {name: len(words & set(name.split("_"))) / len(words | set(name.split("_"))) for name in bare}
    best = max(shared, key=lambda name: shared[name])
    if shared[best] >= 1 / 3:
        return bare[best]
    return next((bare[_MEANT[word]] for word in sorted(words) if _MEANT.get(word) in bare), None)


def _is_of_a_service(name: str, value: str) -> bool:
    if _SERVICE.fullmatch(name):
        return True
    return bool(_SERVICE_ADDRESS.fullmatch(name) and _ADDRESS.match(value))


def _shown(name: str) -> str:
    """A name as it can be printed."""
    text = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
