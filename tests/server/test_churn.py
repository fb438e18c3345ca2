"""Hundreds come, talk and go at once, many of them in the middle of being signed in; then nothing is kept for anybody,
everybody knows who is here, and no message was lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from duologue.server.transport import TransportConfig
from tests.promises.judge import judge
from tests.support.client import ChatClient, ConnectionLost
from tests.support.inside import Inside, serving
from tests.support.links import LinkFailed
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

PEOPLE = 8
DEVICES = 30
ROUNDS = 12
STEPS = 6
"""At most so many things that a device does between coming and going."""


QUICK = TransportConfig(ping_interval=1, ping_timeout=1, connect_timeout=1)
"""Who polls and leaves between two polls is noticed by their heartbeat alone."""


class Crowd:
    """Devices of a few people, each of which comes and goes as it likes."""

    def __init__(self, inside: Inside, people: list[ChatClient], record: Record, rng: random.Random) -> None:
        self._inside = inside
        self._people = people
        self._record = record
        self._rng = rng
        self.signed_in = 0
        self.cut_short = 0

    async def live(self) -> None:
        for _ in range(ROUNDS):
            person = self._rng.choice(self._people)
            device = ChatClient(
                self._inside.url,
                person.username,
                self._record,
                session_id=person.session_id,
                guide=self._rng.random() < 0.5,
                transport="polling" if self._rng.random() < 0.1 else "websocket",
            )
            coming = asyncio.create_task(device.connect())
            if self._rng.random() < 0.5:
                await self._a_moment()
                device.cut()
                coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionLost, LinkFailed):
                await coming
            if device.connected:
                self.signed_in += 1
                # A connection that's lost in the middle of something is what this is about.
                with contextlib.suppress(ConnectionLost):
                    await self._talk(device)
            else:
                self.cut_short += 1
            device.cut()

    async def _talk(self, device: ChatClient) -> None:
        for _ in range(self._rng.randrange(STEPS)):
            peer = self._rng.choice(self._people).user_id
            match self._rng.randrange(5):
                case 0:
                    device.say(peer, "said")
                case 1:
                    await device.send(peer, "sent")
                case 2:
                    await device.request("watch", {"users": [peer]})
                case 3:
                    device.emit("read", {"with": peer, "seq": 1})
                case 4:
                    device.emit("history", {"with": peer})
            await self._a_moment()

    async def _a_moment(self) -> None:
        for _ in range(self._rng.choice((0, 1, 3, 10, 30, 100))):
            await asyncio.sleep(0)


@pytest.mark.parametrize("announce_people", [1000, 0], ids=["few people", "many people"])
async def test_a_churning_crowd_leaves_nothing_behind(
    tmp_path: Path, rng: random.Random, announce_people: int, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record()
    async with serving(tmp_path / "data", config=QUICK, announce_people=announce_people) as inside:
        eye = await ChatClient(inside.url, "eye", guide=True).connect()
        people = [await ChatClient(inside.url, f"person {n}", record).connect() for n in range(PEOPLE)]
        for person in people:
            await person.send(eye.user_id, "so that the eye is told of me")
            await eye.wait_for_message("so that the eye is told of me")
            person.cut()
        crowd = Crowd(inside, people, record, rng)
        await asyncio.gather(*(crowd.live() for _ in range(DEVICES)))
        assert crowd.signed_in > DEVICES
        assert crowd.cut_short > DEVICES
        stay = [await person.connect() for person in people[: PEOPLE // 2]]
        await inside.sockets_left(len(stay) + 1)
        await inside.until(lambda: not inside.gateway.presence._untold and not inside.gateway.presence._leaving)
        here = {person.user_id for person in stay}
        # Who is told of acquaintances only is told after these were read, in turns that nothing shows from here.
        await inside.until(lambda: online_for(eye) - {eye.user_id} == here)
        await eye.request("typing", {"to": eye.user_id})  # the answer comes after all that was told before
        assert online_for(eye) - {eye.user_id} == here
        second = await ChatClient(inside.url, "eye", guide=True, session_id=eye.session_id).connect()
        assert online_for(second) == here | {eye.user_id}
        eye.cut()
        second.cut()
        for person in stay:
            person.cut()
        await inside.all_gone()
        await judge(record, *people, eye)
        for device in (*people, eye):
            device.cut()
        await inside.all_gone()
    assert not [entry for entry in caplog.records if entry.name.startswith("duologue") and entry.levelname == "ERROR"]


def online_for(client: ChatClient) -> set[str]:
    """Who is online, for all that a client of the guide's form was told."""
    online: set[str] = set()
    for name, arguments in client.events:
        if name == "users":
            online = {user["userID"] for user in arguments[0] if user["connected"]}
        elif name == "user connected" and arguments[0]["connected"]:
            online.add(arguments[0]["userID"])
        elif name == "user disconnected":
            online.discard(arguments[0])
    return online
