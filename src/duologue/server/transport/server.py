"""The Socket.IO server: an engine with the application on each of its sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.connection import AckHandler, App, Connection, TypedEvents, TypedHandler
from duologue.server.transport.counters import Counters
from duologue.server.transport.engine import Admit, Engine
from duologue.server.transport.http_protocol import http_protocol
from duologue.server.transport.picows_protocol import websocket_protocol
from duologue.server.transport.polling import PollingEndpoint
from duologue.server.transport.session import Session
from duologue.wire.limits import Limits
from duologue.wire.refused import Refuser
from duologue.wire.typed import Schemas

if TYPE_CHECKING:
    import asyncio

    from msgspec import Struct
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class SocketServer:
    """See the package's docstring. `other_engines` of `ws_protocol_class` are served beside it, by path; their maker
    starts and stops them."""

    def __init__(
        self,
        app: App,
        config: TransportConfig | None = None,
        limits: Limits | None = None,
        *,
        admit: Admit | None = None,
        on_ack: AckHandler | None = None,
        types: Mapping[str, type[Struct]] | None = None,
        on_typed_event: TypedHandler | None = None,
        refuser: Refuser | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._on_ack = on_ack
        self._engine = Engine(self._connection, config, limits, admit=admit, clock=clock)
        self._typed: TypedEvents | None = None
        if types is not None and on_typed_event is not None:
            self._typed = TypedEvents(Schemas(types, self._engine.limits, refuser), on_typed_event)

    @property
    def asgi(self) -> PollingEndpoint:
        return self._engine.asgi

    @property
    def counters(self) -> Counters:
        return self._engine.counters

    def ws_protocol_class(self, other_engines: Mapping[str, Engine] | None = None) -> type[asyncio.BufferedProtocol]:
        return websocket_protocol({self._engine.config.path: self._engine, **(other_engines or {})})

    def http_protocol_class(self) -> type[HttpToolsProtocol]:
        return http_protocol(self._engine.wheel, self._engine.config, self._engine.is_proxy)

    async def start(self) -> None:
        await self._engine.start()

    async def drain(self) -> None:
        await self._engine.drain()

    async def stop(self) -> None:
        await self._engine.stop()

    def _connection(self, session: Session) -> Connection:
        engine = self._engine
        timeout = engine.config.connect_timeout
        return Connection(session, self._app, engine.limits, engine.wheel, timeout, self._on_ack, self._typed)
