"""The comparison of versions, which is all that a node hears of the others while the bus is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from duologue.actions.send import Senders
from duologue.bus.local import LocalBus
from duologue.domain.errors import Code, Refusal
from duologue.domain.model import User
from duologue.server import comparison as comparison_module
from duologue.server.comparison import AFTER_CHANGE, Comparison
from duologue.server.hub import LATE_HINT_PATIENCE, Client, Hub
from duologue.server.sessions import Sessions
from duologue.server.transport import Socket
from tests.store.conftest import ANN, Bench
from tests.support.inside import LIMITS

pytestmark = pytest.mark.asyncio

QUERIES = 100
NEVER = 3600.0


async def test_many_who_are_behind_wait_for_late_hints_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once for each of some hundred users: they'd get their messages minutes late."""
    monkeypatch.setattr(comparison_module, "AT_ONCE", 1)
    bench = Bench(tmp_path / "data")
    store = await bench.open()
    users = [User(f"{number:016x}", f"user {number}") for number in range(QUERIES)]
    await bench.people(ANN, *users)
    gaps: list[Client] = []
    behind = asyncio.Event()

    def on_gap(client: Client) -> None:
        gaps.append(client)
        if len(gaps) == QUERIES:
            behind.set()

    hub = Hub(LocalBus(), on_gap, lambda: False, LIMITS.page_bytes)
    senders = Senders(store, bench.clock, LIMITS)
    for user in users:
        client = Client(cast("Socket", None), senders.make(user), user.id.encode(), syncs=True)
        hub.attach(client)
        hub.go_live(client, 0)
        await bench.send(ANN, user)
    sessions = Sessions(hub, store, LocalBus(), bench.clock, lambda *_: pytest.fail("nobody signs out"), 60.0)
    comparing = Comparison(hub, sessions, store)
    comparing.bus_changed(False)
    task = asyncio.create_task(comparing.run())
    start = time.monotonic()
    async with asyncio.timeout(QUERIES * LATE_HINT_PATIENCE):
        await behind.wait()
    assert time.monotonic() - start < QUERIES * LATE_HINT_PATIENCE / 2
    task.cancel()
    await asyncio.wait([task])
    await bench.close()


async def test_a_comparison_that_fails_is_tried_again_soon_although_the_bus_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away as well, and comes back after the bus: what was published meanwhile is lost all the same."""
    bench = Bench(tmp_path / "data")
    store = await bench.open()
    user = User(f"{1:016x}", "user")
    await bench.people(ANN, user)
    behind = asyncio.Event()
    hub = Hub(LocalBus(), lambda _: behind.set(), lambda: False, LIMITS.page_bytes)
    client = Client(cast("Socket", None), Senders(store, bench.clock, LIMITS).make(user), b"session", syncs=True)
    hub.attach(client)
    hub.go_live(client, 0)
    await bench.send(ANN, user)
    versions, failures = store.versions, 2 * AFTER_CHANGE

    async def stumble(users: Sequence[str]) -> dict[str, int]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Refusal(Code.UNAVAILABLE)
        return await versions(users)

    monkeypatch.setattr(store, "versions", stumble)
    sessions = Sessions(hub, store, LocalBus(), bench.clock, lambda *_: pytest.fail("nobody signs out"), 60.0)
    comparing = Comparison(hub, sessions, store, calm_interval=NEVER, alert_interval=0.05)
    comparing.bus_changed(True)
    task = asyncio.create_task(comparing.run())
    async with asyncio.timeout(QUERIES * LATE_HINT_PATIENCE):
        await behind.wait()
    assert failures < 0
    task.cancel()
    await asyncio.wait([task])
    await bench.close()
