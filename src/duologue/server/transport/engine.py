"""An Engine.IO server: the sessions, and the one way in for both transports."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.counters import Counters
from duologue.server.transport.handshake import (
    BAD_METHOD,
    FORBIDDEN,
    UNAVAILABLE,
    UNKNOWN_SID,
    WEBSOCKET,
    OriginPolicy,
    Refused,
    check_query,
    client_address,
    is_proxy,
    parse_query,
)
from duologue.server.transport.polling import PollingEndpoint
from duologue.server.transport.session import SERVICE_RESTART, SHUTTING_DOWN, Handler, Session, Shared, Websocket
from duologue.server.transport.wheel import Wheel, turn
from duologue.wire.engineio import encode_open
from duologue.wire.frames import encode_frame
from duologue.wire.limits import Limits

log = logging.getLogger("duologue.transport")

Admit = Callable[[str], float | None]
"""Asked with the peer's address before a session opens: None lets it in, seconds say when to come again."""

_TICKS_PER_DEADLINE = 40
_FINEST_TICK = 0.005
_COARSEST_TICK = 0.25

_SID_BYTES = 15
_SID_CHARACTERS = 20

_LONGEST_SID = 80
"""Characters of what is looked at as another node's session."""

_MISROUTED_PAUSE = 60.0
"""Seconds between two warnings of that: each wrongly routed client comes again and again."""

_MISROUTED = (
    "a request for a session of node %r came to this one: long-polling needs a proxy that routes by the session's id "
    "(docs/operations/proxy.md), or clients that use websockets only"
)
_NAMELESS = (
    "a request for a session that is unknown here came, and its id names no node: if another one holds it, long-polling "
    "needs --node on each of them and a proxy that routes by it (docs/operations/proxy.md), or clients that use websockets only"
)


class Opening(msgspec.Struct, frozen=True):
    """A websocket handshake that passed every check. `session` is the one it wants to take over, or None for a new
    one."""

    session: Session | None
    address: str
    headers: Mapping[str, str]


class Engine:
    """Sessions of one path. `handler` makes what sits on each new session; `session.send` is there for it at once."""

    def __init__(
        self,
        handler: Callable[[Session], Handler],
        config: TransportConfig | None = None,
        limits: Limits | None = None,
        *,
        admit: Admit | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or TransportConfig()
        self.limits = limits or Limits()
        self.origins = OriginPolicy(self.config.allowed_origins, self.config.own_hosts)
        shortest = min(self.config.ping_interval, self.config.ping_timeout, self.config.connect_timeout)
        self.wheel = Wheel(min(_COARSEST_TICK, max(_FINEST_TICK, shortest / _TICKS_PER_DEADLINE)))
        self._prefix = f"{self.config.node}." if self.config.node else ""
        self._trusted = tuple(ipaddress.ip_network(each) for each in self.config.trusted_proxies)
        self._handler = handler
        self._admit = admit
        self._clock = clock
        self._shared = Shared(self.config, self.limits, self.wheel, self._forget)
        self._sessions: dict[str, Session] = {}
        self.asgi = PollingEndpoint(self)
        self._turning: asyncio.Task[None] | None = None
        self._websockets = 0
        self._misrouted_at = -math.inf
        self._all_gone: asyncio.Event | None = None

    @property
    def counters(self) -> Counters:
        return self._shared.counters

    # Life

    async def start(self) -> None:
        """Begin to measure time. Raises RuntimeError if it runs already."""
        if self._turning is not None:
            raise RuntimeError("the engine runs already")
        self._turning = asyncio.create_task(turn(self.wheel, self._clock), name="duologue transport wheel")
        self._turning.add_done_callback(_report)

    async def drain(self) -> None:
        """Refuse new sessions and close all others, each once it has sent what it had to, and wait up to `close_timeout`
        for the peers to take it and go. No Socket.IO packet says goodbye: stock clients come back by themselves."""
        self._shared.draining = True
        for session in list(self._sessions.values()):
            if session.settled:
                session.close(SHUTTING_DOWN, SERVICE_RESTART)
        if not self._sessions and not self._websockets:
            return
        self._all_gone = asyncio.Event()
        try:
            async with asyncio.timeout(self.config.close_timeout + 1):
                await self._all_gone.wait()
        except TimeoutError:
            left = list(self._sessions.values())
            log.warning("%d websockets and %d polls are still open after the drain", self._websockets, len(left))
            for session in left:
                session.close(SHUTTING_DOWN, SERVICE_RESTART)

    async def stop(self) -> None:
        await self.drain()
        if self._turning is not None:
            turning, self._turning = self._turning, None
            turning.cancel()
            await asyncio.wait([turning])

    # The way in

    def client_address(self, peer: str, forwarded: Sequence[str]) -> str:
        """Where a request comes from, by its connection and its X-Forwarded-For."""
        return client_address(peer, forwarded, self._trusted)

    def is_proxy(self, peer: str) -> bool:
        """Whether a connection comes from a trusted proxy."""
        return is_proxy(peer, self._trusted)

    def check(
        self, transport: str, method: str, raw_query: bytes, origins: Sequence[str], hosts: Sequence[str], address: str
    ) -> Session | Refused | None:
        """A request of either transport: the session that it names, None if it may open one, or the refusal."""
        found = self._check(transport, method, raw_query, origins, hosts, address)
        if isinstance(found, Refused):
            self.counters.handshakes_refused += 1
        return found

    def _check(
        self, transport: str, method: str, raw_query: bytes, origins: Sequence[str], hosts: Sequence[str], address: str
    ) -> Session | Refused | None:
        origin = origins[0] if len(origins) == 1 else None
        if len(origins) > 1 or len(hosts) != 1 or not self.origins.allows(origin, hosts[0]):
            return FORBIDDEN
        query = parse_query(raw_query)
        if isinstance(query, Refused):
            return query
        refused = check_query(query, transport)
        if refused is not None:
            return refused
        sid = query.get("sid")
        if sid is not None:
            session = self._sessions.get(sid) if len(sid) == len(self._prefix) + _SID_CHARACTERS else None
            if session is None:
                self._look_for_its_node(sid)
            return session or UNKNOWN_SID
        return self._admission(method, address)

    def _look_for_its_node(self, sid: str) -> None:
        """Say what to configure if an unknown session is another node's, or may be."""
        node, dot, _ = sid.partition(".")
        of_another = node != self.config.node if dot else self.config.other_nodes
        if not of_another or len(sid) > _LONGEST_SID or self._clock() - self._misrouted_at < _MISROUTED_PAUSE:
            return
        self._misrouted_at = self._clock()
        if dot:
            log.warning(_MISROUTED, node)
        else:
            log.warning(_NAMELESS)

    def _admission(self, method: str, address: str) -> Refused | None:
        if method != "GET":
            return BAD_METHOD
        if self._shared.draining or len(self._sessions) >= self.config.max_connections:
            return UNAVAILABLE
        wait = self._admit(address) if self._admit is not None else None
        if wait is not None:
            return Refused(429, FORBIDDEN.code, "Too many connections", max(1, math.ceil(wait)))
        return None

    def open_polling(self, address: str, headers: Mapping[str, str]) -> Session:
        session = self._new(address, headers)
        self._greet(session, (WEBSOCKET,))
        return session

    def open_websocket(self, websocket: Websocket, opening: Opening) -> Session | None:
        """Put a websocket to work. None if the session that it wants can't be taken over: the websocket is to be
        closed."""
        self._websockets += 1
        if opening.session is not None:
            return opening.session if opening.session.attach(websocket) else None
        session = self._new(opening.address, opening.headers)
        session.start_websocket(websocket)
        self._greet(session, ())
        return session

    def websocket_gone(self) -> None:
        """To be called once for each websocket that `open_websocket` was called with, when its connection has ended."""
        self._websockets -= 1
        self._note_gone()

    def _new(self, address: str, headers: Mapping[str, str]) -> Session:
        session = Session(self._shared, self._prefix + secrets.token_urlsafe(_SID_BYTES), address, headers)
        self._sessions[session.sid] = session
        self.counters.connections += 1
        self.counters.opened += 1
        return session

    def _greet(self, session: Session, upgrades: tuple[str, ...]) -> None:
        config = self.config
        interval, timeout = round(config.ping_interval * 1000), round(config.ping_timeout * 1000)
        session.send(encode_frame(encode_open(session.sid, upgrades, interval, timeout, self.limits.max_payload)))
        session.handler = self._handler(session)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.sid]
        self.counters.connections -= 1
        self._note_gone()

    def _note_gone(self) -> None:
        if self._all_gone is not None and not self._sessions and not self._websockets:
            self._all_gone.set()


def _report(turning: asyncio.Task[None]) -> None:
    """Without the wheel no dead peer would be noticed any more: say so as loudly as a library may."""
    if not turning.cancelled():
        log.critical("the transport's timer wheel has stopped", exc_info=turning.exception())
