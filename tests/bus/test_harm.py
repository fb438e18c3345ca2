"""A sick NATS or a sick wire (F18): whatever it does, the connection is given up and made anew, and nothing stands still."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from cluster.nats import NatsServer
from duologue.bus import nats as bus_module
from duologue.bus import nats_link as link_module
from duologue.bus.nats import NatsBus
from duologue.bus.nats_link import Link, LinkFailed
from tests.support.proxy import Proxy, flip_bits

from .conftest import ANN, BOB, PATIENCE, Got, Node, until_said
from .test_nats import nats_bus, nodes, until_healthy

pytestmark = pytest.mark.asyncio

MANY = 3000


def through(proxy: Proxy) -> str:
    return proxy.url.replace("http", "nats")


async def test_an_error_of_the_server_ends_the_connection_for_a_moment_only(nats: NatsServer) -> None:
    """nats-py by itself closes for good at most of them."""
    async with Proxy(nats.port) as proxy, nodes(through(proxy), nats.url) as (here, there):
        here.bus.subscribe(ANN)
        await here.bus.settled()
        proxy.to_server.garble = lambda data: b"NONSENSE\r\n"
        here.bus.publish(BOB, 1, b"x")
        await until_healthy(here, healthy=False)
        proxy.heal()
        await until_healthy(here)
        there.bus.publish(ANN, 1, b"y")
        assert await here.until_got(1) == [Got(ANN, 1, b"y")]


async def test_a_garbled_wire_is_survived(nats: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    async with Proxy(nats.port) as proxy, nodes(through(proxy), nats.url) as (here, there):
        for user in (ANN, BOB):
            here.bus.subscribe(user)
            there.bus.subscribe(user)
        await there.bus.settled()
        proxy.to_server.garble = proxy.to_client.garble = flip_bits(random.Random(7), 0.001)
        seen_away = False
        async with asyncio.timeout(PATIENCE):
            while not seen_away:
                seen_away = not nats_bus(here).healthy
                here.bus.publish(BOB, 1, b"x" * 300)
                there.bus.publish(ANN, 1, b"x" * 300)
                await asyncio.sleep(0)
        proxy.heal()
        await proxy.cut()
        await until_healthy(here, healthy=False)
        await until_healthy(here)
        here.bus.publish(BOB, 77, b"there")
        there.bus.publish(ANN, 77, b"here")
        await there.until(lambda: Got(BOB, 77, b"there") in there.got)
        await here.until(lambda: Got(ANN, 77, b"here") in here.got)
    assert [each for each in caplog.records if each.name.startswith("duologue") and each.levelno >= logging.ERROR] == []


async def test_a_late_answer_is_no_reason_to_stop_reading(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "SETTLE_TIMEOUT", 0.2)
    async with nodes(own_nats.url, own_nats.url) as (here, there):
        own_nats.suspend()
        here.bus.subscribe(ANN)
        async with asyncio.timeout(PATIENCE):
            await here.bus.settled()
        own_nats.resume()
        monkeypatch.undo()
        await here.bus.settled()
        there.bus.publish(ANN, 1, b"y")
        assert await here.until_got(1) == [Got(ANN, 1, b"y")]
        assert nats_bus(here).healthy


async def test_a_server_that_stops_reading_is_noticed_under_any_load(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py's own pings would wait behind what can't be written."""
    monkeypatch.setattr(link_module, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(link_module, "SILENCE", 0.5)
    async with Proxy(nats.port) as proxy, nodes(through(proxy)) as (node,):
        proxy.to_server.hold = True
        for version in range(10):
            node.bus.publish(BOB, version, b"x" * 900_000)
        await asyncio.sleep(0)  # the writer's turn
        for number in range(MANY):
            node.bus.subscribe(f"{number:016}")
        await until_healthy(node, healthy=False)
        async with asyncio.timeout(1):
            await node.bus.settled()
        assert nats_bus(node).dropped > 0
        proxy.heal()
        await until_healthy(node)


async def test_closing_does_not_wait_for_a_server_that_stops_reading(nats: NatsServer) -> None:
    async with Proxy(nats.port) as proxy, nodes(through(proxy)) as (node,):
        proxy.to_server.hold = True
        for version in range(15):
            node.bus.publish(BOB, version, b"x" * 900_000)
        start = time.monotonic()
        await node.bus.close()
        assert time.monotonic() - start < bus_module.CLOSE_TIMEOUT + link_module.GOODBYE + 6


@pytest.mark.parametrize("turns", range(5))
async def test_closing_while_it_is_written_to_leaves_nothing(nats: NatsServer, turns: int) -> None:
    link = await Link.open(nats.url)

    async def write() -> None:
        with suppress(NatsError, RuntimeError):
            while True:
                await link.publish("subject", b"x" * 100)
                await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    for _ in range(turns):
        await asyncio.sleep(0)
    await link.close()
    writing.cancel()
    await asyncio.wait([writing])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancellation_that_vanishes_in_the_client_does_not_keep_the_bus_alive(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py catches it in several places, and goes on."""
    connecting = asyncio.Event()

    async def connect(_: str) -> Link:
        connecting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LinkFailed("on purpose") from None
        raise AssertionError

    monkeypatch.setattr(Link, "open", connect)
    monkeypatch.setattr(bus_module, "START_TIMEOUT", 0.01)
    bus = NatsBus([nats.url], "n")
    await bus.start()
    await connecting.wait()
    async with asyncio.timeout(PATIENCE):
        await bus.close()


async def test_what_was_published_before_the_end_is_written(nats: NatsServer) -> None:
    async with nodes(nats.url, nats.url) as (here, there):
        there.bus.subscribe(BOB)
        await there.bus.settled()
        for version in range(MANY):
            here.bus.publish(BOB, version, b"x" * 1000)
        await here.bus.close()
        assert len(await there.until_got(MANY)) == MANY


async def test_a_receiver_that_fails_costs_one_message(nats: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    async with nodes(nats.url, nats.url) as (here, there):

        def fail_once(*_: object) -> None:
            here.bus.connect(here.receive)
            raise ValueError("on purpose")

        here.bus.connect(fail_once)
        here.bus.subscribe(ANN)
        await here.bus.settled()
        there.bus.publish(ANN, 1, b"x")
        there.bus.publish(ANN, 2, b"y")
        assert await here.until_got(1) == [Got(ANN, 2, b"y")]
    assert "on purpose" in caplog.text


async def test_back_means_that_every_subscription_is_in_effect(own_nats: NatsServer) -> None:
    """`on_change` makes the node compare its versions with the store's: what's published after that must arrive."""
    async with nodes(own_nats.url, own_nats.url) as (here, there):
        users = [f"{number:016}" for number in range(MANY)]
        for user in users:
            there.bus.subscribe(user)
        await there.bus.settled()
        await asyncio.to_thread(own_nats.kill)
        await until_healthy(here, there, healthy=False)
        back = asyncio.Event()
        nats_bus(there)._on_change = lambda healthy: back.set()
        await asyncio.to_thread(own_nats.start)
        await until_healthy(here)
        async with asyncio.timeout(PATIENCE):
            await back.wait()
        for user in users:
            here.bus.publish(user, 2, b"x")
        assert await there.until_got(MANY) == [Got(user, 2, b"x") for user in users]


async def test_a_node_that_could_not_publish_makes_the_others_compare(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "LOSS_PAUSE", 0.02)
    async with Proxy(nats.port) as proxy, nodes(through(proxy), nats.url) as (here, there):
        told = asyncio.Event()
        nats_bus(there)._on_change = lambda healthy: told.set()
        await proxy.refuse()
        await until_healthy(here, healthy=False)
        here.bus.publish(BOB, 1, b"lost")
        assert not told.is_set()
        await proxy.accept()
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        assert nats_bus(there).healthy
        told.clear()
        here.bus.publish(BOB, 1, b"x" * 2_000_000)  # too large
        async with asyncio.timeout(PATIENCE):
            await told.wait()


async def test_a_connection_that_ends_makes_the_others_compare_once_it_is_back(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was published while it was away, but how much of what was written before arrived nobody knows. What ends the
    connection takes some turns, in which it can't say so itself."""
    close = Link.close

    async def close_slowly(link: Link) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        await close(link)

    monkeypatch.setattr(Link, "close", close_slowly)
    async with Proxy(nats.port) as proxy, nodes(through(proxy), nats.url) as (here, there):
        told = asyncio.Event()
        nats_bus(there)._on_change = lambda healthy: told.set()
        await proxy.refuse()
        await until_healthy(here, healthy=False)
        await proxy.accept()
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        assert nats_bus(there).healthy


async def test_who_comes_and_goes_while_nats_is_away_leaves_nothing(own_nats: NatsServer) -> None:
    async with nodes(own_nats.url) as (node,):
        await asyncio.to_thread(own_nats.kill)
        await until_healthy(node, healthy=False)
        for number in range(MANY):
            node.bus.subscribe(f"{number:016}")
            node.bus.unsubscribe(f"{number:016}")
            node.bus.publish(ANN, number, b"x")
        bus = nats_bus(node)
        assert not bus._stale
        assert not bus._outbox
        assert bus.dropped == MANY


async def test_many_sign_ins_at_once_share_round_trips(nats: NatsServer) -> None:
    pings = 0

    def count(data: bytes) -> bytes:
        nonlocal pings
        pings += data.count(b"PING\r\n")
        return data

    async with Proxy(nats.port) as proxy, nodes(through(proxy)) as (node,):
        proxy.to_server.garble = count
        for number in range(MANY):
            node.bus.subscribe(f"{number:016}")
        await asyncio.gather(*(node.bus.settled() for _ in range(MANY)))
        assert 1 <= pings <= 5


async def test_credentials_of_the_url_are_used_and_never_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "START_TIMEOUT", 0.3)
    caplog.set_level(logging.DEBUG)
    with NatsServer(tmp_path, ["--user", "node", "--pass", "s3cret"]) as server:
        async with nodes(
            server.url.replace("//", "//node:s3cret@"), server.url.replace("//", "//node:wr0ng@"), server.url
        ) as (right, wrong, without):
            await until_healthy(right)
            assert not nats_bus(wrong).healthy
            assert not nats_bus(without).healthy
            # At the first try perhaps not: the reset of the connection may overtake the word.
            await until_said(caplog, "Authorization")
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


async def test_tls_is_spoken_where_the_url_demands_it_or_nothing(
    tmp_path: Path, nats: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "START_TIMEOUT", 0.3)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    make = [*command.split(), "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    with NatsServer(tmp_path / "tls", ["--tls", "--tlscert", str(certificate), "--tlskey", str(key)]) as server:
        url = server.url.replace("nats:", "tls:")
        async with nodes(url) as (stranger,):
            await until_said(caplog, "CERTIFICATE_VERIFY_FAILED")
            assert not nats_bus(stranger).healthy
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with nodes(url, url) as (here, there):
            await until_healthy(here, there)
            there.bus.subscribe(BOB)
            await there.bus.settled()
            here.bus.publish(BOB, 1, b"x" * 100_000)
            assert await there.until_got(1) == [Got(BOB, 1, b"x" * 100_000)]
    async with nodes(nats.url.replace("nats://", "tls://node:s3cret@")) as (node,):
        await until_said(caplog, "offers no TLS")
        assert not nats_bus(node).healthy


async def test_an_address_that_is_none_is_said_and_harms_nobody(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "START_TIMEOUT", 0.3)
    async with nodes("nats://127.0.0.1:port", f"nats://127.0.0.1:port,{nats.url}") as (lost, found):
        await until_healthy(found)
        assert not nats_bus(lost).healthy
    assert "can't be reached" in caplog.text


async def test_the_log_has_one_line_when_it_goes_and_one_when_it_is_back(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "RECONNECT_PAUSE", 0.02)
    caplog.set_level(logging.INFO, logger="duologue")
    changes: list[bool] = []
    bus = NatsBus([own_nats.url], "n", changes.append)
    Node(bus)
    await bus.start()
    await asyncio.to_thread(own_nats.kill)
    await asyncio.sleep(0.3)  # for some attempts in vain
    await asyncio.to_thread(own_nats.start)
    async with asyncio.timeout(PATIENCE):
        while len(changes) < 3:
            await asyncio.sleep(0.02)
    await bus.close()
    lines = [each.getMessage().split(",")[0] for each in caplog.records if each.name.startswith("duologue.bus")]
    assert lines == ["connected to NATS", "NATS is away", "connected to NATS"]
    assert changes == [True, False, True, False]


async def test_who_answers_nonsense_is_asked_again(nats: NatsServer) -> None:
    """Whatever listens there: nothing of it may end the bus for good."""
    asked = 0
    right = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write((b"INFO []\r\n", b"INFO 7\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n")[asked % 3])
        writer.close()
        if asked == 6:
            right.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, nodes(f"nats://127.0.0.1:{port}") as (node,):
        async with asyncio.timeout(PATIENCE):
            await right.wait()
        nats_bus(node)._servers = [nats.url]
        await until_healthy(node)
