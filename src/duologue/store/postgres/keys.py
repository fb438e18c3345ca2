"""The keys that PostgreSQL has for people and conversations, computed from the public ids."""

from __future__ import annotations

import re
from typing import Final

_OFFSET: Final = 2**63

_ID = re.compile(r"[0-9a-f]{16}", re.ASCII).fullmatch


def user_key(id: str) -> int | None:
    """The key of a user's id, -2^63 to 2^63 - 1, in the order of the ids; None for a text that is nobody's id."""
    return int(id, 16) - _OFFSET if _ID(id) else None


def user_id(key: int) -> str:
    return f"{key + _OFFSET:016x}"


def conversation_key(low: int, high: int) -> str:
    """A UUID's 32 digits: the two ids, the smaller one first."""
    return f"{low + _OFFSET:016x}{high + _OFFSET:016x}"


def conversation_of(one: int, other: int) -> str:
    return conversation_key(one, other) if one <= other else conversation_key(other, one)
