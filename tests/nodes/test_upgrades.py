"""Rolling upgrades: nodes of two adjacent releases side by side, and what keeps those apart that aren't adjacent. The other
releases are copies of this one's source with one more step of the schema, or with another format on the bus."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from cluster.nats import NatsServer
from duologue.bus.envelope import FORMAT
from duologue.server.comparison import ALERT_INTERVAL
from duologue.server.hub import LATE_HINT_PATIENCE
from duologue.store.postgres.schema import VERSION
from tests.nodes.fleet import Fleet, talk_through
from tests.nodes.people import disconnected, watch
from tests.support.client import ChatClient, Refused
from tests.support.process import ServerFailed, ServerProcess
from tests.support.record import Record
from tests.support.release import Release

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

rounds = pytest.mark.parametrize(
    "rounds", [1, pytest.param(5, marks=[pytest.mark.torture, pytest.mark.timeout(600)], id="torture")]
)
"""Releases that follow one another."""

UNHEARD = ALERT_INTERVAL + LATE_HINT_PATIENCE + 8.0
"""Seconds that a message between two formats may take: a comparison with the store, and the machine. While all is well there's
one in 30 s only."""

LEASE = 1.5


async def _schema(database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        return int(await connection.fetchval("SELECT value FROM duologue.meta WHERE name = 'schema_version'"))
    finally:
        await connection.close()


@rounds
@pytest.mark.parametrize("what", ["schema", "format"])
async def test_nodes_are_replaced_one_by_one_by_the_next_release_and_one_is_taken_back(
    fleet: Fleet, database: str, nats: NatsServer, rng: random.Random, tmp_path: Path, what: str, rounds: int
) -> None:
    def change(number: int) -> dict[str, int]:
        return {"steps": number} if what == "schema" else {"format": FORMAT + number}

    releases = [None, *(Release(tmp_path / f"{what} {each}", **change(each)) for each in range(1, rounds + 1))]
    running = [fleet.add(database, nats.url) for _ in range(3)]
    fleet.start()

    def replace(place: int, release: Release | None) -> None:
        assert running[place].terminate() == 0
        running[place] = fleet.add(database, nats.url, release=release).start()

    troubles = []
    for number in range(1, rounds + 1):
        old, new = releases[number - 1 : number + 1]
        course = [(0, new), (1, new), (2, new), (1, old)]
        if number < rounds:
            course.append((1, new))
        troubles += [lambda place=place, release=release: replace(place, release) for place, release in course]
    await talk_through(fleet, rng, *troubles)
    assert await _schema(database) == VERSION + (rounds if what == "schema" else 0)
    assert any("had another format" in line for node in fleet.nodes for line in node.log()) == (what == "format")


def _refused(node: ServerProcess) -> str:
    """Start a node that refuses to; returns what it says."""
    mark = node.log_mark()
    with pytest.raises(ServerFailed, match="ended"):
        node.start()
    assert node.wait() == 2
    (line,) = node.log(mark)
    return line


async def test_releases_that_are_not_adjacent_keep_each_other_out(
    fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path
) -> None:
    """Whichever comes second is refused, with nothing changed, and says what to do."""
    next_one, one_after = (Release(tmp_path / str(steps), steps=steps) for steps in (1, 2))
    this = fleet.add(database, nats.url).start()
    that = fleet.add(database, nats.url, release=one_after)
    too_far = (
        f"nodes with schema {VERSION} are running, which can't use schema {VERSION + 2}: bring them to a release with "
        f"schema {VERSION + 1} first, or stop them all"
    )
    assert too_far in await asyncio.to_thread(_refused, that)
    assert await _schema(database) == VERSION
    between = fleet.add(database, nats.url, release=next_one).start()
    async with ChatClient(this.url, "ann") as ann, ChatClient(between.url, "bob") as bob:
        await ann.send(bob.user_id, "side by side")
        await bob.wait_for_message("side by side")
    assert too_far in await asyncio.to_thread(_refused, that)
    assert await _schema(database) == VERSION + 1
    assert await asyncio.to_thread(this.terminate) == 0
    await asyncio.to_thread(that.start)
    too_old = (
        f"its schema {VERSION + 2} can be used by {VERSION + 1} and newer, this one has {VERSION}): install the release that the "
        "other nodes run"
    )
    assert too_old in await asyncio.to_thread(_refused, this)
    async with ChatClient(between.url, "cat") as cat, ChatClient(that.url, "dan") as dan:
        await cat.send(dan.user_id, "adjacent again")
        await dan.wait_for_message("adjacent again")


async def test_what_is_said_in_another_format_comes_late_and_once(
    fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path
) -> None:
    quick = ("--presence-lease", f"{LEASE}", "--presence-grace", "0.3")
    fleet.add(database, nats.url, *quick)
    fleet.add(database, nats.url, *quick, release=Release(tmp_path / "next", format=FORMAT + 1))
    fleet.start()
    here, there = fleet.nodes
    record = Record()
    took: list[float] = []
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(ChatClient(here.url, "ann", record))
        bob = await stack.enter_async_context(ChatClient(there.url, "bob", record))
        for number in range(3):
            for sender, recipient in ((ann, bob), (bob, ann)):
                began = time.monotonic()
                await sender.send(recipient.user_id, f"{sender.username} {number}")
                await recipient.wait_for_message(f"{sender.username} {number}")
                took.append(time.monotonic() - began)
        print(f"messages took {', '.join(f'{each:.2f}' for each in took)} s")
        assert max(took) < UNHEARD
        began = time.monotonic()
        await bob.request("read", {"with": ann.user_id, "seq": 6})
        await ann.wait_for(lambda event: event[0] == "receipt" and event[1][0]["read"] == 6)
        assert time.monotonic() - began < UNHEARD
        await watch(ann, bob)
        tablet = await ChatClient(here.url, "bob", record, session_id=bob.session_id).connect()
        tablet.may_be_dismissed = bob.may_be_dismissed = True
        await tablet.request("sign out", {})
        await bob.wait_ended()
        with pytest.raises(Refused, match="invalid username"):
            await bob.connect()
        await disconnected(ann, bob.user_id)
        dan = await stack.enter_async_context(ChatClient(here.url, "dan", guide=True))
        await watch(dan, await stack.enter_async_context(ChatClient(there.url, "cat")))
    for node in fleet.nodes:
        assert sum("had another format" in line for line in node.log()) == 1
