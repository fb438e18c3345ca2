"""The load under which things are killed: a few people who talk to one another without a pause."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.support.checker import check
from tests.support.client import ChatClient, ConnectionLost, NoAnswer, stored_messages
from tests.support.record import Record

T = TypeVar("T")

PEOPLE = 6
LATE = 5.0
"""Seconds in which what was sent last has to reach those who are connected, whatever has failed before."""

RECOVERY = 60.0
"""Seconds in which everybody has to be back after the last failure."""

LIFE = 600.0
"""Seconds that no life of a server lasts."""


class Talk:
    """People who talk at random until told to stop, each message sent until it is acknowledged."""

    def __init__(self, make: Callable[[str, Record], ChatClient], rng: random.Random) -> None:
        """`make` makes a device from its username and the record."""
        self.record = Record()
        self.people = [make(f"person {number}", self.record) for number in range(PEOPLE)]
        self.second = make("person 0", self.record)
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

    async def judge(self, late: float = LATE) -> None:
        stored = await self._patiently(lambda: stored_messages(self.people))
        deadline = time.monotonic() + late
        while (verdict := check(self.record, stored)).lost and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            await self._patiently(self._complete)
        verdict.assert_clean()

    async def end(self) -> None:
        for device in (*self.people, self.second):
            await device.close()

    async def _complete(self) -> None:
        for device in (*self.people, self.second):
            await device.complete()

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Whoever missed much while a node was cut off may be closed when that node finds it out, and comes back."""
        async with asyncio.timeout(RECOVERY):
            while True:
                try:
                    await self._complete()
                    return await work()
                except (ConnectionLost, NoAnswer):
                    pass

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
