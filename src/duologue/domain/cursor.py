"""The text form of a sync cursor: the store's epoch and the user's version, as `epoch.version`."""

from __future__ import annotations

import re

_CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,15})").fullmatch


def format_cursor(epoch: str, version: int) -> str:
    return f"{epoch}.{version}"


def parse_cursor(text: str, epoch: str) -> int | None:
    """The version, or None for a text that isn't a cursor of this epoch."""
    match = _CURSOR(text)
    if match is None or match[1] != epoch:
        return None
    return int(match[2])
