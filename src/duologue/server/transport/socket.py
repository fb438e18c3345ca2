"""One namespace of one connection, as the application sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from duologue.wire.frames import Frame, encode_frame
from duologue.wire.namespaces import Input
from duologue.wire.socketio import encode_ack, encode_connect, encode_connect_error, encode_disconnect

if TYPE_CHECKING:
    from duologue.server.transport.connection import Connection


def _drop(frame: Frame) -> None:
    """Where frames go before a socket is accepted and after its end."""


class Socket:
    """See the package's docstring. Every method may be called at any time; after the end it does nothing."""

    __slots__ = ("_connection", "connected", "data", "id", "namespace", "send")

    def __init__(self, connection: Connection, id: str, namespace: str) -> None:
        self._connection = connection
        self.send: Callable[[Frame], None] = _drop
        """Queue a frame of this namespace; it leaves at the end of this turn of the loop."""
        self.id = id
        self.namespace = namespace
        self.connected = False
        self.data: Any = None

    @property
    def address(self) -> str:
        return self._connection.session.address

    @property
    def headers(self) -> Mapping[str, str]:
        return self._connection.session.headers

    def accept(self) -> None:
        if self._connection.apply(self, Input.ACCEPT):
            self.connected = True
            # The session's own from here on: everything that anybody is sent goes through it.
            self.send = self._connection.session.send
            self.send(encode_frame(encode_connect(self.id, self.namespace)))

    def refuse(self, message: str, data: bytes | None = None) -> None:
        """Send CONNECT_ERROR. `data` is a JSON text, found by the stock client in `error.data`."""
        if self._connection.apply(self, Input.REFUSE):
            self._connection.session.send(encode_frame(encode_connect_error(message, data, self.namespace)))
            self._connection.leave(self)

    def ack(self, ack_id: int, *json_args: bytes) -> None:
        """Answer an event that came with `ack_id`; the arguments are JSON texts."""
        self.send(encode_frame(encode_ack(ack_id, *json_args, namespace=self.namespace)))

    def disconnect(self) -> None:
        """End this namespace with a DISCONNECT packet, after which the stock client stays away."""
        if self._connection.apply(self, Input.DISCONNECT):
            self._connection.session.send(encode_frame(encode_disconnect(self.namespace)))
            self._connection.leave(self, "server disconnected")

    def end(self) -> None:
        """For the connection: this socket has left it."""
        self.connected = False
        self.send = _drop

    def close(self, reason: str) -> None:
        """End the whole connection without a DISCONNECT packet: the stock client reconnects by itself."""
        if self._connection.holds(self):
            self._connection.session.close(reason)
