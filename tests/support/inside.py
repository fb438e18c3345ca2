"""The whole server inside the test's own process: real store, real sockets, and gates at which a test may hold it.

    async with serving(tmp_path / "data") as inside, ChatClient(inside.url, "alice") as alice:
        with inside.store.hold("roster") as gate:       # whoever reads a roster now waits, until the block ends
            await gate.reached()
        with inside.hold_outcomes() as gate: ...        # what is committed now comes back when the block ends

A gate changes when things happen and nothing else: every call goes through to what `main` would compose.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvicorn

from duologue.bus.local import LocalBus
from duologue.domain.limits import ChatLimits
from duologue.domain.model import HistoryPage, Person, Roster, SyncPage, User
from duologue.domain.ports import Pending
from duologue.main import bind
from duologue.server.app import build_app
from duologue.server.gateway import Gateway
from duologue.server.transport import SocketServer, TransportConfig
from duologue.store.sqlite import SqliteStore
from tests.support.composition import Chat

PATIENCE: Final = 15.0

LIMITS: Final = ChatLimits(
    max_content=8000, page=50, max_page=200, page_bytes=1_000_000, announce_people=1000, roster_messages=1000,
    roster_people=1000, roster_total=10_000, message_rate=1e6, message_burst=1e6, request_limit=16, max_watch=200,
    presence_grace=0, typing_repeat=3, typing_expires=6, connect_rate=1e6, connect_burst=1e6, max_user_connections=1000,
)  # fmt: skip
"""Generous, and without grace: whoever leaves is gone at once."""

T = TypeVar("T")


class MovedClock:
    """The real time, which a test may put ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall_ms(self) -> int:
        return int((time.time() + self.ahead) * 1000)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Gate:
    """Where a test holds others. `only` so many are held (0: none), those who come later pass and are counted."""

    def __init__(self, only: int | None = None) -> None:
        self.arrived = 0
        self._only = only
        self._news = asyncio.Event()
        self._open = asyncio.Event()

    async def go_through(self) -> None:
        self.note_arrival()
        if self._only is None or self.arrived <= self._only:
            await self._open.wait()

    def note_arrival(self) -> None:
        self.arrived += 1
        self._news.set()

    async def reached(self, times: int = 1) -> None:
        """Wait until so many have come."""
        async with asyncio.timeout(PATIENCE):
            while self.arrived < times:
                self._news.clear()
                await self._news.wait()

    def open(self) -> None:
        self._open.set()


class GatedStore(SqliteStore):
    """The SQLite store, with a gate before or after any of its reads and one-off writes."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._before: dict[str, Gate] = {}
        self._after: dict[str, Gate] = {}

    @contextmanager
    def hold(self, method: str, *, after: bool = False, only: int | None = None) -> Iterator[Gate]:
        """Hold the calls of one method before they read (or with their answer in hand), until the block ends."""
        gates = self._after if after else self._before
        gate = gates[method] = Gate(only)
        try:
            yield gate
        finally:
            gate.open()
            if gates.get(method) is gate:
                del gates[method]

    async def _gated(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        if (gate := self._before.get(method)) is not None:
            await gate.go_through()
        answer = await call()
        if (gate := self._after.get(method)) is not None:
            await gate.go_through()
        return answer

    async def create_guest(self, user: User, token_hash: bytes) -> None:
        await self._gated("create_guest", partial(super().create_guest, user, token_hash))

    async def session_user(self, token_hash: bytes) -> User | None:
        return await self._gated("session_user", partial(super().session_user, token_hash))

    async def end_session(self, token_hash: bytes) -> None:
        await self._gated("end_session", partial(super().end_session, token_hash))

    async def people(self, ids: Sequence[str]) -> list[Person]:
        return await self._gated("people", partial(super().people, ids))

    async def peers(self, *arguments: Any) -> dict[str, list[str]]:
        return await self._gated("peers", partial(super().peers, *arguments))

    async def sync(self, *arguments: Any) -> SyncPage:
        return await self._gated("sync", partial(super().sync, *arguments))

    async def roster(self, *arguments: Any) -> Roster:
        return await self._gated("roster", partial(super().roster, *arguments))

    async def history(self, *arguments: Any) -> HistoryPage:
        return await self._gated("history", partial(super().history, *arguments))

    async def seen(self, users: Sequence[str], at: int) -> None:
        await self._gated("seen", partial(super().seen, users, at))


class Inside:
    """A running server and its parts."""

    def __init__(
        self, folder: Path, bus: LocalBus, clock: MovedClock, limits: ChatLimits, config: TransportConfig | None
    ) -> None:
        self.folder = folder
        self.bus = bus
        self.clock = clock
        self.limits = limits
        self._config = config
        self.url = ""
        self.chat: Chat
        self.store: GatedStore
        self._held: list[Sequence[Pending]] | None = None
        self._gate = Gate()

    async def open(self) -> None:
        self.chat = await Chat.open(
            self.folder, self.clock, self.limits, self.bus, config=self._config, store_type=GatedStore, sink=self._sink
        )
        assert isinstance(self.chat.store, GatedStore)
        self.store = self.chat.store

    @property
    def gateway(self) -> Gateway:
        return self.chat.gateway

    @property
    def transport(self) -> SocketServer:
        return self.chat.transport

    @contextmanager
    def hold_outcomes(self) -> Iterator[Gate]:
        """What is committed comes back only when the block ends, in order: a commit whose sync takes its time."""
        gate, self._held = self._gate, []
        try:
            yield gate
        finally:
            held, self._held, self._gate = self._held, None, Gate()
            for batch in held:
                self.chat.outcomes(batch)

    def kept(self) -> dict[str, Any]:
        """Every structure that grows with the people who are here."""
        gateway, hub, presence = self.gateway, self.gateway.hub, self.gateway.presence
        return {
            "hub": hub._clients,
            "bus": self.bus._sockets,
            "admissions": gateway._admissions,
            "guide clients": presence._guide_clients,
            "watchers": presence._watchers,
            "online": presence._online,
            "leaving": presence._leaving,
            "untold": presence._untold,
            "unseen": presence._unseen,
            "timers": self.transport._engine.wheel,
            "connections": range(self.transport.counters.connections),
            "tasks": [task.get_name() for task in gateway._tasks if task.get_name() != "presence"],
        }

    def timers(self) -> int:
        """Deadlines of connections and sessions."""
        return len(self.transport._engine.wheel)

    async def sockets_left(self, number: int) -> None:
        """Wait until the server has noticed that only so many connections are left."""
        await self.until(lambda: self.transport.counters.connections == number)

    async def all_gone(self) -> None:
        """Wait until the server has noticed that everybody is gone, and keeps nothing for anybody."""
        try:
            await self.until(lambda: not any(self.kept().values()))
        except TimeoutError:
            left = {name: len(part) for name, part in self.kept().items() if part}
            raise AssertionError(f"kept for nobody: {left}") from None

    @staticmethod
    async def until(true: Callable[[], bool]) -> None:
        # Nothing in the server tells of this, so it's looked at between two turns of the loop.
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.001)

    def _sink(self, batch: Sequence[Pending]) -> None:
        if self._held is not None:
            self._held.append(batch)
            self._gate.note_arrival()
        else:
            self.chat.outcomes(batch)


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    bus: LocalBus | None = None,
    clock: MovedClock | None = None,
    config: TransportConfig | None = None,
    **limits: float,
) -> AsyncIterator[Inside]:
    """A server on a free port, `limits` over `LIMITS`; at the end it leaves in the order of `main`."""
    changed = msgspec.structs.replace(LIMITS, **limits)
    inside = Inside(folder, bus or LocalBus(), clock or MovedClock(), changed, config)
    await inside.open()
    transport = inside.transport
    sockets = bind("127.0.0.1", 0)
    ws: Any = transport.ws_protocol_class()  # uvicorn says Protocol, and means any protocol class
    http = uvicorn.Config(
        build_app(transport.asgi, folder / "no client"), http=transport.http_protocol_class(), ws=ws, lifespan="off",
        log_config=None, access_log=False,
    )  # fmt: skip
    http.load()
    server = uvicorn.Server(http)
    server.lifespan = http.lifespan_class(http)
    await transport.start()
    await server.startup(sockets=sockets)
    beating = asyncio.create_task(server.main_loop())
    inside.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        yield inside
    finally:
        await inside.chat.leave()
        server.should_exit = True
        await beating
        await server.shutdown(sockets=sockets)
