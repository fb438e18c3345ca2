"""The checker: from what was acknowledged, what is stored and what each socket saw, it computes what must all be nothing.

    lost        an acknowledged message isn't stored; a message that is stored isn't with a reader who asked for everything
    repeated    a message is stored twice, or came twice to a device that held it already
    reordered   a socket saw a conversation otherwise than in the order of its seqs, or a user's sockets saw their cursors
                in different orders
    invented    a message is stored, acknowledged or seen that nobody sent in this form
    broken      the rest of P1 to P4: seqs with holes, retries with unequal answers, answers that differ from the store,
                a page that leaves out a message without a gap, a cursor that comes twice

A verdict lists examples of each, so that a failed run explains itself.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.record import Ack, Conversation, How, Message, MessageKey, Record, SocketLog

EXAMPLES: Final = 10
"""How many examples of each kind an explanation lists."""


@dataclass
class Verdict:
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    summary: str = ""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.reordered or self.invented or self.broken)

    def explain(self) -> str:
        kinds = {name: getattr(self, name) for name in ("lost", "repeated", "reordered", "invented", "broken")}
        lines = [self.summary, ", ".join(f"{len(found)} {name}" for name, found in kinds.items())]
        for name, found in kinds.items():
            lines += [f"  {name}: {example}" for example in found[:EXAMPLES]]
            if len(found) > EXAMPLES:
                lines.append(f"  {name}: and {len(found) - EXAMPLES} more")
        return "\n".join(lines)

    def assert_clean(self) -> None:
        if not self.clean:
            raise AssertionError(self.explain())


def check(record: Record, stored: Iterable[Message]) -> Verdict:
    """Judge a run. `stored` is everything in the store, in no particular order (see `client.stored_messages`)."""
    messages = list(stored)
    verdict = Verdict(broken=list(record.broken))
    by_key = _check_store(messages, verdict)
    _check_invented(record, messages, by_key, verdict)
    _check_acks(record.acks, by_key, verdict)
    for log in record.sockets:
        _check_order(log, verdict)
    _check_cursors(record.sockets, verdict)
    _check_devices(record, messages, verdict)
    verdict.summary = (
        f"{len(record.sent)} sent, {len({ack.key for ack in record.acks})} acknowledged ({len(record.acks)} answers), "
        f"{len(messages)} stored, {sum(len(log.seen) for log in record.sockets)} sightings on {len(record.sockets)} sockets, "
        f"{len(record.complete)} complete devices"
    )
    return verdict


def _normal(key: MessageKey) -> MessageKey:
    return key._replace(id=key.id.lower())


def _check_store(messages: Sequence[Message], verdict: Verdict) -> dict[MessageKey, Message]:
    by_key: dict[MessageKey, Message] = {}
    seqs: defaultdict[Conversation, list[int]] = defaultdict(list)
    for message in messages:
        key = _normal(message.key)
        if key in by_key:
            verdict.repeated.append(f"stored twice: {message} and {by_key[key]}")
        by_key.setdefault(key, message)
        seqs[message.conversation].append(message.seq)
    for pair, found in seqs.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            strange = sorted(set(range(1, max(found) + 1)) ^ set(found)) or [
                seq for seq, n in Counter(found).items() if n > 1
            ]
            verdict.broken.append(f"the seqs of {pair} are not 1 to {len(found)}: see {strange[:EXAMPLES]}")
    return by_key


def _check_invented(
    record: Record, messages: Sequence[Message], by_key: dict[MessageKey, Message], verdict: Verdict
) -> None:
    named = {
        MessageKey(sent.sender, sent.recipient, sent.id.lower()): sent.content
        for sent in record.sent
        if sent.id is not None
    }
    unnamed = Counter((sent.sender, sent.recipient, sent.content) for sent in record.sent if sent.id is None)
    for message in messages:
        key = _normal(message.key)
        if key in named:
            if named[key] != message.content:
                verdict.invented.append(f"stored with another text: {message}, sent was {named[key]!r}")
            continue
        text = (message.sender, message.recipient, message.content)
        if unnamed[text] == 0:
            known = any((sent.sender, sent.recipient, sent.content) == text for sent in record.sent)
            kind = verdict.repeated if known else verdict.invented
            kind.append(f"stored more often than sent: {message}")
        unnamed[text] -= 1
    for log in record.sockets:
        for sighting in log.seen:
            truth = by_key.get(_normal(sighting.message.key))
            if truth is None:
                verdict.invented.append(f"{log.name} saw what is not stored: {sighting.message}")
            elif truth != sighting.message:
                verdict.invented.append(f"{log.name} saw {sighting.message}, stored is {truth}")
            elif log.reader not in (truth.sender, truth.recipient):
                verdict.broken.append(f"{log.name} of {log.reader} saw a message of others: {truth}")


def _check_acks(acks: Sequence[Ack], by_key: dict[MessageKey, Message], verdict: Verdict) -> None:
    first: dict[MessageKey, Ack] = {}
    for ack in acks:
        key = _normal(ack.key)
        earlier = first.setdefault(key, ack)
        if (earlier.seq, earlier.at) != (ack.seq, ack.at):
            verdict.broken.append(f"a retry got another answer: {ack} after {earlier}")
        truth = by_key.get(key)
        if truth is None:
            if earlier is ack:
                verdict.lost.append(f"acknowledged, not stored: {ack}")
        elif (truth.seq, truth.at) != (ack.seq, ack.at):
            verdict.broken.append(f"acknowledged as {ack}, stored as {truth}")


def _check_order(log: SocketLog, verdict: Verdict) -> None:
    """Live messages of a conversation ascend; so does each page. A page may be older than what came live beside it."""
    newest: dict[Conversation, int] = {}
    live: set[Conversation] = set()
    page: dict[tuple[int, Conversation], int] = {}
    for sighting in log.seen:
        message = sighting.message
        pair = message.conversation
        if sighting.how is How.LIVE:
            last = newest.get(pair, 0)
            newest[pair] = message.seq
            live.add(pair)
        else:
            last = page.get((sighting.batch, pair), 0)
            page[sighting.batch, pair] = message.seq
            if sighting.how is How.SYNC and pair not in live:
                # What is live afterwards has to be newer than what the sync brought.
                newest[pair] = message.seq
        if message.seq < last:
            verdict.reordered.append(f"{log.name} saw seq {message.seq} of {pair} after {last} ({sighting.how.value})")
        elif message.seq == last:
            verdict.repeated.append(f"{log.name} saw seq {message.seq} of {pair} twice ({sighting.how.value})")


def _check_cursors(sockets: Sequence[SocketLog], verdict: Verdict) -> None:
    """A cursor is opaque, but all sockets of a user have to meet a user's cursors in one order, and each only once."""
    by_reader: defaultdict[str, list[SocketLog]] = defaultdict(list)
    for log in sockets:
        if len(set(log.cursors)) != len(log.cursors):
            twice = [cursor for cursor, count in Counter(log.cursors).items() if count > 1]
            verdict.broken.append(f"{log.name} got a cursor twice: {twice[:EXAMPLES]}")
        by_reader[log.reader].append(log)
    for logs in by_reader.values():
        longest = max(logs, key=lambda log: len(log.cursors))
        place = {cursor: index for index, cursor in enumerate(longest.cursors)}
        for log in logs:
            places = [place[cursor] for cursor in log.cursors if cursor in place]
            if any(later < earlier for earlier, later in itertools.pairwise(places)):
                verdict.reordered.append(f"{log.name} and {longest.name} met their cursors in different orders")


def _check_devices(record: Record, messages: Sequence[Message], verdict: Verdict) -> None:
    by_device: defaultdict[str, list[SocketLog]] = defaultdict(list)
    for log in record.sockets:
        by_device[log.device].append(log)
    for device, logs in by_device.items():
        held: set[MessageKey] = set()
        seen: set[MessageKey] = set()
        for log in logs:
            if log.reset:
                held.clear()
            brought: set[MessageKey] = set()
            for index, sighting in enumerate(log.seen):
                key = _normal(sighting.message.key)
                seen.add(key)
                if sighting.how in (How.LIVE, How.SYNC):
                    if key in held:
                        verdict.repeated.append(f"{log.name} was brought what it held: {sighting.message}")
                    if index < log.kept:
                        brought.add(key)
            held |= brought
        if (reader := record.complete.get(device)) is not None:
            have = seen | {_normal(key) for key in record.acked_to.get(device, ())}
            verdict.lost += [
                f"{device} never saw {message}"
                for message in messages
                if reader in (message.sender, message.recipient) and _normal(message.key) not in have
            ]
