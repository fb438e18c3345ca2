"""Which messages a page has: arithmetic that is the same whatever the messages are read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from duologue.domain.errors import Code, Refusal


class HistoryRange(NamedTuple):
    """Seqs `first` to `last`, and whether there are further ones in the direction asked for."""

    first: int
    last: int
    more: bool


def history_range(end: int, before: int | None, after: int | None, limit: int) -> HistoryRange:
    """The page of a conversation of `end` messages. Raises `Refusal(UNKNOWN_CURSOR)` for a position outside 0..end+1."""
    if any(cursor is not None and not 0 <= cursor <= end + 1 for cursor in (before, after)):
        raise Refusal(Code.UNKNOWN_CURSOR)
    floor = 1 if after is None else after + 1
    ceiling = end if before is None else before - 1
    if after is not None:
        last = min(ceiling, floor + limit - 1)
        return HistoryRange(floor, last, last < ceiling)
    first = max(floor, ceiling - limit + 1)
    return HistoryRange(first, ceiling, first > floor)


def share(spans: Iterable[tuple[int, int]], each: int, total: int, at_least: int = 1) -> list[int]:
    """For spans of seqs `(seen, last)`, the first seq of each to return: the latest ones, at most `each` of a span and
    `total` of all, but at least `at_least` where there is one. `last + 1` means none."""
    firsts = []
    for seen, last in spans:
        count = min(last - seen, max(min(each, total), at_least))
        total -= count
        firsts.append(last - count + 1)
    return firsts
