"""A server that people use while others come and go all the time: nothing is lost, and nothing of those who went stays.

Every so often the visitors stay away for a moment, and the server is looked at (looks.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from typing import Any

import pytest

from tests.conftest import StartServer, on_both, on_both_in_time
from tests.promises.judge import judge
from tests.promises.looks import Looks
from tests.support.client import ChatClient, ConnectionLost
from tests.support.links import LinkFailed
from tests.support.process import ServerProcess
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

PEOPLE = 6
PACE = 0.2
"""Seconds between two messages of a person who stays. A soak is long, not heavy; what was said is kept for the checker."""

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"transport": "polling"},
    {"guide": True},
    {"guide": True, "transport": "polling"},
)
"""How the visitors of each person connect."""

NEWCOMERS = 4
"""Who come at once under names of their own, again and again."""

WRITES = 10
"""Every which newcomer writes something. Whoever does is remembered (store/ledger.py), up to a bound that no soak reaches."""

STEPS = 5
"""At most so many things that a visitor does before going."""

BEAT = 1.0
"""Seconds between two heartbeats, and for the answer: who polls and leaves between two polls is noticed by these alone."""

LIFE = 1e6
"""Seconds that no soak lasts."""

REST = 1.0
"""Seconds that a visitor of the long soak stays away at most; those of the short one come again at once."""

GROWTH = 0.05
"""Of the memory, between the second third of the soak and the last; the first is for caches and the allocator."""

NOISE = 5_000_000
"""Bytes by which the memory of a server that has just started may still grow in a few seconds: its caches of
statements, people and conversations fill."""

QUIET = (
    "--connect-rate", "1e6", "--connect-burst", "1e6", "--presence-grace", "0.5",
    "--ping-interval", f"{BEAT:g}", "--ping-timeout", f"{BEAT:g}", "--log-level", "error",
    # Who doesn't sync is told of everybody and everything again each time: that would grow, and the checker keeps it.
    "--announce-people", "100", "--roster-messages", "1", "--roster-total", "5",
)  # fmt: skip


class Soak:
    """Those who stay and those who come and go."""

    def __init__(self, server: ServerProcess, rng: random.Random, rest: float) -> None:
        """`rest` is how many seconds a visitor stays away, at most."""
        self.server = server
        self._rest = rest
        self._stop = False
        self.record = Record()
        self._rng = rng
        self._connects = 0
        self._names = itertools.count()
        self.people = [ChatClient(server.url, f"person {number}", self.record) for number in range(PEOPLE)]
        self.doorman = ChatClient(server.url, "doorman", self.record)
        """To whom the newcomers say that they were here: with the others, whom they'd be listed to, everything would grow."""
        self.visitors: list[ChatClient] = []

    async def begin(self) -> None:
        await self.doorman.connect()
        for person in self.people:
            await person.connect()
            for kind in KINDS:
                visitor = ChatClient(
                    self.server.url, person.username, self.record, session_id=person.session_id, **kind
                )
                self.visitors.append(visitor)

    async def talk(self) -> None:
        """Those who stay, until told to stop. Each waits for the last answer: who doesn't can't know what is stored."""
        staying = asyncio.create_task(self._stay())
        await asyncio.gather(*map(self._speak, self.people))
        staying.cancel()
        await asyncio.wait([staying])

    def stop(self) -> None:
        self._stop = True

    async def churn(self, seconds: float) -> None:
        """Visitors, newcomers and strangers for so long."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for visitor in self.visitors:
                group.create_task(self._visit(visitor, until))
            for _ in range(NEWCOMERS):
                group.create_task(self._arrive(until))
            group.create_task(self._knock(until))

    async def look(self, looks: Looks, collect: bool = False) -> None:
        self.doorman.events.clear()
        await looks.take(self._connects, len(self.record.acks), collect)

    async def _speak(self, person: ChatClient) -> None:
        for number in itertools.count():
            if self._stop:
                return
            to = self._rng.choice(self.people).user_id
            await person.send_surely(to, f"{person.device} says {number}")
            person.events.clear()  # for hours nobody else would
            await asyncio.sleep(PACE)

    async def _stay(self) -> None:
        while True:
            await self.doorman.wait_ended(timeout=LIFE)
            await self.doorman.connect_surely()

    async def _visit(self, visitor: ChatClient, until: float) -> None:
        while time.monotonic() < until:
            await self._come(visitor)
            if visitor.connected:
                # A connection that's lost in the middle of something is what this is about.
                with contextlib.suppress(ConnectionLost):
                    await self._do_something(visitor)
            await self._go(visitor)
            await asyncio.sleep(self._rng.random() * self._rest)

    async def _come(self, visitor: ChatClient) -> None:
        self._connects += 1
        coming = asyncio.create_task(visitor.connect(timeout=60))
        if self._rng.random() < 0.2:
            await self._a_moment()
            visitor.cut()
            coming.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionLost, LinkFailed):
            await coming

    async def _go(self, visitor: ChatClient) -> None:
        if self._rng.random() < 0.5:
            await visitor.close()
        else:
            visitor.cut()
        await visitor.wait_ended()

    async def _do_something(self, visitor: ChatClient) -> None:
        for _ in range(self._rng.randrange(STEPS)):
            peer = self._rng.choice(self.people).user_id
            match self._rng.randrange(6):
                case 0 if visitor.guide:  # who syncs wouldn't learn the seq
                    visitor.say(peer, f"{visitor.log.name} said {len(self.record.sent)}")
                case 1:
                    await visitor.send(peer, f"{visitor.log.name} sent {len(self.record.sent)}")
                case 2:
                    await visitor.request("watch", {"users": [peer]})
                case 3:
                    visitor.emit("read", {"with": peer, "seq": max(1, visitor.heads.get(peer, 1))})
                case 4:
                    await visitor.request("history", {"with": peer, "limit": 10})
                case 5:
                    visitor.emit("typing", {"to": peer})
            await self._a_moment()

    async def _arrive(self, until: float) -> None:
        """Newcomers, one after another: each has a name of their own, looks around, and never comes back."""
        while time.monotonic() < until:
            number = next(self._names)
            newcomer = ChatClient(self.server.url, f"newcomer {number}", self.record, **KINDS[number % len(KINDS)])
            await self._come(newcomer)
            with contextlib.suppress(ConnectionLost):
                if newcomer.connected:
                    await newcomer.request("directory", {})
                    if number % WRITES == 0:
                        await newcomer.send(self.doorman.user_id, f"{number} was here")
                    if self._rng.random() < 0.5:
                        newcomer.may_be_dismissed = True
                        await newcomer.request("sign out", {})
            await self._go(newcomer)
            await asyncio.sleep(self._rng.random() * self._rest)

    async def _knock(self, until: float) -> None:
        """Connections that say nothing, or nothing that makes sense."""
        for number in itertools.count():
            if time.monotonic() > until:
                return
            _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
            if number % 2:
                writer.write(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n")
            writer.transport.abort()
            await asyncio.sleep(PACE)

    async def _a_moment(self) -> None:
        for _ in range(self._rng.choice((0, 1, 3, 10, 30, 100))):
            await asyncio.sleep(0)

    # -- judging ----------------------------------------------------------------------------------------------------

    async def judge(self) -> None:
        syncing = [visitor for visitor in self.visitors if not visitor.guide]
        await judge(self.record, *self.people, *syncing, self.doorman)

    async def end(self) -> None:
        for device in (*self.people, *self.visitors, self.doorman):
            await device.close()


async def soak(start_server: StartServer, rng: random.Random, rounds: int, seconds: float, rest: float) -> Looks:
    """So many times so many seconds of visitors, each followed by a look."""
    server = start_server(*QUIET, module="tests.support.watched")
    soak = Soak(server, rng, rest)
    looks = Looks(server, len(soak.people) + 1, start_server.one_node)
    await soak.begin()
    await soak.look(looks)
    talking = asyncio.create_task(soak.talk())
    try:
        for number in range(rounds):
            await soak.churn(seconds)
            await soak.look(looks, collect=number in (rounds // 3, rounds - 1))
            assert not talking.done(), "somebody has stopped talking"
        soak.stop()
        async with asyncio.timeout(60):
            await talking
        await soak.judge()
    finally:
        print(looks.table())
        talking.cancel()
        await asyncio.wait([talking])
        await soak.end()
    return looks


@on_both_in_time
@pytest.mark.timeout(300)
async def test_a_short_soak(start_server: StartServer, rng: random.Random) -> None:
    looks = await soak(start_server, rng, rounds=3, seconds=1, rest=0)
    assert looks.faults(growth=NOISE) == []


@on_both
@pytest.mark.torture
@pytest.mark.timeout(0)  # as long as it was asked to; each wait in it has its own limit
async def test_a_long_soak(
    start_server: StartServer, rng: random.Random, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 60 * request.config.getoption("--soak-minutes")
    rounds = min(60, max(9, round(seconds / 30)))
    looks = await soak(start_server, rng, rounds, seconds / rounds, REST)
    with capsys.disabled():
        print(f"\n{looks.table()}")
    assert looks.faults(growth=int(looks.taken[rounds // 3].own * GROWTH)) == []
