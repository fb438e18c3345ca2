"""Any history of sends, retries, receipts, syncs, pages and restarts, against a model of a page (F14, craft 14)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cluster.postgres import Postgres
from duologue.domain.errors import Code
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt

from .conftest import ANN, BOB, CAT, Bench

USERS = (ANN, BOB, CAT)
users = st.sampled_from(USERS)
pairs = st.tuples(users, users)
sends = st.tuples(pairs, st.sampled_from("ijklmnopqrst"), st.sampled_from(["one", "two"]))
marks = st.tuples(pairs, st.integers(-1, 9), st.integers(-1, 9))


class Model:
    """What the store should hold, in the plainest form."""

    def __init__(self) -> None:
        self.versions = {user.id: 0 for user in USERS}
        self.messages: dict[frozenset[str], list[PendingMessage]] = {}
        self.positions: dict[tuple[str, str], tuple[int, int]] = {}
        self.changed: dict[tuple[str, str], int] = {}

    def conversation(self, a: str, b: str) -> list[PendingMessage]:
        return self.messages.setdefault(frozenset((a, b)), [])

    def change(self, user: str, peer: str) -> tuple[int, int]:
        for one, other in {(user, peer), (peer, user)}:
            self.versions[one] += 1
            self.changed[one, other] = self.versions[one]
        return self.versions[user], self.versions[peer]

    def expect_message(self, got: PendingMessage) -> None:
        held = self.conversation(got.sender, got.recipient)
        for before in held:
            if (before.sender, before.id) == (got.sender, got.id):
                if before.content != got.content:
                    assert got.failure is Code.CONFLICT
                    return
                assert got.duplicate
                assert _numbers(got) == _numbers(before)
                return
        assert not got.duplicate
        assert got.failure is None
        held.append(got)
        assert (got.seq, got.rev) == (len(held), len(held))
        self.positions[got.sender, got.recipient] = (got.seq, got.seq)
        assert (got.sender_version, got.recipient_version) == self.change(got.sender, got.recipient)

    def expect_receipt(self, got: PendingReceipt, received: int, read: int) -> None:
        last = len(self.conversation(got.user, got.peer))
        before = self.positions.get((got.user, got.peer), (0, 0))
        new_read = max(before[1], read if read <= last else 0)
        after = (max(before[0], received if received <= last else 0, new_read), new_read)
        assert (got.received, got.read) == after
        if after == before:
            assert (got.user_version, got.peer_version) == (0, 0)
            return
        self.positions[got.user, got.peer] = after
        assert (got.user_version, got.peer_version) == self.change(got.user, got.peer)


def _numbers(message: PendingMessage) -> tuple[int, ...]:
    return message.seq, message.rev, message.at, message.sender_version, message.recipient_version


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bench = Bench(self.place())
        self.model = Model()
        self.runner.run(self._start())

    def place(self) -> Path | str:
        """An empty one."""
        raise NotImplementedError

    def crash(self) -> None:
        raise NotImplementedError

    async def _start(self) -> None:
        await self.bench.open()
        await self.bench.people(*USERS)

    @rule(messages=st.lists(sends, max_size=8), receipts=st.lists(marks, max_size=3))
    def batch(
        self, messages: list[tuple[tuple[User, User], str, str]], receipts: list[tuple[tuple[User, User], int, int]]
    ) -> None:
        batch: list[Pending] = [PendingMessage(a.id, b.id, name, text, None) for (a, b), name, text in messages]
        batch += [PendingReceipt(a.id, b.id, received, read, None) for (a, b), received, read in receipts]
        self.runner.run(self.bench.commit(*batch))
        for got in batch[: len(messages)]:
            assert isinstance(got, PendingMessage)
            self.model.expect_message(got)
        for got, (_, received, read) in zip(batch[len(messages) :], receipts, strict=True):
            assert isinstance(got, PendingReceipt)
            self.model.expect_receipt(got, received, read)

    @rule()
    def restart(self) -> None:
        epoch = self.bench.store.epoch
        self.runner.run(self.bench.close())
        self.runner.run(self.bench.open())
        assert self.bench.store.epoch == epoch

    @rule()
    def die(self) -> None:
        self.crash()

    @rule(
        user=users, behind=st.integers(-2, 12), size=st.integers(1, 3), each=st.integers(1, 3), total=st.integers(1, 4)
    )
    def sync(self, user: User, behind: int, size: int, each: int, total: int) -> None:
        version = self.model.versions[user.id]
        since = version - behind
        self.runner.run(self._sync(user, version, since, size, each, total))

    async def _sync(self, user: User, version: int, since: int, size: int, each: int, total: int) -> None:
        floor = since if 0 <= since <= version else 0
        before: int | None = None
        order: list[str] = []
        while True:
            page = await self.bench.store.sync(user.id, since, before, size, each, total)
            assert page.known == (0 <= since <= version)
            assert page.version == version
            assert len(page.conversations) <= size
            count = sum(len(c.messages) for c in page.conversations)
            assert count <= total + len(page.conversations)
            for view in page.conversations:
                order.append(view.peer.id)
                held = self.model.conversation(user.id, view.peer.id)
                news = [m.seq for m in held if _seen_as(m, user.id) > floor]
                seqs = [m.seq for m in view.messages]
                assert len(seqs) <= each
                assert bool(seqs) == bool(news)
                skipped = list(range(view.gap.after + 1, view.gap.before)) if view.gap else []
                assert skipped + seqs == news
                assert [(m.id, m.content, m.sender) for m in view.messages] == [
                    (m.id, m.content, m.sender) for m in held if m.seq in seqs
                ]
                assert view.seq == len(held)
                for positions, key in ((view.mine, (user.id, view.peer.id)), (view.theirs, (view.peer.id, user.id))):
                    assert (positions.received, positions.read) == self.model.positions.get(key, (0, 0))
            if page.next is None:
                break
            before = page.next
        changed = {peer: v for (one, peer), v in self.model.changed.items() if one == user.id and v > floor}
        assert order == sorted(changed, key=changed.__getitem__, reverse=True)

    @invariant()
    def nothing_failed(self) -> None:
        assert self.bench.failures == []

    def teardown(self) -> None:
        self.runner.run(self.bench.close())
        self.runner.close()


class SqliteMachine(StoreMachine):
    def place(self) -> Path:
        self.root = Path(tempfile.mkdtemp())
        self.crashes = 0
        return self.root / "0"

    def crash(self) -> None:
        """The files as they lie at this instant, as a killed process leaves them."""
        self.crashes += 1
        after = self.root / str(self.crashes)
        shutil.copytree(self.bench.folder, after, ignore=lambda *_: ["lock", "messages.db-shm"])
        self.runner.run(self.bench.close())
        self.bench = Bench(after)
        self.runner.run(self.bench.open())

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.root)


class PostgresMachine(StoreMachine):
    def __init__(self, server: Postgres) -> None:
        self.server = server
        super().__init__()

    def place(self) -> str:
        self.databases = ExitStack()
        return self.databases.enter_context(self.server.database())

    def crash(self) -> None:
        """Every connection of the node is broken off."""
        name = str(self.bench.place).rpartition("/")[2]
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        self.server.sql(f"{end} '{name}'", "postgres")

    def teardown(self) -> None:
        super().teardown()
        self.databases.close()


def _seen_as(message: PendingMessage, user: str) -> int:
    return message.sender_version if message.sender == user else message.recipient_version


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


SqliteMachine.TestCase.settings = _settings(25)
TestSqliteStore = SqliteMachine.TestCase


def test_the_postgres_store(postgres: Postgres) -> None:
    # It calls what it is given without arguments, so a class is as good as a function that makes one.
    run_state_machine_as_test(lambda: PostgresMachine(postgres), settings=_settings(7))  # type: ignore[arg-type]
