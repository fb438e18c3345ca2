"""F15: SIGTERM under load. What is in flight is answered on the connection that asked, and nobody is sent away for good."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cluster.ports import HOST
from tests.conftest import StartServer, on_both
from tests.promises.judge import judge
from tests.support.client import ChatClient, Refused
from tests.support.proxy import Proxy
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

IN_FLIGHT = 300
WINDOW = 40
LATENCY = 0.02
"""Seconds from the server to the client."""

GONE_WITHIN = 10.0
"""Seconds, from the issue."""

Answer = dict[str, Any] | BaseException


@asynccontextmanager
async def no_commit(start_server: StartServer, data: Path) -> AsyncIterator[None]:
    """No message is committed as long as this holds."""
    if start_server.one_node:
        node = await asyncpg.connect(start_server.database())
        try:
            await node.execute("BEGIN; LOCK TABLE duologue.message IN EXCLUSIVE MODE")
            yield
        finally:
            node.terminate()  # with its transaction
    else:
        (database,) = data.glob("*.db")
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()


async def until_it_drains(client: ChatClient) -> Refused:
    """Ask for something small until it is refused: the server has heard the signal."""
    while True:
        try:
            await client.request("typing", {"to": client.user_id})
        except Refused as refusal:
            return refusal


@on_both
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_drain_waits_for_the_commit(start_server: StartServer, tmp_path: Path, transport: str) -> None:
    """The commit can't end before the drain has begun, and yet every ack arrives, on the same connection, however many
    polls it takes over a wire of an ordinary latency."""
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy:
        bob = await ChatClient(server.url, "bob", record).connect()
        alice = await ChatClient(proxy.url, "alice", record, transport=transport).connect()
        proxy.to_client.delay = LATENCY
        async with no_commit(start_server, tmp_path / "data"):
            sends = [asyncio.create_task(alice.send(bob.user_id, f"in flight {n}")) for n in range(IN_FLIGHT)]
            await asyncio.sleep(0)  # each of them is with the link
            await alice.request("typing", {"to": bob.user_id})  # comes after them, so the server has them all
            began = time.monotonic()
            server.ask_to_leave()
            refusal = await until_it_drains(bob)
            assert (refusal.code, refusal.answer["retryAfter"] > 0) == ("unavailable", True)
            with pytest.raises(Refused, match="unavailable"):
                await alice.send(bob.user_id, "too late")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, server.port)
            assert not any(send.done() for send in sends)
        answers = await asyncio.gather(*sends)
        assert [answer["seq"] for answer in answers] == list(range(1, IN_FLIGHT + 1))
        await asyncio.gather(alice.wait_ended(), bob.wait_ended())
        assert await asyncio.to_thread(server.wait, GONE_WITHIN) == 0
        assert time.monotonic() - began < GONE_WITHIN
        proxy.heal()
        server.start()
        stored = await judge(record, alice, bob)
        assert len(stored) == IN_FLIGHT
        await alice.close()
        await bob.close()


async def keep_sending(person: ChatClient, to: str, leaving: asyncio.Event) -> list[Answer]:
    """One message after another until the signal, and what became of each."""
    answers: list[Answer] = []
    while not leaving.is_set():
        answers += await asyncio.gather(person.send(to, "under load"), return_exceptions=True)
    return answers


@on_both
async def test_a_drain_at_any_moment(start_server: StartServer, rng: random.Random) -> None:
    """Whoever has sent before the signal gets an ack or the error that says to retry; nobody is left with neither."""
    server = start_server()
    record = Record()
    people = [ChatClient(server.url, f"person {number}", record) for number in range(4)]
    for _ in range(5):
        for person in people:
            await person.connect_surely()
        leaving = asyncio.Event()
        sending = [
            asyncio.create_task(keep_sending(person, rng.choice(people).user_id, leaving))
            for person in people
            for _ in range(WINDOW)
        ]
        await record.acknowledged(rng.randrange(50, 2000))
        leaving.set()
        # Who has begun to send gets as far as the socket; what is sent after the signal may find nobody any more.
        for _ in range(3):
            await asyncio.sleep(0)
        server.ask_to_leave()
        for answers in await asyncio.gather(*sending):
            assert all(
                isinstance(each, dict) or (isinstance(each, Refused) and each.code == "unavailable") for each in answers
            ), answers
        assert await asyncio.to_thread(server.wait, GONE_WITHIN) == 0
        await asyncio.gather(*(person.wait_ended() for person in people))
        server.start()
    await judge(record, *people)
    for person in people:
        await person.close()
