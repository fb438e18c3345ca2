"""The bus of several nodes: NATS, one subject for each user who has a socket on this node.

A publication goes to this node's own sockets at once, whatever NATS does, and in one message to the other nodes that have
subscribed. It is a hint (`duologue.domain.ports.Bus`): while NATS is away it is dropped, for by the time it's back
the store knows better.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

import nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from duologue.bus import envelope
from duologue.bus.envelope import Foreign, Foreigners, Malformed
from duologue.bus.nats_link import Inbox, Link, LinkFailed
from duologue.bus.topics import Topics
from duologue.domain.ports import Receiver, TopicReceiver

MAX_OUTBOX: Final = 8_000_000
"""Bytes of publications that wait to be written; beyond that they are dropped and counted."""

START_TIMEOUT: Final = 3.0
"""Seconds that a start waits for NATS; then the node serves without it and goes on trying."""

RECONNECT_PAUSE: Final = 1.0
"""Seconds, at most, between two rounds of the servers; drawn by chance, so that nodes don't come back all at once."""

SETTLE_TIMEOUT: Final = 10.0
"""Seconds that NATS may take to confirm subscriptions, longer than to notice that it's away; then the caller goes on as if it
were out of reach."""

LOSS_PAUSE: Final = 1.0
"""Seconds, at least, between two times that a node tells the others that publications of its own were lost."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to write what waits before the connection is closed."""

_LOSS: Final = "lost"
"""The subject on which nodes say that publications of theirs were lost. Without it the others, who may not have noticed
anything, would find out only when they next compare by themselves. What is said there has no format and no content, so nodes of
all releases understand it."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class NatsBus:
    """Implements `duologue.domain.ports.Bus`.

    `servers` are URLs, nats:// or tls://, with credentials if need be. Nodes of one `namespace` hear each other. `on_change` is
    called with False when NATS went away, and with True when it is there (again), and whenever another node says that
    publications of its own were lost or says something in another format: then what this node knows has to be compared with the
    store.
    """

    def __init__(self, servers: list[str], namespace: str, on_change: Callable[[bool], None] = lambda _: None) -> None:
        self._servers = servers
        self._prefix = f"duologue.{namespace}."
        self._on_change = on_change
        self._link: Link | None = None
        self._receiver: Receiver | None = None
        self._notice_receiver: TopicReceiver | None = None
        self._sockets: dict[str, int] = {}
        self._topics = Topics()
        self._subscriptions: dict[str, Subscription] = {}
        """Those of the present connection."""
        self._stale: dict[str, None] = {}
        """Subjects whose subscription may have to be made or ended, in the order in which they changed."""
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._outbox_bytes = 0
        self._asking: list[asyncio.Future[None]] = []
        """Who waits for subscriptions that have still to be written."""
        self._confirming: list[asyncio.Future[None]] = []
        """Who waits for NATS to confirm what was written."""
        self._work = asyncio.Event()
        self._written = asyncio.Event()
        self._arrived = asyncio.Event()
        self._lost = asyncio.Event()
        """The other nodes have to be told that publications of this one did not reach them."""
        self._task: asyncio.Task[None] | None = None
        self._user_inbox = Inbox(self._take_publication)
        self._topic_inbox = Inbox(self._take_topic)
        self._loss_inbox = Inbox(self._take_loss)
        self._dropping = False
        self._leaving = False
        self._told = False
        """Whether the log says that NATS is away."""
        self.healthy = False
        self.dropped = 0
        """Publications for other nodes that were dropped: NATS was away or too slow, or they were too large for it."""
        self.malformed = 0
        """What others published to our subjects and no node of ours can have written."""
        self._foreigners = Foreigners(self._compare)

    @property
    def foreign(self) -> int:
        """What others published in a format that isn't this one's."""
        return self._foreigners.count

    def connect(self, receiver: Receiver) -> None:
        """Where publications go. Called once, before the first."""
        self._receiver = receiver

    async def start(self) -> None:
        """Connect; without success within `START_TIMEOUT` go on trying in the background."""
        self._task = asyncio.create_task(self._run(), name="bus")
        self._task.add_done_callback(_ended)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                await self._arrived.wait()

    async def close(self) -> None:
        """Write what waits and leave, in bounded time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._outbox and self.healthy:
                    await self.settled()
                await self.settled()
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

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
        if self._link is not None:
            future = asyncio.get_running_loop().create_future()
            self._asking.append(future)
            self._work.set()
            await asyncio.wait([future], timeout=SETTLE_TIMEOUT)

    def wanted(self, user: str, besides: int = 0) -> bool:
        return self.healthy or self._sockets.get(user, 0) > besides

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        if user in self._sockets and self._receiver is not None:
            self._receiver(user, version, packet, exclude, announcement)
        self._send(f"u.{user}", envelope.publication(version, packet, exclude, announcement))

    def notify(self, user: str, data: bytes) -> None:
        self._send(f"u.{user}", envelope.notice(data))

    def subscribe_notices(self, receiver: TopicReceiver) -> None:
        self._notice_receiver = receiver

    def subscribe_topic(self, pattern: str, receiver: TopicReceiver) -> None:
        self._topics.subscribe(pattern, receiver)
        self._change(f"t.{pattern}")

    def unsubscribe_topic(self, pattern: str) -> None:
        self._topics.unsubscribe(pattern)
        self._change(f"t.{pattern}")

    def publish_topic(self, topic: str, data: bytes) -> None:
        self._topics.deliver(topic, data)
        self._send(f"t.{topic}", envelope.topic(data))

    # From NATS

    def _take_publication(self, message: Msg) -> None:
        user = message.subject[len(self._prefix) + 2 :]
        said = self._read(envelope.read_publication, message)
        if said is None or user not in self._sockets:
            return
        if said.is_notice:
            if self._notice_receiver is not None:
                self._notice_receiver(user, said.packet)
        elif self._receiver is not None:
            self._receiver(user, said.version, said.packet, said.exclude, said.announcement)

    def _take_topic(self, message: Msg) -> None:
        data = self._read(envelope.read_topic, message)
        if data is not None:
            self._topics.deliver(message.subject[len(self._prefix) + 2 :], data)

    def _read(self, read: Callable[[bytes], T], message: Msg) -> T | None:
        try:
            return read(message.data)
        except Foreign as foreign:
            self._foreigners.note(foreign)
        except Malformed:
            self.malformed += 1
        return None

    def _take_loss(self, _: Msg) -> None:
        self._compare()

    def _compare(self) -> None:
        if self.healthy:
            self._on_change(True)

    # To NATS

    def _change(self, subject: str) -> None:
        if self._link is not None:
            self._stale[subject] = None
            self._work.set()

    def _send(self, subject: str, data: bytes) -> None:
        if not self.healthy:
            self._drop()
            return
        if self._outbox_bytes + len(data) > MAX_OUTBOX:
            self._drop()
            if not self._dropping:
                self._dropping = True
                _log.warning("NATS is too slow: %d bytes wait for it, further publications are dropped", MAX_OUTBOX)
            return
        self._outbox.append((subject, data))
        self._outbox_bytes += len(data)
        self._work.set()

    def _drop(self) -> None:
        self.dropped += 1
        self._lost.set()

    async def _write(self, link: Link) -> None:
        """Make all subscriptions, and then bring every change and every publication to NATS. Raises when that fails."""
        await link.subscribe(self._prefix + _LOSS, self._loss_inbox)
        await self._write_subscriptions(link)
        await link.confirm()
        self._came()
        while True:
            await self._work.wait()
            self._work.clear()
            asking = len(self._asking)
            await self._write_subscriptions(link)
            if asking:
                self._confirming += self._asking[:asking]
                del self._asking[:asking]
                self._written.set()
            for _ in range(len(self._outbox)):
                await self._write_publication(link)
            self._dropping = self._dropping and bool(self._outbox)

    async def _write_subscriptions(self, link: Link) -> None:
        while self._stale:
            stale, self._stale = self._stale, {}  # if it fails, the next connection begins with all of them anyway
            for subject in stale:
                await self._write_subscription(link, subject)
                if link.full:
                    await link.confirm()

    async def _write_subscription(self, link: Link, subject: str) -> None:
        kind, _, name = subject.partition(".")
        wanted = name in (self._sockets if kind == "u" else self._topics)
        subscription = self._subscriptions.get(subject)
        if wanted and subscription is None:
            inbox = self._user_inbox if kind == "u" else self._topic_inbox
            self._subscriptions[subject] = await link.subscribe(self._prefix + subject, inbox)
        elif not wanted and subscription is not None:
            del self._subscriptions[subject]
            await link.unsubscribe(subscription)

    async def _write_publication(self, link: Link) -> None:
        subject, data = self._outbox.popleft()
        self._outbox_bytes -= len(data)
        if not await link.publish(self._prefix + subject, data):
            self._drop()
            _log.warning("a publication of %d bytes is larger than NATS allows (its max_payload)", len(data))
        if link.full:
            await link.confirm()

    async def _confirm(self, link: Link) -> None:
        """Ask NATS for what was written, once for all who wait."""
        while True:
            await self._written.wait()
            self._written.clear()
            count = len(self._confirming)
            await link.confirm()
            _release(self._confirming[:count])
            del self._confirming[:count]

    async def _tell_losses(self, link: Link) -> None:
        """Tell the other nodes, not too often."""
        await self._arrived.wait()
        while True:
            await self._lost.wait()
            self._lost.clear()
            await link.publish(self._prefix + _LOSS, b"")
            await asyncio.sleep(LOSS_PAUSE)

    # The connection

    async def _run(self) -> None:
        """One connection after the other, for as long as the bus lives."""
        while not self._leaving:  # a cancellation that comes while nats-py connects or closes may vanish there
            try:
                link = await self._open()
                if link is not None:
                    await self._serve(link)
            except Exception:  # what answers there may be anything, and nats-py may raise anything
                _log.exception("the connection to NATS was given up")
            await asyncio.sleep(RECONNECT_PAUSE * random.uniform(0.1, 1))

    async def _open(self) -> Link | None:
        """A connection to any of the servers, in an order drawn by chance."""
        trouble = ""
        for url in random.sample(self._servers, len(self._servers)):
            try:
                return await Link.open(url)
            except LinkFailed as failure:
                trouble = str(failure)
        if self._told:
            _log.debug("NATS still can't be reached: %s", trouble)
        else:
            self._told = True
            _log.warning("NATS can't be reached, this node serves its own connections and goes on trying: %s", trouble)
        return None

    async def _serve(self, link: Link) -> None:
        """Use the connection until it ends, and leave nothing of it behind."""
        self._link = link
        self._subscriptions = {}
        self._stale = dict.fromkeys([*(f"u.{user}" for user in self._sockets), *(f"t.{each}" for each in self._topics)])
        tasks = [
            asyncio.create_task(link.watch(), name="bus watch"),
            asyncio.create_task(self._write(link), name="bus writer"),
            asyncio.create_task(self._confirm(link), name="bus confirmation"),
            asyncio.create_task(self._tell_losses(link), name="bus losses"),
            asyncio.create_task(self._foreigners.run(), name="bus foreigners"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._went(link)
            try:
                await link.close()  # first, see `Link.watch`
            finally:
                for task in tasks:
                    task.cancel()
                for end in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(end, Exception) and not isinstance(end, nats.errors.Error | OSError | RuntimeError):
                        _log.error("the connection to NATS was given up", exc_info=end)
                # Of what was written nobody knows how far it came. Only now: this connection must not try to say so.
                self._lost.set()

    def _came(self) -> None:
        self.healthy = True
        self._told = False
        _log.info("connected to NATS")
        self._arrived.set()
        self._on_change(True)

    def _went(self, link: Link) -> None:
        self._link = None
        self._stale = {}
        self.dropped += len(self._outbox)
        self._outbox.clear()
        self._arrived.clear()
        self._outbox_bytes, self._dropping = 0, False
        _release(self._asking)
        _release(self._confirming)
        self._asking, self._confirming = [], []
        if self.healthy:
            self.healthy = False
            if self._task is not None and not self._task.cancelling():
                self._told = True
                trouble = link.trouble or "the connection was closed"
                _log.warning("NATS is away, this node serves its own connections and goes on trying: %s", trouble)
            self._on_change(False)


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the bus failed", exc_info=error)
