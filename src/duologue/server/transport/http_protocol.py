"""uvicorn's HTTP protocol with the bounds that it lacks: on the time for headers, on framing, on pipelined requests, on
readers; and with one reading of where a request ends, whatever it asks for besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.wheel import Wheel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_FRAMING_PER_BODY_BYTE = 8
"""Bytes of chunk framing that may come with a byte of body: `1\\r\\nx\\r\\n` and a little."""

_UNREAD = 4_000_000
"""Bytes that are taken of a request which was answered before its end. Were the connection closed at the answer, the reset that
the rest of the body meets could overtake it (RFC 9112, section 9.6), and a proxy would say 502."""


class _Lingering:
    """The transport as an answer uses it that comes before the end of its request and is to be the connection's last."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def http_protocol(wheel: Wheel, config: TransportConfig, is_proxy: Callable[[str], bool]) -> type[HttpToolsProtocol]:  # noqa: C901  # the class's methods are counted as this function's branches
    """The class for uvicorn's `http=` setting. Its time-outs run on `wheel`; `is_proxy` tells of a peer's address whether
    it's that of a trusted proxy."""

    class BoundedHttpProtocol(HttpToolsProtocol):
        """Closes peers that connect and say nothing, whose headers come slowly or never end, whose chunks and trailers
        are mere framing, that send many requests without waiting for an answer, or that don't read theirs.

        The parser ends each request that asks for an upgrade (RFC 9110, section 7.8) at its headers, also if it says that a
        body follows: what came next would be taken for a request, and behind a proxy for somebody else's. So there's no
        such body, and after another upgrade than that to a websocket no next request.
        """

        due = 0
        _received = 0
        _headers = 0
        _body = 0
        _in_message = False
        _is_last = False
        _idle_timeout = config.header_timeout
        _answering: RequestResponseCycle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it
            super().connection_made(transport)
            if self.client is not None and is_proxy(self.client[0]):
                self._idle_timeout = config.proxy_idle_timeout
                self.timeout_keep_alive = config.proxy_idle_timeout  # type: ignore[assignment]  # uvicorn has whole seconds
            wheel.schedule(self, self._idle_timeout)

        def connection_lost(self, exc: Exception | None) -> None:
            wheel.cancel(self)
            super().connection_lost(exc)
            if self._answering is not None and not self._answering.response_complete:
                # uvicorn tells the last request only; others are pipelined behind this one.
                self._answering.disconnected = True
                self._answering.message_event.set()

        def data_received(self, data: bytes) -> None:
            self._received += len(data)
            super().data_received(data)
            framing = self._received - self._body
            if (
                self._in_message
                and framing > config.max_header_bytes + _FRAMING_PER_BODY_BYTE * self._body
                and not self.transport.is_closing()
            ):
                self.send_400_response("Too much besides the body.")
            elif self._in_message and self.cycle and self.cycle.response_complete and self._received > _UNREAD:
                self.transport.abort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._in_message:
                self._unset_keepalive_if_required()
            self._wait_for_the_next()

        def send_400_response(self, msg: str) -> None:
            if not self.transport.is_closing():
                super().send_400_response(msg)
            wheel.schedule(self, config.header_timeout)

        def pause_writing(self) -> None:
            super().pause_writing()
            wheel.schedule(self, config.write_timeout)

        def resume_writing(self) -> None:
            super().resume_writing()
            wheel.cancel(self)
            self._wait_for_the_next()

        def on_message_begin(self) -> None:
            if self._is_last:
                raise httptools.HttpParserError("a request behind the last one")
            super().on_message_begin()
            self._received = 0
            self._headers = 0
            self._body = 0
            self._in_message = True
            wheel.schedule(self, config.header_timeout)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._headers += len(name) + len(value)
            if self._headers > config.max_header_bytes:
                raise httptools.HttpParserError("too much in the headers")  # uvicorn answers 400 and closes
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            wheel.cancel(self)
            if len(self.pipeline) >= config.max_pipelined:
                raise httptools.HttpParserError("too many pipelined requests")  # as above
            length = max((int(value) for name, value in self.headers if name == b"content-length"), default=0)
            has_body = length > 0 or any(name == b"transfer-encoding" for name, _ in self.headers)
            is_upgrade = self.parser.should_upgrade()
            if is_upgrade and has_body:
                raise httptools.HttpParserError("a body behind an upgrade")
            if is_upgrade and self._should_upgrade():
                if self.cycle and not self.cycle.response_complete:
                    # Nobody would tell it any more when its peer goes or reads on.
                    raise httptools.HttpParserError("an upgrade behind a request that isn't answered")
                super().on_headers_complete()
                return
            super().on_headers_complete()
            if is_upgrade or self.expect_100_continue or length > _UNREAD:
                # Who expects 100 (Continue) may send the body or not after another answer: nobody can tell (RFC 9110, 10.1.1).
                self.cycle.keep_alive = False
            if has_body and not self.cycle.keep_alive:
                self.cycle.transport = _Lingering(self.transport, self._close_when_read)  # type: ignore[assignment]  # all that it uses

        def on_body(self, body: bytes) -> None:
            self._body += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_message = False
            super().on_message_complete()
            if self._is_last:
                self.transport.close()
            self._wait_for_the_next()  # it may have been answered before its end

        def handle_websocket_upgrade(self) -> None:
            super().handle_websocket_upgrade()
            wheel.cancel(self)
            self._in_message = False
            self.parser = None  # type: ignore[assignment]  # it holds this object, which nobody needs any more

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)

        def _close_when_read(self) -> None:
            """Close, after an answer, once the request is there whose answer it was."""
            if self._in_message and self._answering is self.cycle:
                self._is_last = True
            else:
                self.transport.close()

        def _wait_for_the_next(self) -> None:
            """From an answer to the next headers. uvicorn's own timer is put off by every byte, an empty line or the rest of
            a body included, and its close waits for ever for a peer that doesn't read."""
            if not self.cycle or not self.cycle.response_complete or self.flow.write_paused:
                return
            if self.transport.is_closing():
                wheel.schedule(self, config.header_timeout)
            else:
                wheel.schedule(self, config.body_timeout if self._in_message else self._idle_timeout)

        def expire(self) -> None:
            self.transport.abort()

        def shutdown(self) -> None:
            wheel.cancel(self)
            super().shutdown()

    return BoundedHttpProtocol
