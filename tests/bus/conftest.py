"""Nodes on one bus, each writing down what reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import uvloop

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


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The contract holds on both loops; the rest runs on the one that the server has."""
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return loops if item.path.name == "test_contract.py" else {"uvloop": uvloop.new_event_loop}


class Node:
    """One node's end of a bus."""

    def __init__(self, bus: LocalBus | NatsBus) -> None:
        self.bus = bus
        self.got: list[Got] = []
        self.topics: list[tuple[str, bytes]] = []
        self._news = asyncio.Event()
        bus.connect(self.receive)
        bus.subscribe_notices(self.hear)

    def receive(self, user: str, version: int, packet: bytes, exclude: str, announcement: bool) -> None:
        self.got.append(Got(user, version, packet, exclude, announcement))
        self._news.set()

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


async def until_said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until the log has the text."""
    async with asyncio.timeout(PATIENCE):
        while text not in caplog.text:
            await asyncio.sleep(0.02)
