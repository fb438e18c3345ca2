"""The least that a server can do with this load, to see how much of it there can be: no peer, a yardstick.

It knows the load's own frames alone: finds the recipient in the bytes and passes the text on. No JSON, no ids, no acks,
nothing kept. What it delivers is the ceiling of everything measured here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import picows
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from bench.frames import EVENT

MAX_FRAME = 1_000_000

people: dict[bytes, Person] = {}
waiting: dict[Person, list[bytes]] = {}


class Person(WSListener):
    write: Callable[[bytes], None]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.write = transport.underlying_transport.write
        self.user_id = b"%016x" % len(people)
        people[self.user_id] = self
        transport.send(WSMsgType.TEXT, b'0{"sid":"x","upgrades":[],"pingInterval":300000,"pingTimeout":200000}')

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(EVENT):
            to = payload.index(b'","to":"') + 8
            send_soon(people[payload[to : to + 16]], payload)
        elif payload.startswith(b"40"):
            transport.send(WSMsgType.TEXT, b'40{"sid":"x"}')
            transport.send(WSMsgType.TEXT, b'42["session",{"sessionID":"x","userID":"%b"}]' % self.user_id)
            transport.send(WSMsgType.TEXT, b'42["users",[]]')


def send_soon(person: Person, payload: bytes) -> None:
    """One write for all that a socket gets in one turn of the loop."""
    if not waiting:
        asyncio.get_running_loop().call_soon(flush)
    waiting.setdefault(person, []).append(b"\x81\x7e%b%b" % (len(payload).to_bytes(2, "big"), payload))


def flush() -> None:
    for person, texts in waiting.items():
        person.write(b"".join(texts))
    waiting.clear()


async def main() -> None:
    server = await picows.ws_create_server(
        lambda _request: Person(), "127.0.0.1", int(sys.argv[1]), max_frame_size=MAX_FRAME
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
