"""The pages that a user may read: their conversations, one conversation's history, the directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from duologue.domain.cursor import parse_cursor
from duologue.domain.errors import Code, Refusal
from duologue.domain.identity import check_user_id
from duologue.domain.limits import ChatLimits
from duologue.domain.model import DirectoryPage, HistoryPage, Person, Roster, SyncPage
from duologue.domain.ports import Store

_LARGEST_CURSOR: Final = 2**53


async def first_sync(store: Store, limits: ChatLimits, user: str, since: object, total: int) -> tuple[SyncPage, bool]:
    """What changed since a cursor, with at most `total` messages beside each conversation's last, and whether the client
    has to start over: because it had no cursor or one that this store did not give out."""
    version = parse_cursor(since, store.epoch) if isinstance(since, str) else None
    page = await _sync(store, limits, user, version, None, total)
    return page, version is None or not page.known


async def next_sync(
    store: Store, limits: ChatLimits, user: str, since: str | None, next: str, total: int
) -> tuple[SyncPage, bool]:
    """A further page of the same sync. Raises `Refusal(UNKNOWN_CURSOR)` for a `next` that no page can have had."""
    if not next.isascii() or not next.isdigit() or len(next) > 16 or int(next) > _LARGEST_CURSOR:
        raise Refusal(Code.UNKNOWN_CURSOR, "`next` is not one of a sync")
    version = parse_cursor(since, store.epoch) if since is not None else None
    page = await _sync(store, limits, user, version, int(next), total)
    return page, version is None or not page.known


async def missed(store: Store, limits: ChatLimits, user: str, version: int) -> SyncPage:
    """What a connected socket at `version` was not told."""
    return await _sync(store, limits, user, version, None, limits.sync_total)


async def _sync(
    store: Store, limits: ChatLimits, user: str, since: int | None, before: int | None, total: int
) -> SyncPage:
    return await store.sync(user, since, before, limits.page, limits.page, total)


async def roster(store: Store, limits: ChatLimits, user: str, total: int) -> Roster:
    return await store.roster(user, limits.announce_people, limits.roster_people, limits.roster_messages, total)


async def history(
    store: Store, limits: ChatLimits, user: str, peer: str, before: int | None, after: int | None, limit: int | None
) -> HistoryPage:
    """A page of the conversation of `user` with `peer`; nobody else's can be named. Raises `Refusal`."""
    check_user_id(peer)
    if before is not None and after is not None:
        raise Refusal(Code.BAD_REQUEST, "give `before` or `after`, not both")
    for position in (before, after):
        if position is not None and not 0 <= position <= _LARGEST_CURSOR:
            raise Refusal(Code.UNKNOWN_CURSOR)
    return await store.history(user, peer, before, after, page_size(limits, limit))


async def directory(store: Store, limits: ChatLimits, after: str | None, limit: int | None) -> DirectoryPage:
    if after is not None:
        try:
            check_user_id(after)
        except Refusal:
            raise Refusal(Code.UNKNOWN_CURSOR, "`after` is not one of the directory") from None
    return await store.directory(after or "", page_size(limits, limit))


async def people(store: Store, limits: ChatLimits, ids: Sequence[str]) -> list[Person]:
    """Those of the ids that exist. Raises `Refusal(BAD_REQUEST)` for more ids than may be watched."""
    if len(ids) > limits.max_watch:
        raise Refusal(Code.BAD_REQUEST, f"{len(ids)} people, at most {limits.max_watch} can be watched")
    known_form = []
    for id in ids:
        try:
            check_user_id(id)
        except Refusal:
            continue
        known_form.append(id)
    return await store.people(known_form) if known_form else []


def page_size(limits: ChatLimits, asked: int | None) -> int:
    if asked is None:
        return limits.page
    if not 1 <= asked <= limits.max_page:
        raise Refusal(Code.BAD_REQUEST, f"`limit` is not between 1 and {limits.max_page}")
    return asked
