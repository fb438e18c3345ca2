"""Somebody whom others must not feel, as a process of its own: a slow reader, a flooding sender, or a polling client.

Started beside a load of people who write to one another (`bench.scenarios.neighbours`), with whom it shares a core and who come
first there: what they feel is the server's doing. Says when it has begun, and goes on until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import sys
import urllib.request
import uuid
from typing import Any, Final

import picows
import uvloop
from picows import WSTransport

from bench.client import Client
from bench.frames import MAX_SENDER, Sender, address

KINDS: Final = ("slow-reader", "flooder", "poller")

CONTENT: Final = "x" * 8_000
"""Long, so that the buffers of a reader who doesn't read are full soon."""

FLOOD: Final = 64
"""Messages in one write of the flooder."""

TO_SLOW: Final = 0.002
"""Seconds between two messages to the slow reader."""

RECEIVE_BUFFER: Final = 65_536
"""Bytes that the system takes for the slow reader; it would take megabytes."""

SIGN_IN: Final = 30.0


class Guest(Client):
    """A socket that signs in and then leaves what comes."""

    def __init__(self, name: str) -> None:
        super().__init__({"username": name})
        self.user_id = ""
        self.writable = asyncio.Event()
        self.writable.set()
        self.gone = asyncio.Event()
        self.left: set[str] = set()
        """Who was seen to leave."""

    def on_packet(self, payload: bytes) -> None:
        if payload.startswith(b'42["session"'):
            self.user_id = json.loads(payload[2:])[1]["userID"]
        elif payload.startswith(b'42["users"'):
            self.ready.set_result(None)
        elif payload.startswith(b'42["user disconnected"'):
            self.left.add(json.loads(payload[2:])[1])

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone.set()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


async def guest(url: str, name: str) -> Guest:
    made = Guest(name)
    async with asyncio.timeout(SIGN_IN):
        await picows.ws_connect(lambda: made, url, max_frame_size=10_000_000)
        await made.ready
    return made


def message(to: str, content: str, ack: int) -> bytes:
    body = {"content": content, "to": to, "id": str(uuid.uuid4())}
    return b"42%d" % ack + json.dumps(["private message", body]).encode()


async def slow_reader(url: str) -> None:
    """Reads nothing more once it is signed in, while a friend writes to it. When it has been closed, which only the friend hears
    of, it comes again; it has begun when that has happened once."""
    friend = await guest(url, "friend of the slow")
    for number in itertools.count():
        slow = await guest(url, f"slow reader {number}")
        transport = slow.transport.underlying_transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        transport.pause_reading()
        while slow.user_id not in friend.left:
            friend.write(message(slow.user_id, CONTENT, number))
            await asyncio.sleep(TO_SLOW)
        slow.transport.disconnect(False)
        print("begun", flush=True)


async def flooder(url: str) -> None:
    """Sends as much as the connection takes, and doesn't care for refusals. When it has been closed, it comes again."""
    friend = await guest(url, "friend of the wild")
    to = address(friend.user_id)
    sender, sent = Sender(MAX_SENDER, True, len(to)), itertools.count(1)
    for number in itertools.count():
        wild = await guest(url, f"wild {number}")
        print("begun", flush=True)
        while not wild.gone.is_set():
            await wild.writable.wait()
            wild.transport.underlying_transport.write(
                b"".join(sender.frame(each, 0, to) for each in itertools.islice(sent, FLOOD))
            )
            await asyncio.sleep(0)


async def poller(url: str) -> None:
    """Polls, with a friend on a websocket who writes to it."""
    base = url.replace("ws://", "http://").replace("websocket", "polling")

    def ask(sid: str = "", body: bytes | None = None) -> bytes:
        query = f"&sid={sid}" if sid else ""
        with urllib.request.urlopen(urllib.request.Request(base + query, body), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    sid = json.loads((await asyncio.to_thread(ask))[1:])["sid"]
    await asyncio.to_thread(ask, sid, b'40{"username":"poller"}')
    user_id = ""
    while not user_id:
        for packet in (await asyncio.to_thread(ask, sid)).split(b"\x1e"):
            if packet.startswith(b'42["session"'):
                user_id = json.loads(packet[2:])[1]["userID"]
    friend = await guest(url, "friend of the poller")
    print("begun", flush=True)
    for number in itertools.count():
        friend.write(message(user_id, "hello", number))
        for packet in (await asyncio.to_thread(ask, sid)).split(b"\x1e"):
            if packet == b"2":
                await asyncio.to_thread(ask, sid, b"3")


async def _main(kind: str, url: str) -> None:
    work: dict[str, Any] = {"slow-reader": slow_reader, "flooder": flooder, "poller": poller}
    doing = asyncio.create_task(work[kind](url))
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([doing, told], return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        doing.result()
    doing.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--url", required=True)
    options = parser.parse_args()
    # Runs when nobody else wants the core.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    uvloop.run(_main(options.kind, options.url))


if __name__ == "__main__":
    main()
