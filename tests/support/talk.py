"""The load under which things are killed: a few people who talk to one another without a pause."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from tests.support.checker import check
from tests.support.client import ChatClient, ConnectionLost, NoAnswer, stored_messages
from tests.support.record import Record

T = TypeVar("T")

PEOPLE = 6
LATE = 5.0
"""Seconds in which what was sent last has to reach those who are connected, whatever has failed before."""

RECOVERY = 60.0
"""Seconds in which everybody has to be back after the last failure."""

SURELY = 60.0
"""Seconds in which a message is acknowledged and a device connected, whatever fails meanwhile."""

FEWEST = 50
"""Messages of which a 99th percentile says something."""

LIFE = 600.0
"""Seconds that no life of a server lasts."""


class Said(NamedTuple):
    """When somebody began to send a message, and the seconds until it was acknowledged, all its attempts included."""

    began: float
    took: float


class Talk:
    """People who talk at random until told to stop, each message sent until it is acknowledged."""

    def __init__(self, make: Callable[[str, Record], ChatClient], rng: random.Random, surely: float = SURELY) -> None:
        """`make` makes a device from its username and the record."""
        self._surely = surely
        self.record = Record()
        self.people = [make(f"person {number}", self.record) for number in range(PEOPLE)]
        self.second = make("person 0", self.record)
        """Another device of the first person."""
        self.said: list[Said] = []
        self._rng = rng
        self._stop = False

    async def begin(self) -> None:
        for person in self.people:
            await person.connect()
        self.second.session_id = self.people[0].session_id
        await self.second.connect()

    async def talk(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            async with asyncio.TaskGroup() as speaking:
                for person in self.people:
                    speaking.create_task(self._speak(person))
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def stop(self) -> None:
        self._stop = True

    async def go_on(self, seconds: float) -> None:
        """Let them talk for so long, and until the next word is acknowledged."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self.record.acknowledged(1)

    def p99(self, since: float, until: float) -> float:
        """Of what was begun in that time: the seconds in which 99 of 100 were acknowledged. Infinite for too few to tell."""
        took = sorted(each.took for each in self.said if since <= each.began < until)
        return took[len(took) * 99 // 100] if len(took) >= FEWEST else math.inf

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
            began = time.monotonic()
            await person.send_surely(to, f"{person.device} says {number}", timeout=self._surely)
            self.said.append(Said(began, time.monotonic() - began))

    async def _listen(self) -> None:
        while True:
            if not self.second.connected:
                await self.second.connect_surely(self._surely)
            await self.second.wait_ended(timeout=LIFE)
