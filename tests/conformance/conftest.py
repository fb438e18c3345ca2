from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conformance.peer import Peer
from tests.support.process import ServerProcess


@pytest_asyncio.fixture
async def peer(echo_server: ServerProcess) -> AsyncIterator[Peer]:
    async with Peer(echo_server.url) as peer:
        yield peer
