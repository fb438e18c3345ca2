from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from tests.support.puppet import Puppet

StartPuppet = Callable[[], Awaitable[Puppet]]


@pytest_asyncio.fixture
async def start_puppet() -> AsyncIterator[StartPuppet]:
    """Starts processes of the stock client; all end with the test."""
    puppets: list[Puppet] = []

    async def start() -> Puppet:
        puppet = await Puppet.start()
        puppets.append(puppet)
        return puppet

    yield start
    for puppet in puppets:
        await puppet.close()


@pytest_asyncio.fixture
async def puppet(start_puppet: StartPuppet) -> Puppet:
    return await start_puppet()
