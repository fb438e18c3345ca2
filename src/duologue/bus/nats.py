"""The bus of several nodes: NATS, one subject for each user who has a socket on this node.

A publication goes to this node's own sockets at once, whatever NATS does, and in one message to the other nodes that have
subscribed. It is a hint (`duologue.domain.ports.Bus`): while NATS is away it is dropped, for by the time it's back
the store knows better.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from duologue.bus.topics import Topics
from duologue.domain.ports import Receiver, TopicReceiver

MAX_OUTBOX: Final = 8_000_000
"""Bytes of publications that wait to be written; beyond that they are dropped and counted."""

MAX_PENDING: Final = 2_000_000
"""Bytes that nats-py may hold for a server that reads slowly, before our outbox has to wait."""

CONNECT_TIMEOUT: Final = 2
"""Seconds for one attempt to connect to one server."""

START_TIMEOUT: Final = 3.0
"""Seconds that a start waits for NATS; then the node serves without it and goes on trying."""

RECONNECT_PAUSE: Final = 1
"""Seconds between two attempts at the same server."""

PING_INTERVAL: Final = 3
MAX_OUTSTANDING_PINGS: Final = 2
"""A server that is silent for three intervals is given up."""

WRITE_PAUSE: Final = 0.2
"""Seconds after a failure of the connection before it's written to again."""

SETTLE_TIMEOUT: Final = 3
"""Seconds that NATS may take to confirm subscriptions; then the caller goes on as if it were out of reach."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to say goodbye."""

_HEAD = struct.Struct("!QBB")
"""Version, flags, length of the socket's id that is excluded. The id and then the packet follow."""

_ANNOUNCEMENT: Final = 1

_log = logging.getLogger(__name__)


class _Inbox:
    """Takes the place of a subscription's queue and hands each message on at once.

    nats-py gives every subscription a queue, and one with a callback a task as well: ten times the memory, and three times
    the time for a message (docs/decisions/bus-nats.md). The queue's attribute is private, so nats-py is pinned to a minor
    version, and the contract tests would show a change.
    """

    def __init__(self, take: Callable[[Msg], None]) -> None:
        self.put_nowait = take

    def qsize(self) -> int:
        return 0


class NatsBus:
    """Implements `duologue.domain.ports.Bus`.

    `servers` are URLs, nats:// or tls://, with credentials if need be. Nodes of one `namespace` hear each other. `on_change` is
    called with True when NATS is there (again) and with False when it went away.
    """

    def __init__(self, servers: list[str], namespace: str, on_change: Callable[[bool], None] = lambda _: None) -> None:
        self._servers = servers
        self._prefix = f"duologue.{namespace}."
        self._on_change = on_change
        self._client = Client()
        self._receiver: Receiver | None = None
        self._sockets: dict[str, int] = {}
        self._topics = Topics()
        self._subscriptions: dict[str, Subscription] = {}
        self._stale: dict[str, None] = {}
        """Subjects whose subscription may have to be made or ended, in the order in which they changed."""
        self._outbox: list[tuple[str, bytes]] = []
        self._outbox_bytes = 0
        self._asking: list[asyncio.Future[None]] = []
        """Who waits for subscriptions that have still to be written."""
        self._confirming: list[asyncio.Future[None]] = []
        """Who waits for NATS to confirm what was written."""
        self._work = asyncio.Event()
        self._written = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._user_inbox = _Inbox(self._take_publication)
        self._topic_inbox = _Inbox(self._take_topic)
        self._dropping = False
        self.healthy = False
        self.dropped = 0
        """Publications for other nodes that were dropped: NATS was away or too slow, or they were too large for it."""
        self.malformed = 0
        """What others published to our subjects and no node of ours can have written."""

    def connect(self, receiver: Receiver) -> None:
        """Where publications go. Called once, before the first."""
        self._receiver = receiver

    async def start(self) -> None:
        """Connect; without success within `START_TIMEOUT` go on trying in the background."""
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(self._connect(), name="bus connection")
        self._tasks = [
            connecting,
            loop.create_task(self._write(), name="bus writer"),
            loop.create_task(self._confirm(), name="bus confirmation"),
        ]
        for task in self._tasks:
            task.add_done_callback(_ended)
        await asyncio.wait([connecting], timeout=START_TIMEOUT)
        if not self.healthy:
            _log.warning("NATS can't be reached yet: this node serves its own connections and goes on trying")

    async def close(self) -> None:
        """Write what waits and leave, in bounded time."""
        with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self.healthy:
                    await self.settled()
                    await self._client.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._client.close()

    # The port

    def subscribe(self, user: str) -> None:
        count = self._sockets.get(user, 0)
        self._sockets[user] = count + 1
        if not count:
            self._change(f"u.{user}")

    def unsubscribe(self, user: str) -> None:
        left = self._sockets[user] - 1
        if left:
            self._sockets[user] = left
        else:
            del self._sockets[user]
            self._change(f"u.{user}")

    async def settled(self) -> None:
        if self.healthy:
            future = asyncio.get_running_loop().create_future()
            self._asking.append(future)
            self._work.set()
            await future

    def wanted(self, user: str, besides: int = 0) -> bool:
        return self.healthy or self._sockets.get(user, 0) > besides

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        if user in self._sockets and self._receiver is not None:
            self._receiver(user, version, packet, exclude, announcement)
        key = exclude.encode()
        self._send(f"u.{user}", _HEAD.pack(version, _ANNOUNCEMENT if announcement else 0, len(key)) + key + packet)

    def subscribe_topic(self, pattern: str, receiver: TopicReceiver) -> None:
        self._topics.subscribe(pattern, receiver)
        self._change(f"t.{pattern}")

    def unsubscribe_topic(self, pattern: str) -> None:
        self._topics.unsubscribe(pattern)
        self._change(f"t.{pattern}")

    def publish_topic(self, topic: str, data: bytes) -> None:
        self._topics.deliver(topic, data)
        self._send(f"t.{topic}", data)

    # From NATS

    def _take_publication(self, message: Msg) -> None:
        data, user = message.data, message.subject[len(self._prefix) + 2 :]
        if len(data) < _HEAD.size:
            self.malformed += 1
            return
        version, flags, length = _HEAD.unpack_from(data)
        start = _HEAD.size + length
        exclude = data[_HEAD.size : start]
        if flags & ~_ANNOUNCEMENT or len(exclude) < length or not exclude.isascii():
            self.malformed += 1
        elif user in self._sockets and self._receiver is not None:
            self._receiver(user, version, data[start:], exclude.decode(), bool(flags))

    def _take_topic(self, message: Msg) -> None:
        self._topics.deliver(message.subject[len(self._prefix) + 2 :], message.data)

    # To NATS

    def _change(self, subject: str) -> None:
        self._stale[subject] = None
        self._work.set()

    def _send(self, subject: str, data: bytes) -> None:
        if not self.healthy:
            self.dropped += 1
            return
        if self._outbox_bytes + len(data) > MAX_OUTBOX:
            self.dropped += 1
            if not self._dropping:
                self._dropping = True
                _log.warning("NATS is too slow: %d bytes wait for it, further publications are dropped", MAX_OUTBOX)
            return
        self._outbox.append((subject, data))
        self._outbox_bytes += len(data)
        self._work.set()

    async def _write(self) -> None:
        """Bring subscriptions and publications to NATS, for as long as the bus lives."""
        while True:
            await self._work.wait()
            self._work.clear()
            if not self.healthy:
                continue  # `_came` rings again
            asking, self._asking = self._asking, []
            outbox, self._outbox, self._outbox_bytes, self._dropping = self._outbox, [], 0, False
            try:
                await self._write_subscriptions()
                for subject, data in outbox:
                    await self._publish(subject, data)
            except (nats.errors.Error, OSError) as error:
                # Away, most likely, which nats-py will find out; a hint that's lost is made up for by the store.
                _log.debug("writing to NATS failed: %r", error)
                await asyncio.sleep(WRITE_PAUSE)
                self._work.set()
            self._confirming += asking
            self._written.set()

    async def _write_subscriptions(self) -> None:
        while self._stale:
            subject = next(iter(self._stale))
            kind, _, name = subject.partition(".")
            wanted = name in (self._sockets if kind == "u" else self._topics)
            subscription = self._subscriptions.get(subject)
            del self._stale[subject]
            if wanted and subscription is None:
                # Nothing is ever taken from the queue, so nats-py must not count what goes in.
                try:
                    subscription = await self._client.subscribe(self._prefix + subject, pending_bytes_limit=0)
                except BaseException:
                    self._stale[subject] = None
                    raise
                inbox: Any = self._user_inbox if kind == "u" else self._topic_inbox
                subscription._pending_queue = inbox
                subscription._message_iterator = None  # which has the queue, too
                self._subscriptions[subject] = subscription
            elif not wanted and subscription is not None:
                del self._subscriptions[subject]
                await subscription.unsubscribe()

    async def _publish(self, subject: str, data: bytes) -> None:
        try:
            await self._client.publish(self._prefix + subject, data)
        except nats.errors.MaxPayloadError:
            self.dropped += 1
            _log.warning("a publication of %d bytes is larger than NATS allows (its max_payload)", len(data))

    async def _confirm(self) -> None:
        """Ask NATS for what was written, once for all who wait."""
        while True:
            await self._written.wait()
            self._written.clear()
            waiting, self._confirming = self._confirming, []
            if waiting and self.healthy:
                try:
                    await self._client.flush(SETTLE_TIMEOUT)
                except (nats.errors.Error, TimeoutError, OSError) as error:
                    _log.debug("NATS did not confirm subscriptions: %r", error)
            _release(waiting)

    # The connection

    async def _connect(self) -> None:
        await self._client.connect(
            servers=self._servers,
            name="duologue",
            no_echo=True,
            connect_timeout=CONNECT_TIMEOUT,
            reconnect_time_wait=RECONNECT_PAUSE,
            max_reconnect_attempts=-1,
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=MAX_OUTSTANDING_PINGS,
            pending_size=MAX_PENDING,
            error_cb=_noted,
            disconnected_cb=self._went,
            reconnected_cb=self._came,
        )
        await self._came()

    async def _came(self) -> None:
        if not self.healthy:
            self.healthy = True
            _log.info("connected to NATS")
            self._work.set()
            self._on_change(True)

    async def _went(self) -> None:
        if self.healthy:
            self.healthy = False
            _log.warning("NATS is away: this node serves its own connections and reads the store for the rest")
            self.dropped += len(self._outbox)
            self._outbox, self._outbox_bytes = [], 0
            _release(self._asking)
            _release(self._confirming)
            self._on_change(False)


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()


async def _noted(error: Exception) -> None:
    _log.debug("NATS: %r", error)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the task %r of the bus failed", task.get_name(), exc_info=error)
