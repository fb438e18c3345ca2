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
