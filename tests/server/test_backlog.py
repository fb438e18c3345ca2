"""What gathers for a socket while the store is read for it: bounded, and nobody else's trouble."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from duologue.server import hub
from tests.support.client import ChatClient, ConnectionLost
from tests.support.inside import serving

pytestmark = pytest.mark.asyncio

FEW = 20


@pytest.mark.parametrize("limit", ["events", "bytes"])
async def test_a_socket_whose_backlog_is_full_is_closed_and_the_users_other_one_misses_nothing(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "events":
        monkeypatch.setattr(hub, "MAX_BACKLOG", FEW)
    async with serving(tmp_path / "data", page_bytes=1_000_000 if limit == "events" else FEW * 8000) as inside:
        bob = await ChatClient(inside.url, "bob").connect()
        ann = await ChatClient(inside.url, "ann").connect()
        await bob.send(ann.user_id, "no introduction is needed any more")
        await ann.close()
        with inside.store.hold("sync", only=1) as gate:
            phone = ChatClient(inside.url, "ann", session_id=ann.session_id)
            signing_in = asyncio.create_task(phone.connect())
            await gate.reached()
            laptop = await ChatClient(inside.url, "ann", session_id=ann.session_id).connect()
            # The last one is one too many, and nothing comes after it from which the laptop could see a gap.
            for number in range(FEW + 1):
                await bob.send(ann.user_id, f"{number:08}" * (1000 if limit == "bytes" else 1))
            with pytest.raises(ConnectionLost):
                await signing_in
        await laptop.wait_for(lambda event: event[0] == "private message" and event[1][0]["seq"] == FEW + 2)
        live = [arguments[0]["seq"] for name, arguments in laptop.events if name == "private message"]
        assert live == list(range(2, FEW + 3))
        await phone.connect()
        assert phone.heads == {bob.user_id: FEW + 2}


@pytest.mark.parametrize("guide", [False, True], ids=["syncs", "guide"])
@pytest.mark.parametrize("after", [False, True], ids=["before the read", "after the read"])
async def test_what_is_sent_while_a_page_is_read_comes_once_and_after_the_page(
    tmp_path: Path, guide: bool, after: bool
) -> None:
    async with serving(tmp_path / "data") as inside:
        bob = await ChatClient(inside.url, "bob").connect()
        ann = await ChatClient(inside.url, "ann", guide=guide).connect()
        await bob.send(ann.user_id, "first")
        await ann.wait_for_message("first")
        ann.cut()
        with inside.store.hold("roster" if guide else "sync", after=after) as gate:
            coming = asyncio.create_task(ann.connect())
            await gate.reached()
            await bob.send(ann.user_id, "meanwhile")
            bob.emit("typing", {"to": ann.user_id})
            await bob.send(ann.user_id, "and again")
        await coming
        await bob.send(ann.user_id, "live")
        await ann.wait_for_message("live")
        names = [name for name, _ in ann.events]
        assert names[:2] == ["session", "users" if guide else "sync"]
        live = [arguments[0]["content"] for name, arguments in ann.events if name == "private message"]
        assert live == (["meanwhile", "and again", "live"] if after else ["live"])
        assert names.index("typing") == (3 if after else 2)  # in its place among the rest
        if guide:
            (user,) = [user for user in ann.users if user["userID"] == bob.user_id]
            page = [message["content"] for message in user["messages"]]
            assert page == (["first"] if after else ["first", "meanwhile", "and again"])
        else:
            page = [message["content"] for each in ann.pages[0]["conversations"] for message in each["messages"]]
            assert page == ([] if after else ["meanwhile", "and again"])
