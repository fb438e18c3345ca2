"""The limits of a user who is connected to several nodes.

Such nodes tell each other how many of the user's sockets they have. The sockets are counted together, and each of the nodes
grants an equal share of the rate. While the bus is away each node comes to count by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import struct
from typing import Final

from duologue.domain.errors import Code
from duologue.domain.limits import ChatLimits
from duologue.domain.ports import Bus, Clock
from duologue.server.hub import Hub

logger = logging.getLogger(__name__)

REFRESHES_PER_LEASE: Final = 3
"""Times that a node repeats its counts to the others in a lease of presence (`presence_lease`). For so long a count is believed:
when the people of a killed node count as gone, so do their sockets."""

MAX_NODES: Final = 1000
"""Nodes of one user that are remembered; a stranger on the bus may name any."""

AT_ONCE: Final = 500
"""Users whose counts are repeated in one turn of the loop."""

_NOTICE: Final = struct.Struct("!8sI?")
"""The node, how many of the user's sockets it has, and whether it asks for the others' counts."""


class Shares:
    """`start` before the first user, `run` until cancelled."""

    def __init__(self, hub: Hub, bus: Bus, clock: Clock, limits: ChatLimits) -> None:
        self._hub = hub
        self._bus = bus
        self._clock = clock
        self._limits = limits
        self._memory = limits.presence_lease
        self._node = secrets.token_bytes(8)
        self._others: dict[str, dict[bytes, tuple[int, float]]] = {}
        """Of users who are here and on other nodes: how many sockets each of those has, and when it said so."""

    def __len__(self) -> int:
        return len(self._others)

    def start(self) -> None:
        self._bus.subscribe_notices(self._heard)

    def elsewhere(self, user_id: str) -> int:
        """The user's sockets on other nodes, as far as it's known."""
        self._forget_old(user_id)
        return sum(count for count, _ in self._others.get(user_id, {}).values())

    def came(self, user_id: str) -> None:
        """A socket of the user was attached here."""
        count = self._hub.count(user_id)
        if count == 1 or user_id in self._others:
            self._tell(user_id, asks=count == 1)

    def ask(self, user_id: str) -> None:
        """The user came a moment ago and nothing was heard from elsewhere: of two nodes to which they come at once, each may
        have said so before the bus knew that the other listens."""
        if user_id not in self._others and self._hub.is_here(user_id):
            self._tell(user_id, asks=True)

    def went(self, user_id: str) -> None:
        """A socket of the user was detached here."""
        if user_id in self._others:
            self._tell(user_id)
            if not self._hub.is_here(user_id):
                del self._others[user_id]

    async def run(self) -> None:
        """Repeat the counts, for those that were lost, and forget those of nodes that say nothing any more."""
        pause = self._memory / REFRESHES_PER_LEASE
        while True:
            users = list(self._others)
            for start in range(0, len(users), AT_ONCE):
                some = users[start : start + AT_ONCE]
                for user_id in some:
                    self.refresh(user_id)
                await asyncio.sleep(pause * len(some) / len(users))
            if not users:
                await asyncio.sleep(pause)

    def refresh(self, user_id: str) -> None:
        if user_id not in self._others:
            return
        self._tell(user_id)
        self._forget_old(user_id)

    def _forget_old(self, user_id: str) -> None:
        others = self._others.get(user_id, {})
        long_ago = self._clock.monotonic() - self._memory
        if old := [node for node, (_, heard) in others.items() if heard < long_ago]:
            for node in old:
                del others[node]
            self._share(user_id)

    def _tell(self, user_id: str, asks: bool = False) -> None:
        self._bus.notify(user_id, _NOTICE.pack(self._node, self._hub.count(user_id), asks))

    def _heard(self, user_id: str, data: bytes) -> None:
        """From another node, or from a stranger on the bus, who may have sent anything."""
        if len(data) != _NOTICE.size or not self._hub.is_here(user_id):
            return
        node, count, asks = _NOTICE.unpack(data)
        others = self._others.setdefault(user_id, {})
        is_new = node not in others
        if not count:
            others.pop(node, None)
        elif node in others or len(others) < MAX_NODES:
            others[node] = (count, self._clock.monotonic())
        self._share(user_id)
        # A node of which we haven't heard may not have heard of us: its question, or ours, came before a subscription.
        if count and (asks or is_new):
            self._tell(user_id)
        self._close_surplus(user_id)

    def _share(self, user_id: str) -> None:
        others = self._others[user_id]
        sender = self._hub.sender_of(user_id)
        if sender is not None:
            sender.share(1 + len(others))
        if not others:
            del self._others[user_id]

    def _close_surplus(self, user_id: str) -> None:
        """Sockets are attached before it's known what comes elsewhere at that moment. If that makes too many, the node that
        has the fewest closes its latest."""
        clients = list(self._hub.clients(user_id))
        surplus = len(clients) + self.elsewhere(user_id) - self._limits.max_user_connections
        others = self._others.get(user_id, {})
        if surplus > 0 and all((len(clients), self._node) < (count, node) for node, (count, _) in others.items()):
            logger.warning("user %s: %d connections too many on several nodes", user_id, surplus)
            for client in itertools.islice(reversed(clients), surplus):
                client.socket.close(Code.OVERLOADED)
