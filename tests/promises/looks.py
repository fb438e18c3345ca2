"""What a server holds whenever its visitors are away: it has to come back to what it held before the first of them came, and its
memory has to stop growing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from duologue.store.postgres.store import READERS
from tests.support.process import ServerProcess
from tests.support.watched import Holding, what_it_holds

PATIENCE: Final = 20.0
"""Seconds in which the server has to hold no more than at first, once the visitors are away."""

PAUSE: Final = 0.2
"""Seconds between two questions whether that is so."""

KEPT: Final = 1.0
"""Blocks of memory that may be kept for each connection that came and went; in half an hour it's a tenth. A connection that's
gone and kept would take dozens."""

FILLS: Final = 500
"""Blocks besides that caches of a server that has just started may still take, however few connections a slow machine lets come
and go meanwhile; one in ten of a hundred that is kept would take more."""

IDLE_LOOKS: Final = 10
"""Before the first visitor, a `PAUSE` apart: of timers there are now none and now two, though nothing happens."""

SETTLES: Final = 3
"""The looks, the one before the first visitor included, that tell how many a server has of what it opens when it's needed."""

LATER: Final = ("descriptors", "threads")
"""What it opens then, and keeps."""

POOL: Final = {"descriptors": READERS, "timers": READERS}
"""What a node may hold more than at first: it uses more or fewer connections to PostgreSQL, and ends idle ones by a timer."""

STATEMENTS: Final = READERS * 25 * 100
"""Blocks of memory that those connections have for the statements that are prepared on them."""


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


class Looks:
    """All looks of one run, and what they say together."""

    def __init__(self, server: ServerProcess, connections: int, one_node: bool) -> None:
        """`connections` are those that stay when the visitors are away."""
        self.taken: list[Look] = []
        self._idle: dict[str, int] = {}
        """The most that it held of each before the first visitor."""
        self._clean: list[Look] = []
        """Without garbage: after the first third and at the end. At each look this would hide garbage that piles up."""
        self._server = server
        self._connections = connections
        self._one_node = one_node
        self._began = time.monotonic()

    async def take(self, connects: int, messages: int, collect: bool = False) -> None:
        """Once the server holds no more than at first, or PATIENCE is over; after so many connects and messages. With
        `collect` once more without its garbage."""
        if not self.taken:
            await self._watch_idle()
        give_up = time.monotonic() + PATIENCE
        while True:
            look = await asyncio.to_thread(self._look, connects, messages)
            if time.monotonic() > give_up or self._settled(look):
                self.taken.append(look)
                break
            await asyncio.sleep(PAUSE)
        if collect:
            self._clean.append(await asyncio.to_thread(self._look, connects, messages, True))

    def table(self) -> str:
        """All looks, and after them those without garbage."""
        heads = [
            "seconds",
            "connects",
            "messages",
            "MB",
            "MB without SQLite's",
            "blocks",
            "MB for blocks",
            "MB of malloc",
            "free",
            *self.taken[0].counts(),
        ]
        rows = [
            [
                f"{look.seconds:.0f}", f"{look.connects}", f"{look.messages}",
                f"{look.memory / 1e6:.2f}", f"{look.own / 1e6:.2f}",
                f"{look.holding.blocks}", f"{look.holding.arenas / 1e6:.2f}",
                f"{look.holding.malloc / 1e6:.2f}", f"{look.holding.malloc_free / 1e6:.2f}", *map(str, look.counts().values()),
            ]
            for look in (*self.taken, *self._clean)
        ]  # fmt: skip
        lines = ["  ".join(f"{cell:>{len(head)}}" for cell, head in zip(row, heads, strict=True)) for row in rows]
        return "\n".join(["  ".join(heads), *lines])

    def faults(self, growth: int) -> list[str]:
        """What grew. `growth` in bytes is what the memory may grow by from the second third of the looks to the last."""
        return [*self._grown(), *self._memory(growth)]

    def _look(self, connects: int, messages: int, collect: bool = False) -> Look:
        server = self._server
        memory = server.rss()
        holding = what_it_holds(server, collect)
        seconds = time.monotonic() - self._began
        return Look(seconds, connects, messages, memory, server.descriptors(), server.threads(), holding)

    async def _watch_idle(self) -> None:
        looks = 0
        async with asyncio.timeout(PATIENCE):
            while looks < IDLE_LOOKS:
                look = await asyncio.to_thread(self._look, 0, 0)
                if look.holding.connections == self._connections:
                    looks += 1
                    for name, count in look.counts().items():
                        self._idle[name] = max(count, self._idle.get(name, 0))
                await asyncio.sleep(PAUSE)

    def _settled(self, look: Look) -> bool:
        allowed = self._allowed()
        return all(count <= allowed.get(name, count) for name, count in look.counts().items())

    def _allowed(self) -> dict[str, int]:
        """What was held at first; of some things, once the first few looks have told how many."""
        known = {name: count for name, count in self._idle.items() if name not in LATER}
        if len(self.taken) >= SETTLES:
            first = [look.counts() for look in self.taken[:SETTLES]]
            known |= {name: max(counts[name] for counts in first) for name in LATER}
        slack = POOL if self._one_node else {}
        return {name: count + slack.get(name, 0) for name, count in known.items()}

    def _grown(self) -> Iterator[str]:
        for look in self.taken:
            for name, allowed in self._allowed().items():
                if (count := look.counts()[name]) > allowed:
                    yield f"{count} {name} after {look.seconds:.0f} s, {allowed} at first"

    def _memory(self, growth: int) -> Iterator[str]:
        third = len(self.taken) // 3
        second, last = self.taken[third : 2 * third], self.taken[2 * third :]
        before, after = (statistics.median(look.own for look in looks) for looks in (second, last))
        if after - before > growth:
            yield f"the memory grew from {before:,.0f} to {after:,.0f} bytes, by more than {growth:,.0f}"
        first, final = self._clean
        grown = final.holding.blocks - first.holding.blocks - (STATEMENTS if self._one_node else 0)
        connects = final.connects - first.connects
        if grown > KEPT * connects + FILLS:
            yield f"{grown} blocks of memory were kept of {connects} connections, more than {KEPT:g} for each and {FILLS}"
