"""A user's conversations and their messages, read from the tables and from what isn't in them yet."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from duologue.domain.model import Positions, User
from duologue.store.ledger import MessageRow
from duologue.store.sqlite.chunks import SEQ_BITS, decode
from duologue.store.sqlite.young import Known, rows_of, version_in, version_of

MAX_VERSION: Final = 2**63 - 1
"""Above every version: no bound."""

_COLUMNS: Final = "version, seq, rev, received, read, peer_received, peer_read, conversation"

_CHANGED: Final = f"""
    SELECT peer, id, name, {_COLUMNS} FROM dialog JOIN person ON key = peer
    WHERE user = ? AND version > ? AND version < ? ORDER BY version DESC LIMIT ?
"""
_WITH: Final = f"SELECT {_COLUMNS} FROM dialog WHERE user = ? AND peer = ?"

_NAMES: Final = "SELECT key, id, name FROM person WHERE key IN (SELECT value FROM json_each(?))"

# With the conversation as the lower bound: if the chunk is missing, whoever removed it, no other's may be found (P7).
_CHUNK_OF: Final = f"SELECT max(key) FROM chunk WHERE key BETWEEN {{0}} << {SEQ_BITS} AND ({{0}} << {SEQ_BITS} | {{1}})"

# Where what a user hasn't seen begins: a binary search in each conversation, in one statement, for a user's versions of its
# messages grow with seq. Invariant: the chunk of `low` begins with a version that is known, `high` is the first message of a
# chunk that isn't, or the end. Most were away for less than a chunk, so the first look is at the last one.
_IS_KNOWN: Final = "iif(is_low, low_version, high_version) <= :since"
_FIRST: Final = f"(key & {2**SEQ_BITS - 1})"
_BOUNDARIES: Final = f"""
    WITH RECURSIVE search (place, conversation, is_low, low, high, middle) AS (
        SELECT key, value ->> 0, value ->> 1, 0, (value ->> 2) + 1, value ->> 2 FROM json_each(:wanted)
        UNION ALL
        SELECT place, conversation, is_low, iif({_IS_KNOWN}, middle, low), iif({_IS_KNOWN}, high, {_FIRST}),
            iif({_IS_KNOWN}, middle + high, low + {_FIRST}) / 2
        FROM search CROSS JOIN chunk
        ON key = ({_CHUNK_OF.format("conversation", "middle")})
        WHERE high - low > 1
    )
    SELECT place, messages FROM (
        SELECT place, conversation, max(low) AS low FROM search GROUP BY place
    ) CROSS JOIN chunk ON key = ({_CHUNK_OF.format("conversation", "low")})
    WHERE low > 0
"""

_RANGES: Final = f"""
    SELECT wanted.key, messages FROM json_each(?) AS wanted CROSS JOIN chunk
    ON chunk.key >= coalesce(
        ({_CHUNK_OF.format("(wanted.value ->> 0)", "(wanted.value ->> 1)")}), wanted.value ->> 0 << {SEQ_BITS}
    ) AND chunk.key <= (wanted.value ->> 0 << {SEQ_BITS} | wanted.value ->> 2)
    ORDER BY wanted.key, chunk.key
"""


class Dialog(NamedTuple):
    """A conversation as one side sees it."""

    key: int
    """The peer's."""
    peer: User
    version: int
    seq: int
    rev: int
    mine: Positions
    theirs: Positions
    conversation: int
    young: Sequence[MessageRow]
    """Its last messages, which are in no table yet."""

    @property
    def on_disk(self) -> int:
        """The last seq in the tables."""
        return self.seq - len(self.young)


def young_version(me: int, known: Mapping[str, Known]) -> int:
    """The user's last version in memory, or 0."""
    return max([version_of(each, me) for each in known.values()], default=0)


def dialogs(
    connection: apsw.Connection, me: int, known: Mapping[str, Known], since: int, before: int, limit: int
) -> list[Dialog]:
    """The user's conversations whose version is in between, the greatest first, at most `limit`."""
    found: list[Dialog] = []
    if known and limit:
        young = [each for each in known.values() if since < version_of(each, me) < before]
        if len(young) > limit:
            young = heapq.nlargest(limit, young, key=lambda each: version_of(each, me))
            since = version_of(young[-1], me)  # what changed before that has no place in the page
        found = list(_young(connection, me, young))
    rows: Any = connection.execute(_CHANGED, (me, since, before, limit + len(known)))
    old = (_dialog(peer, User(id, name), rest, ()) for peer, id, name, *rest in rows if id not in known)
    found += itertools.islice(old, limit)
    rows.close()
    found.sort(key=lambda dialog: dialog.version, reverse=True)
    return found[:limit]


def dialog_with(connection: apsw.Connection, me: int, them: int, peer: User, known: Known | None) -> Dialog | None:
    if known is not None:
        return _of_state(me, peer, known)
    row: Any
    for row in connection.execute(_WITH, (me, them)):
        return _dialog(them, peer, row, ())
    return None


class Reading:
    """Reads messages of one user's conversations in one transaction."""

    def __init__(self, connection: apsw.Connection, me: int) -> None:
        self._connection = connection
        self._me = me
        self._chunks: dict[int, list[MessageRow]] = {}
        """Chunks that were read on the way, by the conversation."""

    def seen(self, wanted: Sequence[Dialog], since: int) -> list[int]:
        """Of each the last seq whose announcement the user had seen at version `since`."""
        found = [0] * len(wanted)
        if since <= 0:
            return found
        asked, places = [], []
        for place, dialog in enumerate(wanted):
            if dialog.young and self._version(dialog.young[0]) <= since:
                found[place] = dialog.on_disk + self._known(dialog.young, since)
            elif dialog.on_disk:
                asked.append((dialog.conversation, self._me <= dialog.key, dialog.on_disk))
                places.append(place)
        if asked:
            rows: Any = self._connection.execute(_BOUNDARIES, {"wanted": _json(asked), "since": since})
            for index, messages in rows:
                chunk = decode(messages)
                place = places[index]
                self._chunks[wanted[place].conversation] = chunk
                found[place] = chunk[0].seq - 1 + self._known(chunk, since)
        return found

    def ranges(self, wanted: Sequence[tuple[Dialog, int, int]]) -> list[list[MessageRow]]:
        """The messages of each dialog from the one seq to the other; `last` below `first` means none."""
        found: list[list[MessageRow]] = [[] for _ in wanted]
        asked, places = [], []
        for place, (dialog, first, last) in enumerate(wanted):
            end = min(last, dialog.on_disk)
            if first > end:
                continue
            chunk = self._chunks.get(dialog.conversation)
            if chunk is not None and chunk[0].seq <= first and end <= chunk[-1].seq:
                found[place] = chunk
            else:
                asked.append((dialog.conversation, first, end))
                places.append(place)
        if asked:
            rows: Any = self._connection.execute(_RANGES, (_json(asked),))
            for index, messages in rows:
                found[places[index]] += decode(messages)
        return [
            [row for row in (*rows, *dialog.young) if first <= row.seq <= last]
            for rows, (dialog, first, last) in zip(found, wanted, strict=True)
        ]

    def _version(self, row: MessageRow) -> int:
        """What the message brought the user to."""
        return row.sender_version if row.sender == self._me else row.recipient_version

    def _known(self, rows: Sequence[MessageRow], since: int) -> int:
        """How many of the rows, from the first on, the user had seen."""
        return bisect.bisect_right(rows, since, key=self._version)


def _young(connection: apsw.Connection, me: int, known: Sequence[Known]) -> Iterator[Dialog]:
    peers = {_peer(me, each): each for each in known}
    rows: Any = connection.execute(_NAMES, (_json(list(peers)),))
    for key, id, name in rows:
        yield _of_state(me, User(id, name), peers[key])


def _peer(me: int, known: Known) -> int:
    state, _ = known
    return state.high if state.low == me else state.low


def _of_state(me: int, peer: User, known: Known) -> Dialog:
    state, _ = known
    mine, theirs = Positions(state.low_received, state.low_read), Positions(state.high_received, state.high_read)
    if state.low != me:
        mine, theirs = theirs, mine
    version = version_in(state, me)
    return Dialog(_peer(me, known), peer, version, state.seq, state.rev, mine, theirs, state.number, rows_of(known))


def _dialog(key: int, peer: User, row: Sequence[int], young: Sequence[MessageRow]) -> Dialog:
    version, seq, rev, received, read, peer_received, peer_read, conversation = row
    mine, theirs = Positions(received, read), Positions(peer_received, peer_read)
    return Dialog(key, peer, version, seq, rev, mine, theirs, conversation, young)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
