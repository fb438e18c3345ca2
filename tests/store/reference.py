"""What every page of a user must be at any version of theirs, from what the sink was given: a store in the plainest form."""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from duologue.domain.model import Conversation, HistoryPage, Message, Roster, SyncPage, User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt

Place = tuple[int, int]


class Change(NamedTuple):
    """What one version of a user's brought: the state of the conversation with `peer` from then on."""

    version: int
    peer: str
    seq: int
    mine: Place
    theirs: Place


def some_two(rng: random.Random, people: Sequence[User]) -> tuple[User, User]:
    """Few talk to one person the most: conversations of any length between one message and thousands."""
    return rng.choice(people), people[min(int(rng.expovariate(0.7)), len(people) - 1)]


class Reference:
    def __init__(self) -> None:
        self.changes: dict[str, list[Change]] = defaultdict(list)
        """By the user, in the order of their versions."""
        self.messages: dict[frozenset[str], list[PendingMessage]] = defaultdict(list)
        self._positions: dict[tuple[str, str], Place] = defaultdict(lambda: (0, 0))

    def take(self, returned: Iterable[Pending]) -> None:
        for pending in returned:
            if pending.failure is not None:
                continue
            if isinstance(pending, PendingMessage):
                if pending.duplicate:
                    continue
                held = self.messages[frozenset((pending.sender, pending.recipient))]
                held.append(pending)
                assert pending.seq == pending.rev == len(held)
                self._positions[pending.sender, pending.recipient] = (pending.seq, pending.seq)
                self._changed(pending.sender, pending.recipient, pending.sender_version, pending.recipient_version)
            elif pending.user_version:
                self._positions[pending.user, pending.peer] = (pending.received, pending.read)
                self._changed(pending.user, pending.peer, pending.user_version, pending.peer_version)

    def _changed(self, one: str, other: str, version: int, others: int) -> None:
        seq = len(self.messages[frozenset((one, other))])
        for me, peer, mine in {(one, other, version), (other, one, others)}:
            assert mine == len(self.changes[me]) + 1, "a version was given out twice, or left out"
            self.changes[me].append(Change(mine, peer, seq, self._positions[me, peer], self._positions[peer, me]))

    def version(self, user: str) -> int:
        return len(self.changes[user])

    def some_receipt(self, rng: random.Random, one: User, other: User) -> PendingReceipt:
        """Of a conversation, sometimes beyond its end."""
        end = self.end(one.id, other.id)
        return PendingReceipt(one.id, other.id, rng.randint(0, end + 2), rng.randint(0, end + 2), None)

    def end(self, user: str, peer: str) -> int:
        return len(self.messages[frozenset((user, peer))])

    def at(self, user: str, version: int) -> list[Change]:
        """The user's conversations as they were at that version, the one that changed last first."""
        found = {change.peer: change for change in self.changes[user][:version]}
        return sorted(found.values(), key=lambda change: -change.version)

    def seen(self, user: str, peer: str, version: int) -> int:
        """The last seq that the user had seen at that version."""
        held = self.messages[frozenset((user, peer))]
        return bisect.bisect_right(
            held, version, key=lambda m: m.sender_version if m.sender == user else m.recipient_version
        )

    def check_sync(
        self, page: SyncPage, user: str, since: int | None, before: int | None, size: int, each: int, total: int
    ) -> None:
        known = since is None or 0 <= since <= page.version
        floor = since if since is not None and known else 0
        changed = [
            change
            for change in self.at(user, page.version)
            if change.version > floor and (before is None or change.version < before)
        ]
        assert page.known == known
        assert [view.peer.id for view in page.conversations] == [change.peer for change in changed[:size]]
        assert page.next == (changed[size - 1].version if len(changed) > size else None)
        for view, change in zip(page.conversations, changed, strict=False):
            seen = self.seen(user, change.peer, floor)
            count = min(change.seq - seen, max(min(each, total), 1))
            total -= count
            self._check_conversation(user, view, change, seen, change.seq - count + 1)

    def _check_conversation(self, user: str, view: Conversation, change: Change, seen: int, first: int) -> None:
        assert (view.seq, view.rev) == (change.seq, change.seq)
        assert (view.mine.received, view.mine.read) == change.mine
        assert (view.theirs.received, view.theirs.read) == change.theirs
        self.check_messages(view.messages, user, change.peer, first, change.seq)
        gap = (view.gap.after, view.gap.before) if view.gap else None
        assert gap == ((seen, first) if first > seen + 1 else None)

    def check_messages(self, got: Sequence[Message], user: str, peer: str, first: int, last: int) -> None:
        held = self.messages[frozenset((user, peer))]
        wanted = [(m.sender, m.recipient, m.id, m.seq, m.rev, m.at, m.content) for m in held[first - 1 : last]]
        assert [(m.sender, m.recipient, m.id, m.seq, m.rev, m.at, m.content) for m in got] == wanted

    def check_roster(self, roster: Roster, user: str, each: int, total: int) -> None:
        """Of one that shows everybody."""
        messages = {person.id: found for person, found in roster.people}
        for change in self.at(user, roster.version)[:total]:
            count = min(change.seq, max(min(each, total), 0))
            total -= count
            self.check_messages(messages.pop(change.peer), user, change.peer, change.seq - count + 1, change.seq)
        assert not any(messages.values())

    def check_history(
        self, page: HistoryPage, user: str, peer: str, before: int | None, after: int | None, limit: int, least: int
    ) -> None:
        """`least` messages were there before the page was asked for."""
        for end in range(least, self.end(user, peer) + 1):
            last = end if before is None else before - 1
            first = max(1, last - limit + 1)
            more = first > 1
            if after is not None:
                first, top = after + 1, last
                last = min(last, first + limit - 1)
                more = last < top
            if (max(0, last - first + 1), more) == (len(page.messages), page.more) and (
                not page.messages or page.messages[0].seq == first
            ):
                self.check_messages(page.messages, user, peer, first, max(last, first - 1))
                return
        raise AssertionError("no state that ever was has this page")
