"""Which sessions end, on whatever node: the database tells every node, in the commit that ends them.

So it's heard while the bus, or part of it, is away, before anybody has noticed that. Only ends of sessions are announced in this
way: a commit that announces something waits for every other one that does (docs/decisions/bus-nats.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from duologue.store.postgres.connection import Connection, connect
from duologue.store.postgres.keys import user_id

CHECK_SECONDS: Final = 5.0
"""Between two looks whether the connection still leads to the database that the node knows."""

RECONNECT_PAUSE: Final = 0.5
"""Seconds until a lost connection is made anew."""

ANNOUNCE: Final = "SELECT pg_notify($1, word) FROM unnest($2::text[]) AS word"
"""Tells every node of the sessions that the transaction ends, if it's committed."""

_CHANNEL: Final = "duologue_session_ends"
_USER_DIGITS: Final = 16
_log = logging.getLogger(__name__)


def announcement(ended: Iterable[tuple[int, bytes]]) -> tuple[str, list[str]]:
    """The parameters of `ANNOUNCE` for these keys of users and hashes of their tokens."""
    return _CHANNEL, [user_id(owner) + token_hash.hex() for owner, token_hash in ended]


class SessionEnds:
    """`on_end` is called with the user's id and the token's hash. `on_missed` is called whenever the connection is new: what
    ended before wasn't heard. `greet` is for new connections, `epoch` tells of another database."""

    def __init__(
        self,
        url: str,
        greet: Callable[[Connection], Awaitable[None]],
        epoch: Callable[[], str],
        on_end: Callable[[str, bytes], None],
        on_missed: Callable[[], None],
    ) -> None:
        self._url = url
        self._greet = greet
        self._epoch = epoch
        self._on_end = on_end
        self._on_missed = on_missed

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # whatever it is: without a next connection nothing would be heard any more
                _log.debug("ends of sessions aren't heard from the database for now: %r", error)
            await asyncio.sleep(RECONNECT_PAUSE)

    async def _listen(self) -> None:
        """As long as the connection lives and is one to the database of now."""
        connection = await connect(self._url)
        try:
            await self._greet(connection)
            epoch = self._epoch()
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(_CHANNEL, self._heard)
            self._on_missed()
            while not gone.is_set() and epoch == self._epoch():
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        await gone.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")  # raises if it leads nowhere
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, word: Any) -> None:
        """From any node, this one included; whoever may connect to the database may have said anything."""
        try:
            token_hash = bytes.fromhex(word[_USER_DIGITS:])
        except ValueError:
            return
        self._on_end(word[:_USER_DIGITS], token_hash)
