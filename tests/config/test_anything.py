"""The reader never fails: whatever it is given, there is a config, or what is wrong in words that can be printed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.anything import bytes_, judge, near

few = settings(max_examples=100, derandomize=True, deadline=None)
"""More in `make soak`."""


@few
@given(near())
def test_documents_that_are_nearly_right(data: bytes) -> None:
    """Nothing, other types, words of two meanings, keys that are none: each is told, none is a fault of the reader."""
    judge(data)


@few
@given(bytes_())
def test_documents_with_other_bytes(data: bytes) -> None:
    """What a bad editor or a bad disk makes of an example."""
    judge(data)


@few
@given(st.binary(max_size=60))
def test_no_documents(data: bytes) -> None:
    """Whatever it is."""
    judge(data)
