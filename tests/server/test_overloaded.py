"""While the store takes no more: what a write is answered with, and what goes on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from duologue.store.committer import RETRY_AFTER
from tests.support.client import ChatClient, Refused
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio

SENTENCE = "The server has more work than it can carry; try again soon."


@contextmanager
def overloaded(inside: Inside) -> Iterator[None]:
    """As if as many writes waited as may."""
    committer: Any = inside.store._committer
    usual, committer._limit = committer._limit, 0
    try:
        yield
    finally:
        committer._limit = usual


async def refused(client: ChatClient, event: str, argument: dict[str, Any]) -> float:
    with pytest.raises(Refused) as refusal:
        await client.request(event, argument)
    return told(refusal.value.answer)


def told(answer: dict[str, Any]) -> float:
    """When to come again; all else is as it has to be."""
    shortest, longest = RETRY_AFTER
    seconds = answer.pop("retryAfter")
    assert answer == {"error": "overloaded", "message": SENTENCE}
    assert shortest <= seconds <= longest + 0.001
    return float(seconds)


async def test_every_write_is_answered_and_reading_goes_on(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "data") as inside,
        ChatClient(inside.url, "ann") as ann,
        ChatClient(inside.url, "bob") as bob,
    ):
        await ann.send(bob.user_id, "before")
        write = {"to": bob.user_id, "content": "x", "id": str(uuid.uuid4())}
        position = {"with": bob.user_id, "seq": 1}
        with overloaded(inside):
            await refused(ann, "private message", write)
            await refused(ann, "private message", {**write, "unknown": 1})  # not by the short way of known fields
            await refused(ann, "received", position)
            await refused(ann, "read", position)
            ann.emit("private message", write)
            (event,) = await ann.wait_for_event("refused")
            assert (event.pop("event"), event.pop("id")) == ("private message", write["id"])
            told(event)
            assert [each["content"] for each in (await ann.history(bob.user_id))["messages"]] == ["before"]
        assert (await ann.request("private message", write))["seq"] == 2
        await bob.wait_for_message("x")


async def test_those_who_are_refused_together_come_back_apart(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside, ChatClient(inside.url, "ann") as ann:
        with overloaded(inside):
            hints = [await refused(ann, "read", {"with": ann.user_id, "seq": 1}) for _ in range(50)]
        assert len(set(hints)) == len(hints)
        assert hints != sorted(hints)
