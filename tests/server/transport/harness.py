"""A real uvicorn on a free port, in the test's own event loop, with an application that writes down what it hears."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from msgspec import Raw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from duologue.server.transport import Limits, Socket, SocketServer, TransportConfig, encode_event, encode_frame

PATIENCE = 10.0
"""Seconds after which something that ought to happen counts as not happening."""

LARGE = 50_000_000

HOST = b"Host: 127.0.0.1\r\n"
OPEN = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n" + HOST + b"\r\n"

Serve = Callable[..., AbstractAsyncContextManager["Running"]]


class Recorder:
    """Accepts everybody; `echo` comes back, `boom` raises."""

    def __init__(self) -> None:
        self.sockets: list[Socket] = []
        self.events: list[str] = []
        self.ends: list[str] = []

    def on_connect(self, socket: Socket, auth: Raw | None) -> None:
        self.sockets.append(socket)
        socket.accept()

    def on_event(
        self, socket: Socket, name: str, args: list[Raw], ack_id: int | None, attachments: tuple[bytes, ...]
    ) -> None:
        if name == "boom":
            raise ZeroDivisionError(name)
        self.events.append(name)
        socket.send(encode_frame(encode_event("echo", *map(bytes, args))))

    def on_disconnect(self, socket: Socket, reason: str) -> None:
        self.ends.append(reason)


class Running:
    def __init__(
        self,
        server: SocketServer,
        app: Recorder,
        port: int,
        http_connections: Collection[object],
        http_requests: Collection[object],
    ) -> None:
        self.server = server
        self.app = app
        self.port = port
        self.http_connections = http_connections
        self.http_requests = http_requests
        """That are being answered."""
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return Peer(reader, writer, self.port)

    async def websocket(self, query: str = "", **headers: str) -> Peer:
        peer = await self.open()
        assert (await peer.shake_hands(query, **headers)).startswith("HTTP/1.1 101")
        return peer

    async def connected(self) -> Peer:
        peer = await self.websocket()
        await peer.frame()
        peer.send(b"40")
        await peer.frame()
        return peer

    async def request(self, text: bytes) -> tuple[int, bytes]:
        peer = await self.open()
        peer.writer.write(text)
        return await peer.response()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Peer:
    """The other end, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader = reader
        self.writer = writer
        self.port = port

    async def shake_hands(self, query: str = "", **headers: str) -> str:
        fields = {
            "Host": f"127.0.0.1:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        target = f"/socket.io/?EIO=4&transport=websocket{query}"
        self.writer.write(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    def send(self, content: bytes, opcode: int = 1, first: int | None = None) -> None:
        """A masked frame; `first` replaces the whole first byte."""
        head = bytes([0x80 | opcode if first is None else first])
        size = len(content)
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65_536:
            head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
        else:
            head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
        self.writer.write(head + bytes(4) + content)  # a mask of zeros

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE):
            first, second = await self.reader.readexactly(2)
            size = second
            if second == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif second == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first & 15, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Of the next close frame; what comes before it is skipped."""
        while True:
            opcode, content = await self.frame()
            if opcode == 8:
                return int.from_bytes(content[:2], "big")

    async def response(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            return int(head.split(" ")[1]), await self.reader.readexactly(length)

    async def end(self) -> bytes:
        """Whatever comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


async def polling(running: Running) -> bytes:
    """The target of a new polling session."""
    status, body = await running.request(OPEN)
    assert status == 200
    sid: str = json.loads(body[1:])["sid"]
    return b"/socket.io/?EIO=4&transport=polling&sid=" + sid.encode()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - any condition, not an event
            await asyncio.sleep(0)


async def _large(request: Request) -> Response:
    """More than the system's buffers take for a peer that doesn't read."""
    return Response(bytes(LARGE))


async def _stream(request: Request) -> Response:
    """The same, in parts of which each waits for the one before to be taken."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(LARGE // 50_000):
            yield bytes(50_000)

    return StreamingResponse(parts())


@asynccontextmanager
async def serving(limits: Limits | None = None, admit: Any = None, **settings: Any) -> AsyncIterator[Running]:
    app = Recorder()
    server = SocketServer(app, TransportConfig(**settings), limits, admit=admit)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=[Mount("/socket.io", server.asgi), Route("/large", _large), Route("/stream", _stream)]),
        ws=server.ws_protocol_class(),  # type: ignore[arg-type]
        http=server.http_protocol_class(),
        lifespan="off",
        log_level="error",
    )
    web = uvicorn.Server(config)
    await server.start()
    config.load()
    web.lifespan = config.lifespan_class(config)
    await web.startup(sockets=[listener])
    running = Running(server, app, listener.getsockname()[1], web.server_state.connections, web.server_state.tasks)
    try:
        yield running
    finally:
        running.close()
        await server.stop()
        await web.shutdown(sockets=[listener])
