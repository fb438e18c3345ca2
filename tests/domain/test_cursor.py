"""Cursors: every one that was given out is read back, nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.domain.cursor import format_cursor, parse_cursor


@given(st.integers(0, 10**15))
def test_round_trip(version: int) -> None:
    assert parse_cursor(format_cursor("abc1", version), "abc1") == version


@pytest.mark.parametrize(
    "text", ["", "abc1", "abc1.", "abc1.-1", "abc1.01", "abc1.1.2", "abc2.1", "abc1.1\n", "abc1.٣", "abc1." + "9" * 17]
)
def test_invented(text: str) -> None:
    assert parse_cursor(text, "abc1") is None
