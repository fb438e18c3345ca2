"""F9, F10, of the shared database: a disk that is full, a page that is damaged. No node stops for either."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.nodes.fleet import Fleet
from tests.promises.judge import judge
from tests.support.client import ChatClient, ConnectionLost, Refused
from tests.support.record import Record

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


@pytest.fixture
def small_disk(own_postgres: Postgres) -> Iterator[Path]:
    """A file system of 2 MB for tables of `own_postgres`. Needs root, as CI has."""
    folder = own_postgres.folder / "small"
    folder.mkdir()
    owner = own_postgres.folder.stat().st_uid
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={owner}", "tmpfs", folder], check=True, timeout=30
    )
    yield folder
    own_postgres.stop()
    subprocess.run(["umount", "-l", folder], check=True, timeout=30)


async def test_the_databases_disk_is_full(
    own_postgres: Postgres, small_disk: Path, fleet: Fleet, nats: NatsServer
) -> None:
    """F9: sends are refused with a hint, reads go on, and service returns with the space, without a restart."""
    for _ in range(2):
        fleet.add(own_postgres.url, nats.url)
    await asyncio.to_thread(fleet.start)
    own_postgres.sql(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    own_postgres.sql("ALTER TABLE duologue.message SET TABLESPACE small")
    here, there = (node.url for node in fleet.nodes)
    record = Record()
    async with ChatClient(here, "alice", record) as alice, ChatClient(there, "bob", record) as bob:
        for sender, peer in ((alice, bob), (bob, alice)):
            with pytest.raises(Refused) as refused:
                for _ in range(2_000):
                    await sender.send(peer.user_id, LONG)
            assert refused.value.code == "storage full"
            assert refused.value.answer["retryAfter"] > 0
        assert (await bob.history(alice.user_id))["messages"]
        async with ChatClient(there, "alice", session_id=alice.session_id) as laptop:
            assert laptop.connected
        subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True, timeout=30)
        for sender, peer in ((alice, bob), (bob, alice)):
            await sender.send_surely(peer.user_id, f"{sender.username} has room again")
            await peer.wait_for_message(f"{sender.username} has room again")
        await judge(record, alice, bob)
    await asyncio.to_thread(fleet.stop)
