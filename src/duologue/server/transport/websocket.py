"""Websocket messages of one connection, between picows' frames and a session."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from duologue.server.transport.engine import Engine, Opening
from duologue.server.transport.session import PROTOCOL_ERROR, SHUTTING_DOWN, Session
from duologue.wire.messages import BINARY, CONTINUATION, TEXT, Assembler
from duologue.wire.violation import Violation

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("duologue.transport")

INVALID_TEXT = 1007

_TEXT = WSMsgType.TEXT
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_OPCODES = {WSMsgType.CONTINUATION: CONTINUATION, WSMsgType.TEXT: TEXT, WSMsgType.BINARY: BINARY}


class WebsocketConnection(WSListener):
    """What a connection is after its handshake. Checks what picows doesn't: reserved bits, the order of fragments,
    UTF-8.

    States: carrying a session, probing for one, or closing (`_session` is None) until the peer answers the close frame
    or `close_timeout` ends.
    """

    __slots__ = ("_assembler", "_engine", "_opening", "_session", "_transport", "_underlying", "due")

    def __init__(self, engine: Engine, opening: Opening, underlying: asyncio.Transport) -> None:
        self._engine = engine
        self._opening: Opening | None = opening
        self._session: Session | None = None
        self._assembler: Assembler | None = None
        self._transport: Any = None
        self._underlying = underlying
        self.due = 0

    # From picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        opening, self._opening = self._opening, None
        if opening is None:
            return
        self._session = self._engine.open_websocket(self, opening)
        if self._session is None:
            self.close(PROTOCOL_ERROR)
        elif self._session.probing(self):
            self._engine.wheel.schedule(self, self._engine.config.upgrade_timeout)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        session = self._session
        if session is None:
            if frame.msg_type is WSMsgType.CLOSE:
                self._transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail("reserved bits", PROTOCOL_ERROR)
            return
        kind = frame.msg_type
        if kind is _TEXT and frame.fin and self._assembler is None:
            content = frame.get_payload_as_bytes()
            if content.isascii() and session.websocket is self:
                session.receive_text(content)  # the hot path
            else:
                self._receive(session, TEXT, content)
            return
        opcode = _OPCODES.get(kind)
        if opcode is not None:
            self._data(session, opcode, bool(frame.fin), frame.get_payload_as_bytes())
        elif kind is WSMsgType.PING:
            # A peer that floods pings and reads nothing would fill our memory with pongs.
            if not self._underlying.get_write_buffer_size():
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            self._session = None
            self._transport.send_close(WSCloseCode.OK if _is_proper(frame) else WSCloseCode.PROTOCOL_ERROR)
            self._transport.disconnect()
            # A peer that doesn't read what is still buffered would keep the socket for ever.
            self._engine.wheel.schedule(self, self._engine.config.close_timeout)
            self._leave(session)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._engine.wheel.cancel(self)
        self._engine.websocket_gone()
        session, self._session = self._session, None
        if session is not None:
            handshake = transport.close_handshake
            # We have sent no close frame, so if there's one, picows has, after a frame that it could not read.
            self._leave(session, violated=handshake is not None and handshake.sent is not None)

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause()

    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume()

    # Messages

    def _data(self, session: Session, opcode: int, fin: bool, content: bytes) -> None:
        if self._assembler is None:
            self._assembler = Assembler(self._engine.limits)
        message = self._assembler.receive(opcode, fin, content)
        if isinstance(message, Violation):
            self._fail(message.reason, PROTOCOL_ERROR)
            return
        if not self._assembler.busy:
            self._assembler = None
        if message is not None:
            self._receive(session, *message)

    def _receive(self, session: Session, opcode: int, content: bytes) -> None:
        if opcode == BINARY:
            if session.websocket is self:
                session.receive_binary(content)
            else:
                self._fail("binary message while probing", PROTOCOL_ERROR)
            return
        if not content.isascii():
            try:
                content.decode()
            except UnicodeDecodeError:
                self._fail("text is not UTF-8", INVALID_TEXT)
                return
        if session.websocket is self:
            session.receive_text(content)
        else:
            session.receive_probe(content)
            if session.websocket is self:
                self._engine.wheel.cancel(self)

    def _fail(self, reason: str, code: int) -> None:
        session = self._session
        if session is None:
            return
        if session.websocket is self:
            session.violate(reason, code)
        else:
            log.warning("upgrade of session %s failed: protocol error: %s", session.sid[:6], reason)
            session.detach(self)
            self.close(code)

    def _leave(self, session: Session, violated: bool = False) -> None:
        if session.websocket is self:
            session.lost(violated)
        else:
            session.detach(self)

    # For the session (session.Websocket)

    def write(self, data: bytes) -> None:
        self._underlying.write(data)

    def buffered(self) -> int:
        return self._underlying.get_write_buffer_size()

    def close(self, code: int) -> None:
        self._session = None
        self._transport.send_close(WSCloseCode(code))
        self._engine.wheel.schedule(self, self._engine.config.close_timeout)

    def abort(self) -> None:
        self._session = None
        self._underlying.abort()

    def expire(self) -> None:
        """The upgrade took too long, or the close frame was not answered."""
        session, self._session = self._session, None
        if session is None:
            self._underlying.abort()
        else:
            session.detach(self)
            self.close(PROTOCOL_ERROR)

    def shut_down(self, code: int) -> None:
        """The server is going down; new connections come to its successor."""
        session = self._session
        if session is None:
            return
        if session.websocket is self:
            session.close(SHUTTING_DOWN, code)
        else:
            session.detach(self)
            self.close(code)


def _is_proper(close: WSFrame) -> bool:
    """Whether a close frame's code may be sent (RFC 6455 section 7.4); one without a code is proper."""
    if not close.payload_size:
        return True
    code: Any = close.get_close_code()  # an IntEnum that admits any number; the stub says Enum
    return code in _SENDABLE or 3000 <= code <= 4999
