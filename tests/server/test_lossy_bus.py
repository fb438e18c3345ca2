"""P5: the bus is a hint. It loses and repeats, and every socket still sees every message once, in order.

The real store, hub, gateway and transports in this process; only the bus is one that nobody would buy.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from duologue.bus.local import LocalBus
from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.inside import serving
from tests.support.record import How, Record

pytestmark = pytest.mark.asyncio

PEOPLE = 4
MESSAGES = 150


class LossyBus(LocalBus):
    """Loses one publication in five and repeats one in ten."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.lost = 0

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        fate = self._rng.random()
        if fate < 0.2:
            self.lost += 1
            return
        super().publish(user, version, packet, exclude, announcement)
        if fate > 0.9:
            super().publish(user, version, packet, exclude, announcement)


async def test_what_the_bus_loses_the_store_brings(tmp_path: Path, rng: random.Random) -> None:
    record = Record()
    bus = LossyBus(rng)
    async with serving(tmp_path / "data", bus=bus) as inside:
        url = inside.url
        people = [await ChatClient(url, f"person {number}", record).connect() for number in range(PEOPLE)]
        second = await ChatClient(url, "person 0", record, session_id=people[0].session_id).connect()
        for number in range(MESSAGES):
            sender, recipient = rng.sample(people, 2)
            await sender.send(recipient.user_id, f"text {number}")
            if number % 10 == 0:
                await recipient.request("read", {"with": sender.user_id, "seq": 1})
        assert bus.lost > MESSAGES / 10
        live = {
            sighting.message.id
            for log in record.sockets
            for sighting in log.seen
            if sighting.how is How.LIVE and log.reader != sighting.message.sender
        }
        # Only a loss that nothing follows can still be unnoticed: the last few of each user.
        assert len(live) > MESSAGES * 0.9
        await judge(record, *people, second)
        for device in (*people, second):
            await device.close()
