"""A TCP proxy that treats the bytes between client and server as badly as a network can.

Each direction is a `Lane` whose settings may be changed at any moment and hold for what passes from then on, on the open
connections and on new ones::

    async with Proxy(server.port) as proxy:
        client = await connect(proxy.url)
        proxy.to_client.swallow = True                  # half-open: the client hears nothing any more
        proxy.to_client.cut_before = b'"seq"'           # the ack never arrives, the connection breaks instead
        proxy.to_server.piece = 1                       # every byte in a segment of its own
        await proxy.refuse()                            # nobody listens on the port
        await proxy.accept()                            # the same port again
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from cluster.ports import HOST, free_port

READ_SIZE: Final = 65_536
CONNECT_TIMEOUT: Final = 10.0

Garble = Callable[[bytes], bytes]


class _Cut(Exception):
    """The connection is to break now."""


@dataclass
class Lane:
    """One direction. All faults may be combined; the order is garble, cut, swallow, merge, piece, delay."""

    swallow: bool = False
    """Read and forget: the sender notices nothing."""

    hold: bool = False
    """Stop reading: the sender's buffers fill, as with a reader that has gone to sleep. See `release`."""

    hold_before: bytes | None = None
    """A connection on which these bytes are about to pass waits with them, the others go on. See `release`."""

    delay: float = 0.0
    """Seconds that every chunk waits; order is kept."""

    piece: int = 0
    """Cut what passes into segments of this many bytes; 0: as it comes."""

    merge: int = 0
    """Gather at least this many bytes before any go on; the rest stays until the sender ends or it is set to 0."""

    cut_after: int | None = None
    """Break every connection once this many more bytes have passed, in the middle of a frame if it falls there."""

    cut_before: bytes | None = None
    """Break a connection when these bytes are about to pass, and let none of them through. It holds for one time."""

    garble: Garble | None = None
    """Change what passes."""

    passed: int = 0
    """Bytes that went through."""

    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def clear(self) -> None:
        """Heal the lane."""
        self.swallow = self.hold = False
        self.delay = 0.0
        self.piece = self.merge = 0
        self.cut_after = self.cut_before = self.garble = None
        self.release()

    def release(self) -> None:
        """Let what was held go on."""
        self.hold = False
        self.hold_before = None
        self._changed.set()

    async def until_passed(self, count: int, timeout: float = CONNECT_TIMEOUT) -> None:
        """Wait until `count` bytes in all have gone through."""
        async with asyncio.timeout(timeout):
            while self.passed < count:
                self._changed.clear()
                await self._changed.wait()

    async def _until_released(self, data: bytes) -> None:
        while self.hold or (self.hold_before is not None and self.hold_before in data):
            self._changed.clear()
            await self._changed.wait()

    def _judge(self, data: bytes) -> tuple[bytes, bool]:
        """What may pass of `data`, and whether the connection breaks after it."""
        if self.garble is not None:
            data = self.garble(data)
        if self.cut_before is not None and (place := data.find(self.cut_before)) >= 0:
            self.cut_before = None
            return data[:place], True
        if self.cut_after is not None:
            if len(data) >= self.cut_after:
                data, self.cut_after = data[: self.cut_after], None
                return data, True
            self.cut_after -= len(data)
        return data, False

    def _count(self, size: int) -> None:
        self.passed += size
        self._changed.set()


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._ends: list[asyncio.StreamWriter] = []
        for end in (self._client, self._server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(self._server, (HOST, self._proxy.target_port))
            from_client, to_client = await asyncio.open_connection(sock=self._client)
            self._ends.append(to_client)
            from_server, to_server = await asyncio.open_connection(sock=self._server)
            self._ends.append(to_server)
        except OSError:
            self.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(from_client, to_server, self._proxy.to_server))
                group.create_task(self._carry(from_server, to_client, self._proxy.to_client))
        except* (_Cut, ConnectionError):
            self.abort()
        finally:
            for end in self._ends:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane) -> None:
        held = b""
        while data := await reader.read(READ_SIZE):
            await lane._until_released(data)
            data, cut = lane._judge(data)
            if not lane.swallow:
                held += data
                if len(held) >= lane.merge or cut:
                    await self._pass(held, writer, lane)
                    held = b""
            if cut:
                raise _Cut
        if not lane.swallow:
            await self._pass(held, writer, lane)
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, lane: Lane) -> None:
        if lane.delay:
            await asyncio.sleep(lane.delay)
        size = lane.piece or len(data) or 1
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if lane.piece:
                await asyncio.sleep(0)
            lane._count(min(size, len(data) - start))

    def abort(self) -> None:
        """Break both ends with a reset, as a router does that has forgotten the connection."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for writer in self._ends:
            writer.transport.abort()
        if len(self._ends) < 2:
            # Not yet, or only half, in the hands of the loop.
            self._client.close()
            self._server.close()


class Proxy:
    """Listens on a free port of its own and forwards to `target_port` of this machine."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.to_server = Lane()
        self.to_client = Lane()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def accept(self) -> None:
        """Listen (again), always on the same port."""
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port))
            self._listener.setblocking(False)
            # Not asyncio's own server: between its accept and its hand-over lie turns of the loop in which `refuse`
            # would miss a connection.
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def refuse(self) -> None:
        """Stop listening and break what is open: connecting is refused until `accept`."""
        self.refuse_others()
        await self.cut()

    def refuse_others(self) -> None:
        """Stop listening; what is open stays so."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def cut(self) -> None:
        """Break every open connection with a reset."""
        connections, self._connections = self._connections, {}
        for task, connection in connections.items():
            connection.abort()
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def heal(self) -> None:
        self.to_server.clear()
        self.to_client.clear()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection = _Connection(self, client)
        task = asyncio.create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()


def flip_bits(rng: random.Random, probability: float) -> Garble:
    """Flip a bit of each byte with that probability."""

    def garble(data: bytes) -> bytes:
        return bytes(byte ^ 1 << rng.randrange(8) if rng.random() < probability else byte for byte in data)

    return garble
