"""Hints: what is worth a word on a config on this very node, once, though nothing of it is wrong."""

from __future__ import annotations

import pytest

from nodeagent.config.load import load
from nodeagent.model.config import Document, Loaded
from nodeagent.state.hints import Hints, fresh, look, other_pool
from tests.report.builders import gpu

GPUS = tuple(gpu(index) for index in range(4))


def loaded(at: str = "[0, 9]", name: str = "inference", file: str = "sharing.yaml") -> Loaded:
    """A config whose first rule is for the GPUs with these indices."""
    text = f"""\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {{name: {name}}}
spec:
  rules:
    - {{name: some, match: {{indices: {at}}}, exclusive: {{}}}}
    - {{name: rest, exclusive: {{}}}}
"""
    found = load(Document(f"/etc/nodeagent/{file}", text.encode()))
    assert found.config is not None, found.violations
    return found


def test_what_rules_say_in_vain_is_found_once() -> None:
    """Again for another document and for other GPUs, not with each turn; all of it is new for another document only."""
    first = look(Hints(), loaded(), GPUS, "inference", complete=True)
    assert first.found == ('rule "some": no GPU of this node has the index 9; there are GPUs 0-3',)
    assert fresh(Hints(), first) == first.found
    assert look(first, loaded(), GPUS, "inference", complete=True) is first
    assert fresh(first, first) == ()
    fewer = look(first, loaded("[0, 3, 9]"), GPUS[:3], "inference", complete=True)
    assert fresh(first, fewer) == fewer.found
    again = look(first, loaded(), GPUS[:3], "inference", complete=True)
    assert fresh(first, again) == ('rule "some": no GPU of this node has the index 9; there are GPUs 0-2',)
    assert look(first, loaded("[0]"), GPUS, "inference", complete=True).found == ()


def test_nothing_is_said_of_gpus_that_are_not_known() -> None:
    """While the driver does not list all of them; what was found of this document stays, of another one it goes."""
    assert look(Hints(), loaded(), (), "inference", complete=False) == Hints()
    first = look(Hints(), loaded(), GPUS, "inference", complete=True)
    assert look(first, loaded(), (), "inference", complete=False) is first
    assert look(first, loaded("[8]"), (), "inference", complete=False) == Hints()
    assert look(first, None, GPUS, "inference", complete=True) == Hints()


@pytest.mark.parametrize(
    ("name", "pool", "file", "said"),
    [
        ("inference", "inference", "sharing.yaml", False),
        ("a100-inference", "t4-dev", "sharing.yaml", True),
        ("a100-inference", "a100-mig", "sharing.yaml", True),
        ("a100", "a100-mig", "sharing.yaml", False),
        ("inference", "h100-inference", "sharing.yaml", False),
        ("t4dev", "t4-dev", "sharing.yaml", False),
        ("T4_Dev", "t4-dev", "sharing.yaml", False),
        ("all", "t4-dev", "sharing.yaml", False),
        ("default", "t4-dev", "sharing.yaml", False),
        ("config", "t4-dev", "sharing.yaml", False),
        ("sharing", "t4-dev", "sharing.yaml", False),
        ("gpu-sharing", "t4-dev", "sharing.yaml", False),
        ("sharing-h100", "t4-dev", "sharing.yaml", True),
        ("h100-inference", "inference", "sharing.yaml", False),
        ("inference-v2", "inference", "sharing.yaml", False),
        ("t4", "pool", "t4.yaml", False),
        ("t4", "pool", "a100.yaml", True),
        ("pool", "pool", "a100.yaml", False),
        ("inference", None, "sharing.yaml", False),
        ("inference", "", "sharing.yaml", False),
        ("", "inference", "sharing.yaml", False),
    ],
)
def test_the_name_of_another_pool(name: str, pool: str | None, file: str, said: bool) -> None:
    """A file that was copied from another pool and not renamed: it has the name of neither its pool nor its file."""
    told = (f'the config is called "{name}", and this node is of the pool "{pool}": was it meant for another pool?',)
    assert other_pool(name, pool, f"/etc/nodeagent/{file}") == (told if said else ())


def test_the_pool_comes_first() -> None:
    """If the file is another pool's, that is why its rules match nothing."""
    found = look(Hints(), loaded(name="other"), GPUS, "inference", complete=True).found
    assert [text.partition(",")[0] for text in found] == ['the config is called "other"', found[1].partition(",")[0]]
    assert len(found) == 2
