"""npm's socket.io-client 4 against the echo server: every transport, every option that its users rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.process import ServerProcess
from tests.support.proxy import Proxy
from tests.support.puppet import Puppet, PuppetFailed, binary

pytestmark = pytest.mark.asyncio

TRANSPORTS = {
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"]},
    "upgrade": {},
    "websocket first": {"transports": ["websocket", "polling"]},
}
each_transport = pytest.mark.parametrize("options", TRANSPORTS.values(), ids=TRANSPORTS)

QUICK = {"reconnectionDelay": 50, "reconnectionDelayMax": 200}
"""Milliseconds between the client's attempts, so that a test needn't wait for its usual seconds."""


@each_transport
async def test_events_come_back_in_order(
    puppet: Puppet, echo_server: ServerProcess, options: dict[str, list[str]]
) -> None:
    await puppet.connect(echo_server.url, **options)
    for number in range(50):
        await puppet.emit("message", number, f"text {number}", {"nested": [number]})
    await puppet.wait_for("message-back", lambda args: args[0] == 49)
    assert puppet.args_of("message-back") == [[number, f"text {number}", {"nested": [number]}] for number in range(50)]


@each_transport
async def test_acks(puppet: Puppet, echo_server: ServerProcess, options: dict[str, list[str]]) -> None:
    await puppet.connect(echo_server.url, **options)
    assert await puppet.ask("message-with-ack", {"a": [1, "2"]}) == {"a": [1, "2"]}
    answers = await asyncio.gather(*(puppet.ask("message-with-ack", number) for number in range(20)))
    assert answers == list(range(20))


@each_transport
async def test_binary(puppet: Puppet, echo_server: ServerProcess, options: dict[str, list[str]]) -> None:
    await puppet.connect(echo_server.url, **options)
    content = binary(bytes(range(256)) * 10)
    await puppet.emit("message", {"deep": [content]}, content)
    assert await puppet.wait_for("message-back") == [{"deep": [content]}, content]
    assert await puppet.ask("message-with-ack", content) == content


async def test_the_upgrade_happens_and_loses_nothing(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.order("connect", url=echo_server.url, options={})
    for number in range(100):
        await puppet.emit("message", number)
    await puppet.wait_for("@upgrade")
    for number in range(100, 200):
        await puppet.emit("message", number)
    await puppet.wait_for("message-back", lambda args: args[0] == 199)
    assert await puppet.order("transport") == "websocket"
    assert puppet.args_of("message-back") == [[number] for number in range(200)]


async def test_a_connection_outlives_many_heartbeats(puppet: Puppet, start_echo: Callable[..., ServerProcess]) -> None:
    """After several intervals and the time-out only a client that was heard is still there."""
    server = start_echo(ping_interval=300, ping_timeout=4_000)
    await puppet.connect(server.url, transports=["polling"])
    mark = puppet.mark()
    with pytest.raises(PuppetFailed):
        # Nobody answers this event; the client's own time-out is the clock.
        await puppet.ask("nobody answers", timeout=6_000)
    assert puppet.args_of("@disconnect", mark) == []
    assert await puppet.ask("message-with-ack", "still here") == "still here"


async def test_the_handshake_payload_arrives(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.connect(echo_server.url, auth={"token": "123"})
    assert await puppet.wait_for("auth") == [{"token": "123"}]


async def test_a_custom_namespace(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.connect(f"{echo_server.url}/custom")
    assert await puppet.ask("message-with-ack", 1) == 1


async def test_an_unknown_namespace_is_a_connect_error(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.order("connect", url=f"{echo_server.url}/random", options={})
    assert await puppet.wait_for("@connect_error") == ["Invalid namespace", None]


async def test_an_ack_that_never_comes_times_out(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.connect(echo_server.url)
    with pytest.raises(PuppetFailed, match="timed out"):
        await puppet.ask("nobody answers", timeout=200)


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]], ids=str)
async def test_retries_bring_an_event_through_a_lost_ack(
    puppet: Puppet, start_echo: Callable[..., ServerProcess], transports: list[str]
) -> None:
    server = start_echo()
    async with Proxy(server.port) as proxy:
        await puppet.connect(proxy.url, transports=transports, retries=5, ackTimeout=500, **QUICK)
        proxy.to_client.cut_before = b'["over the cut"]'
        assert await puppet.ask("message-with-ack", "over the cut") == "over the cut"
        assert len(puppet.args_of("@connect")) == 2, "the ack was not cut off"


@each_transport
async def test_the_client_comes_back_after_a_cut(
    puppet: Puppet, start_echo: Callable[..., ServerProcess], options: dict[str, list[str]]
) -> None:
    server = start_echo()
    async with Proxy(server.port) as proxy:
        await puppet.connect(proxy.url, **QUICK, **options)
        mark = puppet.mark()
        await proxy.refuse()
        await puppet.wait_for("@disconnect", since=mark)
        await proxy.accept()
        await puppet.wait_for("@connect", since=mark)
        assert await puppet.ask("message-with-ack", 1) == 1


@pytest.mark.parametrize("end", ["kill", "terminate"])
@pytest.mark.parametrize("transports", [["websocket"], ["polling"]], ids=str)
async def test_the_client_comes_back_after_a_restart(
    puppet: Puppet, start_echo: Callable[..., ServerProcess], end: str, transports: list[str]
) -> None:
    """Also after SIGTERM: the server must not send a DISCONNECT packet, or the client would stay away."""
    server = start_echo()
    await puppet.connect(server.url, transports=transports, **QUICK)
    mark = puppet.mark()
    await asyncio.to_thread(getattr(server, end))
    reason = await puppet.wait_for("@disconnect", since=mark)
    assert reason != ["io server disconnect"]
    await asyncio.to_thread(server.start)
    await puppet.wait_for("@connect", since=mark)
    assert await puppet.ask("message-with-ack", 1) == 1


async def test_what_was_emitted_while_away_arrives(puppet: Puppet, start_echo: Callable[..., ServerProcess]) -> None:
    server = start_echo()
    await puppet.connect(server.url, **QUICK)
    await asyncio.to_thread(server.kill)
    await puppet.wait_for("@disconnect")
    await puppet.emit("message", "while away")
    await asyncio.to_thread(server.start)
    assert await puppet.wait_for("message-back") == ["while away"]


async def test_a_client_that_left_may_come_again(puppet: Puppet, echo_server: ServerProcess) -> None:
    await puppet.connect(echo_server.url)
    mark = puppet.mark()
    await puppet.order("disconnect")
    assert await puppet.wait_for("@disconnect", since=mark) == ["io client disconnect"]
    await puppet.order("reconnect")
    await puppet.wait_for("@connect", since=mark)
    assert await puppet.ask("message-with-ack", 1) == 1
