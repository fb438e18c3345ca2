"""What a client of the guide's form gets at connect, and where that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.client import ChatClient
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio


async def guide(inside: Inside, name: str, session_id: str | None = None) -> ChatClient:
    return await ChatClient(inside.url, name, guide=True, session_id=session_id).connect()


async def crowd(inside: Inside, ann: ChatClient, number: int, messages: int = 1) -> list[ChatClient]:
    """People of whom each has written to Ann, one after another."""
    people = []
    for each in range(number):
        client = await ChatClient(inside.url, f"{each:02}" + "🦉" * 30).connect()
        for message in range(messages):
            await client.send(ann.user_id, f"{each}-{message}")
        people.append(client)
    return people


def listed(client: ChatClient, *people: ChatClient) -> dict[str, list[str]]:
    """What `users` has of these people, in its order."""
    ids = {each.user_id: each.username for each in people}
    users: list[dict[str, Any]] = [user for user in client.users if user["userID"] in ids]
    return {ids[user["userID"]][:2]: [message["content"] for message in user["messages"]] for user in users}


async def test_the_latest_messages_of_each_conversation_and_a_bound_for_all(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", roster_messages=3, roster_total=5) as inside:
        ann = await guide(inside, "ann")
        people = await crowd(inside, ann, 3, messages=4)
        tab = await guide(inside, "ann", ann.session_id)
        assert listed(tab, *people) == {"00": [], "01": ["1-2", "1-3"], "02": ["2-1", "2-2", "2-3"]}
        await people[0].send(ann.user_id, "now the latest")
        tab = await guide(inside, "ann", ann.session_id)
        assert listed(tab, *people) == {"00": ["0-2", "0-3", "now the latest"], "01": [], "02": ["2-2", "2-3"]}


async def test_beyond_announce_people_the_latest_acquaintances_and_presence_of_those(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", announce_people=0, roster_people=2) as inside:
        ann = await guide(inside, "ann")
        people = await crowd(inside, ann, 4)
        tab = await guide(inside, "ann", ann.session_id)
        assert listed(tab, *people) == {"02": ["2-0"], "03": ["3-0"]}
        assert len(tab.users) == 3
        await people[0].send(ann.user_id, "again")
        tab = await guide(inside, "ann", ann.session_id)
        assert listed(tab, *people) == {"00": ["0-0", "again"], "03": ["3-0"]}
        # Whom somebody with thousands of conversations comes to is told to the latest of them, and no more are read.
        assert sorted((await inside.store.peers([ann.user_id], 2))[ann.user_id]) == sorted(
            [people[0].user_id, people[3].user_id]
        )


async def test_the_people_count_for_what_may_wait_for_one_socket(tmp_path: Path) -> None:
    page_bytes = 20_000
    async with serving(tmp_path / "data", page_bytes=page_bytes) as inside:
        ann = await guide(inside, "ann")
        people = await crowd(inside, ann, 40, messages=3)
        tab = await guide(inside, "ann", ann.session_id)
        assert len(msgspec.json.encode(tab.users)) < page_bytes
        assert len(tab.users) == 41
        assert sum(map(len, listed(tab, *people).values())) > 20
