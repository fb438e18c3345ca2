"""Stock clients by way of nginx and Caddy, with the configurations of deploy/: websockets go anywhere, polls to their node."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from cluster.nats import NatsServer
from cluster.ports import HOST, free_port
from cluster.proxy import DEPLOY, PORT, Caddy, Nginx, Proxy, ProxyFailed
from tests.interop.conftest import StartPuppet
from tests.nodes.fleet import Fleet
from tests.support.client import ChatClient
from tests.support.dns import NameServer
from tests.support.process import ServerProcess
from tests.support.puppet import Puppet
from tests.support.record import Record

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

QUICK = {"reconnectionDelay": 50, "reconnectionDelayMax": 200}
MANIFESTS = DEPLOY / "kubernetes.yaml"
MISROUTED = "long-polling needs"
each_transport = pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids=str)


@pytest.fixture
def nodes(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    for name in ("one", "two", "three"):
        fleet.add(database, nats.url, "--node", name, "--trusted-proxy", "127.0.0.1")
    return fleet.start()


@pytest.fixture(params=[Nginx, Caddy], ids=["nginx", "caddy"])
def proxy(nodes: Fleet, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with request.param(tmp_path / "proxy", free_port(), [node.port for node in nodes.nodes]) as started:
        yield started


def _misrouted(node: ServerProcess) -> list[str]:
    return [line for line in node.log() if MISROUTED in line]


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
async def test_the_guides_clients_talk(
    proxy: Proxy, nodes: Fleet, start_puppet: StartPuppet, transports: list[str]
) -> None:
    people = [await _arrive(start_puppet, proxy.url, {"username": f"user {n}"}, transports) for n in range(4)]
    for number, (puppet, _) in enumerate(people):
        _, to = people[(number + 1) % len(people)]
        await _until_listed(puppet, to["userID"])
        await puppet.order("say", to=to["userID"], content=f"from {number}")
    for number, (puppet, _) in enumerate(people):
        content = f"from {(number - 1) % len(people)}"
        await puppet.wait_for("private message", lambda args, content=content: args[0]["content"] == content)
        assert not puppet.args_of("@disconnect")
    assert not [line for node in nodes.nodes for line in _misrouted(node)]


@each_transport
async def test_a_killed_node_is_left_for_another(
    proxy: Proxy, nodes: Fleet, start_puppet: StartPuppet, transports: list[str]
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


async def test_a_poll_at_the_wrong_node_is_refused_and_the_log_says_once_what_to_do(nodes: Fleet) -> None:
    """F30."""
    here, there = nodes.nodes[:2]
    sid = await _poll_elsewhere(here, there, times=5)
    assert sid.startswith("one.")
    there.wait_for_log("a request for a session of node 'one' came to this one")
    assert len(_misrouted(there)) == 1
    assert not _misrouted(here)


async def test_nodes_without_names_say_that_they_need_them(three: Fleet) -> None:
    here, there = three.nodes[:2]
    await _poll_elsewhere(here, there, times=5)
    there.wait_for_log("its id names no node")
    assert len(_misrouted(there)) == 1


async def _poll_elsewhere(here: ServerProcess, there: ServerProcess, times: int) -> str:
    """Open a session here and ask there for its messages; its id."""
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{here.url}/socket.io/?EIO=4&transport=polling") as opened:
            sid: str = json.loads((await opened.text())[1:])["sid"]
        for _ in range(times):
            async with http.get(f"{there.url}/socket.io/?EIO=4&transport=polling&sid={sid}") as refused:
                assert refused.status == 400
                assert await refused.json() == {"code": 1, "message": "Session ID unknown"}
    return sid


async def test_requests_arrive_as_they_are(proxy: Proxy) -> None:
    """Origin and Host, of polls and of websockets: the nodes know no name but what the proxy passes on. And whole bodies."""
    polling, websocket = (f"{proxy.url}/socket.io/?EIO=4&transport={name}" for name in ("polling", "websocket"))
    foreign = "http://localhost.example"
    async with aiohttp.ClientSession() as http:
        for origin, status in ((proxy.url, 200), (foreign, 403)):
            async with http.get(polling, headers={"origin": origin}) as answer:
                assert answer.status == status
        async with http.ws_connect(websocket, origin=proxy.url) as opened:
            assert (await opened.receive_str()).startswith("0{")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(websocket, origin=foreign)
        for size, status in ((1_000_000, 200), (1_100_000, 413)):
            async with http.get(polling) as answer:
                sid = json.loads((await answer.text())[1:])["sid"]
            packet = io.BytesIO(b'40{"username":"' + b"x" * (size - 17) + b'"}')
            async with http.post(f"{polling}&sid={sid}", data=packet, headers={"content-type": "text/plain"}) as answer:
                assert answer.status == status


async def test_a_taken_port_is_not_mistaken_for_the_proxys(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ProxyFailed, match=f"port {port} is taken"):
            Nginx(tmp_path / "proxy", port, [1, 2, 3]).__enter__()


@pytest.mark.parametrize("kind", [Nginx, Caddy])
async def test_limits_count_the_clients_behind_the_proxy(
    kind: type[Proxy], fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path
) -> None:
    limits = ("--connect-rate", "0.001", "--connect-burst", "2")
    node = fleet.add(database, nats.url, "--node", "one", "--trusted-proxy", "127.0.0.1", *limits)
    fleet.start()
    statuses: list[int] = []
    with kind(tmp_path / "proxy", free_port(), [node.port] * 3) as proxy:
        for client in ["127.0.0.2"] * 3 + ["127.0.0.3"]:
            # What clients say of themselves is not believed.
            headers = {"x-forwarded-for": f"203.0.113.{len(statuses)}"}
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(client, 0))) as http,
                http.get(f"{proxy.url}/socket.io/?EIO=4&transport=polling", headers=headers) as answer,
            ):
                statuses.append(answer.status)
    assert statuses == [200, 200, 429, 200]


class ClusterNginx(Nginx):
    """The proxy of deploy/kubernetes.yaml, filled in as its image does it, with a name server like a cluster's."""

    def __init__(self, folder: Path, port: int, node_port: int, name_server: str) -> None:
        super().__init__(folder, port, [])
        self._values = {
            "${NGINX_LOCAL_RESOLVERS}": name_server, "${NAMESPACE}": "chat", "listen 8080": f"listen {HOST}:{PORT}",
            "cluster.local:3000": f"cluster.local:{node_port}",
        }  # fmt: skip

    def _adapt(self, text: str) -> str:
        (found,) = (each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each["kind"] == "ConfigMap")
        (configuration,) = found["data"].values()
        for name, value in self._values.items():
            assert configuration.count(name) == 1, name
            configuration = configuration.replace(name, value)
        return super()._adapt(configuration)


async def test_the_proxy_of_kubernetes(
    fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path, start_puppet: StartPuppet
) -> None:
    """Pods are found by their names, polls go to the one that their session's id begins with."""
    port = free_port()
    addresses = {f"duologue-{number}": f"127.0.1.{number + 1}" for number in range(3)}
    for name, address in addresses.items():
        node = fleet.add(database, nats.url, "--node", name, "--host", address, "--allow-guests")
        node.port = port
    await asyncio.to_thread(fleet.start)
    names = {f"{name}.duologue-nodes.chat.svc.cluster.local": [address] for name, address in addresses.items()}
    names["duologue-any.chat.svc.cluster.local"] = list(addresses.values())
    async with NameServer(names) as server:
        with ClusterNginx(tmp_path / "proxy", free_port(), port, server.address) as proxy:
            held = [await _open_session(proxy.url) for _ in range(12)]
            assert len(set(held)) > 1, "every session is at the same node"
            transports = ["polling", "websocket"]
            ann, _ = await _arrive(start_puppet, proxy.url, {"username": "ann"}, transports)
            bob, bob_session = await _arrive(start_puppet, proxy.url, {"username": "bob"}, ["polling"])
            await _until_listed(ann, bob_session["userID"])
            await ann.order("say", to=bob_session["userID"], content="hello")
            await bob.wait_for("private message", lambda args: args[0]["content"] == "hello")
            assert not [line for node in fleet.nodes for line in _misrouted(node)]


async def _open_session(url: str) -> str:
    """Open a session by polling, post to it and poll it once more: the node that holds it."""
    async with aiohttp.ClientSession() as http:
        polling = f"{url}/socket.io/?EIO=4&transport=polling"
        async with http.get(polling) as opened:
            sid: str = json.loads((await opened.text())[1:])["sid"]
        async with http.post(f"{polling}&sid={sid}", data='40{"username":"somebody"}') as posted:
            assert posted.status == 200
        async with http.get(f"{polling}&sid={sid}") as polled:
            assert (await polled.text()).startswith("40{")
    return sid.partition(".")[0]
