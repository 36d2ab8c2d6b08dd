"""What the keys of a ConfigMap are to an agent that has it mounted: configs, the revision, or nothing.

A key becomes a file. An agent reads `sharing.yaml`, or, where a label of its node says so, `<value>.yaml` or `<value>`;
so every key of a ConfigMap for agents that could be read so is judged, and what is passed over is said. ConfigMaps of
other software are none of our business: one is for agents if they mount it, if a key says so, or a config is in it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.config import meant
from nodeagent.config.mounted import USUAL, Mount
from nodeagent.config.reading import revision_in
from nodeagent.config.selection import FILE_NAME, REVISION_NAME, readable
from nodeagent.documents.faults import one_of, show
from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.tree import Path, brief

KINDS: Final = ("ConfigMap", "Secret")
FIELDS: Final = ("data", "binaryData", "stringData")

_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SUFFIX: Final = ".yaml"
_LISTED: Final = 6
_LEAST: Final = {"version": "v1"}
_MOST_KEYS: Final = 1000
"""An object of Kubernetes has 1 MiB, and nobody has as many pools."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a key holds: the bytes that the kubelet mounts, or why there are none. `plain`: they stand in the file as
    they are, so that places in them can be told.
    """

    key: str
    path: Path
    data: bytes = b""
    problem: str = ""
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a place of a ConfigMap; `at_key`: at the key there."""

    path: Path
    message: str
    at_key: bool = True


@dataclass(frozen=True, slots=True)
class Contents:
    """A ConfigMap for agents: the texts to be judged, what is wrong with the rest, and what is to be noted."""

    judged: tuple[Text, ...]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    revision: str | None = None


def look_into(manifest: Mapping[str, object], path: Path, name: str, mounts: Sequence[Mount]) -> Contents | None:
    """What is in a ConfigMap; None where it is not for agents. `path` leads to it, `name` is what it is called, and
    `mounts` are the agents that have it, as far as they are known.
    """
    texts = list(_texts(manifest, path))
    keys = frozenset(text.key for text in texts)
    sole = {Mount().reads(keys)} if not mounts else {mount.reads(keys) for mount in mounts}
    held = {text.path: text for text in texts[:_MOST_KEYS] if _is_config(text, manifest, sole)}
    if not (mounts or held or any(_meant_key(text.key) == FILE_NAME for text in texts)):
        return None
    faults = list(_shape(manifest, path))
    if len(texts) > _MOST_KEYS:
        faults.append(Fault(texts[_MOST_KEYS].path, f"expected at most {_MOST_KEYS:,} keys, got {len(texts):,}"))
    judged, passed, alone = [], [], []
    could = _Readable(
        keys,
        read={key for key in sole if key is not None and mounts},
        any_key=not mounts or any(mount.by_label or not mount.sure for mount in mounts),
        bare=any(mount.by_label for mount in mounts) or any("." not in text.key for text in held.values()),
    )
    for text in texts[:_MOST_KEYS]:
        if text.problem:
            faults += [Fault(text.path, text.problem)] if text.problem != _REPORTED else []
        elif text.path in held or could.be_read(text):
            judged.append(text)
        elif text.key != REVISION_NAME:
            passed.append(text.key)
        problem = _misspelt(text.key, keys, judged=bool(judged) and judged[-1] is text)
        if problem and text.key in sole and _KEY.fullmatch(text.key):
            alone.append(f"{name}: {brief(text.key)} is read only while no other key is there: {problem}")
        elif problem:
            faults.append(Fault(text.path, problem))
    faults += _twice(texts)
    faults += [Fault((*path, "data"), missing, at_key=True) for missing in _missing(mounts, keys)]
    notes = (*alone, *_notes(name, keys, [text.key for text in judged], passed, mounts))
    if manifest.get("immutable") is True:
        notes += (f"{name} is immutable: agents see a change only as another ConfigMap (components/rollout-on-change)",)
    return Contents(tuple(judged), tuple(faults), notes, _revision(texts))


_REPORTED: Final = "reported"
"""The problem of a value that the reader of YAML has reported."""


def _texts(manifest: Mapping[str, object], path: Path) -> Iterator[Text]:
    secret = manifest.get("kind") == "Secret"
    for name, encoded in (("data", secret), ("stringData", False), ("binaryData", True)):
        entries = manifest.get(name)
        if isinstance(entries, dict):
            for key, value in entries.items():
                yield _text(key, (*path, name, key), value, encoded=encoded)


def _text(key: str, path: Path, value: object, *, encoded: bool) -> Text:
    if value is UNUSABLE:
        return Text(key, path, problem=_REPORTED)
    if not isinstance(value, str):
        return Text(key, path, problem=_no_text(key, value))
    if not encoded:
        return Text(key, path, value.encode())
    try:
        data = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return Text(key, path, problem=f"expected base64, got {show(value)}; text goes under `data`")
    return Text(key, path, data, plain=False)


def _no_text(key: str, value: object) -> str:
    if isinstance(value, dict | list):
        return f"expected text, got {show(value)}; add a bar, so that what follows is text: `{key}: |`"
    if value is None:
        return f"expected text, got nothing; write `{key}: |` and the config below it, indented"
    return f"expected text, got {show(value)}; put it in quotes"


def _is_config(text: Text, manifest: Mapping[str, object], sole: Collection[str | None]) -> bool:
    """Whether a key says that it is one. The least of NVIDIA's files says little: it counts where agents look first."""
    if text.problem:
        field_ = manifest.get(str(text.path[-2]))
        return isinstance(field_, dict) and meant.is_meant(field_.get(text.key))
    if not meant.may_hold(told := text.data.decode("utf-8", "replace")):
        return False
    tree = meant.examined(text.data, text.key)
    if tree is None:
        return meant.says_it_is(told)
    return meant.is_meant(tree.value) or (tree.value == _LEAST and (text.key in sole or text.key in USUAL))


def _meant_key(key: str) -> str:
    """The key that was meant: with the usual letters and ending."""
    plain = key.strip()
    stem, dot, ending = plain.rpartition(".")
    if dot and ending.lower() in {"yaml", "yml"}:
        plain = f"{stem}{_SUFFIX}"
    return FILE_NAME if plain.lower() == FILE_NAME else plain


def _misspelt(key: str, keys: Collection[str], *, judged: bool) -> str:
    """What is wrong with a key itself, where that is certain."""
    meant_key = _meant_key(key)
    if meant_key != key and meant_key not in keys and (judged or meant_key == FILE_NAME):
        return f"expected a key that an agent reads, got {show(key)}; did you mean {show(meant_key)}?"
    if not _KEY.fullmatch(key):
        return f'expected a key of letters, digits, "-", "_" and ".", got {show(key)}'
    return ""


@dataclass(frozen=True, slots=True)
class _Readable:
    """Which texts are judged though they do not say that they are configs, since an agent could read them.

    `read` are the keys that known agents read, `any_key`: labels may choose others. `bare`: also those without an
    ending, since labels are known to choose, or there are configs under such keys, as for NVIDIA's config-manager.
    """

    keys: Collection[str]
    read: Collection[str]
    any_key: bool
    bare: bool

    def be_read(self, text: Text) -> bool:
        key, meant_key = text.key, _meant_key(text.key)
        if key in self.read or (meant_key == FILE_NAME and (key == FILE_NAME or FILE_NAME not in self.keys)):
            return True
        if not readable(meant_key) or key == REVISION_NAME:
            return False
        if meant_key.endswith(_SUFFIX) and self.any_key:
            return True
        if self.bare and "." not in key:
            return True
        tree = meant.examined(text.data, key)
        return tree is not None and meant.nearly(tree)


def _shape(manifest: Mapping[str, object], path: Path) -> Iterator[Fault]:
    for name in FIELDS:
        value = manifest.get(name)
        if name in manifest and value is not None and not isinstance(value, dict):
            yield Fault((*path, name), f"expected keys with texts, got {show(value)}")
    kind = manifest.get("kind")
    if isinstance(kind, str) and kind not in KINDS:
        yield Fault((*path, "kind"), f'expected "ConfigMap", got {show(kind)}', at_key=False)


def _twice(texts: Sequence[Text]) -> Iterator[Fault]:
    seen: set[str] = set()
    for text in texts:
        if text.key in seen:
            yield Fault(
                text.path, f"expected each key once, got {show(text.key)} in two of data, binaryData, stringData"
            )
        seen.add(text.key)


def _missing(mounts: Sequence[Mount], keys: frozenset[str]) -> Iterator[str]:
    """What is wrong where the one key that an agent is sure to read is not there."""
    there = one_of([show(key) for key in sorted(keys)[:_LISTED]], "and") if keys else "no key"
    for mount in mounts:
        if not mount.by_label and mount.reads(keys) is None and (wanted := mount.wanted()):
            yield f"expected the key {show(wanted)}, which {mount.agent} reads and no other, got {there}"


def _notes(
    name: str, keys: frozenset[str], judged: Sequence[str], passed: Sequence[str], mounts: Sequence[Mount]
) -> Iterator[str]:
    """What is read of a ConfigMap, and what is not."""
    read = Mount().reads(keys)
    others = [key for key in judged if _meant_key(key) != FILE_NAME]
    if not mounts and others and read is None and FILE_NAME not in map(_meant_key, keys):
        values = one_of([show(key.removesuffix(_SUFFIX)) for key in others[:_LISTED]])
        yield (
            f"{name} has no key {FILE_NAME}, which is what an agent reads; {_listed(others)} {_is(others)} read only"
            f" where a label of the node, nodeagent.io/config for example, says {values}"
        )
    elif not mounts and others == [read] and read not in USUAL:
        yield f"{name} has no key {FILE_NAME}, which is what an agent reads; it reads {_listed(others)} as the only one"
    for mount in mounts:
        read = mount.reads(keys)
        if mount.frozen:
            yield f"{mount.agent} has {name} by subPath, so that no change ever reaches it: mount the directory"
        unread = [key for key in judged if key != read]
        if unread and not mount.by_label and read is not None:
            yield (
                f"{mount.agent} reads {brief(read)} of {name} and not {_listed(unread)}: it does not speak to the"
                " Kubernetes API (components/kube-api), by which labels of the node would choose a key"
            )
        elif mount.by_label and read is None and (wanted := mount.wanted()):
            yield f"{name} has no key {wanted}: a node without a label that chooses a key has no config"
    if passed:
        yield f"{name}: passed over, since nothing in it is meant for an agent: {_listed(passed)}"


def _listed(keys: Sequence[str]) -> str:
    shown = [brief(key) for key in keys[:_LISTED]]
    more = len(keys) - len(shown)
    return one_of([*shown, f"{more} more"] if more else shown, "and")


def _is(keys: Sequence[str]) -> str:
    return "is" if len(keys) == 1 else "are"


def _revision(texts: Sequence[Text]) -> str | None:
    found = next((text.data for text in texts if text.key == REVISION_NAME and not text.problem), None)
    return revision_in(found.decode("utf-8", "replace")) if found is not None else None
