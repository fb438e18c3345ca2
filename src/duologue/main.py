"""The composition root: the only place that sees every floor."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, cast

import uvicorn
import uvloop

from duologue import logs
from duologue.backends import hear_session_ends, open_bus, open_registry, open_store, where
from duologue.bus.local import LocalBus
from duologue.domain.errors import StoreUnusable
from duologue.domain.limits import ChatLimits
from duologue.domain.ports import Pending
from duologue.domain.rate import AddressBuckets
from duologue.server.app import build_app
from duologue.server.gateway import ARGUMENTS, Gateway
from duologue.server.outcomes import Outcomes
from duologue.server.transport import SocketServer, TransportConfig
from duologue.settings import Settings
from duologue.store.committer import WRITER_THREAD
from duologue.wire import Limits

__all__ = ["AddressUnusable", "StoreUnusable", "run"]

logger = logging.getLogger(__name__)

OTHER_DESCRIPTORS: Final = 100
"""Open files that aren't connections, with room to spare."""

BACKLOG: Final = 4096
"""Connections that the kernel keeps for us while we are busy; the system may allow fewer (somaxconn)."""

ANY_PORT_TRIES: Final = 8
"""Free ports that are tried for port 0 until one is free for all addresses."""

GC_THRESHOLDS: Final = (5_000, 1, 200)
"""Of the garbage collector's generations. Messages make no cycles, so collections find next to nothing, and Python's own 700
objects would have them too often. But each stops everybody while it looks at them: for 50,000 that was 20 to 60 ms."""

EXIT_STORE_FAILED: Final = 74
"""EX_IOERR of sysexits.h."""

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""Where pages of our own may come from if guests are for this machine alone; a proxy's name goes to `allow_origin`."""

GOODBYE: Final = 5.0
"""Seconds to close the connections, once nothing is owed any more or too much to be paid."""

CLIENT_FOLDER: Final = Path(__file__).parent / "web"


class AddressUnusable(Exception):
    """The server can't listen where it was told to; the message says why in one line."""


class SystemClock:
    """Implements `duologue.domain.ports.Clock`."""

    monotonic = staticmethod(time.monotonic)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class _Server(uvicorn.Server):
    """Uvicorn, with our order of leaving: no new connections, then what was accepted is finished, then the rest.

    Uvicorn would raise the signal again after its shutdown; to leave as asked is a success here.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._ready = ready
        self._leave = leave

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From here on signals are handled, so whoever reads the address may send one."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._leave()
        await super().shutdown(sockets)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    Raises `AddressUnusable` and `StoreUnusable`; nothing was touched then.
    """
    logs.configure(settings.log_level, settings.log_format)
    try:
        sockets = bind(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AddressUnusable(
            f"can't listen on {settings.host} port {settings.port}: {reason}; choose another --port or --host"
        ) from error
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve(settings, sockets))
    finally:
        for each in sockets:
            each.close()
    _end_past_threads(code)
    return code


def _end_past_threads(code: int) -> None:
    """End the process now, with that code, if a writer is still waiting for its database although the drain has had its time.

    It can't be joined, and for the interpreter to end around a thread that is inside a C extension has crashed it (SIGSEGV).
    """
    if any(each.name == WRITER_THREAD for each in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def raise_open_files(connections: int) -> int:
    """Raise the soft limit of open files to the hard one: most systems begin with 1,024, for programs that use select.
    Returns how many of so many connections that allows: one more is refused with words instead of by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or hard >= connections + OTHER_DESCRIPTORS:
        return connections
    logger.debug("the system allows %d open files: at most %d connections", hard, hard - OTHER_DESCRIPTORS)
    return max(1, hard - OTHER_DESCRIPTORS)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, all on one port. `localhost` is 127.0.0.1 and, where the system
    has IPv6, ::1. Raises OSError."""
    addresses = _addresses(host)
    for _ in range(ANY_PORT_TRIES - 1 if port == 0 else 0):
        try:
            return _bind(addresses, port)
        except OSError:  # the port that was free for the first address wasn't for the next
            continue
    return _bind(addresses, port)


def _bind(addresses: list[tuple[socket.AddressFamily, str]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            each = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((address, port))
            port = each.getsockname()[1]
            each.listen(BACKLOG)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host != "localhost":
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    addresses = [(socket.AF_INET, "127.0.0.1")]
    if _has_ipv6_loopback():
        addresses.append((socket.AF_INET6, "::1"))
    return addresses


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def _serve(settings: Settings, sockets: list[socket.socket]) -> int:
    clock = SystemClock()
    limits = _chat_limits(settings)
    outcomes: Outcomes

    def sink(batch: Sequence[Pending]) -> None:
        outcomes(batch)

    def bus_changed(healthy: bool) -> None:
        if gateway.reach is not None:
            gateway.reach.bus_changed(healthy)

    def new_epoch() -> None:
        gateway.start_anew()

    store = await open_store(settings, clock, sink, _stop_at_once, new_epoch, uvloop.new_event_loop)
    bus = open_bus(settings, store, bus_changed)
    # On a bus of its own the node is alone, even with a database that others could share.
    registry = None if isinstance(bus, LocalBus) else open_registry(store, settings)
    gateway = Gateway(store, bus, clock, limits, registry)
    hear_session_ends(store, gateway.sessions.note_end, gateway.compare_soon)
    outcomes = Outcomes(gateway.hub, gateway.presence, bus, store)
    bus.connect(gateway.hub.receive)
    connections = AddressBuckets(settings.connect_rate, settings.connect_burst)

    def admit(address: str) -> float | None:
        return connections.take(address, clock.monotonic()) or None

    transport = SocketServer(
        gateway,
        _transport_config(settings),
        Limits(max_payload=settings.max_payload),
        admit=admit,
        types=ARGUMENTS,
        on_typed_event=gateway.on_typed_event,
        refuser=gateway.refuser,
    )

    async def leave() -> None:
        """Finish what was accepted: its commits and its acks leave before the connections are closed."""
        try:
            async with asyncio.timeout(settings.drain_timeout):
                await gateway.leave()
                await store.close()
        except TimeoutError:
            logger.error("the drain took more than %g s, some peers were cut off", settings.drain_timeout)
        try:
            async with asyncio.timeout(GOODBYE):
                await gateway.stop()
                await transport.stop()
                await bus.close()
        except TimeoutError:
            logger.error("saying goodbye took more than %g s, some peers were cut off", GOODBYE)

    await bus.start()
    await gateway.start()
    await transport.start()
    server = _Server(
        uvicorn.Config(
            build_app(transport.asgi, CLIENT_FOLDER, gateway.without),
            http=transport.http_protocol_class(),
            # Asyncio drives both kinds of protocol; uvicorn's type names one of them.
            ws=cast("type[asyncio.Protocol]", transport.ws_protocol_class()),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
        ),
        lambda: _say_where(settings, sockets),
        leave,
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    await server.serve(sockets=sockets)
    return 0


def _say_where(settings: Settings, sockets: list[socket.socket]) -> None:
    host, port = sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Duologue serves http://{shown}:{port} with its data in {where(settings)}", flush=True)


def _stop_at_once(error: BaseException) -> None:
    """After a failed write or sync no later commit could be trusted, so the process must not live on."""
    logger.critical("the store has failed, stopping at once: %s", error)
    print(f"duologue: the store has failed and the server stops at once: {error}", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(EXIT_STORE_FAILED)


def _chat_limits(settings: Settings) -> ChatLimits:
    same = {name: getattr(settings, name) for name in ChatLimits.__struct_fields__ if hasattr(settings, name)}
    # An eighth is left for what follows a page before the client has read it.
    return ChatLimits(**same, page_bytes=settings.max_unsent * 7 // 8)


def _transport_config(settings: Settings) -> TransportConfig:
    return TransportConfig(
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        connect_timeout=settings.connect_timeout,
        max_unsent=settings.max_unsent,
        max_connections=raise_open_files(settings.max_connections),
        allowed_origins=tuple(settings.allow_origin),
        own_hosts=() if settings.allow_guests else LOOPBACK_HOSTS,
        node=settings.node,
        other_nodes=bool(settings.bus),
        trusted_proxies=tuple(settings.trusted_proxy),
        keep_headers=(),
    )
