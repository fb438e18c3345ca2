"""Which sockets are here, and what each of them was told.

The hub is where the bus ends: it compares a publication's version with what each socket of the user has. The next
one is sent; a known one is dropped; one ahead of its turn waits a moment for those before it, which another node may
have published later; what is missing then was lost, and the socket's publications wait in a backlog until the store was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from duologue.actions.send import Sender
from duologue.domain.ports import Bus
from duologue.server.transport import Frame, Socket, encode_frame

logger = logging.getLogger(__name__)

MAX_BACKLOG: Final = 10_000
"""Events kept for one socket while the store is read for it. A socket that would need more is closed, and finds
everything at its next sync."""


LATE_HINT_PATIENCE: Final = 0.2
"""Seconds that a publication ahead of its turn waits for those before it, where several nodes publish."""


class Backlog:
    """What waits for one socket while the store is read for it, in order, each with its version (0: not stored)."""

    __slots__ = ("bytes", "full", "items")

    def __init__(self) -> None:
        self.items: list[tuple[int, Frame | None]] = []
        self.bytes = 0
        self.full = False


class Client:
    """A signed-in socket."""

    __slots__ = (
        "ahead",
        "backlog",
        "requests",
        "sender",
        "session",
        "socket",
        "syncs",
        "version",
        "watch_turn",
        "watched",
    )

    def __init__(self, socket: Socket, sender: Sender, session: bytes, syncs: bool) -> None:
        self.socket = socket
        self.sender = sender
        self.session = session
        """The hash of the token that it was signed in by."""
        self.syncs = syncs
        """It has the sync form of the protocol, else the guide's."""
        self.version = 0
        """The user's version that this socket was brought to."""
        self.backlog: Backlog | None = Backlog()
        """What waits while the store is read; None while live."""
        self.ahead: dict[int, Frame | None] | None = None
        """While live: publications ahead of their turn, by version; None if there are none, as nearly always."""
        self.watched: frozenset[str] = frozenset()
        self.watch_turn = 0
        """Which request the watched people are those of."""
        self.requests: set[asyncio.Task[None]] | None = None
        """The requests under way; None if there are none, for most sockets are idle."""

    @property
    def user_id(self) -> str:
        return self.sender.user.id


class Hub:
    """`on_gap` is called with a client that missed something; its backlog has been started. `patience` is for a bus that
    may bring the publications of several nodes out of order; with 0 whatever is missing counts as lost at once."""

    def __init__(
        self,
        bus: Bus,
        on_gap: Callable[[Client], None],
        everybody_is_announced: Callable[[], bool],
        max_backlog_bytes: int,
        patience: float = 0.0,
    ) -> None:
        self._bus = bus
        self._patience = patience
        self._waiting: dict[Client, float] = {}
        """Clients with something ahead of its turn and when their patience ends, the earliest first."""
        self._alarm: asyncio.TimerHandle | None = None
        self._max_backlog_bytes = max_backlog_bytes
        self._on_gap = on_gap
        self._everybody_is_announced = everybody_is_announced
        self._clients: dict[str, list[Client]] = {}
        self.sockets = 0
        """How many are attached."""

    def attach(self, client: Client) -> None:
        """From now on the client's events are gathered in its backlog; `go_live` ends that."""
        self._clients.setdefault(client.user_id, []).append(client)
        self.sockets += 1
        self._bus.subscribe(client.user_id)

    def detach(self, client: Client) -> None:
        clients = self._clients[client.user_id]
        clients.remove(client)
        self.sockets -= 1
        if not clients:
            del self._clients[client.user_id]
        client.backlog = None
        self._stop_waiting(client)
        self._bus.unsubscribe(client.user_id)

    def users(self) -> list[str]:
        return list(self._clients)

    def is_here(self, user_id: str) -> bool:
        return user_id in self._clients

    def sender_of(self, user_id: str) -> Sender | None:
        """The sender that the user's sockets here share."""
        clients = self._clients.get(user_id)
        return clients[0].sender if clients else None

    def count(self, user_id: str) -> int:
        return len(self._clients.get(user_id, ()))

    def clients(self, user_id: str) -> Iterable[Client]:
        return self._clients.get(user_id, ())

    def all_clients(self) -> list[Client]:
        return [client for clients in self._clients.values() for client in clients]

    def receive(self, user_id: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        """The bus's receiver."""
        clients = self._clients.get(user_id)
        if clients is None:
            return
        frame = encode_frame(packet)
        for client in clients:
            if client.socket.id == exclude:
                self._deliver(client, version, None)
            elif client.backlog is None and version and version == client.version + 1 and client.ahead is None:
                # The hot path; _deliver would do the same.
                client.version = version
                client.socket.send(frame)
            elif announcement and not client.syncs and self._everybody_is_announced():
                continue
            else:
                self._deliver(client, version, frame)

    def tell(self, client: Client, frame: Frame) -> None:
        """Send what is not stored (presence, typing), in its place among the rest."""
        self._deliver(client, 0, frame)

    def advance(self, client: Client, version: int) -> None:
        """The client knows of `version` without being sent anything: it's the answer to its own request."""
        if client.backlog is None and version == client.version + 1 and client.ahead is None:
            # The hot path; _deliver would do the same.
            client.version = version
        else:
            self._deliver(client, version, None)

    def go_live(self, client: Client, version: int) -> None:
        """The client has been brought to `version` by what was read; the rest of its backlog follows."""
        waiting = client.backlog
        client.backlog = None
        client.version = version
        for item in waiting.items if waiting is not None else ():
            self._deliver(client, *item)

    def behind(self, user_id: str, version: int) -> None:
        """The store has been found to be at `version`, and time enough has passed for its hints: whoever has less has lost
        some."""
        for client in self._clients.get(user_id, ()):
            if client.backlog is None and client.version < version:
                self._read_store(client)

    def lowest(self, user_id: str) -> int | None:
        """The lowest version of the user's live sockets; None if none is live."""
        return min((each.version for each in self._clients.get(user_id, ()) if each.backlog is None), default=None)

    def _deliver(self, client: Client, version: int, frame: Frame | None) -> None:
        if client.backlog is not None:
            self._put_back(client, client.backlog, version, frame)
            return
        if version:
            if version <= client.version:
                return
            if version != client.version + 1:
                self._early(client, version, frame)
                return
            client.version = version
        if frame is not None:
            client.socket.send(frame)
        if client.ahead is not None:
            self._catch_up_with(client, client.ahead)

    def _early(self, client: Client, version: int, frame: Frame | None) -> None:
        """What is not stored goes on being sent meanwhile: who the other is may be told before their message, not after."""
        if client.ahead is None:
            client.ahead = {}
            self._wait(client)
        client.ahead[version] = frame
        if not self._patience or len(client.ahead) > MAX_BACKLOG:
            self._read_store(client)

    def _catch_up_with(self, client: Client, ahead: dict[int, Frame | None]) -> None:
        while (version := client.version + 1) in ahead:
            frame = ahead.pop(version)
            client.version = version
            if frame is not None:
                client.socket.send(frame)
        for known in [each for each in ahead if each <= client.version]:
            del ahead[known]
        if not ahead:
            self._stop_waiting(client)

    def _read_store(self, client: Client) -> None:
        ahead = client.ahead or {}
        self._stop_waiting(client)
        logger.info("user %s: something is missing after version %d, reading the store", client.user_id, client.version)
        client.backlog = Backlog()
        for version in sorted(ahead):
            self._put_back(client, client.backlog, version, ahead[version])
        self._on_gap(client)

    def _wait(self, client: Client) -> None:
        if self._patience:
            loop = asyncio.get_running_loop()
            self._waiting[client] = loop.time() + self._patience
            if self._alarm is None:
                self._alarm = loop.call_later(self._patience, self._give_up)

    def _stop_waiting(self, client: Client) -> None:
        client.ahead = None
        self._waiting.pop(client, None)

    def _give_up(self) -> None:
        """The one timer of all who wait: read the store for those whose patience is over."""
        loop = asyncio.get_running_loop()
        self._alarm = None
        now = loop.time()
        while self._waiting:
            client, deadline = next(iter(self._waiting.items()))
            if deadline > now:
                self._alarm = loop.call_at(deadline, self._give_up)
                break
            self._read_store(client)

    def _put_back(self, client: Client, backlog: Backlog, version: int, frame: Frame | None) -> None:
        if backlog.full:
            return
        backlog.bytes += len(frame.ws) if frame is not None else 0
        if len(backlog.items) < MAX_BACKLOG and backlog.bytes <= self._max_backlog_bytes:
            backlog.items.append((version, frame))
            return
        backlog.full = True
        # In the loop's next turn: closing detaches the client, and whoever calls may be going through all of them.
        asyncio.get_running_loop().call_soon(client.socket.close, "its backlog is full")
