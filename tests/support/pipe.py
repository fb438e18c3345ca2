"""A Socket.IO client without a network: it hands packets to the server's session and reads the frames that come back.

Between it and the application are the real transports from the session upwards, and the real wire core; what is missing
is picows and the kernel. Nothing is judged here but the protocol itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from duologue.server.transport import SocketServer
from duologue.server.transport.engine import Opening

PATIENCE = 10.0
"""Seconds that anything may take that is waited for."""


class Pipe:
    """Implements `duologue.server.transport.session.Websocket`, the server's view of us."""

    def __init__(self, server: SocketServer) -> None:
        self.events: list[tuple[str, Any]] = []
        """Each with its only argument, in order of arrival."""
        self.acks: dict[int, Any] = {}
        self.packets: list[bytes] = []
        """Those of Socket.IO, as they came."""
        self.accepted = False
        self.refused: Any = None
        self.dismissed = False
        """A DISCONNECT packet came."""
        self.closed: int | None = None
        """The code with which the server closed, or 0 after an abort."""
        self.broken: list[str] = []
        """What a server must never do."""
        self._news = asyncio.Event()
        self._next_ack = 0
        self._engine = server._engine
        session = self._engine.open_websocket(self, Opening(None, "127.0.0.1", {}))
        assert session is not None
        self._session = session

    # The server's side

    def write(self, data: bytes) -> None:
        while data:
            assert data[0] == 0x81, "a whole, unmasked text frame"
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            self._packet(data[start : start + size])
            data = data[start + size :]
        self._news.set()

    def buffered(self) -> int:
        return 0

    def close(self, code: int) -> None:
        self.closed = code
        self._news.set()
        asyncio.get_running_loop().call_soon(self._engine.websocket_gone)  # we answer at once

    def abort(self) -> None:
        self.close(0)

    # Ours

    def connect(self, auth: object) -> None:
        self._say(b"40" + msgspec.json.encode(auth))

    def emit(self, event: str, *args: object, ack: bool = True) -> int | None:
        """Send an event; the id under which its ack will be found, if one is asked for."""
        id = b""
        if ack:
            self._next_ack += 1
            id = b"%d" % self._next_ack
        self._say(b"42%b%b" % (id, msgspec.json.encode([event, *args])))
        return self._next_ack if ack else None

    async def ask(self, event: str, *args: object) -> Any:
        """The ack of an event."""
        id = self.emit(event, *args)
        assert id is not None
        await self.until(lambda: id in self.acks)
        return self.acks[id]

    def lose(self) -> None:
        """The connection breaks."""
        if self.closed is None:
            self._session.lost(violated=False)
            self._engine.websocket_gone()

    def hang_up(self) -> None:
        """An Engine.IO close packet."""
        self._say(b"1")

    def leave(self) -> None:
        """A Socket.IO DISCONNECT packet, and then the connection ends."""
        self._say(b"41")
        self.lose()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert self.closed is None, f"closed with {self.closed} instead"
                self._news.clear()
                await self._news.wait()

    def _say(self, packet: bytes) -> None:
        self._session.receive_text(packet)

    def _packet(self, packet: bytes) -> None:
        kind, rest = packet[:2], packet[2:]
        if kind[:1] == b"4":
            self.packets.append(packet)
        if kind == b"42":
            name, *args = msgspec.json.decode(rest)
            self.events.append((name, args[0]))
            if len(args) != 1:
                self.broken.append(f"{name} with {len(args)} arguments")
        elif kind == b"43":
            digits, _, _ = rest.partition(b"[")
            (answer,) = msgspec.json.decode(rest[len(digits) :])
            if int(digits) in self.acks:
                self.broken.append(f"a second ack {rest!r}")
            self.acks[int(digits)] = answer
        elif kind == b"40":
            self.accepted = True
        elif kind == b"44":
            self.refused = msgspec.json.decode(rest)
        elif kind == b"41":
            self.dismissed = True
        elif packet[:1] not in (b"0", b"1", b"2"):
            self.broken.append(f"an unexpected packet {packet!r}")
