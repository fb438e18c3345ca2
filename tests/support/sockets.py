"""One Socket.IO connection of a test at a time: what it asks, what is answered, and waiting for what comes. No word of chat."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tests.support.links import Link, open_link

PATIENCE: Final = 15.0
"""Seconds to wait for an answer unless a test says otherwise."""

Event = tuple[str, list[Any]]


class ConnectionLost(Exception):
    """The connection ended before the answer; what was asked may have happened or not."""


class NoAnswer(Exception):
    """No ack within the time-out; what was asked may have happened or not."""


class Refused(Exception):
    """The server said no: `code` of the table in docs/protocol.md, `answer` as it came."""

    def __init__(self, code: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{code}: {answer}")
        self.code = code
        self.answer = answer


class SocketClient(ABC):
    """Whoever derives from it says what an event and a DISCONNECT mean, and when it has been signed in (`_settle_connect`).
    `device` names it in messages."""

    def __init__(self, url: str, transport: str, device: str) -> None:
        self.url = url
        self.transport = transport
        self.device = device
        self.events: list[Event] = []
        """Every event since the last connect, in order."""
        self.link: Link | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        self._ack_ids = itertools.count()
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._waiters: list[tuple[Callable[[Event], bool], asyncio.Future[Event]]] = []
        self._connected: asyncio.Future[None] | None = None

    # -- connection -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Leave politely."""
        if self.link is not None:
            await self.link.close()
        self.cut()

    def cut(self) -> None:
        """Leave without a word, as a phone in a tunnel does."""
        link, self.link = self.link, None
        if link is not None:
            link.abort()
        # Also for a link that ended before it was handed over: it has said so already, and says nothing more.
        self._gone.set()

    @property
    def connected(self) -> bool:
        return self.link is not None

    async def _open(self, auth: dict[str, Any]) -> None:
        """Connect and wait for `_settle_connect`. Raises `LinkFailed`, `Refused` or `ConnectionLost`."""
        self.events = []
        self._connected = asyncio.get_running_loop().create_future()
        self._gone.clear()
        self.link = await open_link(self.transport, self.url, self)
        self.link.send(b"0" + msgspec.json.encode(auth))
        await self._connected

    # -- asking -----------------------------------------------------------------------------------------------------

    async def request(self, event: str, *arguments: Any, timeout: float = PATIENCE) -> dict[str, Any]:
        """Emit with an ack; the ack's argument. Raises `Refused`, `NoAnswer` or `ConnectionLost`."""
        link = self._open_link()
        ack_id = next(self._ack_ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[ack_id] = future
        link.send(b"2%d" % ack_id + msgspec.json.encode([event, *arguments]))
        try:
            answer = await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise NoAnswer(event) from None
        finally:
            self._pending.pop(ack_id, None)
        if "error" in answer:
            raise Refused(answer["error"], answer)
        return answer

    def emit(self, event: str, *arguments: Any) -> None:
        """Emit without an ack."""
        self._open_link().send(b"2" + msgspec.json.encode([event, *arguments]))

    def send_packet(self, packet: bytes) -> None:
        """Send a Socket.IO packet as it is, right or wrong."""
        self._open_link().send(packet)

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def wait_for(self, wanted: Callable[[Event], bool], timeout: float = PATIENCE) -> Event:
        """The first event since the connect that is wanted, past or to come."""
        for event in self.events:
            if wanted(event):
                return event
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiters.append((wanted, future))
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise NoAnswer(f"{self.device} saw only {self.events[-10:]}") from None
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]

    async def wait_for_event(self, name: str, timeout: float = PATIENCE) -> list[Any]:
        """The arguments of the first event of that name."""
        return (await self.wait_for(lambda event: event[0] == name, timeout))[1]

    async def wait_ended(self, timeout: float = PATIENCE) -> None:
        """Wait until the connection is gone."""
        await asyncio.wait_for(self._gone.wait(), timeout)

    # -- Receiver: what comes from the link ---------------------------------------------------------------------------

    def packet(self, packet: bytes) -> None:
        body = packet[1:]
        match packet[:1]:
            case b"2":
                name, *arguments = msgspec.json.decode(body)
                self._take((name, arguments))
            case b"3":
                start = body.index(b"[")
                self._settle(int(body[:start]), msgspec.json.decode(body[start:]))
            case b"4":
                refusal = msgspec.json.decode(body)
                self._fail_connect(Refused(refusal["message"], refusal))
            case b"1":
                self._on_dismissal()
                self.cut()

    def ended(self, reason: str) -> None:
        self.link = None
        self._fail_connect(ConnectionLost(reason))
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(ConnectionLost(reason))
        self._gone.set()

    # -- inside -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _on_event(self, name: str, arguments: list[Any]) -> None:
        """Called before anybody is told who waits for it."""

    @abstractmethod
    def _on_dismissal(self) -> None:
        """A DISCONNECT packet, after which a stock client stays away for good."""

    def _settle_connect(self) -> None:
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(None)

    def _fail_connect(self, error: Exception) -> None:
        if self._connected is not None and not self._connected.done():
            self._connected.set_exception(error)

    def _take(self, event: Event) -> None:
        self._on_event(*event)
        self.events.append(event)
        for wanted, future in self._waiters:
            if not future.done() and wanted(event):
                future.set_result(event)

    def _settle(self, ack_id: int, arguments: list[Any]) -> None:
        future = self._pending.pop(ack_id, None)
        if future is not None and not future.done():
            future.set_result(arguments[0] if arguments else {})

    def _open_link(self) -> Link:
        if self.link is None:
            raise ConnectionLost("not connected")
        return self.link
