"""How much the committer lets wait: what the database carries away in `MAX_WAIT`, whatever its speed; and what it does while
it refuses the rest."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace

import pytest
import pytest_asyncio

from duologue.domain.errors import Code, Refusal
from duologue.domain.ports import Pending, PendingMessage
from duologue.store import committer as module
from duologue.store.committer import MAX_WAIT, Committer
from duologue.store.work import Work

from .conftest import ANN, BOB, TIMEOUT

pytestmark = pytest.mark.asyncio

BATCH = 10
MOST = 1000


class Disk:
    """An engine that writes so many messages a second, by a clock of its own."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.now = 0.0
        self.written = 0
        self.rested: Callable[[int], object] = int
        """Called by the writer's thread when it has nothing to do, with how many writes there were."""
        self.pauses: list[float] = []
        """Seconds that the loop stood still, each time."""

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def monotonic(self) -> float:
        return self.now

    def write(self, batch: Sequence[Work]) -> None:
        self.now += len(batch) / self.speed
        self.written += len(batch)

    def leisure(self) -> None:
        self.rested(self.written)

    def rest(self, size: int) -> None:
        pass

    def close(self) -> None:
        pass


class Writing:
    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.back = 0
        self._news = asyncio.Event()
        self._committer = Committer(
            disk, asyncio.get_running_loop(), self._sink, lambda error: None, max_pending=MOST, max_batch=BATCH
        )
        loop = asyncio.get_running_loop()
        disk.rested = lambda written: loop.call_soon_threadsafe(self._note_rest, written)
        self._rested_after = 0
        self._committer.start()

    def fill(self) -> tuple[int, Refusal]:
        """Submit in one turn of the loop until it's refused; how many were taken, and the refusal."""
        taken = 0
        while True:
            try:
                self._committer.submit(PendingMessage(ANN.id, BOB.id, "id", "text", None))
            except Refusal as refusal:
                return taken, refusal
            taken += 1

    async def write(self, count: int) -> None:
        for _ in range(count):
            self._committer.submit(PendingMessage(ANN.id, BOB.id, "id", "text", None))
        await self.wait(count)

    async def rest(self) -> None:
        """Until the writer waits for the next bell: before, it may take some of what is being submitted."""
        async with asyncio.timeout(TIMEOUT):
            while self._rested_after < self.back:
                self._news.clear()
                await self._news.wait()

    def _note_rest(self, written: int) -> None:
        self._rested_after = written
        self._news.set()

    async def wait(self, count: int) -> None:
        wanted = self.back + count
        async with asyncio.timeout(TIMEOUT):
            while self.back < wanted:
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        await self._committer.close()

    def _sink(self, pendings: Sequence[Pending]) -> None:
        self.back += len(pendings)
        self._news.set()


@pytest_asyncio.fixture
async def writing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writing]:
    disk = Disk(400)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=disk.monotonic, sleep=disk.sleep))
    made = Writing(disk)
    yield made
    await made.close()


@pytest.mark.parametrize(("speed", "limit"), [(400.0, 400 * MAX_WAIT), (1.0, module.MIN_BATCHES * BATCH), (1e6, MOST)])
async def test_what_waits_is_what_the_speed_carries_away_in_time(writing: Writing, speed: float, limit: float) -> None:
    writing.disk.speed = speed
    for _ in range(10):
        await writing.write(BATCH)
    await writing.rest()
    taken, refusal = writing.fill()
    assert taken == pytest.approx(limit, rel=0.01)
    assert refusal.code is Code.OVERLOADED
    assert refusal.retry_after is not None
    shortest, longest = module.RETRY_AFTER
    assert shortest <= refusal.retry_after <= longest
    await writing.wait(taken)


async def test_refusals_that_are_given_out_again_keep_nothing_of_their_raising(writing: Writing) -> None:
    fills = [writing.fill() for _ in range(2 * module.HINTS)]
    steps = {len(list(traceback.walk_tb(refusal.__traceback__))) for _, refusal in fills}
    assert len(steps) == 1
    await writing.wait(sum(taken for taken, _ in fills))


async def test_small_batches_say_nothing_of_the_speed(writing: Writing) -> None:
    """An idle server writes one message at a time, each as slow as the disk; that's no reason to refuse a burst."""
    writing.disk.speed = 1
    for _ in range(20):
        await writing.write(1)
    await writing.rest()
    taken, _ = writing.fill()
    assert taken == MOST
    await writing.wait(taken)


async def test_one_slow_batch_turns_nobody_away(writing: Writing) -> None:
    writing.disk.speed = 400
    for _ in range(10):
        await writing.write(BATCH)
    writing.disk.speed = 40  # a checkpoint, or a disk that pauses
    await writing.write(BATCH)
    await writing.rest()
    taken, _ = writing.fill()
    assert taken > 0.7 * 400 * MAX_WAIT
    await writing.wait(taken)


async def test_a_disk_that_recovers_is_used_again(writing: Writing) -> None:
    writing.disk.speed = 1
    await writing.write(BATCH)
    writing.disk.speed = 1e6
    for _ in range(10):
        await writing.write(BATCH)
    await writing.rest()
    taken, _ = writing.fill()
    assert taken == MOST
    await writing.wait(taken)


async def test_the_loop_leaves_the_core_to_the_writer_once_for_all_that_it_refuses(writing: Writing) -> None:
    """And not before the answers of that turn have left, which callbacks send that come after it."""
    for times in (1, 2):
        taken, refusal = writing.fill()
        for _ in range(100):
            assert writing.fill()[1].code is refusal.code
        paused_before_answers: list[int] = []
        asyncio.get_running_loop().call_soon(lambda seen: seen.append(len(writing.disk.pauses)), paused_before_answers)
        await writing.wait(taken)
        for _ in range(2):
            await asyncio.sleep(0)
        assert paused_before_answers == [times - 1]
        assert writing.disk.pauses == [module.STAND_STILL] * times
        await writing.write(BATCH)  # what is taken costs nobody a pause
