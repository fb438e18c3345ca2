"""Several nodes of one installation: real processes on one PostgreSQL and one NATS, and clients that go from one to another."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import aiohttp

from tests.support import process
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.record import Record
from tests.support.release import Release
from tests.support.talk import LATE, SURELY, Talk

TROUBLE = 90.0
"""Seconds that one trouble may take until people talk again."""


HEALTH = 25.0
"""Seconds in which a node has noticed whatever it says in its health."""


class Fleet:
    """The nodes. `url` is what a client finds in its configuration: any node that isn't switched off."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder = folder
        self._rng = rng
        self.nodes: list[ServerProcess] = []

    def add(self, database: str, bus: str, *arguments: str, release: Release | None = None) -> ServerProcess:
        """One more node, of this release if no other is given; not started yet."""
        env = None if release is None else release.environment
        node = process.duologue(self._folder / "data", "--database", database, "--bus", bus, *arguments, env=env)
        self.nodes.append(node)
        return node

    def start(self, nodes: Sequence[ServerProcess] | None = None) -> Self:
        wanted = self.nodes if nodes is None else nodes
        with ThreadPoolExecutor(len(wanted)) as threads:
            list(threads.map(lambda node: node.start(), wanted))
        return self

    def stop(self) -> None:
        """Before what they stand on goes away."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: node.stop(), self.nodes))

    @property
    def url(self) -> str:
        return self._rng.choice([node for node in self.nodes if node.alive] or self.nodes).url

    def client(self, name: str, record: Record) -> ChatClient:
        return RoamingClient(lambda: self.url, name, record)


class RoamingClient(ChatClient):
    """Connects to whatever node it's sent to, each time anew: no stickiness."""

    def __init__(self, choose: Callable[[], str], name: str, record: Record) -> None:
        super().__init__(choose(), name, record)
        self._choose = choose

    async def connect(self, timeout: float = 15.0) -> Self:
        self.url = self._choose()
        return await super().connect(timeout)


async def until_health(url: str, wanted: dict[str, object]) -> None:
    """Wait until the node at that address says this of its health."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(HEALTH):
        while True:
            async with http.get(f"{url}/health") as answer:
                if await answer.json() == wanted:
                    return
            await asyncio.sleep(0.02)


Trouble = Callable[[], object]
"""Called in a thread, or awaited if it's a coroutine function."""


class Course(NamedTuple):
    """What has happened: all that was said, and when each trouble began and ended."""

    talk: Talk
    troubles: list[tuple[float, float]]


async def talk_through(
    fleet: Fleet,
    rng: random.Random,
    *troubles: Trouble,
    late: float = LATE,
    calm: float = 0.0,
    surely: float = SURELY,
) -> Course:
    """Let people talk on all nodes, and let each of the troubles happen amid it, with so many seconds of calm before the first
    and after each; then judge everything."""
    talk = Talk(fleet.client, rng, surely)
    course = Course(talk, [])
    await talk.begin()
    talking = asyncio.create_task(talk.talk())
    try:
        await talk.go_on(calm)
        for trouble in troubles:
            async with asyncio.timeout(TROUBLE):
                await talk.record.acknowledged(rng.randrange(20, 120))
                began = time.monotonic()
                await (trouble() if inspect.iscoroutinefunction(trouble) else asyncio.to_thread(trouble))
                course.troubles.append((began, time.monotonic()))
                await talk.record.acknowledged(20)
                await talk.go_on(calm)
            if talking.done():
                talking.result()  # raises what it ended with
            assert not talking.done()
        async with asyncio.timeout(TROUBLE):
            talk.stop()
            await talking
            await talk.judge(late)
    except TimeoutError:
        if talking.done():
            talking.result()  # why nobody talks any more
        raise
    finally:
        talking.cancel()
        await asyncio.wait([talking])
        await talk.end()
    return course
