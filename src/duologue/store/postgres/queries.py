"""What is read from the database. A query keeps within one key, a user's, a conversation's or a token's; those of several are
asked for together, but each by its own. The exceptions are about people as such, `_DIRECTORY`, `_WHOLE_DIRECTORY`, `_COUNT` and
`_EVERYBODY`: where people are spread over servers each of those asks them all, for so many rows at most
(docs/decisions/store-postgres.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

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
from duologue.store.postgres.connection import Connection
from duologue.store.postgres.keys import conversation_of, user_id, user_key

MAX_VERSION: Final = 2**63 - 1
"""Above every version: no bound."""

_ME = "SELECT name, version FROM duologue.person WHERE id = $1"

_SESSION = "SELECT person FROM duologue.session WHERE token_hash = $1"

_SESSIONS = "SELECT token_hash FROM duologue.session WHERE token_hash = ANY($1::bytea[])"

_PEOPLE = "SELECT id, name, last_seen FROM duologue.person WHERE id = ANY($1::bigint[])"

_DIRECTORY = "SELECT id, name, last_seen FROM duologue.person WHERE id > $1 ORDER BY id LIMIT $2"

_WHOLE_DIRECTORY = "SELECT id, name, last_seen FROM duologue.person ORDER BY id LIMIT $1"

_COUNT = "SELECT count(*) FROM (SELECT FROM duologue.person LIMIT $1) AS counted"

_VERSIONS = "SELECT id, version FROM duologue.person WHERE id = ANY($1::bigint[])"

_PEERS = """
    SELECT wanted.owner, latest.peer FROM unnest($1::bigint[]) AS wanted (owner) CROSS JOIN LATERAL (
        SELECT peer FROM duologue.dialog WHERE dialog.owner = wanted.owner ORDER BY version DESC LIMIT $2
    ) AS latest
"""

_LAST_SEQ = "SELECT seq FROM duologue.dialog WHERE owner = $1 AND peer = $2"

_CHANGED = """
    SELECT peer, peer_name, version, seq, rev, received, read, peer_received, peer_read
    FROM duologue.dialog WHERE owner = $1 AND version > $2 AND version < $3
    ORDER BY version DESC LIMIT $4
"""

# For each conversation the last seq that the user had seen the announcement of: a binary search in it, for a user's
# versions of its messages grow with seq. Some 20 steps down one index even in a conversation of a million.
_SEEN = """
    SELECT asked.place, (
        WITH RECURSIVE search (known, fresh) AS (
            SELECT 0::bigint, asked.seq + 1
            UNION ALL
            SELECT
                CASE WHEN version <= $4 THEN middle ELSE known END,
                CASE WHEN version <= $4 THEN fresh ELSE middle END
            FROM search, LATERAL (
                SELECT message.seq AS middle, CASE WHEN sender = $3 THEN sender_version ELSE recipient_version END AS version
                FROM duologue.message
                WHERE conversation = asked.conversation AND message.seq = (known + fresh) / 2
            ) AS probe
            WHERE fresh - known > 1
        )
        SELECT max(known) FROM search
    )
    FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS asked (conversation, seq, place)
"""

# One range of seqs for each conversation, all in one statement.
_RANGES = """
    SELECT asked.place, message.seq, rev, sender, id, at, content
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS asked (conversation, first, last, place)
    CROSS JOIN LATERAL (
        SELECT * FROM duologue.message
        WHERE message.conversation = asked.conversation AND message.seq BETWEEN asked.first AND asked.last
    ) AS message
    ORDER BY asked.place, message.seq
"""

_EVERYBODY = "SELECT id, name FROM duologue.person LIMIT $1"

_ACQUAINTANCES = "SELECT peer, peer_name FROM duologue.dialog WHERE owner = $1 ORDER BY version DESC LIMIT $2"

_HEADS = "SELECT peer, seq FROM duologue.dialog WHERE owner = $1 ORDER BY version DESC LIMIT $2"


async def session_user(connection: Connection, token_hash: bytes) -> User | None:
    key = await connection.fetchval(_SESSION, token_hash)
    if key is None:
        return None
    row = await connection.fetchrow(_ME, key)
    return None if row is None else User(user_id(key), row[0])


async def sessions(connection: Connection, token_hashes: Sequence[bytes]) -> frozenset[bytes]:
    return frozenset(found for (found,) in await connection.fetch(_SESSIONS, token_hashes))


async def people(connection: Connection, ids: Sequence[str]) -> list[Person]:
    keys = [key for key in map(user_key, ids) if key is not None]
    return [_listed(row) for row in await connection.fetch(_PEOPLE, keys)]


async def directory(connection: Connection, after: str, limit: int) -> DirectoryPage:
    start = user_key(after)
    if start is None:
        rows = await connection.fetch(_WHOLE_DIRECTORY, limit + 1)
    else:
        rows = await connection.fetch(_DIRECTORY, start, limit + 1)
    found = tuple(map(_listed, rows[:limit]))
    return DirectoryPage(found, found[-1].user.id if len(rows) > limit else None)


async def count(connection: Connection, up_to: int) -> int:
    """How many people there are, counted up to that number."""
    return int(await connection.fetchval(_COUNT, up_to))


async def versions(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    keys = [key for key in map(user_key, ids) if key is not None]
    return {user_id(key): version for key, version in await connection.fetch(_VERSIONS, keys)}


async def peers(connection: Connection, users: Sequence[str], limit: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {user: [] for user in users}
    keys = [key for key in map(user_key, users) if key is not None]
    for owner, peer in await connection.fetch(_PEERS, keys, limit):
        found[user_id(owner)].append(user_id(peer))
    return found


async def sync(
    connection: Connection,
    user: str,
    since: int | None,
    before: int | None,
    conversations: int,
    per_conversation: int,
    total: int,
) -> SyncPage:
    """At most four statements: the user, their changed conversations, where the new messages of each begin, the
    messages."""
    me, _, version = await _person(connection, user)
    known = since is None or 0 <= since <= version
    start = since if since is not None and known else 0
    end = MAX_VERSION if before is None else before
    rows = await connection.fetch(_CHANGED, me, start, end, conversations + 1)
    page = rows[:conversations]
    keys = [conversation_of(me, row[0]) for row in page]
    seen = [0] * len(page)
    if start and page:
        for place, last in await connection.fetch(_SEEN, keys, [row[3] for row in page], me, start):
            seen[place - 1] = last
    firsts = share(((one, row[3]) for one, row in zip(seen, page, strict=True)), per_conversation, total)
    peers = [user_id(row[0]) for row in page]
    messages = await _ranges(connection, me, user, peers, keys, firsts, [row[3] for row in page])
    found = []
    for row, peer, last_seen, first, chosen in zip(page, peers, seen, firsts, messages, strict=True):
        _, name, _, seq, rev, received, read, peer_received, peer_read = row
        gap = Gap(last_seen, first) if first > last_seen + 1 else None
        mine, theirs = Positions(received, read), Positions(peer_received, peer_read)
        found.append(Conversation(User(peer, name), seq, rev, mine, theirs, chosen, gap))
    return SyncPage(version, known, tuple(found), page[-1][2] if len(rows) > len(page) and page else None)


async def roster(
    connection: Connection, user: str, everybody_up_to: int, acquaintances: int, per_conversation: int, total: int
) -> Roster:
    """Four statements, five if there are more people than `everybody_up_to`. Where `total` isn't enough for all, the
    conversations that changed last come first."""
    me, name, version = await _person(connection, user)
    rows = [(key, each) for key, each in await connection.fetch(_EVERYBODY, everybody_up_to + 1)]
    if len(rows) > everybody_up_to:
        known = await connection.fetch(_ACQUAINTANCES, me, acquaintances)
        rows = [(me, name), *((key, each) for key, each in known if key != me)]
        total_heads = min(acquaintances, total)
    else:
        total_heads = total
    heads = await connection.fetch(_HEADS, me, total_heads)
    firsts = share(((0, seq) for _, seq in heads), per_conversation, total, at_least=0)
    peers = [user_id(peer) for peer, _ in heads]
    keys = [conversation_of(me, peer) for peer, _ in heads]
    found = await _ranges(connection, me, user, peers, keys, firsts, [seq for _, seq in heads])
    of_peer = dict(zip(peers, found, strict=True))
    return Roster(version, tuple((User(user_id(key), each), of_peer.get(user_id(key), ())) for key, each in rows))


async def history(
    connection: Connection, user: str, peer: str, before: int | None, after: int | None, limit: int
) -> HistoryPage:
    me, _, _ = await _person(connection, user)
    them, _, _ = await _person(connection, peer)
    last = await connection.fetchval(_LAST_SEQ, me, them)
    wanted = history_range(last or 0, before, after, limit)
    (messages,) = await _ranges(
        connection, me, user, [peer], [conversation_of(me, them)], [wanted.first], [wanted.last]
    )
    return HistoryPage(messages, wanted.more)


async def _person(connection: Connection, user: str) -> tuple[int, str, int]:
    key = user_key(user)
    row = None if key is None else await connection.fetchrow(_ME, key)
    if key is None or row is None:
        raise Refusal(Code.UNKNOWN_USER)
    return key, row[0], row[1]


async def _ranges(
    connection: Connection,
    me: int,
    user: str,
    peers: Sequence[str],
    keys: Sequence[str],
    firsts: Sequence[int],
    lasts: Iterable[int],
) -> list[tuple[Message, ...]]:
    found: list[list[Message]] = [[] for _ in keys]
    ends = list(lasts)
    if any(first <= last for first, last in zip(firsts, ends, strict=True)):
        for place, *row in await connection.fetch(_RANGES, keys, firsts, ends):
            found[place - 1].append(_message(me, user, peers[place - 1], *row))
    return [tuple(messages) for messages in found]


def _message(me: int, user: str, peer: str, seq: int, rev: int, sender: int, id: str, at: int, content: str) -> Message:
    mine = sender == me
    return Message(user if mine else peer, peer if mine else user, id, seq, rev, at, content)


def _listed(row: Any) -> Person:
    key, name, last_seen = row
    return Person(User(user_id(key), name), last_seen)
