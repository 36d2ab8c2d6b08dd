"""What a config says in vain on a node with certain GPUs: rules that match none of them, and GPUs that no rule is for.

Nothing of it is wrong, since one file may serve nodes of several kinds; but most often it is a slip: an index too high,
a UUID cut off, a model in other letters. So each remark names what there is instead.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    IMPLICIT_MIG_RULE,
    IMPLICIT_RULE,
    MIB,
    MIG_RESOURCES,
    THROUGH_MIG,
    Match,
    Rule,
    SharingConfig,
    Where,
)
from nodeagent.model.inventory import Gpu
from nodeagent.state.naming import gpus as named
from nodeagent.state.naming import indices as numbered

MOST: Final = 50
"""As many remarks at most, the last of which says how many more there are."""

_LISTED: Final = 4
_LONGEST: Final = 60
_TRIED: Final = 20
"""So many patterns of a rule are looked at for what may have been meant."""

_FIRST_BLOCK: Final = len("GPU-01234567")
_WILD: Final = frozenset("*?[")
_SHARED_PRODUCT: Final = "-SHARED"
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that is said in vain. `rule` is the name of the rule that says it, `where` its place, and `subject`
    what the author of the file calls it; all are empty where it is about GPUs that no rule is for.
    """

    message: str
    rule: str = ""
    subject: str = ""
    where: Where = field(default=Where())

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


def remarks(config: SharingConfig, gpus: Iterable[Gpu]) -> tuple[Remark, ...]:
    """What `config` says in vain on a node with exactly these GPUs and MIG devices, in the order of its rules."""
    node = _Node(config, gpus)
    if not node.gpus:
        return ()
    found = [_of(rule, message) for rule in config.rules for message in _about(node, rule)]
    whole = [gpu for gpu, rule in node.decided if rule is IMPLICIT_RULE]
    parts = [gpu for gpu, rule in node.decided if rule is IMPLICIT_MIG_RULE]
    if whole:
        found.append(_for_none(config, named(whole), DEFAULT_RESOURCE, len(whole)))
    if parts and any(rule.match.mig_only for rule in config.rules):
        found.append(_for_none(config, named(parts), MIG_RESOURCES, len(parts)))
    return _bounded(found)


def remarks_on_count(config: SharingConfig, count: int) -> tuple[Remark, ...]:
    """The same where only the number of GPUs of a node is known: what their indices decide."""
    there = range(count)
    found = [
        _of(rule, _no_index(absent, there))
        for rule in config.rules
        if (absent := sorted((rule.match.indices or frozenset()).difference(there)))
    ]
    if all(rule.match.indices is not None for rule in config.rules):
        spoken_of = frozenset[int]().union(*(rule.match.indices or () for rule in config.rules))
        if left := [index for index in there if index not in spoken_of]:
            found.append(_for_none(config, numbered(left), DEFAULT_RESOURCE, len(left)))
    return _bounded(found)


def _bounded(found: Sequence[Remark]) -> tuple[Remark, ...]:
    texts: dict[str, Remark] = {}
    for one in found:
        texts.setdefault(str(one), one)
    once = tuple(texts.values())
    if len(once) <= MOST:
        return once
    return (*once[: MOST - 1], Remark(f"{len(once) - MOST + 1} more remarks of this kind"))


def _of(rule: Rule, message: str) -> Remark:
    return Remark(message, rule.name, rule.called, rule.where)


def _for_none(config: SharingConfig, which: str, resource: str, count: int) -> Remark:
    nobody = "no rule" if config.name else "no entry of the file"
    verb = "is" if count == 1 else "are"
    return Remark(f"{nobody} is for {which}, which {verb} exclusive {resource} then")


class _Node:
    """The GPUs of a node, and what a config makes of them."""

    def __init__(self, config: SharingConfig, gpus: Iterable[Gpu]) -> None:
        self.gpus = sorted(gpus, key=lambda gpu: gpu.place)
        self.whole = [gpu for gpu in self.gpus if gpu.mig is None]
        self.parts = [gpu for gpu in self.gpus if gpu.mig is not None]
        self.parents: Mapping[str, Gpu] = {gpu.uuid: gpu for gpu in self.whole}
        self.decided = [(gpu, config.rule_for(gpu, self.parents.get(gpu.physical))) for gpu in self.gpus]
        self.deciding = {_entry(rule) for _, rule in self.decided}
        self.indices = sorted({gpu.index for gpu in self.gpus})
        self.by_uuid = {name: gpu for gpu in self.gpus for name in (gpu.older_name, gpu.uuid)}
        self.folded = sorted((gpu.uuid.lower(), gpu.uuid) for gpu in self.gpus)


def _entry(rule: Rule) -> str:
    """What a rule was made of: an entry of NVIDIA's file may make several."""
    return rule.origin or rule.name


def _about(node: _Node, rule: Rule) -> Iterator[str]:
    """What a rule says in vain: indices and UUIDs that are slips, or all of it."""
    match = rule.match
    absent = sorted((match.indices or frozenset()).difference(node.indices))
    if absent:
        yield _no_index(absent, node.indices)
    strangers = sorted(uuid for uuid in match.uuids or () if uuid not in node.by_uuid)
    slips = [told for uuid in strangers if (told := _slip(node, uuid))]
    yield from slips[:_LISTED]
    if len(slips) > _LISTED:
        yield f"{len(slips) - _LISTED} more UUIDs are not as they are here"
    explained = slips or (match.indices is not None and len(absent) == len(match.indices))
    if _entry(rule) not in node.deciding and not explained and not _takes_what_is_left(match):
        yield _in_vain(node, rule)


def _takes_what_is_left(match: Match) -> bool:
    """Whether it is meant for what earlier rules leave, which may well be nothing."""
    return match.takes_all or match == Match(models=("*",))


def _in_vain(node: _Node, rule: Rule) -> str:
    """Why a rule decides for nothing: the first criterion that nothing meets, or what is in its way."""
    match, devices = rule.match, node.parts if rule.match.mig_only else node.whole
    things = "MIG device" if match.mig_only else "GPU"
    if not devices:
        return "no GPU of this node has MIG devices" if match.mig_only else "this node has MIG devices only"
    if match.uuids is not None and not match.uuids & node.by_uuid.keys():
        some = _some(sorted(match.uuids))
        return f"no GPU or MIG device of this node has {'the UUID' if len(match.uuids) == 1 else 'any UUID of'} {some}"
    if match.models is not None and not _any(devices, Match(models=match.models)):
        return _no_model(devices, match.models)
    if match.min_memory is not None and not _any(devices, Match(min_memory=match.min_memory)):
        return _no_memory(devices, match.min_memory, things)
    profiles = sorted({gpu.mig.profile for gpu in node.parts if gpu.mig is not None})
    if match.mig is not None and not any(fnmatchcase(profile, glob) for profile in profiles for glob in match.mig):
        return f"no MIG device of this node has a profile like {_some(match.mig)}; there {_be(profiles)}"
    found = [gpu for gpu in node.gpus if rule.matches(gpu, node.parents.get(gpu.physical))]
    return _in_the_way(node, rule, found) if found else f"no {things} of this node meets all that it asks for"


def _in_the_way(node: _Node, rule: Rule, found: Sequence[Gpu]) -> str:
    """Why GPUs that a rule matches are not its."""
    takers: dict[str, list[Gpu]] = {}
    matched = {gpu.uuid for gpu in found}
    for gpu, taker in node.decided:
        if gpu.uuid in matched:
            takers.setdefault("" if taker is THROUGH_MIG else taker.called, []).append(gpu)
    through_mig = takers.pop("", [])
    told = [f"{called} takes {named(taken)} first" for called, taken in takers.items()]
    whole = [gpu for gpu in through_mig if gpu.mig is None]
    if whole:
        only = "a rule with `mig`" if rule.origin is None else "an entry with their name nvidia.com/mig-<profile>"
        told.append(f"MIG is enabled on {named(whole)}, whose MIG devices only {only} is for")
    elif through_mig:
        told.append("MIG devices are not offered with the strategy none")
    return " and ".join(told)


def _no_index(absent: Sequence[int], there: Sequence[int]) -> str:
    what = numbered(absent).partition(" ")[2]
    return (
        f"no GPU of this node has the {'index' if len(absent) == 1 else 'indices'} {what}; "
        f"there {'is' if len(there) == 1 else 'are'} {numbered(there)}"
    )


def _slip(node: _Node, uuid: str) -> str:
    """What is to be said of a UUID that nothing has but that looks like one that something has."""
    like = _beginning_with(node, uuid.lower())
    if not like:
        like = [own for own in _beginning_with(node, uuid.lower()[:_FIRST_BLOCK]) if len(uuid) > _FIRST_BLOCK]
        return f"{uuid} is nearly the UUID of {_known(node, like)}" if len(like) == 1 else ""
    if len(like) > 1:
        return (
            f"{uuid} is only the beginning of the UUIDs of {named(node.by_uuid[own] for own in like)}; write all of one"
        )
    how = "is only the beginning of" if len(uuid) < len(like[0]) else "differs in upper and lower case from"
    return f"{uuid} {how} the UUID of {_known(node, like)}"


def _known(node: _Node, uuids: Sequence[str]) -> str:
    return f"{node.by_uuid[uuids[0]].name}; write {uuids[0]}"


def _beginning_with(node: _Node, start: str) -> list[str]:
    found = []
    for folded, uuid in node.folded[bisect_left(node.folded, (start, "")) :]:
        if not folded.startswith(start):
            break
        found.append(uuid)
    return found


def _no_model(devices: Sequence[Gpu], globs: Sequence[str]) -> str:
    models = list(dict.fromkeys(gpu.model for gpu in devices))
    meant = next((told for glob in globs[:_TRIED] for model in models if (told := _meant(glob, model))), "")
    hint = f"; did you mean {_shown(meant)}?" if meant else ""
    return f"no GPU of this node has a model like {_some(globs)}; there {_be(models)}{hint}"


def _meant(glob: str, model: str) -> str:
    """The pattern that was meant for this model: one in other letters, without stars, or out of the label
    `nvidia.com/gpu.product`, where there are dashes for spaces.
    """
    core = glob.strip("*").removesuffix(_SHARED_PRODUCT)
    if not core or set(core) & _WILD:
        return model if fnmatchcase(_plain(model), _plain(glob)) else ""
    at = _plain(model).find(_plain(core))
    if at < 0:
        return ""
    part = model[at : at + len(core)]
    return model if part == model else f"*{part}*"


def _plain(text: str) -> str:
    return text.lower().replace(" ", "-")


def _no_memory(devices: Sequence[Gpu], wanted: int, things: str) -> str:
    most = max(gpu.memory for gpu in devices)
    close = most // _GIB
    hint = f"; did you mean {close}Gi?" if most * 10 >= wanted * 9 and close else ""
    return f"no {things} of this node has {wanted // MIB} MiB; the most that one has is {most // MIB} MiB{hint}"


def _any(devices: Sequence[Gpu], match: Match) -> bool:
    return any(match.covers(gpu) for gpu in devices)


def _some(texts: Sequence[str], word: str = "or") -> str:
    """`"a", "b" or 3 more`."""
    shown = [_shown(text) for text in texts]
    if len(shown) > _LISTED:
        shown = [*shown[: _LISTED - 1], f"{len(shown) - _LISTED + 1} more"]
    *first, last = shown
    return f"{', '.join(first)} {word} {last}" if first else last


def _be(texts: Sequence[str]) -> str:
    return f"{'is' if len(texts) == 1 else 'are'} {_some(texts, 'and')}"


def _shown(text: str) -> str:
    """In quotes, whatever is in it, and not longer than anybody reads."""
    return json.dumps(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
