"""The support package against the real server: what the promise tests are built on has to stand by itself."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import sockets
from tests.support.checker import check
from tests.support.client import ChatClient, ConnectionLost, NoAnswer, Refused, stored_messages
from tests.support.links import Link, Receiver, open_link
from tests.support.proxy import Proxy
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])


@TRANSPORTS
async def test_two_people_talk_and_the_checker_agrees(start_server: StartServer, transport: str) -> None:
    server = start_server()
    record = Record()
    async with (
        ChatClient(server.url, "alice", record, transport=transport) as alice,
        ChatClient(server.url, "bob", record) as bob,
        ChatClient(server.url, "carol", record, guide=True, transport=transport) as carol,
    ):
        answers = [await alice.send(bob.user_id, f"text {number}") for number in range(20)]
        assert [answer["seq"] for answer in answers] == list(range(1, 21))
        carol.say(bob.user_id, "in the guide's form")
        await bob.wait_for_message("text 19")
        await bob.wait_for_message("in the guide's form")
        await alice.complete()
        await bob.complete()
        check(record, await stored_messages([alice, bob])).assert_clean()


@TRANSPORTS
async def test_a_reconnection_brings_what_was_missed(start_server: StartServer, transport: str) -> None:
    server = start_server()
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice:
        bob = await ChatClient(server.url, "bob", record, transport=transport).connect()
        await alice.send(bob.user_id, "before")
        await bob.wait_for_message("before")
        bob.cut()
        for number in range(120):
            await alice.send(bob.user_id, f"while away {number}")
        await bob.connect()
        assert bob.pages[0]["conversations"][0]["gap"] is not None
        await bob.complete()
        check(record, await stored_messages([alice, bob])).assert_clean()
        await bob.close()


async def test_a_cut_before_the_ack_and_a_retry(start_server: StartServer) -> None:
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        alice = await ChatClient(proxy.url, "alice", record).connect()
        first = await alice.send(bob.user_id, "first", id="00000000-0000-4000-8000-000000000001")
        proxy.to_client.cut_before = b'"seq"'
        with pytest.raises(ConnectionLost):
            await alice.send(bob.user_id, "second", id="00000000-0000-4000-8000-000000000002")
        await bob.wait_for_message("second")
        await alice.connect()
        again = await alice.send(bob.user_id, "second", id="00000000-0000-4000-8000-000000000002")
        assert again["seq"] == first["seq"] + 1
        await alice.complete()
        await bob.complete()
        check(record, await stored_messages([alice, bob])).assert_clean()
        await alice.close()


async def test_a_half_open_connection_gets_no_answer(start_server: StartServer) -> None:
    server = start_server()
    async with Proxy(server.port) as proxy, ChatClient(proxy.url, "alice") as alice:
        proxy.to_client.swallow = True
        with pytest.raises(NoAnswer):
            await alice.request("directory", {}, timeout=0.3)
        proxy.heal()
        assert (await alice.request("directory", {}))["people"]


async def test_a_wire_of_single_bytes_carries_everything(start_server: StartServer) -> None:
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        proxy.to_server.piece = proxy.to_client.piece = 1
        async with ChatClient(proxy.url, "alice", record) as alice:
            await alice.send(bob.user_id, "slowly")
            await alice.complete()
            await bob.complete()
            check(record, await stored_messages([alice, bob])).assert_clean()


async def test_a_killed_server_comes_back_on_its_port(start_server: StartServer, rng: random.Random) -> None:
    server = start_server()
    record = Record()
    alice = await ChatClient(server.url, "alice", record).connect()
    bob = await ChatClient(server.url, "bob", record).connect()
    ids = (alice.user_id, bob.user_id)
    sending = asyncio.create_task(send_all(alice, bob.user_id, 200))
    await bob.wait_for_message(f"text {rng.randrange(20, 150)}")
    await asyncio.to_thread(server.restart)
    await sending
    await bob.wait_ended()
    await bob.connect_surely()
    await alice.complete()
    await bob.complete()
    assert (alice.user_id, bob.user_id) == ids
    check(record, await stored_messages([alice, bob])).assert_clean()
    await alice.close()
    await bob.close()


async def test_who_writes_for_the_first_time_while_all_is_read_is_read_as_well(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    record = Record()
    async with (
        ChatClient(server.url, "alice", record) as alice,
        ChatClient(server.url, "bob", record) as bob,
        ChatClient(server.url, "carol", record) as carol,
    ):
        await alice.send(bob.user_id, "before")
        await bob.wait_for_message("before")
        ask = bob.request

        async def ask_late(event: str, argument: dict[str, Any], **how: Any) -> dict[str, Any]:
            if carol.user_id not in bob.heads:
                await carol.send(bob.user_id, "meanwhile")
                await bob.wait_for_message("meanwhile")
            answer: dict[str, Any] = await ask(event, argument, **how)
            return answer

        monkeypatch.setattr(bob, "request", ask_late)
        assert {message.content for message in await stored_messages([bob])} == {"before", "meanwhile"}


async def send_all(sender: ChatClient, to: str, count: int) -> None:
    for number in range(count):
        await sender.send_surely(to, f"text {number}")


async def test_a_link_that_ended_before_it_was_handed_over_is_none(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_too_late(transport: str, url: str, receiver: Receiver) -> Link:
        link: Link = await open_link(transport, url, receiver)
        link.abort()
        return link

    alice = ChatClient(start_server().url, "alice")
    with monkeypatch.context() as patch:
        patch.setattr(sockets, "open_link", open_too_late)
        with pytest.raises(ConnectionLost):
            await alice.connect()
    assert not alice.connected
    await alice.connect()
    await alice.close()


async def test_a_refusal_is_told(start_server: StartServer) -> None:
    server = start_server()
    async with ChatClient(server.url, "alice") as alice:
        with pytest.raises(Refused) as refused:
            await alice.send("0" * 16, "to nobody")
        assert refused.value.code == "unknown user"
    with pytest.raises(Refused) as refused:
        await ChatClient(server.url, "x").connect()
    assert refused.value.code == "invalid username"


async def test_the_proxy_refuses_and_accepts_again(start_server: StartServer) -> None:
    server = start_server()
    async with Proxy(server.port) as proxy, ChatClient(proxy.url, "alice") as alice:
        await proxy.refuse()
        await alice.wait_ended()
        waiting = asyncio.create_task(alice.connect_surely())
        await proxy.accept()
        await waiting
        assert alice.connected
