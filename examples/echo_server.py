"""A Socket.IO server of its own, made of Duologue's wire core and transports alone: it echoes.

It's what the public test suites of the Engine.IO v4 and Socket.IO v5 protocols expect to talk to:

    python examples/echo_server.py --port 3000 --ping-interval 300 --ping-timeout 1000
"""

from __future__ import annotations

import argparse
import asyncio
import socket as socket_module
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from msgspec import Raw
from starlette.applications import Starlette
from starlette.routing import Mount

from duologue.server.transport import Engine, Socket, SocketServer, TransportConfig
from duologue.server.transport.session import Session
from duologue.wire import Limits, encode_ack, encode_binary_frame, encode_event, encode_frame

NAMESPACES = ("/", "/custom")
GREETING_DELAY = 0.02  # seconds


class Echo:
    """Answers `message` with `message-back`, `message-with-ack` with its ack, binary arguments included.

    The first event of a namespace is `auth`, with the payload of its CONNECT. It leaves a moment after the CONNECT: frames
    that arrive together are all handed over before a client that awaits one and then listens for the next, as the
    public Socket.IO suite does, can listen.
    """

    def __init__(self) -> None:
        self._greetings: dict[Socket, bytes] = {}

    def on_connect(self, socket: Socket, auth: Raw | None) -> None:
        if socket.namespace not in NAMESPACES:
            socket.refuse("Invalid namespace")
            return
        socket.accept()
        self._greetings[socket] = b"{}" if auth is None else bytes(auth)
        asyncio.get_running_loop().call_later(GREETING_DELAY, self._greet, socket)

    def _greet(self, socket: Socket) -> None:
        payload = self._greetings.pop(socket, None)
        if payload is not None:
            socket.send(encode_frame(encode_event("auth", payload, namespace=socket.namespace)))

    def on_event(
        self, socket: Socket, name: str, args: list[Raw], ack_id: int | None, attachments: tuple[bytes, ...]
    ) -> None:
        self._greet(socket)
        # The arguments go back as they came, with the placeholders that stand for the attachments.
        json_args = [bytes(arg) for arg in args]
        namespace, count = socket.namespace, len(attachments)
        if name == "message":
            packet = encode_event("message-back", *json_args, namespace=namespace, attachments=count)
            socket.send(encode_frame(packet, attachments))
        elif name == "message-with-ack" and ack_id is not None:
            packet = encode_ack(ack_id, *json_args, namespace=namespace, attachments=count)
            socket.send(encode_frame(packet, attachments))

    def on_disconnect(self, socket: Socket, reason: str) -> None:
        self._greetings.pop(socket, None)


class RawEcho:
    """Echoes bare Engine.IO messages, without Socket.IO."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_text(self, packet: bytes) -> None:
        self._session.send(encode_frame(packet))

    def on_binary(self, content: bytes) -> None:
        self._session.send(encode_binary_frame(content))

    def flush(self) -> None:
        pass

    def on_close(self, reason: str) -> None:
        pass


class Server(uvicorn.Server):
    """Uvicorn, which would wait for the pending polls: they end when the sessions are closed, so that comes first."""

    def __init__(self, config: uvicorn.Config, engines: Sequence[SocketServer | Engine]) -> None:
        super().__init__(config)
        self._engines = engines

    async def shutdown(self, sockets: list[socket_module.socket] | None = None) -> None:
        for engine in self._engines:
            await engine.drain()
        await super().shutdown(sockets)


def main() -> None:
    parser = argparse.ArgumentParser(description="Echo server for the Engine.IO and Socket.IO test suites")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--ping-interval", type=int, default=25_000, help="milliseconds")
    parser.add_argument("--ping-timeout", type=int, default=20_000, help="milliseconds")
    options = parser.parse_args()

    config = TransportConfig(
        ping_interval=options.ping_interval / 1000,
        ping_timeout=options.ping_timeout / 1000,
        connect_timeout=1.0,
        allowed_origins=("*",),
    )
    limits = Limits(max_payload=1_000_000)
    server = SocketServer(Echo(), config, limits)
    raw = Engine(RawEcho, config, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await server.start()
        await raw.start()
        yield
        await raw.stop()
        await server.stop()

    app = Starlette(routes=[Mount("/socket.io", server.asgi), Mount("/engine.io", raw.asgi)], lifespan=lifespan)
    served = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        ws=server.ws_protocol_class({"/engine.io/": raw}),
        http=server.http_protocol_class(),
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    Server(served, [server, raw]).run()


if __name__ == "__main__":
    main()
