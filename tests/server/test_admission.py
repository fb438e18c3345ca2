"""The line of those who sign in: nobody in it waits for what has nothing to do with them, and nobody stays in it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import pytest

from duologue.domain.errors import Code, Refusal
from duologue.server import gateway
from duologue.server.admission import ADMISSIONS_AT_ONCE
from tests.support.client import ChatClient, ConnectionLost, Refused
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio

MANY = ADMISSIONS_AT_ONCE + 10


def sign_in_many(inside: Inside, session_id: str | None = None) -> list[asyncio.Task[ChatClient]]:
    devices = [ChatClient(inside.url, f"guest {number}", session_id=session_id) for number in range(MANY)]
    return [asyncio.create_task(device.connect()) for device in devices]


async def test_who_is_known_does_not_wait_for_guests_whose_commit_takes_its_time(tmp_path: Path) -> None:
    """Reads go on while the disk is slow or full."""
    async with serving(tmp_path / "data") as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        ann.cut()
        with inside.store.hold("create_guest") as gate:
            guests = sign_in_many(inside)
            await gate.reached(ADMISSIONS_AT_ONCE)
            await ann.connect(timeout=5)
        for guest in await asyncio.gather(*guests):
            guest.cut()
        ann.cut()
        await inside.all_gone()


async def test_no_more_than_so_many_read_at_once_and_all_get_their_turn(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        with inside.store.hold("sync") as pages:
            with inside.store.hold("session_user") as sessions:
                coming = sign_in_many(inside, ann.session_id)
                await inside.until(lambda: len(inside.gateway._admissions) == MANY)
                await ann.request("typing", {"to": ann.user_id})  # those turns of the loop that all need
                assert sessions.arrived == ADMISSIONS_AT_ONCE
            with inside.store.hold("session_user", after=True, only=0) as known:
                await known.reached(MANY)
                await ann.request("typing", {"to": ann.user_id})
                assert pages.arrived == ADMISSIONS_AT_ONCE
        for device in await asyncio.gather(*coming):
            device.cut()
        ann.cut()
        await inside.all_gone()


async def test_who_is_not_signed_in_in_time_is_closed_wherever_they_are_in_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path / "data") as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        ann.cut()
        with inside.store.hold("sync") as gate, monkeypatch.context() as patch:
            patch.setattr(gateway, "ADMISSION_TIMEOUT", 5.0)
            coming = sign_in_many(inside, ann.session_id)
            await gate.reached(ADMISSIONS_AT_ONCE)
            answers = await asyncio.gather(*coming, return_exceptions=True)
            assert {type(answer) for answer in answers} == {ConnectionLost}
        await inside.all_gone()
        await ann.connect()
        ann.cut()
        await inside.all_gone()


async def test_one_user_has_only_so_many_sockets(tmp_path: Path) -> None:
    """Each message to a user is written to all of theirs: with thousands, one user would keep the server busy alone."""
    async with serving(tmp_path / "data", max_user_connections=3) as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        others = [
            ChatClient(inside.url, "ann", session_id=ann.session_id, guide=guide) for guide in (True, False, True)
        ]
        for device in others[:2]:
            await device.connect()
        with pytest.raises(ConnectionLost):
            await others[2].connect()
        bob = await ChatClient(inside.url, "bob").connect()
        await bob.send(ann.user_id, "hello")
        for device in (ann, *others[:2]):
            await device.wait_for_message("hello")
        others[0].cut()
        await inside.sockets_left(3)
        await others[2].connect()
        for client in (ann, bob, *others[1:]):
            client.cut()
        await inside.all_gone()


async def test_who_is_refused_after_they_were_attached_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever the store knows by the session and not by the page: something is wrong with it, but not for everybody."""
    async with serving(tmp_path / "data") as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        ann.cut()
        await inside.all_gone()

        async def sync(*_arguments: object) -> NoReturn:
            raise Refusal(Code.UNKNOWN_USER)

        monkeypatch.setattr(inside.store, "sync", sync)
        with pytest.raises(Refused):
            await ann.connect()
        await inside.all_gone()
        assert inside.gateway.hub.sockets == 0
        assert not inside.gateway.hub.is_here(ann.user_id)
