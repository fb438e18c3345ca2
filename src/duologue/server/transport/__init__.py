"""A fast Socket.IO server: websockets by picows, long-polling by ASGI, one session object behind both.

This is the interface that the chat gateway uses, and one that a stranger can use without the chat. It imports only
`duologue.wire`. All of it belongs to one event loop and one thread.

The application is one object for the whole server::

    class App(Protocol):
        def on_connect(self, socket: Socket, auth: msgspec.Raw | None) -> None
            # a CONNECT packet. Answer now or at any later time with socket.accept() or socket.refuse(); until then
            # no event of this socket is passed on (a client that sends one earlier is closed)
        def on_event(self, socket: Socket, name: str, args: list[msgspec.Raw], ack_id: int | None,
                     attachments: tuple[bytes, ...]) -> None
            # in order of arrival, only between accept() and on_disconnect(). `args` are raw JSON, checked for syntax
            # and depth, without the name. `attachments` is () unless the event was binary; its placeholders were
            # checked and duologue.wire.resolve_attachments(args, attachments) puts the bytes in their places
        def on_disconnect(self, socket: Socket, reason: str) -> None
            # exactly once for each socket that on_connect got, accepted or not, except one that was refused by refuse()

    class Socket:                       # one namespace of one connection
        id: str                         # 20 characters, unguessable, never used again; the `sid` of its CONNECT answer
        namespace: str                  # "/" or "/name"
        address: str                    # the peer's IP address ("" on a Unix socket)
        headers: Mapping[str, str]      # the handshake's headers of TransportConfig.keep_headers, names in lower case
        data: Any                       # the application's own, None at first
        connected: bool                 # between accept() and the end
        def accept(self) -> None
        def refuse(self, message: str, data: bytes | None = None) -> None
            # CONNECT_ERROR {message, data}; data is a JSON text
        def send(self, frame: Frame) -> None                # queued, leaves at the end of this turn of the loop
        def ack(self, ack_id: int, *json_args: bytes) -> None
        def disconnect(self) -> None                        # Socket.IO DISCONNECT: the stock client then stays away
        def close(self, reason: str) -> None                # ends the whole connection; the stock client comes back

All of Socket's methods may be called at any time, also after the end: then they do nothing. `disconnect` and `close`
call `on_disconnect` before they return; `send` never does, so a loop over sockets may send to all of them: a slow
reader is closed at the end of the turn.

A frame is encoded once and sent to any number of sockets of its namespace::

    frame = encode_frame(encode_event("private message", b'{"content":"hi"}'))        # both from duologue.wire

The server::

    server = SocketServer(app, TransportConfig(), Limits(), admit=None, clock=time.monotonic)
    uvicorn.Config(asgi, ws=server.ws_protocol_class(), http=server.http_protocol_class(), ...)
    server.asgi                   # the ASGI endpoint for polling, to mount at TransportConfig.path
    await server.start()          # starts the timer wheel's task
    await server.drain()          # refuses new connections (503) and closes all, without DISCONNECT packets
    await server.stop()           # drain, then ends the task
    server.counters               # connections, slow readers closed, violations, ...

An application whose events have types may have them decoded in the same pass that reads the packet: the events of the
main namespace with one argument of the type that `types` has for their name go to `on_typed_event(socket, name, argument,
ack_id)`; whatever differs in any way goes to `on_event` as ever::

    SocketServer(app, ..., types={"private message": PrivateMessage}, on_typed_event=app.on_typed_event)

`refuser`, a `duologue.wire.Refuser`, is asked before the argument of an event of its names is read, if that wants an ack, and
may answer it then and there. Whom it refuses something is refused all such events that come in the same turn of the loop. So an
overloaded application has next to nothing to do for a no. The same begins when `on_typed_event` returns the arguments of an ACK:
that event it has answered itself, those after it are answered with this.

`admit(address) -> float | None` is asked once a handshake: None lets the peer in, seconds refuse it with 429 and
Retry-After.
"""

from __future__ import annotations

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.connection import App
from duologue.server.transport.counters import Counters
from duologue.server.transport.engine import Engine
from duologue.server.transport.server import SocketServer
from duologue.server.transport.socket import Socket
from duologue.wire import Frame, Limits, encode_event, encode_frame

__all__ = [
    "App",
    "Counters",
    "Engine",
    "Frame",
    "Limits",
    "Socket",
    "SocketServer",
    "TransportConfig",
    "encode_event",
    "encode_frame",
]
