"""What is read from the database. Each function runs in one read transaction and issues a fixed number of statements,
however many conversations a page has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import msgspec

from duologue.domain.errors import Code, Refusal
from duologue.domain.model import (
    Conversation,
    DirectoryPage,
    Gap,
    HistoryPage,
    Message,
    Person,
    Positions,
    Roster,
    SyncPage,
    User,
)
from duologue.store.pages import history_range, share

MAX_VERSION = 2**63 - 1
"""Above every version: no bound."""

_ME = "SELECT key, name, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0) FROM person WHERE id = ?"

_PERSON_KEY = "SELECT key FROM person WHERE id = ?"

_SESSION_USER = "SELECT id, name FROM session JOIN person ON key = person WHERE token_hash = ?"

_SESSIONS = "SELECT token_hash FROM session WHERE token_hash IN (SELECT unhex(value) FROM json_each(?))"

_PEOPLE = "SELECT id, name, last_seen FROM person WHERE id IN (SELECT value FROM json_each(?))"

_DIRECTORY = "SELECT id, name, last_seen FROM person WHERE id > ? ORDER BY id LIMIT ?"

_VERSIONS = """
    SELECT id, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0)
    FROM person WHERE id IN (SELECT value FROM json_each(?))
"""

_PEERS = "SELECT id FROM dialog JOIN person ON key = peer WHERE user = ? ORDER BY version DESC LIMIT ?"

_LAST_SEQ = "SELECT seq FROM dialog WHERE user = ? AND peer = ?"

# The last column is the last seq that the user had seen the announcement of: a binary search in the conversation, for
# a user's versions of its messages grow with seq. Some 20 steps down one index even in a conversation of a million.
_CHANGED = """
    SELECT peer, id, name, version, seq, rev, received, read, peer_received, peer_read, (
        WITH RECURSIVE search (known, fresh) AS (
            SELECT 0, dialog.seq + 1 WHERE :since > 0
            UNION ALL
            SELECT
                iif(iif(sender = :me, sender_version, recipient_version) <= :since, message.seq, known),
                iif(iif(sender = :me, sender_version, recipient_version) <= :since, fresh, message.seq)
            FROM search CROSS JOIN message
            ON low = min(:me, peer) AND high = max(:me, peer) AND message.seq = (known + fresh) / 2
            WHERE fresh - known > 1
        )
        SELECT coalesce(max(known), 0) FROM search
    )
    FROM dialog JOIN person ON key = peer
    WHERE user = :me AND version > :since AND version < :before
    ORDER BY version DESC LIMIT :limit
"""

# One range of seqs for each conversation, all in one statement.
_RANGES = """
    SELECT peer.key, peer.value ->> 0, message.seq, rev, sender, message.id, at, content
    FROM json_each(:ranges) AS peer CROSS JOIN message
    ON low = min(:me, peer.value ->> 0) AND high = max(:me, peer.value ->> 0)
    AND message.seq BETWEEN peer.value ->> 1 AND peer.value ->> 2
    ORDER BY peer.key, message.seq
"""

_HISTORY = """
    SELECT seq, rev, sender, id, at, content FROM message
    WHERE low = min(:me, :peer) AND high = max(:me, :peer) AND seq BETWEEN :first AND :last ORDER BY seq
"""

_EVERYBODY = "SELECT key, id, name FROM person LIMIT ?"

_ACQUAINTANCES = """
    SELECT key, id, name FROM person WHERE key = :me
    UNION SELECT key, id, name FROM (SELECT peer FROM dialog WHERE user = :me ORDER BY version DESC LIMIT :limit)
    JOIN person ON key = peer
"""

_HEADS = "SELECT peer, id, seq FROM dialog JOIN person ON key = peer WHERE user = ? ORDER BY version DESC LIMIT ?"


def session_user(connection: apsw.Connection, token_hash: bytes) -> User | None:
    for row in _rows(connection, _SESSION_USER, (token_hash,)):
        return User(*row)
    return None


def sessions(connection: apsw.Connection, token_hashes: Sequence[bytes]) -> frozenset[bytes]:
    wanted = _json([each.hex() for each in token_hashes])
    return frozenset(bytes(found) for (found,) in _rows(connection, _SESSIONS, (wanted,)))


def people(connection: apsw.Connection, ids: Sequence[str]) -> list[Person]:
    wanted = _json([one for one in ids if one.isascii()])
    return [Person(User(user, name), seen) for user, name, seen in _rows(connection, _PEOPLE, (wanted,))]


def directory(connection: apsw.Connection, after: str, limit: int) -> DirectoryPage:
    found = [Person(User(user, name), seen) for user, name, seen in _rows(connection, _DIRECTORY, (after, limit + 1))]
    if len(found) <= limit:
        return DirectoryPage(tuple(found), None)
    return DirectoryPage(tuple(found[:limit]), found[limit - 1].user.id)


def peers(connection: apsw.Connection, user: str, limit: int) -> list[str]:
    me, _, _ = _person(connection, user)
    return [peer for (peer,) in _rows(connection, _PEERS, (me, limit))]


def versions(connection: apsw.Connection, users: Sequence[str]) -> dict[str, int]:
    return dict(_rows(connection, _VERSIONS, (_json([one for one in users if one.isascii()]),)))


def sync(
    connection: apsw.Connection,
    user: str,
    since: int | None,
    before: int | None,
    conversations: int,
    per_conversation: int,
    total: int,
) -> SyncPage:
    """Three statements: the user, the changed conversations with where their new messages begin, the messages."""
    me, _, version = _person(connection, user)
    known = since is None or 0 <= since <= version
    start = since if since is not None and known else 0
    end = MAX_VERSION if before is None else before
    asked = {"me": me, "since": start, "before": end, "limit": conversations + 1}
    rows = list(_rows(connection, _CHANGED, asked))
    page = rows[:conversations]
    ids = {row[0]: row[1] for row in page}
    firsts = share(((row[10], row[4]) for row in page), per_conversation, total)
    messages = _ranges(
        connection, me, user, ids, [(row[0], first, row[4]) for row, first in zip(page, firsts, strict=True)]
    )
    found = []
    for row, first, chosen in zip(page, firsts, messages, strict=True):
        _, peer, name, _, seq, rev, received, read, peer_received, peer_read, seen = row
        gap = Gap(seen, first) if first > seen + 1 else None
        mine, theirs = Positions(received, read), Positions(peer_received, peer_read)
        found.append(Conversation(User(peer, name), seq, rev, mine, theirs, chosen, gap))
    return SyncPage(version, known, tuple(found), page[-1][3] if len(rows) > len(page) and page else None)


def roster(
    connection: apsw.Connection, user: str, everybody_up_to: int, acquaintances: int, per_conversation: int, total: int
) -> Roster:
    """Four statements, five if there are more people than `everybody_up_to`. Where `total` isn't enough for all, the
    conversations that changed last come first."""
    me, _, version = _person(connection, user)
    rows = list(_rows(connection, _EVERYBODY, (everybody_up_to + 1,)))
    if len(rows) > everybody_up_to:
        rows = list(_rows(connection, _ACQUAINTANCES, {"me": me, "limit": acquaintances}))
        heads = list(_rows(connection, _HEADS, (me, min(acquaintances, total))))
    else:
        heads = list(_rows(connection, _HEADS, (me, total)))
    firsts = share(((0, seq) for _, _, seq in heads), per_conversation, total, at_least=0)
    ranges = [(peer, first, seq) for (peer, _, seq), first in zip(heads, firsts, strict=True)]
    found = _ranges(connection, me, user, {key: peer for key, peer, _ in heads}, ranges)
    of_peer = {peer: messages for (peer, _, _), messages in zip(heads, found, strict=True)}
    return Roster(version, tuple((User(person, name), of_peer.get(key, ())) for key, person, name in rows))


def history(
    connection: apsw.Connection, user: str, peer: str, before: int | None, after: int | None, limit: int
) -> HistoryPage:
    me, _, _ = _person(connection, user)
    them = connection.execute(_PERSON_KEY, (peer,)).get if peer.isascii() else None
    if them is None:
        raise Refusal(Code.UNKNOWN_USER)
    last = int(str(connection.execute(_LAST_SEQ, (me, them)).get or 0))
    wanted = history_range(last, before, after, limit)
    rows = _rows(connection, _HISTORY, {"me": me, "peer": them, "first": wanted.first, "last": wanted.last})
    return HistoryPage(tuple(_message(me, user, peer, *row) for row in rows), wanted.more)


def _person(connection: apsw.Connection, user: str) -> tuple[int, str, int]:
    if user.isascii():
        for key, name, version in _rows(connection, _ME, (user,)):
            return key, name, version
    raise Refusal(Code.UNKNOWN_USER)


def _ranges(
    connection: apsw.Connection, me: int, user: str, ids: dict[int, str], ranges: Sequence[tuple[int, int, int]]
) -> list[tuple[Message, ...]]:
    found: list[list[Message]] = [[] for _ in ranges]
    if any(first <= last for _, first, last in ranges):
        rows = _rows(connection, _RANGES, {"me": me, "ranges": _json(ranges)})
        for index, peer, *row in rows:
            found[index].append(_message(me, user, ids[peer], *row))
    return [tuple(messages) for messages in found]


def _message(me: int, user: str, peer: str, seq: int, rev: int, sender: int, id: str, at: int, content: str) -> Message:
    mine = sender == me
    return Message(user if mine else peer, peer if mine else user, id, seq, rev, at, content)


def _rows(connection: apsw.Connection, statement: str, bindings: apsw.Bindings) -> Iterator[Any]:
    # The one place where the columns' types are taken on trust: the tables are STRICT.
    return connection.execute(statement, bindings)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
