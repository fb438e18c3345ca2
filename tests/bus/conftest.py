"""Nodes on one bus, each writing down what reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from duologue.bus.local import LocalBus
from duologue.bus.nats import NatsBus

PATIENCE = 15.0

ANN, BOB = "a" * 16, "b" * 16


class Got(NamedTuple):
    user: str
    version: int
    packet: bytes
    exclude: str = ""
    announcement: bool = False


class Node:
    """One node's end of a bus."""

    def __init__(self, bus: LocalBus | NatsBus) -> None:
        self.bus = bus
        self.got: list[Got] = []
        self.topics: list[tuple[str, bytes]] = []
        self._news = asyncio.Event()
        bus.connect(self._receive)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_got(self, count: int) -> list[Got]:
        await self.until(lambda: len(self.got) >= count)
        return self.got

    def hear(self, topic: str, data: bytes) -> None:
        self.topics.append((topic, data))
        self._news.set()

    def _receive(self, user: str, version: int, packet: bytes, exclude: str, announcement: bool) -> None:
        self.got.append(Got(user, version, packet, exclude, announcement))
        self._news.set()
