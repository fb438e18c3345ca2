"""Sends for ever and prints the seq of each acknowledged message: to be killed by `test_crash`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from duologue.domain.errors import Refusal
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage
from duologue.store.sqlite import SqliteStore, filing

ANN, BOB = User("a" * 16, "Ann"), User("b" * 16, "Bob")
WINDOW = 64

filing.RIPE = 500  # type: ignore[misc]  # it's for a larger server than this


class Clock:
    def wall_ms(self) -> int:
        return 1

    def monotonic(self) -> float:
        return time.monotonic()


async def main(folder: Path) -> None:
    def sink(pendings: Sequence[Pending]) -> None:
        for pending in pendings:
            assert isinstance(pending, PendingMessage)
            assert pending.failure is None
            sys.stdout.write(f"{pending.id} {pending.seq}\n")
            send()
        sys.stdout.flush()

    def send() -> None:
        store.submit(PendingMessage(ANN.id, BOB.id, str(uuid.uuid4()), "x" * 200, None))

    def stop(error: BaseException) -> None:
        raise SystemExit(str(error))

    store = await SqliteStore.open(folder, Clock(), sink, stop)
    for user in (ANN, BOB):
        with contextlib.suppress(Refusal):  # they are there from an earlier life
            await store.create_guest(user, user.id.encode())
    print("epoch", store.epoch, flush=True)
    for _ in range(WINDOW):
        send()
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1])))
