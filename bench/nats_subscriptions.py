"""What 100,000 subscriptions of one node cost with nats-py, by how they are made: `python -m bench.nats_subscriptions direct`.

- callback: a subscription with a callback, which nats-py gives a task and a queue.
- direct: a subscription without one, whose queue is replaced by an object that hands each message on at once.
- bus: our bus, which makes them as `direct` does, with the receivers of the users behind it.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nats
import uvloop

from cluster.nats import NatsServer
from duologue.bus.nats import NatsBus

SUBSCRIPTIONS = 100_000
MESSAGES = 100_000
CHURN = 1_000
SECONDS = 5
TICKS = 20
"""Of a second."""

RATE = 5_000
"""Messages a second beside the changes."""


class Sink:
    """Stands in for a subscription's queue."""

    def __init__(self) -> None:
        self.count = 0

    def put_nowait(self, message: Any) -> None:
        self.count += 1

    def qsize(self) -> int:
        return 0


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class _Connection:
    """Subscriptions and publications by nats-py, of the one kind or the other."""

    def __init__(self, kind: str, sink: Sink) -> None:
        self._kind = kind
        self._sink = sink
        self._subscriptions: dict[str, Any] = {}
        self._client: Any = None

    async def start(self, url: str) -> None:
        self._client = await nats.connect(url)

    async def subscribe(self, user: str) -> None:
        if self._kind == "callback":
            self._subscriptions[user] = await self._client.subscribe(user, cb=self._callback)
            return
        subscription = await self._client.subscribe(user, pending_bytes_limit=0)
        subscription._pending_queue = self._sink
        subscription._message_iterator = None
        self._subscriptions[user] = subscription

    async def unsubscribe(self, user: str) -> None:
        await self._subscriptions.pop(user).unsubscribe()

    async def publish(self, user: str, data: bytes) -> None:
        await self._client.publish(user, data)

    async def flush(self) -> None:
        await self._client.flush(60)

    async def close(self) -> None:
        await asyncio.wait_for(self._client.close(), 60)

    async def _callback(self, message: Any) -> None:
        self._sink.put_nowait(message)


class _Bus:
    """The same by our bus."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def start(self, url: str) -> None:
        self._bus = NatsBus([url], "bench")
        self._bus.connect(lambda *_: self._sink.put_nowait(None))
        await self._bus.start()

    async def subscribe(self, user: str) -> None:
        self._bus.subscribe(user)

    async def unsubscribe(self, user: str) -> None:
        self._bus.unsubscribe(user)

    async def publish(self, user: str, data: bytes) -> None:
        self._bus.publish(user, 1, data)

    async def flush(self) -> None:
        await self._bus.settled()

    async def close(self) -> None:
        await self._bus.close()


async def _measure(kind: str, url: str) -> None:
    sink = Sink()
    connection, publisher = (_Bus(sink) if kind == "bus" else _Connection(kind, sink) for _ in range(2))
    await connection.start(url)
    await publisher.start(url)
    users = [f"{n:016x}" for n in range(SUBSCRIPTIONS)]

    gc.collect()
    before, start = _resident(), time.perf_counter()
    for user in users:
        await connection.subscribe(user)
    await connection.flush()
    took = time.perf_counter() - start
    gc.collect()
    print(
        f"{kind}: {SUBSCRIPTIONS / took:,.0f} subscriptions/s, {(_resident() - before) / SUBSCRIPTIONS:,.0f} bytes each"
    )

    start, cpu = time.perf_counter(), time.process_time()
    for n in range(MESSAGES):
        await publisher.publish(users[n], b"x" * 200)
        if not n % 1000:
            await publisher.flush()
    await publisher.flush()
    while sink.count < MESSAGES:
        await asyncio.sleep(0.001)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{kind}: {MESSAGES / took:,.0f} messages/s, {cpu / MESSAGES * 1e6:.1f} us of CPU each, sent and received")

    for churn, what in ((0, "no changes"), (CHURN, f"{CHURN:,} changes each way a second")):
        start, cpu = time.perf_counter(), time.process_time()
        for tick in range(SECONDS * TICKS):
            for n in range(tick * churn // TICKS, (tick + 1) * churn // TICKS):
                await connection.unsubscribe(users[n])
                await connection.subscribe(f"new-{n}")
            for n in range(RATE // TICKS):
                await publisher.publish(users[-1 - n], b"x" * 200)
            await connection.flush()
            await asyncio.sleep(max(0.0, start + (tick + 1) / TICKS - time.perf_counter()))
        share = (time.process_time() - cpu) / (time.perf_counter() - start) * 100
        print(f"{kind}: {share:.0f}% of a core for {RATE:,} messages a second and {what}")
    await publisher.close()
    await connection.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        for kind in sys.argv[1:] or ("bus", "direct", "callback"):
            uvloop.run(_measure(kind, server.url))


if __name__ == "__main__":
    main()
