"""Whoever sends without end is read in turns, on the loop that the server runs on: libuv reads otherwise than asyncio's own."""

from __future__ import annotations

import asyncio

import uvloop

from tests.server.transport.harness import PATIENCE, Serve

FLOOD = 5_000
"""Messages: several times what a read may take."""


def test_who_floods_waits_for_its_turn(serve: Serve) -> None:
    async def scenario() -> None:
        async with serve() as running, asyncio.timeout(PATIENCE):
            wild, calm = await running.connected(), await running.connected()
            for _ in range(FLOOD):
                wild.send(b'42["flood","' + b"x" * 300 + b'"]')
            while not running.app.events:
                await asyncio.sleep(0)
            calm.send(b'42["calm"]')
            assert await calm.frame() == (1, b'42["echo"]')
            assert len(running.app.events) < FLOOD // 2, "the flood came first"
            while len(running.app.events) < FLOOD + 1:
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
