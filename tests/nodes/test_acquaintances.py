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
async def _told_acquaintances(here: str, there: str) -> AsyncIterator[tuple[ChatClient, list[ChatClient]]]:
    """Ann leaves and comes back `here`; those of her latest conversations, who are `there`, are told and nobody else. In the
    block, with all still connected: her and them."""
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
        everybody = (bob, cat, dan, eve)
        for each in everybody:
            each.events.clear()
        ann.cut()
        for each in (cat, dan):
            await disconnected(each, ann.user_id)
        await ann.connect()
        for each in (cat, dan):
            await connected(each, ann.user_id)
        # What is told of one after another comes in this order.
        fay.cut()
        for each in (bob, eve):
            await disconnected(each, fay.user_id)
        assert [_told_of(each, ann.user_id) for each in everybody] == [
            [], ["user disconnected", "user connected"], ["user disconnected", "user connected"], [],
        ]  # fmt: skip
        assert [_told_of(each, fay.user_id) for each in everybody] == [
            ["user disconnected"],
            [],
            [],
            ["user disconnected"],
        ]
        yield ann, [cat, dan]


async def test_on_one_machine(start_server: StartServer) -> None:
    url = start_server(*BOUNDED).url
    async with _told_acquaintances(url, url):
        pass


async def test_on_several_nodes(fleet: Fleet, database: str, nats: NatsServer) -> None:
    """And the bus carries one hint for each of those who are told, at their own subject, and none for anybody else."""
    for _ in range(2):
        fleet.add(database, nats.url, *BOUNDED)
    here, there = (node.url for node in fleet.start().nodes)
    hints: list[tuple[str, bytes]] = []
    spy = await nats_py.connect(nats.url)

    async def note(message: Msg) -> None:
        hints.append((message.subject.rpartition(".")[2], message.data))

    await spy.subscribe("duologue.*.t.g.*", cb=note)
    await spy.flush()
    async with _told_acquaintances(here, there) as (ann, told):
        await spy.drain()
    of_her = [user for user, data in hints if data == envelope.topic(ann.user_id.encode())]
    assert sorted(of_her) == sorted(2 * [each.user_id for each in told])
