"""A fresh store, with its acknowledgements collected as they come."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from duologue.domain.errors import Code
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt, Store
from duologue.store.postgres import PostgresStore
from duologue.store.sqlite import SqliteStore, filing
from duologue.store.sqlite.files import DATABASE
from tests.support.clock import SetClock

TIMEOUT = 20.0
"""Seconds that any one answer of a store may take in a test."""

ANN, BOB, CAT = (User(character * 16, name) for character, name in (("a", "Ann"), ("b", "Bob"), ("c", "Cat")))
NOBODY = "d" * 16


class Bench:
    """Opens stores in one place, a folder for SQLite or a URL for PostgreSQL, and waits for what they hand back."""

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self.clock = SetClock()
        self.failures: list[BaseException] = []
        self.returned: list[Pending] = []
        self._news = asyncio.Event()
        self.store: Store
        self.is_open = False

    @property
    def folder(self) -> Path:
        assert isinstance(self.place, Path)
        return self.place

    async def open(self, **settings: Any) -> Store:
        if isinstance(self.place, Path):
            self.store = await SqliteStore.open(self.place, self.clock, self._sink, self._failed, **settings)
        else:
            self.store = await PostgresStore.open(self.place, self.clock, self._sink, self._failed, **settings)
        self.is_open = True
        return self.store

    async def close(self) -> None:
        if self.is_open:
            self.is_open = False
            await self.store.close()

    def copy_to(self, folder: Path) -> None:
        """What a crash would leave of the open store. Nobody writes meanwhile, or the files would be of different moments."""
        connection = apsw.Connection(str(self.folder / DATABASE))
        connection.set_busy_timeout(int(TIMEOUT * 1_000))
        try:
            connection.execute("BEGIN IMMEDIATE")
            shutil.copytree(self.folder, folder, ignore=lambda *_: ["lock", f"{DATABASE}-shm"])
        finally:
            connection.close()

    async def people(self, *users: User) -> None:
        for user in users:
            await self.store.create_guest(user, user.id.encode())

    async def commit(self, *pendings: Pending) -> None:
        """Submit them all in one turn of the loop and wait until the last one is back."""
        wanted = len(self.returned) + len(pendings)
        for pending in pendings:
            self.store.submit(pending)
        async with asyncio.timeout(TIMEOUT):
            while len(self.returned) < wanted:
                self._news.clear()
                await self._news.wait()

    async def send(
        self, sender: User, recipient: User, content: str = "hello", id: str | None = None
    ) -> PendingMessage:
        pending = PendingMessage(sender.id, recipient.id, id or str(uuid.uuid4()), content, None)
        await self.commit(pending)
        return pending

    async def mark(self, user: User, peer: User, received: int = 0, read: int = 0) -> PendingReceipt:
        pending = PendingReceipt(user.id, peer.id, received, read, None)
        await self.commit(pending)
        return pending

    async def failed(self) -> None:
        """Wait until the store has said that it failed."""
        async with asyncio.timeout(TIMEOUT):
            while not self.failures:
                self._news.clear()
                await self._news.wait()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self._news.set()

    def _sink(self, pendings: Sequence[Pending]) -> None:
        self.returned.extend(pendings)
        self._news.set()


def failures(pendings: Sequence[Pending]) -> set[Code | None]:
    return {pending.failure for pending in pendings}


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every test goes the whole way from memory into the tables."""
    monkeypatch.setattr(filing, "RIPE", 8)
    monkeypatch.setattr(filing, "PORTION", 800)
    monkeypatch.setattr(filing, "FORGOTTEN_AT_ONCE", 1)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "data")
    yield made
    await made.close()


@pytest_asyncio.fixture
async def ready(bench: Bench) -> Bench:
    """An open store with Ann, Bob and Cat."""
    await bench.open()
    await bench.people(ANN, BOB, CAT)
    return bench
