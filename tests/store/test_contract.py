"""What every store has to do, whatever it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from duologue.domain.errors import Code, Refusal
from duologue.domain.identity import token_hash
from duologue.domain.model import Gap, Positions, User
from duologue.domain.ports import PendingMessage, PendingReceipt

from .conftest import ANN, BOB, CAT, NOBODY, Bench, failures

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=["sqlite", "postgres", "oldest postgres"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each implementation of the port joins here by its name."""
    databases = {"postgres": "database", "oldest postgres": "oldest_database"}
    made = Bench(tmp_path / "data" if request.param == "sqlite" else request.getfixturevalue(databases[request.param]))
    yield made
    await made.close()


async def test_seqs_and_versions_in_the_order_of_submission(ready: Bench) -> None:
    sent = [
        PendingMessage(a.id, b.id, f"m{n}", "x", n) for n, (a, b) in enumerate([(ANN, BOB), (BOB, ANN), (ANN, CAT)] * 3)
    ]
    await ready.commit(*sent)
    assert ready.returned == sent
    assert [m.seq for m in sent] == [1, 2, 1, 3, 4, 2, 5, 6, 3]
    assert [m.sender_version if m.sender == ANN.id else m.recipient_version for m in sent] == list(range(1, 10))
    assert [m.recipient_name for m in sent] == ["Bob", None, "Cat", *[None] * 6]
    assert {m.at for m in sent} == {ready.clock.wall}


@pytest.mark.parametrize("apart", [True, False], ids=["later batch", "same batch"])
async def test_a_retry_is_answered_with_the_first_outcome(ready: Bench, apart: bool) -> None:
    first, again, other = (PendingMessage(ANN.id, BOB.id, "m", text, None) for text in ("a", "a", "b"))
    after = PendingMessage(ANN.id, BOB.id, "n", "next", None)
    theirs = PendingMessage(BOB.id, ANN.id, "m", "another sender's id is another id", None)
    if apart:
        await ready.commit(first)
        ready.clock.wall -= 3_600_000
        await ready.commit(again, other, after, theirs)
    else:
        await ready.commit(first, again, other, after, theirs)
    assert again.duplicate
    assert not first.duplicate
    outcome = [(m.seq, m.rev, m.at, m.sender_version, m.recipient_version) for m in (first, again)]
    assert outcome[0] == outcome[1]
    assert other.failure is Code.CONFLICT
    assert (after.seq, theirs.seq) == (2, 3)
    page = await ready.store.history(BOB.id, ANN.id, None, None, 10)
    assert [(m.seq, m.content) for m in page.messages] == [(1, "a"), (2, "next"), (3, theirs.content)]


async def test_a_storm_of_retries_stores_one_message(ready: Bench) -> None:
    for _ in range(5):
        await ready.commit(*(PendingMessage(ANN.id, BOB.id, "m", "a", None) for _ in range(50)))
    assert {(m.seq, m.at, m.failure) for m in ready.returned if isinstance(m, PendingMessage)} == {
        (1, ready.clock.wall, None)
    }
    assert sum(not m.duplicate for m in ready.returned if isinstance(m, PendingMessage)) == 1
    assert (await ready.send(ANN, BOB)).seq == 2


async def test_unknown_people_cost_their_own_message_only(ready: Bench) -> None:
    bad = PendingMessage(ANN.id, NOBODY, "m", "x", None)
    odd = PendingMessage(ANN.id, "\ud800", "m", "x", None)
    lone = PendingMessage(ANN.id, BOB.id, "s", "\ud800", None)
    good = PendingMessage(ANN.id, BOB.id, "m", "x", None)
    mark = PendingReceipt(ANN.id, NOBODY, 1, 1, None)
    await ready.commit(bad, odd, lone, mark, good)
    assert failures([bad, odd, mark]) == {Code.UNKNOWN_USER}
    assert lone.failure is Code.INVALID_CONTENT
    assert (good.failure, good.seq) == (None, 1)


async def test_a_conversation_with_oneself(ready: Bench) -> None:
    sent = await ready.send(ANN, ANN)
    assert (sent.seq, sent.sender_version, sent.recipient_version) == (1, 1, 1)
    page = await ready.store.sync(ANN.id, None, None, 50, 50, 500)
    assert page.version == 1
    assert page.conversations[0].unread == 0
    assert [m.id for m in page.conversations[0].messages] == [sent.id]
    assert await ready.store.peers([ANN.id], 10) == {ANN.id: [ANN.id]}


async def test_receipts_only_move_forward_and_never_past_the_end(ready: Bench) -> None:
    for _ in range(3):
        await ready.send(ANN, BOB)
    steps = [
        ({"received": 2}, (2, 0), True),
        ({"received": 1}, (2, 0), False),
        ({"read": 1}, (2, 1), True),
        ({"received": 9, "read": 9}, (2, 1), False),
        ({"received": 9, "read": 3}, (3, 3), True),
        ({"received": 3, "read": 3}, (3, 3), False),
    ]
    for asked, after, moved in steps:
        mark = await ready.mark(BOB, ANN, **asked)
        assert (mark.received, mark.read) == after
        assert (mark.user_version > 0, mark.peer_version > 0) == (moved, moved)
    none = await ready.mark(CAT, ANN, 1, 1)
    assert (none.received, none.read, none.user_version, none.failure) == (0, 0, 0, None)
    view = (await ready.store.sync(ANN.id, None, None, 50, 50, 500)).conversations[0]
    assert (view.mine, view.theirs) == (Positions(3, 3), Positions(3, 3))


async def test_receipts_keep_their_place_when_the_batch_is_done_twice(ready: Bench) -> None:
    await ready.send(BOB, ANN, id="m")
    mark = PendingReceipt(ANN.id, BOB.id, 5, 1, None)
    await ready.commit(mark, PendingMessage(BOB.id, ANN.id, "m", "hello", None))
    assert (mark.received, mark.read, mark.user_version) == (1, 1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦",
        "e\u0301\u0323",
        "a\r\nb\rc\n",
        "\u2028\u2029\x85",
        "𐍈" * 8000,
        '"\\\x01\x7f',
        " ",
        "\ufeff\ufffe\uffff",
        "1e3",
        "null",
    ],
)
async def test_text_comes_back_byte_for_byte(ready: Bench, text: str) -> None:
    await ready.send(ANN, BOB, text)
    page = await ready.store.history(ANN.id, BOB.id, None, None, 1)
    assert page.messages[0].content.encode() == text.encode()


async def test_history_pages(ready: Bench) -> None:
    await ready.commit(*(PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(10)))

    async def page(before: int | None, after: int | None) -> tuple[list[int], bool]:
        got = await ready.store.history(BOB.id, ANN.id, before, after, 4)
        return [m.seq for m in got.messages], got.more

    assert await page(None, None) == ([7, 8, 9, 10], True)
    assert await page(7, None) == ([3, 4, 5, 6], True)
    assert await page(5, None) == ([1, 2, 3, 4], False)
    assert await page(1, None) == await page(0, None) == await page(None, 11) == ([], False)
    assert await page(None, 0) == ([1, 2, 3, 4], True)
    assert await page(None, 6) == ([7, 8, 9, 10], False)
    for cursors in ((12, None), (None, 12), (-1, None)):
        with pytest.raises(Refusal, match=Code.UNKNOWN_CURSOR):
            await page(*cursors)
    with pytest.raises(Refusal, match=Code.UNKNOWN_USER):
        await ready.store.history(ANN.id, NOBODY, None, None, 4)
    assert (await ready.store.history(ANN.id, CAT.id, None, None, 4)).messages == ()


async def test_sync_shares_the_page_and_names_the_gap(ready: Bench) -> None:
    for n in range(6):
        await ready.send(ANN, BOB, id=f"b{n}")
    start = (await ready.store.sync(BOB.id, None, None, 50, 50, 500)).version
    for n in range(20):
        await ready.send(ANN, BOB, id=f"c{n}")
    await ready.send(CAT, BOB)
    page = await ready.store.sync(BOB.id, start, None, 50, 5, 4)
    assert [c.peer.name for c in page.conversations] == ["Cat", "Ann"]
    assert [m.seq for m in page.conversations[1].messages] == [24, 25, 26]
    assert page.conversations[1].gap == Gap(6, 24)
    assert page.conversations[1].unread == 26
    one = await ready.store.sync(BOB.id, start, None, 1, 5, 4)
    assert (one.next, len(one.conversations)) == (27, 1)
    two = await ready.store.sync(BOB.id, start, one.next, 1, 5, 4)
    assert [c.peer.name for c in two.conversations] == ["Ann"]
    assert two.next is None


async def test_sync_of_an_invented_cursor_is_everything(ready: Bench) -> None:
    await ready.send(ANN, BOB)
    whole = await ready.store.sync(BOB.id, None, None, 50, 50, 500)
    assert whole.known
    for invented in (2, 10**18, -1):
        page = await ready.store.sync(BOB.id, invented, None, 50, 50, 500)
        assert not page.known
        assert page.conversations == whole.conversations
    with pytest.raises(Refusal, match=Code.UNKNOWN_USER):
        await ready.store.sync(NOBODY, None, None, 50, 50, 500)


async def test_people_sessions_and_the_directory(ready: Bench) -> None:
    store = ready.store
    assert await store.session_user(ANN.id.encode()) == ANN
    assert await store.session_user(b"other") is None
    for taken in ((User(ANN.id, "Other"), b"new"), (User(NOBODY, "Other"), ANN.id.encode())):
        with pytest.raises(Refusal, match=Code.BAD_REQUEST):
            await store.create_guest(*taken)
    assert store.people_count() == 3
    await store.seen([BOB.id, NOBODY], 7)
    assert {(p.user, p.last_seen) for p in await store.people([ANN.id, BOB.id, NOBODY])} == {(ANN, None), (BOB, 7)}
    page = await store.directory("", 2)
    assert [p.user for p in page.people] == [ANN, BOB]
    assert page.next == BOB.id
    last = await store.directory(BOB.id, 2)
    assert ([p.user for p in last.people], last.next) == ([CAT], None)


async def test_when_somebody_was_last_seen_only_moves_forward(ready: Bench) -> None:
    """Also of a clock that jumps: what was written by one that was ahead stays."""
    store = ready.store

    async def last_seen() -> list[int | None]:
        found = {person.user: person.last_seen for person in await store.people([ANN.id, BOB.id, CAT.id])}
        return [found[user] for user in (ANN, BOB, CAT)]

    await store.seen([BOB.id], 7000)
    await store.seen([ANN.id, BOB.id], 5000)
    assert await last_seen() == [5000, 7000, None]
    await store.seen([ANN.id, BOB.id, CAT.id], 6000)
    assert await last_seen() == [6000, 7000, 6000]
    await store.seen([BOB.id], 8000)
    assert await last_seen() == [6000, 8000, 6000]


async def test_a_session_that_has_ended_is_unknown_and_the_others_are_not(ready: Bench) -> None:
    store = ready.store
    mine, others = token_hash("a" * 64), token_hash("b" * 64)
    for number, each in enumerate((mine, others)):
        await store.create_guest(User(f"{number:016x}", "Dan"), each)
    assert await store.sessions([mine, token_hash("c" * 64), others]) == {mine, others}
    await store.end_session(mine)
    await store.end_session(mine)
    assert await store.session_user(mine) is None
    assert await store.sessions([mine, others]) == {others}
    assert await store.sessions([]) == frozenset()
    assert [person.user.name for person in await store.people([f"{0:016x}"])] == ["Dan"]
    with pytest.raises(Refusal, match=Code.BAD_REQUEST):
        await store.create_guest(User(f"{0:016x}", "Other"), mine)


async def test_roster_of_few_and_of_many(ready: Bench) -> None:
    for _ in range(5):
        await ready.send(ANN, BOB)
    few = await ready.store.roster(ANN.id, 3, 10, 4, 100)
    assert {user.name: [m.seq for m in messages] for user, messages in few.people} == {
        "Ann": [],
        "Bob": [2, 3, 4, 5],
        "Cat": [],
    }
    many = await ready.store.roster(ANN.id, 2, 10, 4, 3)
    assert {user.name: [m.seq for m in messages] for user, messages in many.people} == {"Ann": [], "Bob": [3, 4, 5]}
    assert many.version == 5


async def test_everything_is_there_after_close_and_open(ready: Bench) -> None:
    sent = await ready.send(ANN, BOB)
    epoch = ready.store.epoch
    late = [PendingMessage(ANN.id, BOB.id, f"l{n}", "x", None) for n in range(10)]
    for message in late:
        ready.store.submit(message)
    await ready.close()
    assert [m.seq for m in late] == list(range(2, 12))
    with pytest.raises(Refusal, match=Code.UNAVAILABLE):
        ready.store.submit(sent)
    await ready.open()
    assert ready.store.epoch == epoch
    retried = await ready.send(ANN, BOB, id=sent.id)
    assert (retried.duplicate, retried.seq) == (True, 1)
    assert (await ready.send(BOB, ANN)).seq == 12


async def test_a_full_queue_is_overloaded_and_loses_nothing(bench: Bench) -> None:
    await bench.open(max_pending=5)
    await bench.people(ANN, BOB)
    sent = [PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(5)]
    for message in sent:
        bench.store.submit(message)
    with pytest.raises(Refusal, match=Code.OVERLOADED):
        bench.store.submit(PendingMessage(ANN.id, BOB.id, "extra", "x", None))
    await bench.close()
    assert bench.returned == sent


async def test_versions_of_those_who_exist(ready: Bench) -> None:
    await ready.send(ANN, BOB)
    await ready.send(BOB, BOB)
    assert await ready.store.versions([ANN.id, BOB.id, CAT.id, NOBODY, "\ud800"]) == {ANN.id: 1, BOB.id: 2, CAT.id: 0}
