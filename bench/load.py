"""The load: many Socket.IO clients in one process, on picows, with frames made by hand.

A message's content begins with fixed-width fields (sender, its counter, the time it was sent), so that a delivery is
read at fixed offsets and no JSON is parsed on the hot path. All peers put `content` first. The window counts deliveries
for every peer, acknowledged or not: a sender sends its next message when one of its own was seen by its recipient.
Frames are masked with the key 0, which costs the server its unmasking and the load nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from array import array
from typing import Any

import picows
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport

EVENT = b'42["private message",{"content":"'
PADDING = "x" * 70
CONTENT_AT = len(EVENT)
CONNECT_TIMEOUT = 60.0
SILENCE = 20.0
"""Seconds without any delivery after which a run has failed."""


def masked(payload: bytes) -> bytes:
    """A client's text frame (RFC 6455 section 5.2), masked with four zero bytes."""
    size = len(payload)
    if size < 126:
        return b"\x81%c\0\0\0\0%b" % (0x80 | size, payload)
    return b"\x81\xfe%b\0\0\0\0%b" % (size.to_bytes(2, "big"), payload)


class Client(WSListener):
    """One socket. Signs in, answers heartbeats, and tells the load about each delivery."""

    def __init__(self, load: Load, index: int, auth: dict[str, Any]) -> None:
        self.load = load
        self.index = index
        self.auth = auth
        self.user_id = ""
        self.session: dict[str, Any] = {}
        self.page: Any = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.out: list[bytes] = []
        self.sent = 0
        self.to = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.write = transport.underlying_transport.write

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.TEXT:
            return
        data = frame.get_payload_as_bytes()
        if data.startswith(EVENT):
            self.load.delivered(self, data)
        elif data.startswith(b"43"):
            self.load.acked(data)
        elif data == b"2":
            self.write(masked(b"3"))
        elif not self.ready.done():
            self.signing_in(data)

    def signing_in(self, data: bytes) -> None:
        if data.startswith(b"0"):
            self.write(masked(b"40" + json.dumps(self.auth).encode()))
        elif data.startswith(b'42["session"'):
            self.session = json.loads(data[2:])[1]
            self.user_id = self.session["userID"]
        elif data.startswith((b'42["users"', b'42["sync"')):
            self.page = data
            self.ready.set_result(None)
        elif data.startswith(b"44"):
            self.ready.set_exception(RuntimeError(data.decode()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("closed at sign-in"))
        elif not self.load.leaving:
            self.load.lost_sockets += 1


class Load:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.acks = options.acks
        self.clients: list[Client] = []
        self.dirty: list[Client] = []
        self.leaving = False
        self.lost_sockets = 0
        self.deliveries = self.acknowledged = self.refused = self.disordered = 0
        self.refusal = ""
        self.latencies = array("d")
        self.measuring = False
        self.seen: list[array[int]] = []
        self.random = random.Random(options.seed)
        self.keep_sending = False
        self.in_flight = 0

    async def connect(self, count: int, auth: dict[str, Any] | None = None, at_once: int = 50) -> float:
        """Sign `count` clients in, `at_once` at a time. Returns the seconds it took."""
        began = time.monotonic()
        line = asyncio.Semaphore(at_once)

        async def one(index: int) -> None:
            async with line:
                who = auth or {"username": f"user {index:05d}"}
                client = Client(self, index, {**who, **({"sync": {"since": None}} if self.options.sync else {})})
                self.clients.append(client)
                await picows.ws_connect(
                    lambda: client, self.options.url, websocket_handshake_timeout=CONNECT_TIMEOUT,
                    max_frame_size=100_000_000,
                )  # fmt: skip
                await asyncio.wait_for(client.ready, CONNECT_TIMEOUT)

        start = len(self.clients)
        await asyncio.gather(*(one(start + each) for each in range(count)))
        self.clients.sort(key=lambda client: client.index)
        return time.monotonic() - began

    # Sending

    def say(self, client: Client) -> None:
        options, count = self.options, len(self.clients)
        if options.pattern == "pairs":
            to = client.index ^ 1
        else:
            to = self.random.randrange(count - 1)
            to += to >= client.index
        client.sent += 1
        number = client.sent
        content = b"%05d %09d %016d %b" % (client.index, number, time.monotonic_ns() // 1000, PADDING.encode())
        recipient = self.clients[to].user_id.encode()
        if self.acks:
            id = b"%08x-0000-4000-8000-%012x" % (client.index, number + (options.seed << 32))
            text = b'42%d["private message",{"content":"%b","to":"%b","id":"%b"}]' % (number, content, recipient, id)
        else:
            text = b'42["private message",{"content":"%b","to":"%b"}]' % (content, recipient)
        if not client.out:
            if not self.dirty:
                asyncio.get_running_loop().call_soon(self.flush)
            self.dirty.append(client)
        client.out.append(masked(text))
        self.in_flight += 1

    def flush(self) -> None:
        dirty, self.dirty = self.dirty, []
        for client in dirty:
            client.write(b"".join(client.out))
            client.out.clear()

    def delivered(self, recipient: Client, data: bytes) -> None:
        sender = int(data[CONTENT_AT : CONTENT_AT + 5])
        number = int(data[CONTENT_AT + 6 : CONTENT_AT + 15])
        seen = self.seen[recipient.index]
        if number <= seen[sender]:
            self.disordered += 1
        seen[sender] = number
        self.in_flight -= 1
        self.deliveries += 1
        if self.measuring:
            self.latencies.append(time.monotonic_ns() // 1000 - int(data[CONTENT_AT + 16 : CONTENT_AT + 32]))
        if self.keep_sending:
            self.say(self.clients[sender])

    def acked(self, data: bytes) -> None:
        if b'"error"' in data:
            self.refused += 1
            self.refusal = data.decode()
        else:
            self.acknowledged += 1

    # Scenarios

    async def closed_loop(self) -> dict[str, Any]:
        """Every socket keeps `window` messages under way."""
        self.prepare()
        self.keep_sending = True
        for client in self.clients:
            for _ in range(self.options.window):
                self.say(client)
        await asyncio.sleep(self.options.warm_up)
        return await self.measure()

    async def open_loop(self) -> dict[str, Any]:
        """`rate` messages a second, whatever the server does; latency counts from the time a message was due."""
        self.prepare()
        pace = asyncio.create_task(self.pace())
        await asyncio.sleep(self.options.warm_up)
        result = await self.measure()
        pace.cancel()
        return result

    async def pace(self) -> None:
        began, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self.options.rate)
            for number in range(sent, due):
                self.say(self.clients[number % len(self.clients)])
            sent = max(sent, due)
            await asyncio.sleep(0.001)

    def prepare(self) -> None:
        self.seen = [array("q", bytes(8 * len(self.clients))) for _ in self.clients]

    async def measure(self) -> dict[str, Any]:
        self.measuring = True
        before, cpu, began = self.deliveries, _cpu(), time.monotonic()
        await asyncio.sleep(self.options.seconds)
        took = time.monotonic() - began
        count, used = self.deliveries - before, _cpu() - cpu
        self.measuring = self.keep_sending = False
        return {"deliveries_per_second": count / took, "load_cpu": used / took, **_percentiles(self.latencies)}

    async def settle(self) -> dict[str, Any]:
        """Wait until all that was sent has been delivered (and acknowledged)."""
        last, since = -1, time.monotonic()
        while self.in_flight or (self.acks and self.acknowledged + self.refused < self.deliveries):
            if self.deliveries + self.acknowledged != last:
                last, since = self.deliveries + self.acknowledged, time.monotonic()
            if time.monotonic() - since > SILENCE:
                break
            await asyncio.sleep(0.05)
        sent = sum(client.sent for client in self.clients)
        valid = not (self.in_flight or self.disordered or self.refused or self.lost_sockets)
        if self.acks:
            valid = valid and self.acknowledged == sent
        return {
            "valid": valid, "sent": sent, "delivered": self.deliveries, "acknowledged": self.acknowledged,
            "refused": self.refused, "disordered": self.disordered, "lost_sockets": self.lost_sockets,
            "refusal": self.refusal,
        }  # fmt: skip

    def leave(self) -> None:
        self.leaving = True
        for client in self.clients:
            client.transport.disconnect(False)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _percentiles(latencies: array[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    if not ordered:
        return {}
    return {
        f"p{share:g}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] / 1000
        for share in (50, 99, 99.9)
    }


async def _main(options: argparse.Namespace) -> None:
    load = Load(options)
    result: dict[str, Any] = {"scenario": options.scenario, "sockets": options.sockets}
    if options.scenario == "idle":
        cpu = _cpu()
        result["connect_seconds"] = await load.connect(options.sockets)
        result["load_cpu_seconds"] = _cpu() - cpu
        print(json.dumps(result), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # stay connected until told
        load.leave()
        return
    if options.scenario == "reconnect":
        with open(options.sessions) as file:
            sessions = json.load(file)
        began, cpu, size = time.monotonic(), _cpu(), 0
        for start in range(0, len(sessions), options.sockets):
            batch = sessions[start : start + options.sockets]
            await asyncio.gather(*(load.connect(1, auth) for auth in batch))
            size += sum(len(client.page) for client in load.clients)
            load.leave()
            load = Load(options)
        result["reconnects_per_second"] = len(sessions) / (time.monotonic() - began)
        result["bytes_per_reconnect"] = size / len(sessions)
        result["load_cpu_seconds"] = _cpu() - cpu
    else:
        result["connect_seconds"] = await load.connect(options.sockets)
        result |= await (load.open_loop() if options.scenario == "open" else load.closed_loop())
        result |= await load.settle()
        load.leave()
    print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=("closed", "open", "idle", "reconnect"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--window", type=int, default=20, help="messages under way per socket")
    parser.add_argument("--rate", type=float, default=1000, help="messages a second (open)")
    parser.add_argument("--pattern", choices=("pairs", "random"), default="random")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=2)
    parser.add_argument("--acks", action="store_true", help="every message with an id and an ack")
    parser.add_argument("--sync", action="store_true", help="the sync form of the protocol")
    parser.add_argument("--sessions", help="JSON list of auth payloads (reconnect)")
    parser.add_argument("--seed", type=int, default=1)
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
