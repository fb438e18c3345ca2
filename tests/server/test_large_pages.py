"""Pages of the longest messages: whoever has a long history can still connect, sync and page through it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient
from tests.support.process import ServerProcess

pytestmark = [pytest.mark.asyncio, on_both]

LONGEST = 8_000
MESSAGES = 120
MAX_UNSENT = 1_000_000


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    return start_server("--max-unsent", str(MAX_UNSENT))


async def fill(alice: ChatClient, bob: ChatClient) -> None:
    """120 messages of 32 kB, nearly four times what may wait for one socket."""
    for start in range(0, MESSAGES, 10):
        await asyncio.gather(
            *(alice.send(bob.user_id, f"{start + each:03}" + "😀" * (LONGEST - 3)) for each in range(10))
        )


async def test_the_guides_client_gets_the_latest_that_fit(server: ServerProcess) -> None:
    async with ChatClient(server.url, "alice") as alice, ChatClient(server.url, "bob") as bob:
        await fill(alice, bob)
        async with ChatClient(server.url, "bob", guide=True, session_id=bob.session_id) as tab:
            (messages,) = [user["messages"] for user in tab.users if user["userID"] == alice.user_id]
            assert 10 < len(messages) < MAX_UNSENT / (4 * LONGEST)
            assert [message["seq"] for message in messages] == list(range(MESSAGES - len(messages) + 1, MESSAGES + 1))
            await alice.send(bob.user_id, "one more")
            await tab.wait_for_message("one more")


async def test_a_sync_and_a_history_announce_what_they_leave_out(server: ServerProcess) -> None:
    async with ChatClient(server.url, "alice") as alice, ChatClient(server.url, "bob") as bob:
        await fill(alice, bob)
        fresh = await ChatClient(server.url, "bob", session_id=bob.session_id).connect()
        (conversation,) = fresh.pages[0]["conversations"]
        first = conversation["messages"][0]["seq"]
        assert conversation["gap"] == {"after": 0, "before": first}
        await fresh.complete()  # pages through the gap, in the client's own way
        await fresh.close()

        forward = await bob.request("history", {"with": alice.user_id, "after": 0, "limit": 200})
        assert forward["more"]
        assert [message["seq"] for message in forward["messages"]] == list(range(1, len(forward["messages"]) + 1))
        backward = await bob.request("history", {"with": alice.user_id, "before": 101, "limit": 100})
        assert backward["more"]
        assert [message["seq"] for message in backward["messages"]] == list(range(101 - len(backward["messages"]), 101))
