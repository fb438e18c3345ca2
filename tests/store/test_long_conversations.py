"""What a batch costs doesn't grow with what its conversations have in memory, nor what a row of the journal costs with the rows
before it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import apsw

from duologue.store.ledger import MessageRow
from duologue.store.sqlite import journal, schema
from duologue.store.sqlite.chunked import CODE
from duologue.store.sqlite.young import FEW, Conversation, HeadState, Young, rows_of

MESSAGES = 32_000
PART = MESSAGES // 8

SLOWER = 4
"""Times that the last part may take of the first: where each message costs what all before it did, it takes fifteen times as
much."""


def row(seq: int) -> MessageRow:
    return MessageRow(seq, seq, 1, f"id {seq}", 1, seq, seq, "text")


def state(seq: int) -> HeadState:
    return HeadState(1, 2, 1, seq, seq, seq, seq, 0, 0, seq, seq)


def quickest(work: Callable[[], None], times: int = 3) -> float:
    found = []
    for _ in range(times):
        begin = time.thread_time()
        work()
        found.append(time.thread_time() - begin)
    return min(found)


def grown(young: Young, conversation: Conversation, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        conversation.added, conversation.fresh = [row(seq)], (seq,)
        young.add([conversation], [state(seq)])
        conversation.added = None


def test_a_batch_costs_no_more_for_what_is_in_memory_already() -> None:
    young, conversation = Young(), Conversation(1, 2, low_id="ann", high_id="bob", number=1)
    seqs = iter(range(1, MESSAGES + 10 * PART, PART))

    def next_part() -> None:
        first = next(seqs)
        grown(young, conversation, first, first + PART - 1)

    beginning = quickest(next_part)
    while young.messages < MESSAGES:
        next_part()
    assert quickest(next_part) < SLOWER * beginning
    assert (
        [each.seq for each in conversation.rows] == list(conversation.identities) == list(range(1, young.messages + 1))
    )


def test_a_reader_keeps_what_it_was_given() -> None:
    young, conversation = Young(), Conversation(1, 2, low_id="ann", high_id="bob", number=1)
    given = []
    for seq in range(1, 3 * FEW):
        grown(young, conversation, seq, seq)
        given.append(young.of("ann")["bob"])
    assert [len(rows_of(known)) for known in given] == list(range(1, 3 * FEW))


def test_messages_in_memory_are_nothing_for_the_garbage_collector() -> None:
    """But the people's dictionaries, and lists where a conversation has many."""
    young = Young()
    gc.collect()
    before = len(gc.get_objects())
    for peer in range(1_000):
        conversation = Conversation(1, 2 + peer, low_id="ann", high_id=f"peer {peer}", number=peer)
        for seq in range(1, 4):
            grown(young, conversation, seq, seq)
    gc.collect()  # lets go of the tuples
    assert len(gc.get_objects()) - before < 1_100


def test_a_row_of_the_journal_costs_no_more_for_those_before_it() -> None:
    def restored(rows: int) -> float:
        connection = apsw.Connection(":memory:")
        schema.migrate(connection, 0, CODE)
        for seq in range(1, rows + 1):
            journal.add(connection, [(state(seq), [row(seq)])])
        found = quickest(lambda: assert_all(connection, rows))
        connection.close()
        return found

    assert restored(MESSAGES) < SLOWER * 8 * restored(PART)


def assert_all(connection: apsw.Connection, rows: int) -> None:
    (conversation,) = journal.unfiled(connection)
    assert len(conversation.rows) == conversation.state.seq == rows
