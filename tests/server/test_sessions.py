"""Signing out: the session ends everywhere, for good, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from duologue.domain.identity import token_hash
from tests.support.client import ChatClient, ConnectionLost, Refused
from tests.support.inside import serving

pytestmark = pytest.mark.asyncio


async def _known(url: str, session_id: str | None) -> bool:
    assert session_id is not None
    client = ChatClient(url, "whoever", session_id=session_id)
    try:
        await client.connect()
    except Refused:
        return False
    await client.close()
    return True


@pytest.mark.parametrize("guide", [False, True], ids=["sync", "guide"])
async def test_every_device_of_the_session_is_signed_out_and_nobody_else(tmp_path: Path, guide: bool) -> None:
    async with serving(tmp_path / "data") as inside, ChatClient(inside.url, "bob") as bob:
        phone = await ChatClient(inside.url, "alice").connect()
        laptop = await ChatClient(inside.url, "alice", session_id=phone.session_id, guide=guide).connect()
        await phone.send(bob.user_id, "before leaving")
        for device in (phone, laptop):
            device.may_be_dismissed = True
        assert await phone.request("sign out", {}) == {}
        for device in (phone, laptop):
            await device.wait_ended()
            assert device.dismissed
        assert not await _known(inside.url, phone.session_id)
        await bob.wait_for_message("before leaving")
        await bob.complete()
        assert await _known(inside.url, bob.session_id)
    async with serving(tmp_path / "data") as inside:
        assert not await _known(inside.url, phone.session_id)
        assert await _known(inside.url, bob.session_id)


async def test_who_is_being_signed_in_meanwhile_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        phone = await ChatClient(inside.url, "alice").connect()
        phone.may_be_dismissed = True
        late = ChatClient(inside.url, "alice", session_id=phone.session_id)
        with inside.store.hold("session_user", after=True) as answers:
            coming = asyncio.create_task(late.connect())
            await answers.reached()
            await phone.request("sign out", {})
        with pytest.raises(Refused, match="invalid username"):
            await coming


async def test_a_device_whose_page_is_being_read_is_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        phone = await ChatClient(inside.url, "alice").connect()
        phone.may_be_dismissed = True
        late = ChatClient(inside.url, "alice", session_id=phone.session_id)
        with inside.store.hold("sync", after=True) as answers:
            coming = asyncio.create_task(late.connect())
            await answers.reached()
            await phone.request("sign out", {})
            with pytest.raises(ConnectionLost):
                await coming
        assert not await _known(inside.url, phone.session_id)


async def test_the_session_ends_also_if_the_device_that_asked_is_gone(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        phone = await ChatClient(inside.url, "alice").connect()
        laptop = await ChatClient(inside.url, "alice", session_id=phone.session_id).connect()
        laptop.may_be_dismissed = True
        with inside.store.hold("end_session") as writes:
            phone.emit("sign out", {})
            await writes.reached()
            phone.cut()
            await inside.sockets_left(1)
        await laptop.wait_ended()
        assert laptop.dismissed


async def test_a_comparison_finds_what_the_bus_did_not_say(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside, ChatClient(inside.url, "bob") as bob:
        phone = await ChatClient(inside.url, "alice").connect()
        phone.may_be_dismissed = True
        await inside.store.end_session(token_hash(phone.session_id or ""))
        await inside.gateway.sessions.compare()
        await phone.wait_ended()
        await bob.complete()
        assert bob.connected
