"""F1: the process is killed at any moment, under load, and nothing that it acknowledged is lost, repeated or reordered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.conftest import StartServer
from tests.support.checker import check
from tests.support.client import ChatClient, stored_messages
from tests.support.process import ServerProcess
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

PEOPLE = 6
MOST_ACKS_PER_LIFE = 120
LIFE = 600.0
"""Seconds that no life of the server lasts."""

UP_AGAIN_WITHIN = 5.0
"""Seconds, from faults.md."""


class Talk:
    """People who talk at random until told to stop, each message sent until it is acknowledged."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self.record = Record()
        self.people = [ChatClient(url, f"person {number}", self.record) for number in range(PEOPLE)]
        self.second = ChatClient(url, "person 0", self.record)
        """Another device of the first person."""
        self._rng = rng
        self._stop = False

    async def begin(self) -> None:
        for person in self.people:
            await person.connect()
        self.second.session_id = self.people[0].session_id
        await self.second.connect()

    async def talk(self) -> None:
        listening = asyncio.create_task(self._listen())
        await asyncio.gather(*(self._speak(person) for person in self.people))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    def stop(self) -> None:
        self._stop = True

    async def judge(self) -> None:
        for device in (*self.people, self.second):
            await device.complete()
        check(self.record, await stored_messages(self.people)).assert_clean()

    async def end(self) -> None:
        for device in (*self.people, self.second):
            await device.close()

    async def _speak(self, person: ChatClient) -> None:
        number = 0
        while not self._stop:
            number += 1
            to = self._rng.choice(self.people).user_id
            await person.send_surely(to, f"{person.device} says {number}")

    async def _listen(self) -> None:
        while True:
            if not self.second.connected:
                await self.second.connect_surely()
            await self.second.wait_ended(timeout=LIFE)


async def kill_again_and_again(server: ServerProcess, rng: random.Random, times: int) -> None:
    await run_against(server, rng, times, server.kill)


async def run_against(server: ServerProcess, rng: random.Random, times: int, harm: Callable[[], object]) -> None:
    """Let people talk, do harm at a random moment, start the server again on the same data, and judge everything."""
    talk = Talk(server.url, rng)
    await talk.begin()
    talking = asyncio.create_task(talk.talk())
    for _ in range(times):
        async with asyncio.timeout(60):
            await talk.record.acknowledged(rng.randrange(1, MOST_ACKS_PER_LIFE))
        await asyncio.to_thread(harm)
        began = time.monotonic()
        await asyncio.to_thread(server.start)
        assert time.monotonic() - began < UP_AGAIN_WITHIN
        assert not talking.done()
    async with asyncio.timeout(60):
        await talk.record.acknowledged(20)
        talk.stop()
        await talking
        await talk.judge()
        await talk.end()


@pytest.mark.timeout(240)
async def test_twenty_kills(start_server: StartServer, rng: random.Random) -> None:
    await kill_again_and_again(start_server(), rng, 20)


@pytest.mark.torture
@pytest.mark.timeout(7200)
async def test_five_hundred_kills(start_server: StartServer, rng: random.Random) -> None:
    await kill_again_and_again(start_server(), rng, 500)


@pytest.mark.timeout(120)
async def test_restarts_under_load(start_server: StartServer, rng: random.Random) -> None:
    """F15, seen from those who go on talking; test_drained.py looks at what was in flight."""
    server = start_server()

    def terminate() -> None:
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 10

    await run_against(server, rng, 4, terminate)
