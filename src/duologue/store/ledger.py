"""The arithmetic of a batch: seqs, revs, versions and positions, given out in the order of submission.

Pure but for the two loaders it is given. It keeps what it gave out in bounded caches, so that a busy conversation is
read from the database once and then only written. `forget` undoes a batch that was rolled back, by dropping what the
batch touched: the next batch reads the truth again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from duologue.domain.errors import Code
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt

MAX_ACCOUNTS = 100_000
"""People whose key, name and version are remembered (some 300 bytes each)."""

MAX_HEADS = 200_000
"""Conversations whose head is remembered (some 600 bytes each, unless something of it is young)."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class MessageRow(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A message as it's stored. Not tracked by the garbage collector, which would look at each of tens of thousands."""

    seq: int
    rev: int
    sender: int
    """The key."""
    id: str
    at: int
    sender_version: int
    recipient_version: int
    content: str


DialogRow = tuple[int, int, int, int, int, int, int, int, int]
"""user, peer, seq, rev, received, read, peer's received, peer's read, version."""

MessageKey = tuple[int, int, int, str]
Pair = tuple[int, int]


class Account:
    """What the writer knows of a person: `version` is the last one given out."""

    __slots__ = ("key", "name", "version")

    def __init__(self, key: int, name: str, version: int) -> None:
        self.key = key
        self.name = name
        self.version = version


class Head(msgspec.Struct, eq=False, gc=False):
    """The state of a conversation, both sides. Of a conversation with oneself only the low side is used.

    As little tracked by the garbage collector as the messages: nothing in it refers back to it.
    """

    low: int
    high: int
    seq: int = 0
    rev: int = 0
    low_received: int = 0
    low_read: int = 0
    high_received: int = 0
    high_read: int = 0
    # Filled in when a batch touches the head; they are written but never read back.
    low_version: int = 0
    high_version: int = 0
    low_id: str = ""
    high_id: str = ""
    added: list[MessageRow] | None = None
    """The new messages of the batch that is being entered; None if it doesn't touch the conversation."""

    def dialogs(self) -> Iterator[DialogRow]:
        """Its rows, one for each side; of those whom a batch touched."""
        low, high = self.low, self.high
        mine, theirs = (self.low_received, self.low_read), (self.high_received, self.high_read)
        yield low, high, self.seq, self.rev, *mine, *theirs, self.low_version
        if low != high:
            yield high, low, self.seq, self.rev, *theirs, *mine, self.high_version


class Stored(NamedTuple):
    """A message as it was stored before, for a retry to be answered with."""

    seq: int
    rev: int
    at: int
    sender_version: int
    recipient_version: int
    content: str


H = TypeVar("H", bound=Head)
"""A store's own kind of head."""

LoadAccounts = Callable[[Sequence[str]], Iterable[tuple[str, Account]]]


class Ledger(Generic[H]):
    """Gives out the numbers of one database. One writer, one ledger."""

    def __init__(
        self,
        load_accounts: LoadAccounts,
        load_heads: Callable[[Sequence[Pair]], Iterable[H]],
        max_accounts: int = MAX_ACCOUNTS,
        max_heads: int = MAX_HEADS,
    ) -> None:
        """`load_heads` gives one for each of the pairs, a new one where there was no conversation yet."""
        self._load_accounts = load_accounts
        self._load_heads = load_heads
        self._max_accounts = max_accounts
        self._max_heads = max_heads
        self._accounts: dict[str, Account] = {}
        self._heads: dict[Pair, H] = {}
        self._touched: list[H] = []
        self._batch: Sequence[Pending] = ()
        self._complete = True
        self._receipts: list[tuple[PendingReceipt, int, int]] = []

    def pairs(self, batch: Sequence[Pending]) -> set[Pair]:
        """The conversations of the batch between known people."""
        self._begin(batch)
        self._read_accounts()
        return self._pairs()

    def keys(self, batch: Sequence[Pending]) -> list[MessageKey]:
        """The identities of the batch's messages between known people, for a search for earlier ones."""
        self._begin(batch)
        self._read_accounts()
        found = []
        for work in batch:
            if isinstance(work, PendingMessage):
                key = self._message_key(work)
                if key is not None:
                    found.append(key)
        return found

    def enter(  # noqa: C901 - the hot path, a call saved for each part that is not a function of its own
        self, batch: Sequence[Pending], at: int, earlier: dict[MessageKey, Stored] | None
    ) -> Sequence[H]:
        """Fill in the outcome of each item and return what changes: heads with their new messages.

        With `earlier` None every message is taken for a new one: cheap, and whoever asked finds out where that is wrong.
        Else `earlier` has every stored message that an item of the batch repeats, and repetitions within the batch are
        found here.
        """
        self._begin(batch)
        accounts, heads = self._accounts, self._heads
        for work in batch:
            if isinstance(work, PendingReceipt):
                self._enter_receipt(work)
                continue
            sender, recipient = accounts.get(work.sender), accounts.get(work.recipient)
            if sender is None or recipient is None:
                self._read()
                sender, recipient = accounts.get(work.sender), accounts.get(work.recipient)
                if sender is None or recipient is None:
                    work.failure = Code.UNKNOWN_USER
                    continue
            mine, yours = sender.key, recipient.key
            pair = (mine, yours) if mine <= yours else (yours, mine)
            if earlier is not None:
                key = (*pair, mine, work.id)
                before = earlier.get(key)
                if before is not None:
                    _repeat(work, before)
                    continue
            head = heads.get(pair)
            if head is None:
                self._read()
                head = heads[pair]
            added = head.added
            if added is None:
                added = self._touch(head, work.sender, work.recipient, mine <= yours)
            seq = head.seq = head.seq + 1
            rev = head.rev = head.rev + 1
            version = sender.version = sender.version + 1
            if mine == yours:
                head.low_received = head.low_read = head.high_received = head.high_read = seq
                head.low_version = peer_version = version
            else:
                peer_version = recipient.version = recipient.version + 1
                if mine < yours:
                    head.low_received = head.low_read = seq
                    head.low_version, head.high_version = version, peer_version
                else:
                    head.high_received = head.high_read = seq
                    head.low_version, head.high_version = peer_version, version
            work.seq = seq
            work.rev = rev
            work.at = at
            work.sender_version = version
            work.recipient_version = peer_version
            work.recipient_name = recipient.name if seq == 1 else None
            if earlier is not None:
                earlier[key] = Stored(seq, rev, at, version, peer_version, work.content)
            added.append(MessageRow(seq, rev, mine, work.id, at, version, peer_version, work.content))
        return self._touched

    def settle(self) -> None:
        """The batch was committed: its values are the truth now."""
        for head in self._touched:
            head.added = None
        self._end()

    def forget(self) -> None:
        """The batch was rolled back: drop what it changed and give the receipts their questions back."""
        for head in self._touched:
            head.added = None
            del self._heads[head.low, head.high]
        for name in names(self._batch):
            self._accounts.pop(name, None)
        for receipt, received, read in self._receipts:
            receipt.received, receipt.read = received, read
            receipt.user_version = receipt.peer_version = 0
        self._end()

    def _begin(self, batch: Sequence[Pending]) -> None:
        self._batch = batch
        self._complete = False

    def _end(self) -> None:
        self._touched = []
        self._batch = ()
        self._receipts = []
        # Those that were read first go first. To keep those that are in use would cost every batch more than to read them
        # again costs, once in as many conversations as there's room for.
        _shrink(self._heads, self._max_heads)
        _shrink(self._accounts, self._max_accounts)

    def _read(self) -> None:
        """Read all that the batch needs and the caches don't have, two queries at most, when the first of it is missed:
        mostly everything is there. What isn't found now doesn't exist."""
        if not self._complete:
            self._complete = True
            self._read_accounts()
            self._read_heads()

    def _read_accounts(self) -> None:
        missing = [name for name in names(self._batch) if name not in self._accounts and name.isascii()]
        if missing:
            self._accounts.update(self._load_accounts(missing))

    def _read_heads(self) -> None:
        heads = self._heads
        missing = [pair for pair in self._pairs() if pair not in heads]
        if missing:
            for head in self._load_heads(missing):
                heads[head.low, head.high] = head

    def _pairs(self) -> set[Pair]:
        accounts = self._accounts
        pairs: set[Pair] = set()
        for work in self._batch:
            if isinstance(work, PendingMessage):
                one, other = accounts.get(work.sender), accounts.get(work.recipient)
            else:
                one, other = accounts.get(work.user), accounts.get(work.peer)
            if one is not None and other is not None:
                pairs.add((one.key, other.key) if one.key <= other.key else (other.key, one.key))
        return pairs

    def _message_key(self, work: PendingMessage) -> MessageKey | None:
        sender, recipient = self._accounts.get(work.sender), self._accounts.get(work.recipient)
        if sender is None or recipient is None:
            return None
        return min(sender.key, recipient.key), max(sender.key, recipient.key), sender.key, work.id

    def _touch(self, head: H, one: str, other: str, one_is_low: bool) -> list[MessageRow]:
        """The batch changes a conversation between these two."""
        if not head.low_id:
            head.low_id, head.high_id = (one, other) if one_is_low else (other, one)
        self._touched.append(head)
        head.added = []
        return head.added

    def _enter_receipt(self, work: PendingReceipt) -> None:
        self._read()
        self._receipts.append((work, work.received, work.read))
        user, peer = self._accounts.get(work.user), self._accounts.get(work.peer)
        if user is None or peer is None:
            work.failure = Code.UNKNOWN_USER
            return
        is_low = user.key <= peer.key
        head = self._heads[(user.key, peer.key) if is_low else (peer.key, user.key)]
        received = head.low_received if is_low else head.high_received
        read = head.low_read if is_low else head.high_read
        new_read = work.read if read < work.read <= head.seq else read
        new_received = max(received, new_read, work.received if work.received <= head.seq else 0)
        work.read, work.received = new_read, new_received
        if new_read == read and new_received == received:
            return
        if head.added is None:
            self._touch(head, work.user, work.peer, is_low)
        work.user_version = user.version = user.version + 1
        if user is peer:
            work.peer_version = work.user_version
            head.high_received, head.high_read = new_received, new_read
        else:
            work.peer_version = peer.version = peer.version + 1
        if is_low:
            head.low_received, head.low_read = new_received, new_read
            head.low_version, head.high_version = work.user_version, work.peer_version
        else:
            head.high_received, head.high_read = new_received, new_read
            head.low_version, head.high_version = work.peer_version, work.user_version


def names(batch: Sequence[Pending]) -> set[str]:
    """The ids of everybody whom a batch names, known or not."""
    found = set()
    for work in batch:
        if isinstance(work, PendingMessage):
            found.add(work.sender)
            found.add(work.recipient)
        else:
            found.add(work.user)
            found.add(work.peer)
    return found


def _repeat(work: PendingMessage, before: Stored) -> None:
    if work.content != before.content:
        work.failure = Code.CONFLICT
        return
    work.duplicate = True
    work.recipient_name = None
    work.seq, work.rev, work.at, work.sender_version, work.recipient_version, _ = before


def _shrink(cache: dict[Key, Value], bound: int) -> None:
    if len(cache) > bound:
        # The oldest eighth at once, so that a full cache doesn't pay for every batch.
        for key in list(cache)[: len(cache) - bound * 7 // 8]:
            del cache[key]
