"""Who is told of whom when people are too many to tell everybody of everybody: on several nodes as on one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import nats as nats_py
import pytest
from nats.aio.msg import Msg

from cluster.nats import NatsServer
from duologue.bus import envelope
from tests.conftest import StartServer
from tests.nodes.fleet import Fleet
from tests.nodes.people import connected, disconnected
from tests.support.client import ChatClient

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

BOUNDED = ("--announce-people", "0", "--roster-people", "2", "--presence-grace", "0")
"""Nobody is told of everybody, but of the acquaintances of their two latest conversations."""


def _told_of(client: ChatClient, user_id: str) -> list[str]:
    """What a client was told of whether somebody is online."""
    of = {"user connected": lambda user: user["userID"], "user disconnected": lambda user: user}
    return [name for name, arguments in client.events if name in of and of[name](arguments[0]) == user_id]


@asynccontextmanager
async def _acquainted(here: str, there: str) -> AsyncIterator[list[ChatClient]]:
    """Ann and Fay, who are `here`, and Bob, Cat, Dan and Eve, who are `there`: all connected, and told that the others are.
    Ann's latest conversations are those with Cat and Dan, Fay's those with Bob and Eve."""
    async with AsyncExitStack() as stack:

        async def guide(url: str, name: str) -> ChatClient:
            return await stack.enter_async_context(ChatClient(url, name, guide=True))

        async def meet(sender: ChatClient, *recipients: ChatClient) -> None:
            for recipient in recipients:
                sender.say(recipient.user_id, f"hello from {sender.username}")
                await recipient.wait_for_message(f"hello from {sender.username}")

        ann, fay, gil = [await guide(here, name) for name in ("ann", "fay", "gil")]
        bob, cat, dan, eve = [await guide(there, name) for name in ("bob", "cat", "dan", "eve")]
        await meet(ann, bob, cat, dan)
        await meet(gil, bob)
        await meet(fay, bob, eve)
        # What is told of one after another comes in this order: that the others are here has been told when this has.
        gil.cut()
        await disconnected(bob, gil.user_id)
        await gil.connect()
        await connected(bob, gil.user_id)
        yield [ann, fay, bob, cat, dan, eve]


async def _come_and_go(ann: ChatClient, fay: ChatClient, *others: ChatClient) -> None:
    """Ann leaves and comes back, and Fay leaves: those of their latest conversations are told and nobody else."""
    bob, cat, dan, eve = others
    for each in others:
        each.events.clear()
    ann.cut()
    for each in (cat, dan):
        await disconnected(each, ann.user_id)
    await ann.connect()
    for each in (cat, dan):
        await connected(each, ann.user_id)
    fay.cut()
    for each in (bob, eve):
        await disconnected(each, fay.user_id)
    came_back = ["user disconnected", "user connected"]
    assert [_told_of(each, ann.user_id) for each in others] == [[], came_back, came_back, []]
    left = ["user disconnected"]
    assert [_told_of(each, fay.user_id) for each in others] == [left, [], [], left]


async def test_on_one_machine(start_server: StartServer) -> None:
    url = start_server(*BOUNDED).url
    async with _acquainted(url, url) as people:
        await _come_and_go(*people)


async def test_on_several_nodes(fleet: Fleet, database: str, nats: NatsServer) -> None:
    """And the bus carries one hint for each of those who are told, at their own subject, and none for anybody else."""
    for _ in range(2):
        fleet.add(database, nats.url, *BOUNDED)
    here, there = (node.url for node in fleet.start().nodes)
    hints: list[tuple[str, bytes]] = []

    async def note(message: Msg) -> None:
        hints.append((message.subject.rpartition(".")[2], message.data))

    async with _acquainted(here, there) as people:
        ann, _, _, cat, dan, _ = people
        spy = await nats_py.connect(nats.url)
        try:
            await spy.subscribe("duologue.*.t.g.*", cb=note)
            await spy.flush()
            await _come_and_go(*people)
            await spy.drain()
        finally:
            await spy.close()
    of_her = [user for user, data in hints if data == envelope.topic(ann.user_id.encode())]
    assert sorted(of_her) == sorted(2 * [cat.user_id, dan.user_id])
