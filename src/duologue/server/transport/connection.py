"""The Socket.IO side of a session: its namespaces, and the application's sockets in them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from duologue.server.transport.session import Session
from duologue.server.transport.socket import Socket
from duologue.server.transport.wheel import Wheel
from duologue.wire.limits import Limits
from duologue.wire.namespaces import Input, Namespaces, Received
from duologue.wire.refused import Refused
from duologue.wire.socketio import MAIN, Ack, Connect, Disconnect, Event
from duologue.wire.typed import Schemas, TypedEvent
from duologue.wire.violation import Violation

log = logging.getLogger("duologue.transport")

_ID_BYTES = 15


class App(Protocol):
    """The application: one object for the whole server. See the package's docstring."""

    def on_connect(self, socket: Socket, auth: Raw | None) -> None: ...

    def on_event(
        self, socket: Socket, name: str, args: list[Raw], ack_id: int | None, attachments: tuple[bytes, ...]
    ) -> None: ...

    def on_disconnect(self, socket: Socket, reason: str) -> None: ...


AckHandler = Callable[[Socket, int, list[Raw], tuple[bytes, ...]], None]
"""Gets what clients answer to events that were sent with an ack id."""

TypedHandler = Callable[[Socket, str, Any, int | None], bytes | None]
"""Gets the events that the server's schemas take: name, argument, ack id. All others go to `App.on_event`. What it returns, the
arguments of an ACK, answers all that `Refuser.names` names and that comes after this in the same turn of the loop."""


class TypedEvents(NamedTuple):
    """The types that an application's events have in the main namespace, and who gets them."""

    schemas: Schemas
    handler: TypedHandler


class Connection:
    """Sits on a session (`session.Handler`). In no namespace for `connect_timeout`, the session is closed."""

    __slots__ = (
        "_app", "_connect_timeout", "_namespaces", "_on_ack", "_refused", "_sockets", "_typed", "_wheel", "due", "session",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        app: App,
        limits: Limits,
        wheel: Wheel,
        connect_timeout: float,
        on_ack: AckHandler | None,
        typed: TypedEvents | None,
    ) -> None:
        self.session = session
        self.due = 0
        self._app = app
        self._on_ack = on_ack
        self._wheel = wheel
        self._connect_timeout = connect_timeout
        self._typed = typed
        self._namespaces = Namespaces(limits)
        self._sockets: dict[str, Socket] = {}
        self._refused: Refused | None = None
        """Events that are still to be answered: at the end of this turn of the loop, or of the namespace if that is sooner."""
        wheel.schedule(self, connect_timeout)

    # From the session

    def on_text(self, packet: bytes) -> None:
        typed = self._typed
        try:
            if (
                typed is None
                or not self._namespaces.open
                or (received := typed.schemas.decode(packet, self._refused)) is None
            ):
                self._dispatch(self._namespaces.receive_text(packet))
            elif isinstance(received, TypedEvent):
                refusal = typed.handler(self._sockets[MAIN], received.name, received.argument, received.ack_id)
                if refusal is not None and self._refused is None:
                    self._refuse(typed.schemas.refused(refusal))
            elif self._refused is None:
                self._refuse(received)
        except Exception as error:
            self._failed(error)

    def on_binary(self, content: bytes) -> None:
        self._dispatch(self._namespaces.receive_binary(content))

    def on_close(self, reason: str) -> None:
        self._wheel.cancel(self)
        sockets, self._sockets = self._sockets, {}
        for socket in sockets.values():
            self._farewell(socket, reason)

    def expire(self) -> None:
        self.session.close("no CONNECT in time")

    def flush(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            for frame in refused.frames():
                self.session.send(frame)

    # From sockets

    def holds(self, socket: Socket) -> bool:
        return self._sockets.get(socket.namespace) is socket

    def apply(self, socket: Socket, what: Input) -> bool:
        """The application's answer or farewell, if this socket is still the one of its namespace."""
        self.flush()
        return self.holds(socket) and self._namespaces.apply(socket.namespace, what)

    def leave(self, socket: Socket, reason: str | None = None) -> None:
        """Let go of a socket; the application hears of it if there's a reason."""
        del self._sockets[socket.namespace]
        if not self._sockets and not self.session.closed:
            self._wheel.schedule(self, self._connect_timeout)
        if reason is not None:
            self._farewell(socket, reason)

    # Inside

    def _refuse(self, refused: Refused) -> None:
        """Answer at the turn's end what is in it, and what will be by then."""
        self._refused = refused
        self.session.mark()

    def _dispatch(self, received: Received) -> None:
        try:
            if type(received) is Event:
                socket = self._sockets[received.namespace]
                self._app.on_event(socket, received.name, received.args, received.ack_id, received.attachments)
            elif isinstance(received, Violation):
                self.session.violate(received.reason)
            elif isinstance(received, Connect):
                self._wheel.cancel(self)
                socket = Socket(self, secrets.token_urlsafe(_ID_BYTES), received.namespace)
                self._sockets[received.namespace] = socket
                self._app.on_connect(socket, received.auth)
            elif isinstance(received, Disconnect):
                self.flush()
                dismissed = self._sockets.get(received.namespace)
                if dismissed is not None:
                    self.leave(dismissed, "client disconnected")
            elif isinstance(received, Ack) and self._on_ack is not None:
                socket = self._sockets[received.namespace]
                self._on_ack(socket, received.ack_id, received.args, received.attachments)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.error("the application failed; its connection is closed", exc_info=error)
        self.session.fail()

    def _farewell(self, socket: Socket, reason: str) -> None:
        socket.end()
        try:
            self._app.on_disconnect(socket, reason)
        except Exception:
            log.exception("the application failed at a disconnection")
