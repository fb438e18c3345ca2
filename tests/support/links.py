"""How packets travel between a test client and the server: by websocket (picows) or by long-polling (aiohttp).

A link does Engine.IO and nothing above: it opens, answers heartbeats, hands Socket.IO packets up as text and tells once,
and only once, that it ended. It has neither a task nor a timer of its own on the websocket side, so thousands are cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CONNECT_TIMEOUT: Final = 15.0
POLL_TIMEOUT: Final = 90.0
"""Longer than a ping interval: a poll that nobody answers for so long is dead."""

SEPARATOR: Final = b"\x1e"
TEXT: Final = {"Content-Type": "text/plain;charset=UTF-8"}
"""What a browser sends; bytes without a type would be taken for Engine.IO 3's binary payloads."""


class Receiver(Protocol):
    """Who is above a link. Both calls come on the event loop, `packet` never after `ended`."""

    def packet(self, packet: bytes) -> None:
        """A Socket.IO packet, without the Engine.IO type in front."""
        ...

    def ended(self, reason: str) -> None: ...


class Link(Protocol):
    def send(self, *packets: bytes) -> None:
        """Queue Socket.IO packets; what can't be sent any more is dropped, as on a real wire."""
        ...

    async def close(self) -> None:
        """End the session politely."""
        ...

    def abort(self) -> None:
        """Vanish without a word."""
        ...


class LinkFailed(Exception):
    """The link could not be opened; the message says why."""


class WebsocketLink(WSListener):
    """One websocket. A text frame is one packet; binary frames are not for the chat and end the link."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: WSTransport | None = None
        self._ended = False

    @classmethod
    async def open(cls, url: str, receiver: Receiver) -> WebsocketLink:
        link = cls(receiver)
        address = url.replace("http://", "ws://", 1) + "/socket.io/?EIO=4&transport=websocket"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await ws_connect(lambda: link, address, websocket_handshake_timeout=CONNECT_TIMEOUT)
        except Exception as failure:
            # picows has errors of its own for every stage of the handshake; a client has one reaction to all of them.
            raise LinkFailed(repr(failure)) from failure
        except asyncio.CancelledError:
            link._ended = True  # for the handshake, with which picows goes on although nobody waits for it
            if link._transport is not None:
                link._transport.disconnect(False)
            raise
        return link

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self._ended:
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._take(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._end("connection lost")

    def _take(self, packet: bytes) -> None:
        match packet[:1]:
            case b"4":
                if not self._ended:
                    self._receiver.packet(packet[1:])
            case b"2":
                self._write(b"3")
            case b"1":
                self.abort()

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self._write(b"4" + packet)

    def _write(self, packet: bytes) -> None:
        if not self._ended and self._transport is not None:
            self._transport.send(WSMsgType.TEXT, packet)

    async def close(self) -> None:
        self._write(b"1")
        if self._transport is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._transport.wait_disconnected(), CONNECT_TIMEOUT)
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.disconnect(False)
        self._end("aborted")

    def pause_reading(self) -> None:
        """Stop reading: the slow reader of F6."""
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.resume_reading()

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._receiver.ended(reason)


class PollingLink:
    """Long-polling: one request waits for packets, at most one other brings ours, in order."""

    def __init__(self, url: str, receiver: Receiver) -> None:
        self._receiver = receiver
        self._base = url + "/socket.io/?EIO=4&transport=polling"
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=POLL_TIMEOUT), connector=aiohttp.TCPConnector(limit=2)
        )
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._ended = False
        self._session = ""
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, receiver: Receiver) -> PollingLink:
        link = cls(url, receiver)
        packets: list[bytes] = []
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                packets = await link._get(link._base)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            raise LinkFailed(repr(failure)) from failure
        finally:
            if not packets:
                await link._http.close()
        link._session = f"{link._base}&sid={msgspec.json.decode(packets[0][1:])['sid']}"
        link._task = asyncio.create_task(link._run())
        try:
            await asyncio.sleep(0)  # a task that's cancelled before its first step would close nothing
        except asyncio.CancelledError:
            link.abort()
            raise
        return link

    async def _run(self) -> None:
        reason = "closed"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poll())
                group.create_task(self._post())
        except* (aiohttp.ClientError, OSError, TimeoutError) as failure:
            reason = repr(failure.exceptions[0])
        finally:
            await self._http.close()
            self._end(reason)

    async def _get(self, url: str) -> list[bytes]:
        async with self._http.get(url) as answer:
            answer.raise_for_status()
            return (await answer.read()).split(SEPARATOR)

    async def _poll(self) -> None:
        while not self._ended:
            for packet in await self._get(self._session):
                match packet[:1]:
                    case b"4":
                        if not self._ended:
                            self._receiver.packet(packet[1:])
                    case b"2":
                        self._queue(b"3")
                    case b"1":
                        raise ConnectionResetError("closed by the server")

    async def _post(self) -> None:
        while not self._ended:
            await self._wake.wait()
            self._wake.clear()
            body, self._outgoing = SEPARATOR.join(self._outgoing), []
            async with self._http.post(self._session, data=body, headers=TEXT) as answer:
                answer.raise_for_status()
                await answer.read()  # an answer that is let go of before its end takes the connection with it

    def _queue(self, packet: bytes) -> None:
        self._outgoing.append(packet)
        self._wake.set()

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self._queue(b"4" + packet)

    async def close(self) -> None:
        if not self._ended and self._task is not None:
            self._queue(b"1")
            await asyncio.wait([self._task], timeout=CONNECT_TIMEOUT)
        self.abort()
        await self.wait_ended()

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._end("aborted")

    async def wait_ended(self) -> None:
        """Wait until the connections are released; `abort` alone can't."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._receiver.ended(reason)


async def open_link(transport: str, url: str, receiver: Receiver) -> Any:
    """A `Link` by "websocket" or "polling". Raises `LinkFailed`."""
    kinds: dict[str, Any] = {"websocket": WebsocketLink, "polling": PollingLink}
    return await kinds[transport].open(url, receiver)
