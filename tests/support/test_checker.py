"""The checker finds every fault that is planted here; a checker that can't fail proves nothing."""

from __future__ import annotations

from typing import Any

from tests.support.checker import Verdict, check
from tests.support.coverage import Coverage
from tests.support.record import Ack, How, Message, Record, Sent, SocketLog

ALICE = "a" * 16
BOB = "b" * 16


def message(
    seq: int, *, id: str | None = None, sender: str = ALICE, recipient: str = BOB, content: str | None = None
) -> Message:
    return Message(sender, recipient, id or f"id-{seq}", seq, 1000 + seq, f"text {seq}" if content is None else content)


def event(message: Message) -> dict[str, Any]:
    return {
        "from": message.sender, "to": message.recipient, "id": message.id, "seq": message.seq, "at": message.at,
        "content": message.content,
    }  # fmt: skip


class Run:
    """A run without a fault: Alice sent three messages, Bob saw them live and asked for everything at the end."""

    def __init__(self) -> None:
        self.record = Record()
        self.stored = [message(seq) for seq in (1, 2, 3)]
        for stored in self.stored:
            self.record.sent.append(Sent(stored.sender, stored.recipient, stored.id, stored.content))
            self.record.note_ack("alice/1", Ack(stored.key, stored.seq, stored.at))
        self.bob = self.socket()
        for stored in self.stored:
            self.see(self.bob, stored)
        self.record.complete["bob/1"] = BOB

    def socket(self, device: str = "bob/1", reader: str = BOB) -> SocketLog:
        return self.record.open_socket(reader, device)

    def see(self, log: SocketLog, *messages: Message, how: How = How.LIVE, keep: bool = True) -> None:
        log.note([event(message) for message in messages], how)
        log.cursors.append(f"c{len(log.cursors) + 1}")
        if keep:
            log.keep()

    def verdict(self) -> Verdict:
        return check(self.record, self.stored)


def kinds(verdict: Verdict) -> set[str]:
    return {name for name in ("lost", "repeated", "reordered", "invented", "broken") if getattr(verdict, name)}


def test_a_run_without_a_fault_is_clean() -> None:
    verdict = Run().verdict()
    assert kinds(verdict) == set(), verdict.explain()
    verdict.assert_clean()


def test_acknowledged_and_not_stored_is_lost() -> None:
    run = Run()
    gone = message(4)
    run.record.sent.append(Sent(gone.sender, gone.recipient, gone.id, gone.content))
    run.record.note_ack("alice/1", Ack(gone.key, gone.seq, gone.at))
    assert kinds(run.verdict()) == {"lost"}


def test_sent_and_never_acknowledged_may_be_missing() -> None:
    run = Run()
    run.record.sent.append(Sent(ALICE, BOB, "id-9", "text 9"))
    assert run.verdict().clean


def test_stored_and_not_seen_by_a_complete_reader_is_lost() -> None:
    run = Run()
    run.bob.seen.pop(1)
    assert kinds(run.verdict()) == {"lost"}
    run.record.complete.clear()
    assert run.verdict().clean


def test_the_senders_own_device_needs_no_copy_but_another_one_does() -> None:
    run = Run()
    run.record.complete["alice/1"] = ALICE
    assert run.verdict().clean
    run.record.complete["alice/2"] = ALICE
    run.socket("alice/2", ALICE)
    assert kinds(run.verdict()) == {"lost"}


def test_stored_twice_is_repeated() -> None:
    run = Run()
    run.stored.append(message(4, id="ID-3", content="text 3"))
    assert kinds(run.verdict()) == {"repeated"}


def test_stored_more_often_than_sent_without_an_id_is_repeated() -> None:
    run = Run()
    run.record.sent.append(Sent(ALICE, BOB, None, "guide"))
    run.stored.append(message(4, content="guide"))
    run.see(run.bob, run.stored[-1])
    assert run.verdict().clean
    run.stored.append(message(5, content="guide"))
    run.see(run.bob, run.stored[-1])
    assert kinds(run.verdict()) == {"repeated"}


def test_seen_twice_on_one_socket_is_repeated() -> None:
    run = Run()
    run.see(run.bob, message(3))
    assert kinds(run.verdict()) == {"repeated"}


def test_live_what_the_sync_had_brought_is_repeated() -> None:
    run = Run()
    again = run.socket("bob/2")
    run.see(again, message(1), message(2), message(3), how=How.SYNC)
    assert run.verdict().clean
    run.see(again, message(3))
    assert "repeated" in kinds(run.verdict())


def test_brought_again_after_a_reconnection_is_repeated() -> None:
    run = Run()
    run.see(run.socket(), message(3), how=How.SYNC)
    assert kinds(run.verdict()) == {"repeated"}


def test_brought_again_after_a_reset_or_without_having_been_kept_is_not_repeated() -> None:
    run = Run()
    everything = [message(seq) for seq in (1, 2, 3)]
    after_reset = run.socket()
    after_reset.reset = True
    run.see(after_reset, *everything, how=How.SYNC, keep=False)
    run.see(run.socket(), *everything, how=How.SYNC)
    assert run.verdict().clean


def test_history_may_be_read_as_often_as_one_likes() -> None:
    run = Run()
    run.see(run.bob, message(1), message(2), how=How.HISTORY)
    run.see(run.bob, message(1), message(2), how=How.HISTORY)
    assert run.verdict().clean


def test_live_out_of_order_is_reordered() -> None:
    run = Run()
    run.bob.seen[1], run.bob.seen[2] = run.bob.seen[2], run.bob.seen[1]
    assert kinds(run.verdict()) == {"reordered"}


def test_a_page_out_of_order_is_reordered() -> None:
    run = Run()
    run.see(run.bob, message(2), message(1), how=How.HISTORY)
    assert kinds(run.verdict()) == {"reordered"}


def test_cursors_in_another_order_on_another_socket_are_reordered() -> None:
    run = Run()
    other = run.socket("bob/2")
    other.cursors = ["c2", "c1"]
    assert kinds(run.verdict()) == {"reordered"}


def test_stored_and_never_sent_is_invented() -> None:
    run = Run()
    run.stored.append(message(4))
    run.see(run.bob, message(4))
    assert kinds(run.verdict()) == {"invented"}


def test_stored_with_another_text_is_invented() -> None:
    run = Run()
    run.record.sent[1] = run.record.sent[1]._replace(content="something else")
    assert kinds(run.verdict()) == {"invented"}


def test_seen_and_not_stored_is_invented() -> None:
    run = Run()
    run.see(run.bob, message(4))
    assert kinds(run.verdict()) == {"invented"}


def test_seen_with_another_text_sender_or_time_is_invented() -> None:
    for change in ({"content": "x"}, {"at": 1}):
        run = Run()
        first = run.bob.seen[0]
        run.bob.seen[0] = first._replace(message=first.message._replace(**change))
        assert kinds(run.verdict()) == {"invented"}


def test_a_hole_in_the_seqs_is_broken() -> None:
    run = Run()
    run.stored[2] = run.stored[2]._replace(seq=4)
    assert "broken" in kinds(run.verdict())


def test_a_retry_with_another_answer_is_broken() -> None:
    for seq, at in ((4, 1003), (3, 1)):
        run = Run()
        run.record.note_ack("alice/1", Ack(run.stored[2].key, seq, at))
        assert kinds(run.verdict()) == {"broken"}


def test_a_cursor_that_comes_twice_is_broken() -> None:
    run = Run()
    run.bob.cursors.append("c1")
    assert "broken" in kinds(run.verdict())


def test_a_message_of_others_is_broken() -> None:
    run = Run()
    run.see(run.socket("eve/1", "e" * 16), message(1))
    assert kinds(run.verdict()) == {"broken"}


def test_what_a_client_found_broken_is_told() -> None:
    run = Run()
    run.record.broken.append("a page left something out")
    verdict = run.verdict()
    assert kinds(verdict) == {"broken"}
    assert "a page left something out" in verdict.explain()


def test_coverage_tells_its_holes() -> None:
    held = Coverage()
    assert list(held.holes(0)) == []
    assert list(held.holes(3)) == [(1, 3)]
    held.add([1, 2, 5, 7, 8])
    assert held.upto == 2
    assert list(held.holes(10)) == [(3, 4), (6, 6), (9, 10)]
    assert list(held.holes(6)) == [(3, 4), (6, 6)]
    held.add([3, 4, 6])
    assert held.upto == 8
    assert list(held.holes(8)) == []
