"""A peer of the conformance tests: it speaks packets, not messages, so that a test can say anything, right or wrong.

Everything waits at most `PATIENCE` seconds; nothing here hides a heartbeat, a reconnection or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

PATIENCE: Final = 5.0
"""Seconds after which an answer that a test waits for is missing."""

PING_INTERVAL: Final = 0.3
PING_TIMEOUT: Final = 1.0
"""Seconds, and not the 0.2 of the protocol's own suite: a peer that stands still for a moment is no silent one."""

CONNECT_TIMEOUT: Final = 1.0
MAX_PAYLOAD: Final = 1_000_000

SEPARATOR: Final = "\x1e"
"""Stands between the packets of one polling payload (Engine.IO protocol, "HTTP long-polling")."""

PING: Final = "2"
PONG: Final = "3"


@dataclass(frozen=True)
class Answer:
    """A whole HTTP response."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def packets(self) -> list[str]:
        return self.text.split(SEPARATOR)

    def json(self) -> Any:
        return json.loads(self.text)


class Websocket:
    """One websocket; text frames are `str`, binary frames `bytes`, None is the end of the connection."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection

    async def send(self, *packets: str | bytes) -> None:
        for packet in packets:
            if isinstance(packet, str):
                await self._connection.send_str(packet)
            else:
                await self._connection.send_bytes(packet)

    async def receive(self) -> str | bytes | None:
        """The next frame as it comes, heartbeats included."""
        message = await asyncio.wait_for(self._connection.receive(), PATIENCE)
        return message.data if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY) else None

    async def next(self) -> str | bytes | None:
        """The next frame that isn't a heartbeat; heartbeats on the way are answered."""
        async with asyncio.timeout(PATIENCE):
            while (packet := await self.receive()) == PING:
                await self.send(PONG)
            return packet

    async def text(self) -> str:
        """The next frame that isn't a heartbeat, which has to be text."""
        packet = await self.next()
        assert isinstance(packet, str), f"a text frame was due, not {packet!r}"
        return packet

    async def closed(self, *, answering: bool = True) -> list[str | bytes]:
        """Wait until the server has closed the connection; returns what it sent before."""
        last: list[str | bytes] = []
        async with asyncio.timeout(PATIENCE):
            while (packet := await (self.next() if answering else self.receive())) is not None:
                last.append(packet)
        return last

    async def close(self) -> None:
        await self._connection.close()

    @property
    def close_code(self) -> int | None:
        return self._connection.close_code


class Peer:
    """The HTTP side of a client: sends requests as they are and opens websockets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE), connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )
        self._websockets: list[Websocket] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for websocket in self._websockets:
            await websocket.close()
        await self._http.close()

    async def request(
        self,
        method: str = "GET",
        query: str = "",
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One HTTP request to the Socket.IO path with `query` behind the question mark."""
        url = f"{self.url}/socket.io/?{query}" if query else f"{self.url}/socket.io/"
        async with self._http.request(method, url, data=body, headers=headers) as response:
            return Answer(response.status, await response.text(errors="backslashreplace"), response.headers)

    async def websocket(
        self, query: str = "EIO=4&transport=websocket", headers: Mapping[str, str] | None = None
    ) -> Websocket:
        connection = await self._http.ws_connect(
            f"{self.url}/socket.io/?{query}", headers=headers, autoping=False, max_msg_size=0, timeout=_CLOSE_TIMEOUT
        )
        websocket = Websocket(connection)
        self._websockets.append(websocket)
        return websocket

    async def refused_websocket(self, query: str, headers: Mapping[str, str] | None = None) -> int | None:
        """Try to open a websocket that must not live: the HTTP status of the refusal, or None if it opened and was closed."""
        try:
            websocket = await self.websocket(query, headers)
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status
        sent = await websocket.closed()
        assert sent == [], f"refused, yet it got {sent}"
        return None

    async def open_polling(self) -> Polling:
        answer = await self.request(query="EIO=4&transport=polling")
        assert answer.status == 200, answer
        return Polling(self, json.loads(answer.text[1:])["sid"])

    async def open_websocket(self) -> Websocket:
        """A websocket whose Engine.IO handshake is done."""
        websocket = await self.websocket()
        opening = await websocket.text()
        assert opening.startswith("0"), opening
        return websocket

    async def connect(self, namespace: str = "") -> Websocket:
        """A websocket that is connected to a namespace of the echo server and has seen its `auth` event."""
        websocket = await self.open_websocket()
        await websocket.send(f"40{namespace}")
        assert (await websocket.text()).startswith(f"40{namespace}")
        assert '["auth",' in await websocket.text()
        return websocket


_CLOSE_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=PATIENCE)


class Polling:
    """An Engine.IO session by long-polling."""

    def __init__(self, peer: Peer, sid: str) -> None:
        self.peer = peer
        self.sid = sid
        self.query = f"EIO=4&transport=polling&sid={sid}"

    async def poll(self) -> Answer:
        return await self.peer.request(query=self.query)

    async def post(self, body: str | bytes, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.peer.request("POST", self.query, body, headers)

    async def send(self, *packets: str) -> None:
        """Post packets that have to be accepted."""
        answer = await self.post(SEPARATOR.join(packets))
        assert (answer.status, answer.text) == (200, "ok")

    async def packets(self, count: int) -> list[str]:
        """Poll until `count` packets that aren't heartbeats have come; heartbeats are answered."""
        found: list[str] = []
        while len(found) < count:
            answer = await self.poll()
            assert answer.status == 200, answer
            for packet in answer.packets:
                if packet == PING:
                    await self.send(PONG)
                else:
                    found.append(packet)
        return found

    async def connect(self) -> None:
        """Connect to the main namespace of the echo server."""
        await self.send("40")
        connected, auth = await self.packets(2)
        assert connected.startswith('40{"sid":')
        assert auth == '42["auth",{}]'

    async def is_over(self) -> bool:
        """Whether the server knows the session no longer; it may say goodbye with a close packet first."""
        answer = await self.poll()
        if answer.status == 200 and answer.packets[-1] == "1":
            answer = await self.poll()
        return answer.status == 400

    @contextlib.asynccontextmanager
    async def pending_poll(self) -> AsyncIterator[asyncio.Task[Answer]]:
        """A poll that is under way: on the server's side, before the block is entered, as far as a peer can tell.

        The order of two requests on two connections is not the client's to decide, so the block's first step must not
        depend on it more than a browser's would.
        """
        task = asyncio.create_task(self.poll())
        await _written(task)
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
                await task


async def _written(task: asyncio.Task[Any]) -> None:
    """Let a request that nothing holds up get to the wire."""
    await asyncio.wait([task], timeout=0.05)
