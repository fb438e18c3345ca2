"""What is read from the database about people and conversations. Each function sees one snapshot (`readers.py`) and issues a
fixed number of statements, however many conversations a page has.

What a user's conversations have in memory (`young.py`) comes as `known`, and stands above what the tables say of them.
"""

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
    Roster,
    SyncPage,
    User,
)
from duologue.store.ledger import MessageRow
from duologue.store.pages import history_range, share
from duologue.store.sqlite.dialogs import MAX_VERSION, Reading, dialog_with, dialogs, young_version
from duologue.store.sqlite.young import KnownByUser

_ME = "SELECT key, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0) FROM person WHERE id = ?"

_PERSON_KEY = "SELECT key FROM person WHERE id = ?"

_SESSION_USER = "SELECT id, name FROM session JOIN person ON key = person WHERE token_hash = ?"

_SESSIONS = "SELECT token_hash FROM session WHERE token_hash IN (SELECT unhex(value) FROM json_each(?))"

_PEOPLE = "SELECT id, name, last_seen FROM person WHERE id IN (SELECT value FROM json_each(?))"

_DIRECTORY = "SELECT id, name, last_seen FROM person WHERE id > ? ORDER BY id LIMIT ?"

_VERSIONS = """
    SELECT id, key, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0)
    FROM person WHERE id IN (SELECT value FROM json_each(?))
"""

_EVERYBODY = "SELECT key, id, name FROM person LIMIT ?"

_NAME = "SELECT id, name, key FROM person WHERE key = ?"


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


def peers(connection: apsw.Connection, known: KnownByUser, users: Sequence[str], limit: int) -> dict[str, list[str]]:
    """Of each user a statement, and one for all of them."""
    found: dict[str, list[str]] = {user: [] for user in users}
    for user, key, _ in _rows(connection, _VERSIONS, (_json([one for one in users if one.isascii()]),)):
        found[user] = [dialog.peer.id for dialog in dialogs(connection, key, known[user], 0, MAX_VERSION, limit)]
    return found


def versions(connection: apsw.Connection, known: KnownByUser, users: Sequence[str]) -> dict[str, int]:
    rows = _rows(connection, _VERSIONS, (_json([one for one in users if one.isascii()]),))
    return {user: max(version, young_version(key, known[user])) for user, key, version in rows}


def sync(
    connection: apsw.Connection,
    known: KnownByUser,
    user: str,
    since: int | None,
    before: int | None,
    conversations: int,
    per_conversation: int,
    total: int,
) -> SyncPage:
    """Four statements, three if nothing but what is at the end of conversations is new: the user, the changed
    conversations, where their new messages begin, the messages. One more if some are young."""
    me, version = _person(connection, user)
    version = max(version, young_version(me, known[user]))
    is_known = since is None or 0 <= since <= version
    start = since if since is not None and is_known else 0
    end = MAX_VERSION if before is None else before
    changed = dialogs(connection, me, known[user], start, end, conversations + 1)
    page = changed[:conversations]
    reading = Reading(connection, me)
    seen = reading.seen(page, start)
    firsts = share(
        ((last_seen, dialog.seq) for last_seen, dialog in zip(seen, page, strict=True)), per_conversation, total
    )
    messages = reading.ranges([(dialog, first, dialog.seq) for dialog, first in zip(page, firsts, strict=True)])
    found = []
    for dialog, last_seen, first, rows in zip(page, seen, firsts, messages, strict=True):
        gap = Gap(last_seen, first) if first > last_seen + 1 else None
        chosen = _messages(me, user, dialog.peer.id, rows)
        found.append(Conversation(dialog.peer, dialog.seq, dialog.rev, dialog.mine, dialog.theirs, chosen, gap))
    return SyncPage(version, is_known, tuple(found), page[-1].version if len(changed) > len(page) and page else None)


def roster(
    connection: apsw.Connection,
    known: KnownByUser,
    user: str,
    everybody_up_to: int,
    acquaintances: int,
    per_conversation: int,
    total: int,
) -> Roster:
    """Four statements, one more if some conversations are young. Where `total` isn't enough for all, the conversations
    that changed last come first."""
    me, version = _person(connection, user)
    people: list[tuple[int, User]] = [
        (key, User(id, name)) for key, id, name in _rows(connection, _EVERYBODY, (everybody_up_to + 1,))
    ]
    if len(people) > everybody_up_to:
        acquainted = dialogs(connection, me, known[user], 0, MAX_VERSION, acquaintances)
        everyone = {dialog.key: dialog.peer for dialog in acquainted}
        everyone.update((key, User(id, name)) for id, name, key in _rows(connection, _NAME, (me,)))
        people = list(everyone.items())
        recent = acquainted[:total]
    else:
        recent = dialogs(connection, me, known[user], 0, MAX_VERSION, total)
    firsts = share(((0, dialog.seq) for dialog in recent), per_conversation, total, at_least=0)
    found = Reading(connection, me).ranges(
        [(dialog, first, dialog.seq) for dialog, first in zip(recent, firsts, strict=True)]
    )
    of_peer = {
        dialog.key: _messages(me, user, dialog.peer.id, rows) for dialog, rows in zip(recent, found, strict=True)
    }
    version = max(version, young_version(me, known[user]))
    return Roster(version, tuple((person, of_peer.get(key, ())) for key, person in people))


def history(
    connection: apsw.Connection,
    known: KnownByUser,
    user: str,
    peer: str,
    before: int | None,
    after: int | None,
    limit: int,
) -> HistoryPage:
    me, _ = _person(connection, user)
    them = connection.execute(_PERSON_KEY, (peer,)).get if peer.isascii() else None
    if them is None:
        raise Refusal(Code.UNKNOWN_USER)
    dialog = dialog_with(connection, me, int(str(them)), User(peer, ""), known[user].get(peer))
    wanted = history_range(dialog.seq if dialog is not None else 0, before, after, limit)
    if dialog is None:
        return HistoryPage((), wanted.more)
    (rows,) = Reading(connection, me).ranges([(dialog, wanted.first, wanted.last)])
    return HistoryPage(_messages(me, user, peer, rows), wanted.more)


def _person(connection: apsw.Connection, user: str) -> tuple[int, int]:
    """The user's key, and their version as the tables say it."""
    if user.isascii():
        for key, version in _rows(connection, _ME, (user,)):
            return key, version
    raise Refusal(Code.UNKNOWN_USER)


def _messages(me: int, user: str, peer: str, rows: Sequence[MessageRow]) -> tuple[Message, ...]:
    return tuple(
        Message(
            user if row.sender == me else peer,
            peer if row.sender == me else user,
            row.id,
            row.seq,
            row.rev,
            row.at,
            row.content,
        )
        for row in rows
    )


def _rows(connection: apsw.Connection, statement: str, bindings: apsw.Bindings) -> Iterator[Any]:
    # The one place where the columns' types are taken on trust: the tables are STRICT.
    return connection.execute(statement, bindings)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
