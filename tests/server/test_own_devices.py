"""What one device of a user sends reaches the user's others, whatever happens to the device that sent it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.client import ChatClient
from tests.support.inside import serving

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("guide", [False, True])
async def test_the_sender_is_gone_before_the_commit_and_their_other_device_sees_the_message(
    tmp_path: Path, guide: bool
) -> None:
    async with serving(tmp_path / "data") as inside:
        bob = await ChatClient(inside.url, "bob").connect()
        phone = await ChatClient(inside.url, "alice").connect()
        laptop = await ChatClient(inside.url, "alice", session_id=phone.session_id, guide=guide).connect()
        with inside.hold_outcomes() as commits:
            phone.say(bob.user_id, "written in the tunnel's mouth")
            await commits.reached()
            phone.cut()
            await inside.sockets_left(2)
        seen = await laptop.wait_for_message("written in the tunnel's mouth")
        assert (seen["from"], seen["to"], seen["seq"]) == (phone.user_id, bob.user_id, 1)
        await bob.wait_for_message("written in the tunnel's mouth")


async def test_a_device_whose_page_was_read_before_the_commit_sees_what_the_one_that_is_gone_had_sent(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "data") as inside:
        bob = await ChatClient(inside.url, "bob").connect()
        before = await ChatClient(inside.url, "alice").connect()
        with inside.store.hold("sync", after=True) as answers:
            coming = asyncio.create_task(ChatClient(inside.url, "alice", session_id=before.session_id).connect())
            await answers.reached()
            with inside.hold_outcomes() as commits:
                before.say(bob.user_id, "just before the cut")
                await commits.reached()
                before.cut()
                await inside.sockets_left(2)
        after = await coming
        await after.wait_for_message("just before the cut")


async def test_a_message_to_oneself_comes_once_on_each_other_device_and_moves_every_cursor_by_one(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "data") as inside:
        phone = await ChatClient(inside.url, "alice").connect()
        others = [
            await ChatClient(inside.url, "alice", session_id=phone.session_id, guide=guide).connect()
            for guide in (False, True)
        ]
        for number in (1, 2):
            ack = await phone.send(phone.user_id, f"note {number}")
            assert ack["seq"] == number
        await others[0].send(phone.user_id, "note 3")
        for device in (phone, others[1]):
            await device.wait_for_message("note 3")
        seen = {device.device: contents(device) for device in (phone, *others)}
        assert seen == {
            phone.device: [("note 3", 3)],
            others[0].device: [("note 1", 1), ("note 2", 2)],
            others[1].device: [("note 1", 1), ("note 2", 2), ("note 3", 3)],
        }
        assert {client.version for client in inside.gateway.hub.all_clients()} == {3}
        tab = await ChatClient(inside.url, "alice", session_id=phone.session_id, guide=True).connect()
        (me,) = tab.users
        assert [message["content"] for message in me["messages"]] == ["note 1", "note 2", "note 3"]


def contents(device: ChatClient) -> list[tuple[str, int]]:
    """The live messages that a device got, each with the version of its cursor."""
    found = [arguments[0] for name, arguments in device.events if name == "private message"]
    return [(message["content"], int(message["cursor"].rpartition(".")[2])) for message in found]
