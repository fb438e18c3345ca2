"""F3, F6, F13: a storm of retries, a reader that never reads, everybody back at once."""

from __future__ import annotations

import asyncio
import itertools
import uuid

import pytest

from tests.conftest import StartServer, on_both, on_both_in_time
from tests.support.checker import check
from tests.support.client import ChatClient, stored_messages
from tests.support.links import WebsocketLink
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

STORM = 50
SOCKETS = 5
FLOOD = 20_000
WINDOW = 500
HERD = 2_000
MEGABYTE = 1_000_000


@on_both
async def test_a_storm_of_retries_is_one_message(start_server: StartServer) -> None:
    server = start_server()
    record = Record()
    async with ChatClient(server.url, "bob", record) as bob, ChatClient(server.url, "alice", record) as first:
        sockets = [first]
        for _ in range(SOCKETS - 1):
            sockets.append(await ChatClient(server.url, "alice", record, session_id=first.session_id).connect())
        id = str(uuid.uuid4())
        sends = (
            socket.send(bob.user_id, "only once", id=id) for socket in itertools.islice(itertools.cycle(sockets), STORM)
        )
        answers = await asyncio.gather(*sends)
        assert len({tuple(sorted(answer.items())) for answer in answers}) == 1
        assert answers[0]["seq"] == 1
        await first.send(bob.user_id, "the end")
        await bob.wait_for_message("the end")
        await bob.complete()
        stored = await stored_messages([bob])
        assert [message.content for message in stored] == ["only once", "the end"]
        check(record, stored).assert_clean()
        for socket in sockets[1:]:
            await socket.close()


@on_both_in_time
@pytest.mark.timeout(180)
async def test_a_reader_that_never_reads_costs_nobody(start_server: StartServer) -> None:
    server = start_server("--message-rate", "1000000", "--message-burst", "1000000", "--max-unsent", str(MEGABYTE))
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "carol", record) as carol:
        slow = await ChatClient(server.url, "bob", record).connect()
        assert isinstance(slow.link, WebsocketLink)

        async def flood(to: str, messages: int) -> None:
            for start in range(0, messages, WINDOW):
                await asyncio.gather(*(alice.send(to, f"{start + each} {text}") for each in range(WINDOW)))

        text = "x" * 5_000
        async with ChatClient(server.url, "dave", record) as away:
            pass
        await flood(away.user_id, FLOOD // 4)  # the database's caches get their size
        slow.link.pause_reading()
        before = server.rss()
        server.forget_peak()
        await flood(slow.user_id, FLOOD)
        grown = server.peak() - before
        # What is meant for the slow reader has more than 100 MB; the database's caches take their part.
        assert grown < 60 * MEGABYTE
        await alice.send(carol.user_id, "still quick", timeout=10)
        await carol.wait_for_message("still quick", timeout=10)
        assert any("slow reader" in line for line in server.log())
        slow.link.resume_reading()
        await slow.wait_ended()
        await slow.connect()
        await slow.complete()
        check(record, await stored_messages([alice])).assert_clean()
        await slow.close()


@on_both_in_time
@pytest.mark.timeout(180)
async def test_everybody_comes_back_at_once(start_server: StartServer) -> None:
    server = start_server("--announce-people", "10")
    record = Record()
    async with ChatClient(server.url, "the talker", record) as talker:
        herd = [ChatClient(server.url, f"member {number}", record) for number in range(HERD)]
        for start in range(0, HERD, 100):
            await asyncio.gather(*(member.connect() for member in herd[start : start + 100]))
        for member in herd:
            member.cut()
        for start in range(0, HERD, 200):
            await asyncio.gather(*(talker.send(member.user_id, "while away") for member in herd[start : start + 200]))
        idle = server.rss()
        server.forget_peak()
        # `connect`, not `connect_surely`: nobody may be turned away.
        await asyncio.gather(*(member.connect(timeout=60) for member in herd))
        assert server.peak() < 2 * idle
        for member in herd:
            assert [entry["messages"][-1]["content"] for entry in member.pages[0]["conversations"]] == ["while away"]
            record.complete[member.device] = member.user_id
        check(record, await stored_messages([talker])).assert_clean()
        for member in herd:
            member.cut()
