"""The writing half of the PostgreSQL store: one batch, one transaction, three statements.

The first locks the rows of everybody whom the batch concerns, in the order of their ids, so that two nodes with crossing
batches wait for each other and never deadlock, and reads their versions. The second reads where their conversations are:
it sees what the one who held the locks before has committed. The third writes messages, both sides of each conversation and the
versions at once. In between the ledger gives out the numbers, the same for every store.

Every attempt may be repeated. A message that is there already is found by its id and takes no second seq; whether a
commit has happened when a connection broke is found out in the same way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from duologue.domain.errors import Code, StoreUnusable
from duologue.domain.ports import Clock, Pending, PendingMessage
from duologue.store.ledger import Account, Head, Ledger, MessageKey, Pair, Stored, names
from duologue.store.postgres.connection import DAMAGED, LOST, RETRYABLE, STATEMENT_TIMEOUT, Connection, connect
from duologue.store.postgres.ends import ANNOUNCE, announcement
from duologue.store.postgres.keys import conversation_key, user_id, user_key
from duologue.store.postgres.prepared import Prepared, prepare
from duologue.store.postgres.schema import Identity, identify, join, keep_migrations_out, leave
from duologue.store.work import Departure, NewGuest, OneOff, SessionEnd, Work, encodable, fail

WARY_BATCHES: Final = 32
"""After a batch with a repeated message this many batches look for repetitions first instead of being surprised."""

PATIENCE: Final = 8.0
"""Seconds for which a batch is tried again before it is refused as UNAVAILABLE: a restart of the database fits."""

PAUSE: Final = 0.1
"""Seconds between two attempts to reach the database."""

MAX_RETRIES: Final = 10
"""Times that a batch steps back for other transactions before it is refused as UNAVAILABLE."""

_log = logging.getLogger(__name__)

_LOCK = "SELECT id, name, version FROM duologue.person WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE"

_HEADS = """
    SELECT owner, peer, seq, rev, received, read, peer_received, peer_read
    FROM unnest($1::bigint[], $2::bigint[]) AS pair (low, high)
    JOIN duologue.dialog ON owner = pair.low AND peer = pair.high
"""

_EARLIER = """
    SELECT wanted.place, seq, rev, at, sender_version, recipient_version, content
    FROM unnest($1::uuid[], $2::bigint[], $3::text[]) WITH ORDINALITY AS wanted (conversation, sender, id, place)
    JOIN duologue.message USING (conversation, sender, id)
"""

_WRITE = """
    WITH messages AS (
        INSERT INTO duologue.message
            (conversation, seq, rev, sender, id, at, sender_version, recipient_version, content)
        SELECT conversation, seq, rev, sender, id, $1, sender_version, recipient_version, content
        FROM unnest(
            $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::text[]
        ) AS new (conversation, seq, rev, sender, id, sender_version, recipient_version, content)
    ), dialogs AS (
        INSERT INTO duologue.dialog
            (owner, peer, peer_name, seq, rev, received, read, peer_received, peer_read, version)
        SELECT * FROM unnest(
            $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
            $17::bigint[], $18::bigint[], $19::bigint[]
        )
        ON CONFLICT (owner, peer) DO UPDATE SET seq = excluded.seq, rev = excluded.rev, received = excluded.received,
            read = excluded.read, peer_received = excluded.peer_received, peer_read = excluded.peer_read,
            version = excluded.version
    )
    UPDATE duologue.person SET version = new.version FROM unnest($20::bigint[], $21::bigint[]) AS new (id, version)
    WHERE person.id = new.id
"""

_GUEST = """
    WITH fresh AS (
        INSERT INTO duologue.person (id, name)
        SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM duologue.session WHERE token_hash = $3)
        ON CONFLICT DO NOTHING RETURNING id
    )
    INSERT INTO duologue.session (token_hash, person, created) SELECT $3, id, $4 FROM fresh RETURNING person
"""

_SAME_GUEST = "SELECT 1 FROM duologue.session WHERE token_hash = $1 AND person = $2"

_SESSION_END = "DELETE FROM duologue.session WHERE token_hash = ANY($1::bytea[]) RETURNING person, token_hash"

_LEFT = "UPDATE duologue.person SET last_seen = greatest(last_seen, $1) WHERE id = ANY($2::bigint[])"

_STATEMENTS: Final = (_LOCK, _HEADS, _EARLIER, _WRITE, _GUEST, _SAME_GUEST, _SESSION_END, _LEFT, ANNOUNCE)


class Writer:
    """The committer's engine for PostgreSQL. Its connection lives on a loop of its own, which the writer thread runs for
    the time of each batch."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        new_loop: Callable[[], asyncio.AbstractEventLoop],
        on_connect: Callable[[Identity], None],
    ) -> None:
        """`on_connect` is called on the writer's thread for each new connection, before anything is written by it."""
        self._url = url
        self._on_connect = on_connect
        self._clock = clock
        self._loop = new_loop()
        self._connection: Connection | None = None
        self._prepared: Prepared = {}
        self._wary = 0
        self.guests = 0
        """People whom this node has added."""

    def connect(self) -> None:
        """Connect at once, so that a migration finds the database in use. Raises one of `LOST`."""
        self._loop.run_until_complete(self._connect())

    def write(self, batch: Sequence[Work]) -> None:
        """See `Engine.write`. A full disk fails the batch with STORAGE_FULL; a database that can't be reached for
        `PATIENCE`, or in which the batch can't be written for another reason, with UNAVAILABLE. Damage fails what meets it:
        it's the server's, and a node that stopped for it would only hand its people on to the next one."""
        self._loop.run_until_complete(self._write(batch, self._clock.monotonic() + PATIENCE))

    def rest(self, size: int) -> None:
        pass

    def leisure(self) -> None:
        pass

    def close(self) -> None:
        try:
            self._loop.run_until_complete(self._say_goodbye())
        finally:
            self._loop.close()

    async def _write(self, batch: Sequence[Work], give_up: float, unsure: bool = False) -> None:
        for retry in itertools.count():
            try:
                await self._attempt(batch, unsure)
                return
            except (_Unsure, *LOST, asyncpg.PostgresError) as error:
                unsure = unsure or isinstance(error, _Unsure)
                failure = await self._what_now(error, retry, give_up)
                if failure is None:
                    continue
                if not isinstance(error, DAMAGED):
                    _log.error("a batch of %d was refused as %s: %r", len(batch), failure, error)
                elif len(batch) > 1 and self._clock.monotonic() < give_up:
                    # Some of it meets the damage; the others needn't pay for that, again with each of its retries.
                    middle = len(batch) // 2
                    for half in (batch[:middle], batch[middle:]):
                        await self._write(half, give_up, unsure)
                    return
                else:
                    _log.error("the database is damaged, writes refused: %d: %s", len(batch), error)
                fail(batch, failure)
                return

    async def _what_now(self, error: Exception, retry: int, give_up: float) -> Code | None:
        """After a failed attempt: what to refuse the batch with, or None to try it again."""
        if isinstance(error, (_Unsure, *LOST)):
            await self._hang_up()
            if self._clock.monotonic() > give_up:
                return Code.UNAVAILABLE
            await asyncio.sleep(PAUSE)
            return None
        if isinstance(error, asyncpg.UniqueViolationError) and not self._wary:
            self._wary = WARY_BATCHES  # some message was stored before: once more, looking first
            return None
        if isinstance(error, RETRYABLE) and retry < MAX_RETRIES and self._clock.monotonic() < give_up:
            return None
        return Code.STORAGE_FULL if isinstance(error, asyncpg.DiskFullError) else Code.UNAVAILABLE

    async def _attempt(self, batch: Sequence[Work], unsure: bool) -> None:
        """One transaction. With `unsure` the one before may have been committed. Raises `_Unsure` if this one may."""
        connection = self._connection or await self._reconnect()
        one_offs = [work for work in batch if isinstance(work, OneOff)]
        pendings = encodable([work for work in batch if not isinstance(work, OneOff)])
        for work in batch:
            work.failure = None if work.failure is not Code.INVALID_CONTENT else work.failure
        # A new one for each attempt: what is remembered of the one before, another node may have changed.
        ledger = _Ledger()
        transaction = connection.transaction()
        await transaction.start()
        try:
            guests = await self._write_guests(one_offs)
            ledger.accounts = await self._lock(pendings, one_offs)
            await self._write_departures(one_offs)
            await self._write_session_ends(one_offs)
            if pendings:
                await self._write_pendings(ledger, pendings, unsure)
        except BaseException as error:
            ledger.forget()
            # A connection that is lost has ended its transaction; one that only seems to live would let us wait for it.
            await (self._hang_up() if isinstance(error, LOST) else self._roll_back(transaction))
            raise
        try:
            await transaction.commit()
        except (*LOST, asyncpg.PostgresError) as error:
            ledger.forget()
            if isinstance(error, LOST):
                raise _Unsure from error
            raise
        self.guests += guests
        if self._wary:
            self._wary -= 1
        if any(isinstance(work, PendingMessage) and work.duplicate for work in pendings):
            self._wary = WARY_BATCHES

    async def _connect(self) -> Connection:
        self._connection = connection = await connect(self._url)
        try:
            if not await keep_migrations_out(connection):
                raise ConnectionRefusedError("a migration from or to the database is under way")
            await join(connection)
            self._prepared = await prepare(connection, _STATEMENTS)
            self._on_connect(await identify(connection))
        except BaseException:
            await self._hang_up()
            raise
        return connection

    async def _reconnect(self) -> Connection:
        try:
            return await self._connect()
        except StoreUnusable as error:  # it has become so since this node was started
            raise ConnectionRefusedError(str(error)) from error

    async def _roll_back(self, transaction: asyncpg.transaction.Transaction) -> None:
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT):
                await transaction.rollback()
        except (*LOST, asyncpg.PostgresError):
            await self._hang_up()  # which ends the transaction as well

    async def _lock(self, pendings: Sequence[Pending], one_offs: Sequence[OneOff]) -> dict[str, Account]:
        ids = names(pendings)
        for work in one_offs:
            if isinstance(work, Departure):
                ids.update(work.users)
        rows = await self._prepared[_LOCK].fetch(_keys(ids))
        return {user_id(key): Account(key, name, version) for key, name, version in rows}

    async def _write_pendings(self, ledger: _Ledger, pendings: Sequence[Pending], unsure: bool) -> None:
        accounts = ledger.accounts
        pairs = list(ledger.pairs(pendings))
        if pairs:
            rows = await self._prepared[_HEADS].fetch([low for low, _ in pairs], [high for _, high in pairs])
            ledger.heads = {(head.low, head.high): head for head in (Head(*row) for row in rows)}
        earlier = None
        if self._wary or unsure:
            earlier = await self._load_earlier(ledger.keys(pendings))
        before = {account.key: account.version for account in accounts.values()}
        at = self._clock.wall_ms()
        heads = ledger.enter(pendings, at, earlier)
        if heads:
            name_of = {account.key: account.name for account in accounts.values()}
            moved = [each for each in accounts.values() if each.version != before[each.key]]
            await self._prepared[_WRITE].fetch(*_columns(heads, at, name_of, moved))
        if unsure:
            _deliver_again(pendings, accounts)

    async def _load_earlier(self, keys: Sequence[MessageKey]) -> dict[MessageKey, Stored]:
        rows = await self._prepared[_EARLIER].fetch(
            [conversation_key(low, high) for low, high, _, _ in keys],
            [sender for _, _, sender, _ in keys],
            [id for *_, id in keys],
        )
        return {keys[place - 1]: Stored(*rest) for place, *rest in rows}

    async def _write_guests(self, works: Sequence[OneOff]) -> int:
        """Write the new guests and return how many there are."""
        count = 0
        for work in works:
            if not isinstance(work, NewGuest):
                continue
            key = user_key(work.id)
            if key is None:
                work.failure = Code.BAD_REQUEST
            elif await self._prepared[_GUEST].fetchval(key, work.name, work.token_hash, work.created) is not None:
                count += 1
            elif await self._prepared[_SAME_GUEST].fetchval(work.token_hash, key) is None:
                work.failure = Code.BAD_REQUEST
        return count

    async def _write_departures(self, works: Sequence[OneOff]) -> None:
        for work in works:
            if isinstance(work, Departure):
                await self._prepared[_LEFT].fetch(work.at, _keys(work.users))

    async def _write_session_ends(self, works: Sequence[OneOff]) -> None:
        ended = [work.token_hash for work in works if isinstance(work, SessionEnd)]
        if ended:
            gone = await self._prepared[_SESSION_END].fetch(ended)
            if gone:
                await self._prepared[ANNOUNCE].fetch(*announcement((person, token_hash) for person, token_hash in gone))

    async def _say_goodbye(self) -> None:
        """Let migrations and newer nodes in at once: the server would notice only a moment later that the connection is gone."""
        if self._connection is not None:
            try:
                async with asyncio.timeout(STATEMENT_TIMEOUT):
                    await leave(self._connection)
            except (*LOST, asyncpg.PostgresError):
                pass
        await self._hang_up()

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
            # The transport closes in the loop's next turn, and the loop stands still between batches.
            await asyncio.sleep(0)


class _Ledger(Ledger[Head]):
    """The ledger of one attempt, given what was read under its locks."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.heads: dict[Pair, Head] = {}
        super().__init__(self._known, lambda pairs: [self.heads.get(pair) or Head(*pair) for pair in pairs])

    def _known(self, ids: Sequence[str]) -> Iterable[tuple[str, Account]]:
        return [(id, self.accounts[id]) for id in ids if id in self.accounts]


class _Unsure(Exception):
    """The connection broke during the commit."""


def _columns(heads: Sequence[Head], at: int, name_of: dict[int, str], moved: Sequence[Account]) -> list[object]:
    """The parameters of `_WRITE`."""
    conversations: list[str] = []
    messages: list[tuple[Any, ...]] = []
    for head in heads:
        if head.added:
            conversations += [conversation_key(head.low, head.high)] * len(head.added)
            messages += map(msgspec.structs.astuple, head.added)
    columns = list(zip(*messages, strict=True)) or [()] * 8
    seq, rev, sender, id, _, sender_version, recipient_version, content = columns
    owner, peer, *rest = zip(*sorted(row for head in heads for row in head.dialogs()), strict=True)
    return [
        at,
        conversations,
        seq, rev, sender, id, sender_version, recipient_version, content,
        owner, peer, [name_of[key] for key in peer], *rest,
        [each.key for each in moved], [each.version for each in moved],
    ]  # fmt: skip


def _deliver_again(pendings: Sequence[Pending], accounts: dict[str, Account]) -> None:
    """What the attempt whose end nobody saw has stored was delivered to nobody. Hints may be repeated, so each repetition
    found is taken for one of its messages."""
    for work in pendings:
        if isinstance(work, PendingMessage) and work.duplicate:
            work.duplicate = False
            if work.seq == 1:
                work.recipient_name = accounts[work.recipient].name


def _keys(ids: Iterable[str]) -> list[int]:
    return [key for key in map(user_key, ids) if key is not None]
