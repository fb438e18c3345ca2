"""P5: the bus is a hint. It loses and repeats, and every socket still sees every message once, in order.

The real store, hub, gateway and transports in this process; only the bus is one that nobody would buy.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from duologue.bus.local import LocalBus
from duologue.domain.limits import ChatLimits
from duologue.domain.ports import Pending
from duologue.main import SystemClock, bind
from duologue.server.app import build_app
from duologue.server.gateway import Gateway
from duologue.server.outcomes import Outcomes
from duologue.server.transport import SocketServer
from duologue.store.sqlite import SqliteStore
from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.record import How, Record

pytestmark = pytest.mark.asyncio

PEOPLE = 4
MESSAGES = 150

LIMITS = ChatLimits(
    max_content=8000, page=50, max_page=200, page_bytes=1_000_000, announce_people=1000, roster_messages=1000,
    roster_total=10_000, message_rate=1e6, message_burst=1e6, request_limit=16, max_watch=200, presence_grace=0,
    typing_repeat=3, typing_expires=6,
)  # fmt: skip


class LossyBus(LocalBus):
    """Loses one publication in five and repeats one in ten."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.lost = 0

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        fate = self._rng.random()
        if fate < 0.2:
            self.lost += 1
            return
        super().publish(user, version, packet, exclude, announcement)
        if fate > 0.9:
            super().publish(user, version, packet, exclude, announcement)


@asynccontextmanager
async def serving(folder: Path, bus: LocalBus) -> AsyncIterator[str]:
    clock = SystemClock()
    outcomes: Outcomes

    def sink(batch: Sequence[Pending]) -> None:
        outcomes(batch)

    def failed(error: BaseException) -> None:
        raise error

    store = await SqliteStore.open(folder, clock, sink, failed)
    gateway = Gateway(store, bus, clock, LIMITS)
    outcomes = Outcomes(gateway.hub, bus, store.epoch)
    bus.connect(gateway.hub.receive)
    transport = SocketServer(gateway)
    sockets = bind("127.0.0.1", 0)
    app = build_app(transport.asgi, folder / "no client")
    ws: Any = transport.ws_protocol_class()  # uvicorn says Protocol, and means any protocol class
    config = uvicorn.Config(
        app, http=transport.http_protocol_class(), ws=ws, lifespan="off", log_config=None, access_log=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await gateway.start()
    await transport.start()
    await server.startup(sockets=sockets)
    beating = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        await gateway.leave()
        await transport.stop()
        await store.close()
        await gateway.stop()
        server.should_exit = True
        await beating
        await server.shutdown(sockets=sockets)


async def test_what_the_bus_loses_the_store_brings(tmp_path: Path, rng: random.Random) -> None:
    record = Record()
    bus = LossyBus(rng)
    async with serving(tmp_path / "data", bus) as url:
        people = [await ChatClient(url, f"person {number}", record).connect() for number in range(PEOPLE)]
        second = await ChatClient(url, "person 0", record, session_id=people[0].session_id).connect()
        for number in range(MESSAGES):
            sender, recipient = rng.sample(people, 2)
            await sender.send(recipient.user_id, f"text {number}")
            if number % 10 == 0:
                await recipient.request("read", {"with": sender.user_id, "seq": 1})
        assert bus.lost > MESSAGES / 10
        live = {
            sighting.message.id
            for log in record.sockets
            for sighting in log.seen
            if sighting.how is How.LIVE and log.reader != sighting.message.sender
        }
        # Only a loss that nothing follows can still be unnoticed: the last few of each user.
        assert len(live) > MESSAGES * 0.9
        await judge(record, *people, second)
        for device in (*people, second):
            await device.close()
