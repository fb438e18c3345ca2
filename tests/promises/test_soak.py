"""A server that people use while others come and go all the time: nothing is lost, and nothing of those who went stays.

Every so often the visitors stay away for a moment, and the server has to come back to what it held before the first of them
came: descriptors, threads, tasks, timers, deadlines. Memory has to stop growing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from duologue.store.postgres.store import READERS
from tests.conftest import ONE_NODE, StartServer, on_both
from tests.promises.judge import judge
from tests.support.client import ChatClient, ConnectionLost
from tests.support.links import LinkFailed
from tests.support.process import ServerProcess
from tests.support.record import Record
from tests.support.watched import Holding

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

PATIENCE = 20.0
"""Seconds in which the server has to hold no more than at first, once the visitors are away."""

LIFE = 1e6
"""Seconds that no soak lasts."""

REST = 1.0
"""Seconds that a visitor of the long soak stays away at most; those of the short one come again at once."""

PAUSE = 0.2
"""Seconds between two questions whether that is so."""

GROWTH = 0.05
"""Of the memory, between the second third of the soak and the last; the first is for caches and the allocator."""

NOISE = 5_000_000
"""Bytes by which the memory of a server that has just started may still grow in a few seconds: its caches of
statements, people and conversations fill."""

KEPT = 5.0
"""Blocks of memory that may be kept for each connection that came and went: who wrote lately is remembered, and so are their
conversations. A connection that's gone and kept would take dozens."""

SETTLES = 3
"""The looks, the one before the first visitor included, that tell how many a server has of what it opens when it's needed."""

STATEMENTS = 25
"""That a node prepares on a connection to PostgreSQL. asyncpg has a timer for each, and uses more or fewer connections."""

POOL = {"descriptors": READERS, "timers": READERS * STATEMENTS}
"""What a node may hold more than at first."""

LATER = ("descriptors", "threads")
"""What it opens then, and keeps."""

QUIET = (
    "--connect-rate", "1e6", "--connect-burst", "1e6", "--presence-grace", "0.5",
    "--ping-interval", f"{BEAT:g}", "--ping-timeout", f"{BEAT:g}", "--log-level", "error",
    # Who doesn't sync is told of everybody and everything again each time: that would grow, and the checker keeps it.
    "--announce-people", "100", "--roster-messages", "1", "--roster-total", "5",
)  # fmt: skip


@dataclass
class Look:
    """What the server holds with the visitors away."""

    seconds: float
    connects: int
    messages: int
    memory: int
    descriptors: int
    threads: int
    holding: Holding

    @property
    def own(self) -> int:
        """Bytes of memory without SQLite's caches, which grow with the database up to their limits."""
        return self.memory - self.holding.sqlite

    def counts(self) -> dict[str, int]:
        holding = self.holding
        return {
            "descriptors": self.descriptors,
            "threads": self.threads,
            "connections": holding.connections,
            "tasks": holding.tasks,
            "timers": holding.timers,
            "deadlines": holding.deadlines,
        }


class Soak:
    """Those who stay and those who come and go."""

    def __init__(self, server: ServerProcess, rng: random.Random, rest: float, slack: Mapping[str, int]) -> None:
        """`rest` is how many seconds a visitor stays away, at most; `slack` what may be held beyond what there was at first."""
        self.server = server
        self._slack = slack
        self._rest = rest
        self._stop = False
        self.record = Record()
        self.looks: list[Look] = []
        self.clean: list[Look] = []
        """Without garbage: after the first third and at the end. At each look this would hide garbage that piles up."""
        self._rng = rng
        self._began = time.monotonic()
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
        await self.look()

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

    async def look(self, collect: bool = False) -> None:
        """Once the server holds no more than at first, or PATIENCE is over. With `collect` once more without its garbage."""
        self.doorman.events.clear()
        give_up = time.monotonic() + PATIENCE
        while True:
            look = await asyncio.to_thread(self._look)
            if time.monotonic() > give_up or self._settled(look):
                self.looks.append(look)
                break
            await asyncio.sleep(PAUSE)

        if collect:
            self.clean.append(await asyncio.to_thread(self._look, True))

    def _settled(self, look: Look) -> bool:
        if not self.looks:
            return look.holding.connections == len(self.people) + 1
        allowed = self._allowed()
        return all(count <= allowed.get(name, count) for name, count in look.counts().items())

    def _allowed(self) -> dict[str, int]:
        """What was held at first; of some things, once the first few looks have told how many."""
        first, *more = (look.counts() for look in self.looks[:SETTLES])
        known = {name: count for name, count in first.items() if name not in LATER}
        if len(self.looks) >= SETTLES:
            known |= {name: max(counts[name] for counts in (first, *more)) for name in LATER}
        return {name: count + self._slack.get(name, 0) for name, count in known.items()}

    def _look(self, collect: bool = False) -> Look:
        server = self.server
        mark = server.log_mark()
        memory = server.rss()
        server.ask_what_it_holds(collect)
        said = server.wait_for_log("^holds (.*)", since=mark)
        holding = msgspec.json.decode(said[1], type=Holding)
        seconds = time.monotonic() - self._began
        return Look(
            seconds, self._connects, len(self.record.acks), memory, server.descriptors(), server.threads(), holding
        )

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

    def table(self) -> str:
        heads = ["seconds", "connects", "messages", "MB", "MB without SQLite's", "blocks", *self.looks[0].counts()]
        rows = [
            [
                f"{look.seconds:.0f}", f"{look.connects}", f"{look.messages}",
                f"{look.memory / 1e6:.2f}", f"{look.own / 1e6:.2f}",
                f"{look.holding.blocks}", *map(str, look.counts().values()),
            ]
            for look in self.looks
        ]  # fmt: skip
        lines = ["  ".join(f"{cell:>{len(head)}}" for cell, head in zip(row, heads, strict=True)) for row in rows]
        return "\n".join(["  ".join(heads), *lines])

    def faults(self, growth: int) -> list[str]:
        """What grew. `growth` in bytes is what the memory may grow by from the second third of the looks to the last."""
        return [*self._grown(), *self._memory(growth)]

    def _grown(self) -> Iterator[str]:
        for look in self.looks:
            for name, allowed in self._allowed().items():
                if (count := look.counts()[name]) > allowed:
                    yield f"{count} {name} after {look.seconds:.0f} s, {allowed} at first"

    def _memory(self, growth: int) -> Iterator[str]:
        third = len(self.looks) // 3
        second, last = self.looks[third : 2 * third], self.looks[2 * third :]
        before, after = (statistics.median(look.own for look in looks) for looks in (second, last))
        if after - before > growth:
            yield f"the memory grew from {before:,.0f} to {after:,.0f} bytes, by more than {growth:,.0f}"
        first, final = self.clean
        kept = (final.holding.blocks - first.holding.blocks) / max(1, final.connects - first.connects)
        if kept > KEPT:
            yield f"{kept:.1f} blocks of memory were kept for each connection, more than {KEPT:g}"


async def soak(
    server: ServerProcess, rng: random.Random, rounds: int, seconds: float, rest: float, slack: Mapping[str, int]
) -> Soak:
    """So many times so many seconds of visitors, each followed by a look."""
    soak = Soak(server, rng, rest, slack)
    await soak.begin()
    talking = asyncio.create_task(soak.talk())
    try:
        for number in range(rounds):
            await soak.churn(seconds)
            await soak.look(collect=number in (rounds // 3, rounds - 1))
            assert not talking.done(), "somebody has stopped talking"
        soak.stop()
        async with asyncio.timeout(60):
            await talking
        await soak.judge()
    finally:
        print(soak.table())
        talking.cancel()
        await asyncio.wait([talking])
        await soak.end()
    return soak


@pytest.mark.timeout(300)
async def test_a_short_soak(start_server: StartServer, rng: random.Random) -> None:
    short = await soak(start_server(*QUIET, module="tests.support.watched"), rng, rounds=4, seconds=2, rest=0, slack={})
    assert short.faults(growth=NOISE) == []


@on_both
@pytest.mark.torture
@pytest.mark.timeout(0)  # as long as it was asked to; each wait in it has its own limit
async def test_a_long_soak(
    start_server: StartServer, rng: random.Random, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 60 * request.config.getoption("--soak-minutes")
    rounds = min(60, max(9, round(seconds / 30)))
    slack = POOL if request.node.callspec.params["start_server"] == ONE_NODE else {}
    server = start_server(*QUIET, module="tests.support.watched")
    long = await soak(server, rng, rounds, seconds / rounds, REST, slack)
    with capsys.disabled():
        print(f"\n{long.table()}")
    assert long.faults(growth=int(long.looks[rounds // 3].own * GROWTH)) == []
