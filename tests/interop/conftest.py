from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from tests.conftest import echo_of
from tests.support.process import ServerProcess
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


@pytest.fixture(scope="session")
def shared_echo(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """With heartbeats as in life: a client that stands still for a fifth of a second, as one in a process of its own may,
    isn't what these tests are about."""
    with echo_of(request, ping_interval=25_000, ping_timeout=20_000) as server:
        yield server
