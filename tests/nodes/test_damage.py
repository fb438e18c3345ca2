"""A damaged page of the shared database: it costs those whose conversation lies on it, and stops no node."""

from __future__ import annotations

import asyncio

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.nodes.fleet import Fleet
from tests.support.client import ChatClient, ConnectionLost, Refused

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

LONG = "x" * 1900
"""As long as PostgreSQL keeps it as it is: four fill a page."""


async def test_a_damaged_page_stops_no_node(own_postgres: Postgres, fleet: Fleet, nats: NatsServer) -> None:
    """One user's client comes back to one node after another, as a stock client does, and asks for what can't be read."""
    for _ in range(3):
        fleet.add(own_postgres.url, nats.url)
    await asyncio.to_thread(fleet.start)
    here = fleet.nodes[0].url
    ann, bob, cat, dan = [await ChatClient(here, name).connect() for name in ("ann", "bob", "cat", "dan")]
    await ann.send(bob.user_id, "on the page")
    for _ in range(8):
        await dan.send(dan.user_id, LONG)
    await cat.send(bob.user_id, "elsewhere")
    ann.cut()
    own_postgres.set(enable_seqscan="off")  # the whole of a table so small would be read for one row
    await asyncio.to_thread(own_postgres.damage, "duologue.message")
    for node in fleet.nodes:
        again = ChatClient(node.url, "ann", session_id=ann.session_id)
        with pytest.raises(ConnectionLost):
            await again.connect()
        assert node.wait_for_log("the database is damaged, a query was refused")
        with pytest.raises(Refused) as refused:
            await bob.history(ann.user_id)
        assert refused.value.code == "unavailable"
        assert refused.value.answer["retryAfter"] > 0
        async with ChatClient(node.url, "cat", session_id=cat.session_id) as same_cat:
            await same_cat.send_surely(bob.user_id, f"to {node.port}")
            await bob.wait_for_message(f"to {node.port}")
    page = await bob.history(cat.user_id)
    assert page["messages"][0]["content"] == "elsewhere"
    assert all(node.alive for node in fleet.nodes)
    for device in (bob, cat, dan):
        await device.close()
