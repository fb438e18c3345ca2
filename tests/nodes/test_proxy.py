"""Stock clients by way of nginx, with the configuration of deploy/nginx.conf: websockets go anywhere, polls to their node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.nats import NatsServer
from cluster.nginx import Nginx
from tests.interop.conftest import StartPuppet
from tests.nodes.fleet import Fleet
from tests.support.client import ChatClient
from tests.support.process import free_port
from tests.support.puppet import Puppet
from tests.support.record import Record

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

QUICK = {"reconnectionDelay": 50, "reconnectionDelayMax": 200}
each_transport = pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids=str)


@pytest.fixture
def nodes(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    for name in ("one", "two", "three"):
        fleet.add(database, nats.url, "--node", name, "--trusted-proxy", "127.0.0.1")
    return fleet.start()


@pytest.fixture
def proxy(nodes: Fleet, tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path / "nginx", free_port(), [node.port for node in nodes.nodes]) as started:
        yield started


async def _arrive(
    start_puppet: StartPuppet, url: str, auth: dict[str, str], transports: list[str]
) -> tuple[Puppet, dict[str, Any]]:
    puppet = await start_puppet()
    await puppet.order("guide", url=url, options={"auth": auth, "transports": transports, **QUICK})
    (session,) = await puppet.wait_for("session")
    await puppet.wait_for("users")
    return puppet, session


async def _until_listed(puppet: Puppet, user_id: str) -> None:
    """Who came a moment before on another node is announced a moment later."""
    async with asyncio.timeout(10):
        while True:
            state = await puppet.order("state")
            if user_id in [user["userID"] for user in state["users"]]:
                return
            await asyncio.sleep(0.02)


@each_transport
async def test_the_guides_clients_talk(proxy: Nginx, start_puppet: StartPuppet, transports: list[str]) -> None:
    people = [await _arrive(start_puppet, proxy.url, {"username": f"user {n}"}, transports) for n in range(4)]
    for number, (puppet, _) in enumerate(people):
        _, to = people[(number + 1) % len(people)]
        await _until_listed(puppet, to["userID"])
        await puppet.order("say", to=to["userID"], content=f"from {number}")
    for number, (puppet, _) in enumerate(people):
        content = f"from {(number - 1) % len(people)}"
        await puppet.wait_for("private message", lambda args, content=content: args[0]["content"] == content)


@each_transport
async def test_a_killed_node_is_left_for_another(
    proxy: Nginx, nodes: Fleet, start_puppet: StartPuppet, transports: list[str]
) -> None:
    ann, ann_session = await _arrive(start_puppet, proxy.url, {"username": "ann"}, transports)
    mark = ann.mark()
    alive = nodes.nodes[0]
    for node in nodes.nodes[1:]:
        node.kill()
    async with ChatClient(alive.url, "bob", Record()) as bob:
        await bob.send(ann_session["userID"], "where are you")
        # Wherever she was: she's told live, or by the roster after she has come back.
        async with asyncio.timeout(30):
            while True:
                state = await ann.order("state")
                said = [message["content"] for user in state["users"] for message in user["messages"]]
                if "where are you" in said:
                    break
                await asyncio.sleep(0.05)
    assert said.count("where are you") == 1
    assert ann.mark() > mark


async def test_a_poll_at_the_wrong_node_is_refused_and_the_log_says_what_to_do(nodes: Fleet) -> None:
    """F30."""
    here, there = nodes.nodes[:2]
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{here.url}/socket.io/?EIO=4&transport=polling") as opened:
            sid = (await opened.text()).split('"')[3]
        assert sid.startswith("one.")
        async with http.get(f"{there.url}/socket.io/?EIO=4&transport=polling&sid={sid}") as refused:
            assert refused.status == 400
            assert await refused.json() == {"code": 1, "message": "Session ID unknown"}
    there.wait_for_log("a request for a session of node 'one' came to this one")


async def test_limits_count_the_clients_behind_the_proxy(
    fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        limits = ("--connect-rate", "0.001", "--connect-burst", "2")
        fleet.add(database, nats.url, "--node", name, "--trusted-proxy", "127.0.0.1", *limits)
    fleet.start()
    only = fleet.nodes[0].port
    with Nginx(tmp_path / "nginx", free_port(), [only, only, only]) as proxy:
        statuses: list[int] = []
        async with aiohttp.ClientSession() as http:
            for address in ["192.0.2.1"] * 3 + ["192.0.2.2"]:
                # What a client says of itself comes before what the proxy adds: it is not believed.
                headers = {"x-forwarded-for": f"203.0.113.{len(statuses)}, {address}"}
                url = f"{fleet.nodes[0].url}/socket.io/?EIO=4&transport=polling"
                async with http.get(url, headers=headers) as answer:
                    statuses.append(answer.status)
            assert statuses == [200, 200, 429, 200]
            async with http.get(f"{proxy.url}/socket.io/?EIO=4&transport=polling") as answer:
                assert answer.status == 200
