"""Whether all that was sent is found: page by page, and by its ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from duologue.domain.ports import PendingMessage

from .conftest import ANN, BOB, CAT, Bench

PEOPLE = (ANN, BOB, CAT)


def again(first: PendingMessage, content: str | None = None) -> PendingMessage:
    return PendingMessage(first.sender, first.recipient, first.id, content or first.content, None)


def ask(path: Path, query: str) -> list[Any]:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def check_pages(bench: Bench, sent: list[PendingMessage]) -> None:
    """Each conversation from each side, whole and in its order, by history and by sync."""
    for me in PEOPLE:
        pages = {
            each.peer.id: each for each in (await bench.store.sync(me.id, None, None, 9, 10**6, 10**6)).conversations
        }
        for peer in PEOPLE:
            mine = sorted((m for m in sent if {m.sender, m.recipient} == {me.id, peer.id}), key=lambda m: m.seq)
            wanted = [(m.seq, m.sender, m.id, m.content) for m in mine]
            page = await bench.store.history(me.id, peer.id, None, 0, 10**6)
            assert [(m.seq, m.sender, m.id, m.content) for m in page.messages] == wanted
            assert [m[0] for m in wanted] == list(range(1, len(wanted) + 1))
            synced = pages[peer.id].messages if peer.id in pages else ()
            assert [(m.seq, m.sender, m.id, m.content) for m in synced] == wanted
