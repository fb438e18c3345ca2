"""F2, F4, F5, F24, F29: a wire that cuts, splits, merges, delays, garbles and swallows."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.conftest import StartServer, on_both
from tests.promises.judge import judge
from tests.support.client import ChatClient, ConnectionLost, NoAnswer
from tests.support.proxy import Proxy, flip_bits
from tests.support.record import Record

pytestmark = [pytest.mark.asyncio, on_both]

OFFERED = 200
PACE = 0.01
PATIENCE = 0.05
LATENCY = 0.2
"""Seconds. F29."""

ATTEMPTS = 3
"""Of which the best counts: the machine may stand still in the end of any."""

ID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_cut_before_the_ack(start_server: StartServer, transport: str) -> None:
    """The retry gets the seq of the first time, and the message is there once."""
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        alice = await ChatClient(proxy.url, "alice", record, transport=transport).connect()
        proxy.to_client.cut_before = b'"seq"'
        with pytest.raises(ConnectionLost):
            await alice.send(bob.user_id, "text", id=ID)
        seen = await bob.wait_for_message("text")
        await alice.connect_surely()
        again = await alice.send(bob.user_id, "text", id=ID)
        assert (again["seq"], again["at"]) == (seen["seq"], seen["at"])
        await judge(record, alice, bob)
        await alice.close()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("fault", [{"piece": 1}, {"merge": 4096}, {"delay": 0.02}], ids=str)
async def test_split_merged_and_delayed(start_server: StartServer, transport: str, fault: dict[str, float]) -> None:
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        alice = await ChatClient(proxy.url, "alice", record, transport=transport).connect()
        for name, value in fault.items():
            setattr(proxy.to_server, name, value)
        sends = [asyncio.create_task(alice.send(bob.user_id, f"{'long ' * 200}{number}")) for number in range(20)]
        await asyncio.sleep(0)  # every one of them is on its way
        if "merge" in fault:
            await proxy.to_server.until_passed(4096)
            proxy.heal()
            alice.emit("typing", {"to": bob.user_id})  # something that pushes out what was gathered
        await asyncio.gather(*sends)
        await judge(record, alice, bob)
        await alice.close()


HARMS: Final[dict[str, Callable[[Proxy, random.Random], None]]] = {
    "bits to the server": lambda proxy, rng: setattr(proxy.to_server, "garble", flip_bits(rng, 0.01)),
    "bits to the client": lambda proxy, rng: setattr(proxy.to_client, "garble", flip_bits(rng, 0.01)),
    "a cut in a frame to the server": lambda proxy, rng: setattr(proxy.to_server, "cut_after", rng.randrange(1, 300)),
    "a cut in a frame to the client": lambda proxy, rng: setattr(proxy.to_client, "cut_after", rng.randrange(1, 300)),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_a_harmed_wire_harms_nobody_else(start_server: StartServer, rng: random.Random, harm: str) -> None:
    """What arrives changed may be refused, closed or even be another well-formed message of the same person; it never stops
    the server, and never touches other people's conversation. Every connection ends with its reason in the log."""
    server = start_server("--log-level", "debug")
    record = Record()
    async with (
        Proxy(server.port) as proxy,
        ChatClient(server.url, "bob", record) as bob,
        ChatClient(server.url, "carol", record) as carol,
    ):
        for _ in range(12):
            noise = Record()
            mallory = await ChatClient(proxy.url, "mallory", noise).connect_surely()
            mark = server.log_mark()
            HARMS[harm](proxy, rng)
            for number in range(5):
                if mallory.connected:
                    mallory.emit("private message", {"content": f"noise {number}", "to": mallory.user_id})
            await bob.send(carol.user_id, "undisturbed")
            proxy.heal()
            mallory.cut()
            reason = await asyncio.to_thread(server.wait_for_log, r"session \S+ of 127.0.0.1 closed: (.+)", since=mark)
            assert reason[1] in ("connection lost", "client closed") or reason[1].startswith("protocol error: "), (
                reason[1]
            )
        await judge(record, bob, carol)
        assert server.alive
        assert not server.tracebacks()


async def test_a_half_open_connection_is_noticed(start_server: StartServer) -> None:
    """F5: nobody hears of the other's end, so it's the heartbeat that frees what the connection held."""
    server = start_server("--ping-interval", "0.5", "--ping-timeout", "2", "--presence-grace", "0")
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", guide=True) as bob:
        without = server.connections()
        alice = await ChatClient(proxy.url, "alice", guide=True).connect()
        await bob.wait_for_event("user connected")
        assert server.connections() == without + 1
        proxy.to_server.swallow = proxy.to_client.swallow = True
        assert await bob.wait_for_event("user disconnected", timeout=10) == [alice.user_id]
        async with asyncio.timeout(10):
            while server.connections() > without:  # of another process's sockets nobody is told
                await asyncio.sleep(0.02)
        assert proxy.connections == 1, "the client's half was to stay open until here"
        await bob.send(alice.user_id, "for later")
        proxy.heal()
        await proxy.cut()
        await alice.wait_ended()
        await alice.connect()
        messages = [message for user in alice.users for message in user["messages"]]
        assert [message["content"] for message in messages] == ["for later"]
        await alice.close()


async def test_resets_under_load(start_server: StartServer, rng: random.Random) -> None:
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        people = [await ChatClient(proxy.url, f"person {number}", record).connect() for number in range(4)]

        async def speak(person: ChatClient) -> None:
            for number in range(50):
                await person.send_surely(rng.choice([bob, *people]).user_id, f"{person.device} says {number}")

        speaking = asyncio.gather(*(speak(person) for person in people))
        while not speaking.done():
            more = asyncio.create_task(record.acknowledged(rng.randrange(5, 40)))
            either: list[asyncio.Future[Any]] = [more, speaking]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
            if rng.random() < 0.5:
                await proxy.cut()
            else:
                rng.choice([proxy.to_client, proxy.to_server]).cut_after = rng.randrange(1, 2000)
        await speaking
        proxy.heal()
        await judge(record, bob, *people)
        for person in people:
            await person.close()


async def offer(alice: ChatClient, bob: ChatClient, name: str, tries: int) -> float:
    """Alice says something every `PACE` seconds, whatever becomes of it, each up to `tries` times with a patience below
    the wire's latency. Returns the seconds until Bob has seen all of it."""
    began = time.monotonic()

    async def say(number: int) -> None:
        await asyncio.sleep(number * PACE)
        id = str(uuid.uuid4())
        for _ in range(tries):
            try:
                await alice.send(bob.user_id, f"{name} {number}", id=id, timeout=PATIENCE if tries > 1 else 30)
            except NoAnswer:
                continue
            return

    saying = asyncio.gather(*(say(number) for number in range(OFFERED)))
    await bob.wait_for_message(f"{name} {OFFERED - 1}")
    took = time.monotonic() - began
    await saying
    return took


async def test_retries_faster_than_the_answers(start_server: StartServer) -> None:
    """F29: no ack comes before the client's patience ends, so it says everything four times. Others get as much in the
    same time as from a patient client, and everything once."""
    server = start_server("--message-rate", "100000", "--message-burst", "100000")
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        alice = await ChatClient(proxy.url, "alice", record).connect()
        proxy.to_client.delay = LATENCY
        patient = await offer(alice, bob, "patient", tries=1)
        acknowledged = len(record.acks)
        assert acknowledged == OFFERED
        for attempt in range(1, ATTEMPTS + 1):
            impatient = await offer(alice, bob, f"impatient {attempt}", tries=4)
            assert len(record.acks) < acknowledged + attempt * OFFERED / 10, "the wire was not slower than the patience"
            if patient / impatient > 0.8:
                break
        else:
            pytest.fail(f"with retries it took {impatient:.1f} s, without {patient:.1f} s")
        proxy.heal()
        assert len(await judge(record, alice, bob)) == (1 + attempt) * OFFERED
        await alice.close()
