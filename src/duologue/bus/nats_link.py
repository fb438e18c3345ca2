"""One connection to one NATS server, from its beginning to its end. Who wants to go on after that opens another.

The client is nats-py, without its own reconnection: that ends for good at most of the server's errors, waits for ever on a server
that has stopped to read, and takes a late PONG for a reason to stop reading itself (docs/decisions/bus-nats.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

CONNECT_TIMEOUT: Final = 2
"""Seconds for one attempt to connect to one server."""

PING_INTERVAL: Final = 3.0
"""Seconds between two looks whether the server still answers."""

SILENCE: Final = 4.0
"""Seconds that an answer may take. A server that falls silent is noticed within this and `PING_INTERVAL`."""

WINDOW: Final = 250_000
"""Bytes that may be written beyond what the server has confirmed: what nats-py and the kernel can come to hold for it, and what
is written in one turn of the loop (about 20 ms)."""

GOODBYE: Final = 1.0
"""Seconds that nats-py may take to clear up."""

_NEVER: Final = 3600
"""Seconds after which nats-py would forget a PING of ours; `SILENCE` is over long before."""

_OVERHEAD: Final = 40
"""Bytes of a command besides its subject and its data, about."""

_log = logging.getLogger(__name__)


class LinkFailed(Exception):
    """There is no connection, or none any more. The message says why, without credentials."""


class Inbox:
    """Takes the place of a subscription's queue and hands each message on at once.

    nats-py gives every subscription a queue, and one with a callback a task as well: ten times the memory, and three times
    the time for a message. The queue's attribute is private, so nats-py is pinned to a minor version, and the contract tests
    would show a change.
    """

    def __init__(self, take: Callable[[Msg], None]) -> None:
        self._take = take

    def put_nowait(self, message: Msg) -> None:
        try:
            self._take(message)
        except Exception:  # nats-py would stop reading
            _log.exception("a message from NATS could not be handled")

    def qsize(self) -> int:
        return 0


class _SecureClient(Client):
    """A tls:// URL means it: nats-py would send the password in the clear to a server that doesn't ask for TLS."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        assert self._current_server is not None
        if self._current_server.uri.scheme == "tls" and not info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS, which the URL (tls://) demands")
        await super()._process_info(info, initial_connection)


class Link:
    def __init__(self) -> None:
        self._client = _SecureClient()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._question: asyncio.Task[float] | None = None
        self._written = 0
        self._confirmed = 0
        self._trouble: Exception | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Raises `LinkFailed`."""
        link = cls()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await link._client.connect(
                    servers=[url],
                    name="duologue",
                    no_echo=True,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_TIMEOUT,
                    pending_size=0,  # no limit there: `WINDOW` is one, and nats-py waits for its own in a way that can't be ended
                    flusher_queue_size=0,  # likewise
                    error_cb=link._note,
                    closed_cb=link._end,
                )
        except (nats.errors.Error, OSError, ValueError) as error:
            await link.close()
            raise LinkFailed(link.trouble or str(error) or type(error).__name__) from None
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def full(self) -> bool:
        """Whether to `confirm` before writing more."""
        return self._written - self._confirmed > WINDOW

    @property
    def trouble(self) -> str:
        """What was the last that went wrong, or ''."""
        return "" if self._trouble is None else str(self._trouble) or type(self._trouble).__name__

    async def subscribe(self, subject: str, inbox: Inbox) -> Subscription:
        self._written += len(subject) + _OVERHEAD
        # Nothing is ever taken from the queue, so nats-py must not count what goes in.
        subscription = await self._client.subscribe(subject, pending_bytes_limit=0)
        queue: Any = inbox
        subscription._pending_queue = queue
        subscription._message_iterator = None  # which has the queue, too
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        self._written += _OVERHEAD
        await subscription.unsubscribe()

    async def publish(self, subject: str, data: bytes) -> bool:
        """False if the server takes no message of that size."""
        if len(data) > self._client.max_payload:
            return False
        self._written += len(subject) + len(data) + _OVERHEAD
        await self._client.publish(subject, data)
        return True

    async def confirm(self) -> None:
        """Return once the server has taken all that was written before the call. Bounded by `watch`, whose end is to end this."""
        written = self._written
        await self._client.rtt(_NEVER)
        self._confirmed = max(self._confirmed, written)

    async def watch(self) -> None:
        """Return once the connection is closed, or the server has been silent for `SILENCE` seconds."""
        while not self._over.done():
            # A task of its own: a PING that is given up while nats-py reads would break its reading when the PONG arrives.
            self._question = question = asyncio.create_task(self._client.rtt(_NEVER), name="bus ping")
            either: list[asyncio.Future[Any]] = [question, self._over]
            await asyncio.wait(either, timeout=SILENCE, return_when=asyncio.FIRST_COMPLETED)
            if self._over.done():
                return
            if not question.done():
                self._trouble = TimeoutError(f"no answer for {SILENCE:g} s")
                return
            if question.exception() is not None:
                return
            await asyncio.wait([self._over], timeout=PING_INTERVAL)

    async def close(self) -> None:
        """End the connection, whatever state it is in. What is not confirmed may be lost."""
        transport = self._client._transport
        if transport is not None:
            if isinstance(transport, TcpTransport) and transport._io_writer is not None:
                # nats-py would wait for a server that has stopped to read.
                transport._io_writer.transport.abort()
            # RuntimeError is what uvloop says when nats-py writes to the transport that was aborted.
            with contextlib.suppress(TimeoutError, nats.errors.Error, OSError, RuntimeError):
                async with asyncio.timeout(GOODBYE):
                    await self._client.close()
        if self._question is not None:
            self._question.cancel()
            await asyncio.gather(self._question, return_exceptions=True)

    async def _note(self, error: Exception) -> None:
        self._trouble = error

    async def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
