"""Presence of several nodes amid errors: one person, or one moment, costs nobody else their last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from duologue.bus.local import LocalBus
from duologue.domain.errors import Refusal
from duologue.domain.limits import ChatLimits
from duologue.domain.model import User
from duologue.domain.ports import Registry, Renewal
from duologue.server import elsewhere as elsewhere_module
from duologue.server import second_look as second_look_module
from duologue.server.elsewhere import Elsewhere
from duologue.store.postgres import PostgresStore
from tests.store.conftest import ANN, NOBODY, TIMEOUT
from tests.support.clock import SetClock
from tests.support.inside import LIMITS

pytestmark = pytest.mark.asyncio

NEVER = 3600.0
LEASE = 0.6
"""Seconds: a review is due that often."""


class Here:
    """A node on which nobody is announced to everybody."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.said: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    def here(self) -> Collection[str]:
        return self.users

    def everybody_is_announced(self) -> bool:
        return False

    def tell(self, user: User, online: bool, acquaintances: Iterable[str]) -> None:
        self.said.put_nowait((user.id, online))


class Stumbling:
    """The registry, of which a call fails now and then as no code expects."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.stumbles = 4
        self.leave, self.retire = registry.leave, registry.retire
        self.node, self.nodes = registry.node, registry.nodes

    def _stumble(self) -> None:
        if self.stumbles:
            self.stumbles -= 1
            raise AttributeError("on purpose")

    async def arrive(self, users: Sequence[str]) -> None:
        self._stumble()
        await self._registry.arrive(users)

    async def online(self, users: Sequence[str]) -> frozenset[str]:
        self._stumble()
        return await self._registry.online(users)

    async def renew(self, here: Sequence[str]) -> Renewal:
        self._stumble()
        return await self._registry.renew(here)


@asynccontextmanager
async def node(
    store: PostgresStore, registry: Registry, limits: ChatLimits = LIMITS
) -> AsyncIterator[tuple[Here, Elsewhere]]:
    here = Here()
    elsewhere = Elsewhere(registry, store, LocalBus(), limits)
    elsewhere.connect(here)
    task = asyncio.create_task(elsewhere.run())
    yield here, elsewhere
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    await store.close()


async def _open(url: str) -> PostgresStore:
    store = await PostgresStore.open(url, SetClock(), lambda batch: None, lambda error: None)
    await store.create_guest(ANN, b"hers")
    return store


async def test_one_whom_the_store_has_lost_costs_the_others_nothing(database: str) -> None:
    """After a failover that lost the last transactions somebody may be connected of whom the store knows nothing."""
    store = await _open(database)
    async with node(store, store.registry(30.0)) as (here, elsewhere):
        elsewhere.watch(ANN.id)
        here.users = [NOBODY, ANN.id]
        elsewhere.moved(NOBODY)
        elsewhere.moved(ANN.id)
        async with asyncio.timeout(TIMEOUT):
            assert await here.said.get() == (ANN.id, True)


async def test_an_error_that_nobody_expected_is_survived(database: str) -> None:
    store = await _open(database)
    async with node(store, Stumbling(store.registry(30.0))) as (here, elsewhere):
        elsewhere.watch(ANN.id)
        here.users = [ANN.id]
        elsewhere.moved(ANN.id)
        async with asyncio.timeout(TIMEOUT):
            assert await here.said.get() == (ANN.id, True)


class Counting(Stumbling):
    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.stumbles = self.asked = 0

    async def online(self, users: Sequence[str]) -> frozenset[str]:
        self.asked += 1
        return await super().online(users)


class Slow(Stumbling):
    """A registry whose renewals are on their way until the test lets them arrive."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.stumbles = 0
        self.renewing = asyncio.Event()
        self.go_on = asyncio.Event()
        self.renewed = asyncio.Event()
        self.refused = asyncio.Event()

    async def arrive(self, users: Sequence[str]) -> None:
        try:
            await super().arrive(users)
        except Refusal:
            self.refused.set()
            raise

    async def renew(self, here: Sequence[str]) -> Renewal:
        self.renewing.set()
        await self.go_on.wait()
        changed = await super().renew(here)
        self.renewed.set()
        return changed


async def test_no_renewal_comes_after_the_node_has_left(database: str) -> None:
    """It would keep the node's people online for a whole lease."""
    store = await _open(database)
    registry = Slow(store.registry(30.0))
    other = store.registry(30.0)
    async with node(store, registry) as (here, elsewhere):
        here.users = [ANN.id]
        await registry.renewing.wait()
        leaving = asyncio.create_task(elsewhere.retire())
        await asyncio.sleep(0)
        registry.go_on.set()
        async with asyncio.timeout(TIMEOUT):
            await registry.renewed.wait()
            await leaving
            while await other.online([ANN.id]):
                await asyncio.sleep(0.01)


async def until_online(registry: Registry) -> None:
    """Until Ann is written down."""
    async with asyncio.timeout(TIMEOUT):
        while not await registry.online([ANN.id]):
            await asyncio.sleep(0.01)


async def test_who_comes_before_the_node_is_registered_is_written_down_as_soon_as_it_is(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere_module, "RETRY_PAUSE", NEVER)
    store = await _open(database)
    registry = Slow(store.registry(NEVER))
    async with node(store, registry) as (here, elsewhere):
        await registry.renewing.wait()
        here.users = [ANN.id]
        elsewhere.moved(ANN.id)
        await store.people([ANN.id])  # by then it would have been tried
        registry.go_on.set()
        await until_online(registry)


async def test_who_comes_to_a_node_that_was_given_up_is_written_down_when_it_is_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By themselves: the renewal that was under way brings those only who were here before."""
    monkeypatch.setattr(elsewhere_module, "RETRY_PAUSE", 0.01)
    store = await _open(database)
    registry, other = Slow(store.registry(NEVER)), store.registry(NEVER)
    registry.go_on.set()
    async with node(store, registry, msgspec.structs.replace(LIMITS, presence_lease=LEASE)) as (here, elsewhere):
        async with asyncio.timeout(TIMEOUT):
            await registry.renewed.wait()
            registry.go_on.clear()
            registry.renewing.clear()
            await registry.renewing.wait()
            await registry.retire(-1.0)
            for _ in range(2):
                await other.renew([])
            here.users = [ANN.id]
            elsewhere.moved(ANN.id)
            await registry.refused.wait()
            registry.go_on.set()
            await until_online(registry)


async def test_what_watchers_were_told_is_remembered_of_however_many(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each review would tell them all again."""
    monkeypatch.setattr(elsewhere_module, "MAX_TOLD", 1)
    monkeypatch.setattr(
        second_look_module, "SECOND_LOOK", NEVER
    )  # which tells again what a review is telling meanwhile
    users = [User(f"{number:016x}", f"user {number}") for number in range(5)]
    store = await _open(database)
    for user in users:
        await store.create_guest(user, user.id.encode())
    registry = Counting(store.registry(30.0))
    async with node(store, registry, msgspec.structs.replace(LIMITS, presence_lease=LEASE)) as (here, elsewhere):
        here.users = [ANN.id, users[0].id]
        for user in users:
            elsewhere.watch(user.id)
        async with asyncio.timeout(TIMEOUT):
            told = {await here.said.get() for _ in users}
            assert told == {(user.id, user is users[0]) for user in users}
            asked = registry.asked
            while registry.asked < asked + 3:
                await asyncio.sleep(0.01)
        assert here.said.empty()
        here.users = [ANN.id]
        await registry.leave([users[0].id])
        async with asyncio.timeout(TIMEOUT):
            assert await here.said.get() == (users[0].id, False)  # although nobody hinted at it
