"""What 100,000 subscriptions of one node cost with nats-py, by how they are made: `python -m bench.nats_subscriptions direct`.

- callback: a subscription with a callback, which nats-py gives a task and a queue.
- direct: a subscription without one, whose queue is replaced by an object that hands each message on at once.
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

SUBSCRIPTIONS = 100_000
MESSAGES = 100_000
CHURN = 1_000
SECONDS = 5


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


async def _measure(kind: str, url: str) -> None:
    connection = await nats.connect(url)
    publisher = await nats.connect(url)
    sink = Sink()

    async def callback(message: Any) -> None:
        sink.put_nowait(message)

    async def subscribe(subject: str) -> Any:
        if kind == "callback":
            return await connection.subscribe(subject, cb=callback)
        subscription = await connection.subscribe(subject, pending_bytes_limit=0)
        subscription._pending_queue = sink  # type: ignore[assignment]
        subscription._message_iterator = None
        return subscription

    gc.collect()
    before, start = _resident(), time.perf_counter()
    subscriptions = [await subscribe(f"u.{n:016x}") for n in range(SUBSCRIPTIONS)]
    await connection.flush(60)
    took = time.perf_counter() - start
    gc.collect()
    print(
        f"{kind}: {SUBSCRIPTIONS / took:,.0f} subscriptions/s, {(_resident() - before) / SUBSCRIPTIONS:,.0f} bytes each"
    )

    start, cpu = time.perf_counter(), time.process_time()
    for n in range(MESSAGES):
        await publisher.publish(f"u.{n:016x}", b"x" * 200)
        if not n % 1000:
            await publisher.flush(60)
    await publisher.flush(60)
    while sink.count < MESSAGES:
        await asyncio.sleep(0.001)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{kind}: {MESSAGES / took:,.0f} messages/s, {cpu / MESSAGES * 1e6:.1f} us of CPU each, sent and received")

    start, cpu = time.perf_counter(), time.process_time()
    for second in range(SECONDS):
        for n in range(CHURN):
            await subscriptions[second * CHURN + n].unsubscribe()
            await subscribe(f"c.{second * CHURN + n:016x}")
        await connection.flush(60)
        await asyncio.sleep(max(0.0, start + second + 1 - time.perf_counter()))
    print(
        f"{kind}: {(time.process_time() - cpu) / SECONDS * 100:.0f}% of a core for {CHURN:,} changes each way a second"
    )
    await publisher.close()
    await asyncio.wait_for(connection.close(), 60)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        for kind in sys.argv[1:] or ("direct", "callback"):
            uvloop.run(_measure(kind, server.url))


if __name__ == "__main__":
    main()
