"""Fills a data folder with people and messages, by Duologue's own store, and writes down how to come back as some.

Everybody has the same few conversations, however many messages there are, so that only the history's length differs
between two folders. Each session's cursor is one change old: a reconnect misses exactly one message. What is printed are the
bytes that were written to disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

from duologue.domain.cursor import format_cursor
from duologue.domain.identity import new_token, new_user_id, token_hash
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage
from duologue.main import SystemClock
from duologue.store.sqlite import SqliteStore

BATCH = 2_000


async def fill(folder: Path, count: int, population: int, partners: int, seed: int) -> list[dict[str, object]]:
    """Returns an auth payload per person."""
    committed = asyncio.Event()
    left = 0

    def sink(batch: Sequence[Pending]) -> None:
        nonlocal left
        for pending in batch:
            if pending.failure is not None:
                raise RuntimeError(f"a message was refused: {pending.failure}")
        left -= len(batch)
        if left == 0:
            committed.set()

    def failed(error: BaseException) -> None:
        raise error

    chosen = random.Random(seed)
    store = await SqliteStore.open(folder, SystemClock(), sink, failed)
    people, tokens = [], []
    for number in range(population):
        user, token = User(new_user_id(), f"user {number:05d}"), new_token()
        await store.create_guest(user, token_hash(token))
        people.append(user.id)
        tokens.append(token)
    pairs = [(number, (number + step) % population) for number in range(population) for step in range(1, partners + 1)]
    stored = 0
    while stored < count:
        size = min(BATCH, count - stored)
        left = size
        committed.clear()
        for number in range(size):
            # Every pair in turn, so that each conversation exists however short the history is.
            low, high = pairs[(stored + number) % len(pairs)]
            if chosen.random() < 0.5:
                low, high = high, low
            text = f"message {stored + number} " + "x" * 80
            store.submit(
                PendingMessage(people[low], people[high], str(uuid.UUID(int=chosen.getrandbits(128))), text, None)
            )
        await committed.wait()
        stored += size
    sessions: list[dict[str, object]] = []
    for person, token in zip(people, tokens, strict=True):
        page = await store.sync(person, None, None, 1, 1, 1)
        since = format_cursor(store.epoch, page.version - 1)
        sessions.append({"sessionID": token, "sync": {"since": since}})
    await store.close()
    return sessions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sessions", type=Path, help="where the auth payloads go, as JSON")
    parser.add_argument("--messages", type=int, default=1_000)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--partners", type=int, default=5, help="conversations that each person begins")
    parser.add_argument("--times", type=int, default=1, help="how often each person's payload is written down")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sessions = asyncio.run(fill(options.folder, options.messages, options.people, options.partners, options.seed))
    options.sessions.write_text(json.dumps(sessions * options.times))
    print(psutil.Process().io_counters().write_bytes)


if __name__ == "__main__":
    main()
