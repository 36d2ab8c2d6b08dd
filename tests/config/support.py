"""Small helpers that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

from nodeagent.config.load import load
from nodeagent.model.config import Document, Loaded, SharingConfig

DATA = Path(__file__).parent.parent / "data"
EXAMPLES = Path(__file__).parent.parent.parent / "examples"

HEAD = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: test}
spec:
"""
TIME_SLICED = HEAD + "  rules: [{name: all, resource: nvidia.com/gpu.shared, timeSlicing: {replicas: 10}}]\n"


def loaded(text: str | bytes) -> Loaded:
    """What a text means."""
    return load(Document("sharing.yaml", text.encode() if isinstance(text, str) else text))


def accepted(text: str | bytes) -> SharingConfig:
    """The config that a valid text means."""
    found = loaded(text)
    assert found.violations == ()
    assert found.config is not None
    return found.config


def rejections(text: str | bytes) -> list[str]:
    """Everything that is said of an invalid text."""
    found = loaded(text)
    assert found.config is None
    assert found.violations
    return [str(one) for one in found.violations]


def rules(text: str) -> str:
    """A document with these rules: the lines of a YAML list without indentation."""
    return HEAD + "  rules:\n" + "".join(f"    {line}\n" for line in text.strip().splitlines())


SLOW = b"# no document is slow to read: this one is taken for one\n"


def reads_slowly(document: Document) -> Loaded:
    """The reader, which never comes to an end with SLOW."""
    while document.data == SLOW:
        sum(range(1000))
    return load(document)
