"""Who cancels a call of the store is heard, also in the very turn of the loop in which the answer comes.

Python 3.11's `asyncio.wait_for` lets that cancellation vanish, and a sign-in whose socket had gone went on: its user
stayed online for ever.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from duologue.domain.model import User
from duologue.store.sqlite import SqliteStore
from duologue.store.sqlite.reader import Read
from duologue.store.sqlite.readers import READERS

from .conftest import ANN, TIMEOUT, Bench

pytestmark = pytest.mark.asyncio


async def test_a_read_is_cancelled_when_its_answer_is_already_on_the_way(ready: Bench) -> None:
    store = ready.store
    assert isinstance(store, SqliteStore)
    task = asyncio.create_task(store.people([ANN.id]))
    await asyncio.sleep(0)
    # Once all the threads have met twice, the read is over and its answer waits for the loop, which we're blocking: with the
    # first meeting it may still be in the same hands.
    for _ in range(2):
        meeting = threading.Barrier(READERS + 1)
        for _ in range(READERS):
            store._readers._line.put(Read("", None, lambda _, __, meeting=meeting: meeting.wait(), asyncio.Future()))
        meeting.wait(TIMEOUT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await store.people([ANN.id])) == 1


async def test_a_write_is_cancelled_in_the_turn_in_which_it_is_done(ready: Bench) -> None:
    store = ready.store
    assert isinstance(store, SqliteStore)
    guest = User("e" * 16, "Eve")
    task = asyncio.create_task(store.create_guest(guest, b"token"))
    await asyncio.sleep(0)
    (work,) = store._committer._queue
    work.future.add_done_callback(lambda _: task.cancel())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [person.user for person in await store.people([guest.id])] == [guest]
