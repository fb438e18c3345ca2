"""What the chat should do, in plain lists and dicts: the other side of every comparison in `machine`.

Written from docs/protocol.md, not from the code. Nothing is stored but the log of what each user could see: their
version is its length, and every page as of any version follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from duologue.domain.limits import ChatLimits

Json = dict[str, Any]


@dataclass(eq=False)
class Message:
    sender: str
    to: str
    id: str | None
    """None until somebody has seen what the server made up."""
    content: str
    seq: int
    at: int

    def body(self) -> Json:
        return {
            "content": self.content, "from": self.sender, "to": self.to, "id": self.id, "seq": self.seq,
            "rev": self.seq, "at": self.at,
        }  # fmt: skip

    def ack(self) -> Json:
        return {"id": self.id, "seq": self.seq, "at": self.at}


@dataclass
class Position:
    received: int = 0
    read: int = 0


@dataclass(eq=False)
class Change:
    """One version of one user: what happened in which conversation, and its head as the user saw it afterwards."""

    peer: str
    step: int
    """Counts what was submitted; both sides of a change have the same."""
    origin: object
    """The device that knows by its own ack."""
    message: Message | None
    receipt: Json | None
    seq: int
    mine: Position
    theirs: Position

    def event(self, cursor: str) -> tuple[str, Json]:
        if self.message is not None:
            return "private message", {**self.message.body(), "cursor": cursor}
        assert self.receipt is not None
        return "receipt", {**self.receipt, "cursor": cursor}


@dataclass
class Model:
    epoch: str
    limits: ChatLimits
    names: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """Session to user."""
    last_seen: dict[str, int] = field(default_factory=dict)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    messages: dict[tuple[str, str], list[Message]] = field(default_factory=dict)
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    """Of the first user in the conversation with the second."""
    steps: int = 0

    # What happens

    def join(self, user: str, name: str, token: str) -> None:
        self.names[user] = name
        self.tokens[token] = user
        self.changes[user] = []

    def leave(self, user: str, at: int) -> None:
        """When somebody was last seen only moves forward, also if the clock doesn't."""
        self.last_seen[user] = max(at, self.last_seen.get(user, 0))

    def send(self, sender: str, to: str, id: str | None, content: str, at: int, origin: object) -> Message | str:
        """The message (an earlier one if this repeats it) or the code of its refusal."""
        self.steps += 1
        if to not in self.names:
            return "unknown user"
        if content == "" or "\0" in content:
            return "invalid content"
        if len(content) > self.limits.max_content:
            return "too long"
        held = self.talk(sender, to)
        for earlier in held:
            if id is not None and (earlier.sender, earlier.id) == (sender, id):
                return earlier if earlier.content == content else "conflict"
        message = Message(sender, to, id, content, len(held) + 1, at)
        held.append(message)
        self.positions[sender, to] = Position(message.seq, message.seq)
        self._change(sender, to, origin, message, None)
        return message

    def receipt(self, user: str, peer: str, received: int, read: int, origin: object) -> Json | str:
        """The positions afterwards, or the code of the refusal."""
        self.steps += 1
        if peer not in self.names:
            return "unknown user"
        if received < 0 or read < 0:
            return "bad request"
        last = len(self.talk(user, peer))
        before = self.position(user, peer)
        new_read = max([before.read, *(seq for seq in (read,) if seq <= last)])
        new_received = max([before.received, new_read, *(seq for seq in (received,) if seq <= last)])
        after = Position(new_received, new_read)
        if after != before:
            self.positions[user, peer] = after
            event = {"from": user, "to": peer, "received": after.received, "read": after.read}
            self._change(user, peer, origin, None, event)
        return {"received": after.received, "read": after.read}

    def _change(self, one: str, other: str, origin: object, message: Message | None, receipt: Json | None) -> None:
        for user, peer in dict.fromkeys([(one, other), (other, one)]):
            mine, theirs = self.position(user, peer), self.position(peer, user)
            seq = len(self.talk(user, peer))
            self.changes[user].append(Change(peer, self.steps, origin, message, receipt, seq, mine, theirs))

    # What is so

    def talk(self, one: str, other: str) -> list[Message]:
        return self.messages.setdefault((min(one, other), max(one, other)), [])

    def position(self, user: str, peer: str) -> Position:
        return self.positions.get((user, peer), Position())

    def version(self, user: str) -> int:
        return len(self.changes[user])

    def peers(self, user: str) -> set[str]:
        return {change.peer for change in self.changes[user]}

    def cursor(self, version: int) -> str:
        return f"{self.epoch}.{version}"

    @property
    def everybody_is_announced(self) -> bool:
        return len(self.names) <= self.limits.announce_people

    def since(self, cursor: object, version: int) -> int | None:
        """The version that a cursor stands for, None if there's to be a reset."""
        if not isinstance(cursor, str) or not cursor.startswith(f"{self.epoch}."):
            return None
        digits = cursor.removeprefix(f"{self.epoch}.")
        if not (digits.isascii() and digits.isdigit() and str(int(digits)) == digits and int(digits) <= version):
            return None
        return int(digits)

    # The pages, as of a version of the user

    def live(self, user: str, after: int, origin: object) -> list[tuple[str, Json]]:
        """What a socket gets that was brought to `after`, all but what it caused itself."""
        return [
            change.event(self.cursor(version))
            for version, change in enumerate(self.changes[user], 1)
            if version > after and change.origin is not origin
        ]

    def sync(self, user: str, cursor: object, before: int | None, version: int) -> Json:
        since = self.since(cursor, version)
        start = since or 0
        changes = self.changes[user][:version]
        last = {change.peer: number for number, change in enumerate(changes, 1)}
        order = sorted(last, key=last.__getitem__, reverse=True)
        changed = [peer for peer in order if start < last[peer] and (before is None or last[peer] < before)]
        page = changed[: self.limits.page]
        left = self.limits.sync_total
        conversations = []
        for peer in page:
            new = [
                change.message
                for number, change in enumerate(changes, 1)
                if change.peer == peer and change.message is not None and number > start
            ]
            kept = new[-max(1, min(self.limits.page, left)) :]
            left -= len(kept)
            conversations.append(self._conversation(changes[last[peer] - 1], new, kept, user))
        return {
            "cursor": self.cursor(version),
            "reset": since is None,
            "conversations": conversations,
            "next": str(last[page[-1]]) if len(changed) > len(page) else None,
            "me": {"userID": user, "username": self.names[user]},
            "server": {
                "typingRepeat": round(self.limits.typing_repeat * 1000),
                "typingExpires": round(self.limits.typing_expires * 1000),
                "maxContent": self.limits.max_content,
                "maxPage": self.limits.max_page,
                "maxWatch": self.limits.max_watch,
                "returnWithin": 0,
            },
        }

    def _conversation(self, head: Change, new: list[Message], kept: list[Message], user: str) -> Json:
        skipped = [message.seq for message in new[: len(new) - len(kept)]]
        theirs = [message for message in self.talk(user, head.peer)[: head.seq] if message.sender == head.peer]
        unread = sum(message.seq > head.mine.read for message in theirs)
        return {
            "with": {"userID": head.peer, "username": self.names[head.peer]},
            "seq": head.seq,
            "rev": head.seq,
            "read": head.mine.read,
            "received": head.mine.received,
            "peerRead": head.theirs.read,
            "peerReceived": head.theirs.received,
            "unread": unread,
            "messages": [message.body() for message in kept],
            "gap": {"after": skipped[0] - 1, "before": skipped[-1] + 1} if skipped else None,
        }

    def users(self, user: str, version: int) -> dict[str, Json]:
        """The guide's page, by the id of each person in it."""
        changes = self.changes[user][:version]
        last = {change.peer: number for number, change in enumerate(changes, 1)}
        listed = set(self.names) if self.everybody_is_announced else {user, *last}
        left = self.limits.roster_total
        page: dict[str, Json] = {
            one: {"userID": one, "username": self.names[one], "messages": []} for one in listed
        }  # fmt: skip
        for peer in sorted(last, key=last.__getitem__, reverse=True):
            held = self.talk(user, peer)[: changes[last[peer] - 1].seq]
            count = min(len(held), self.limits.roster_messages, left)
            left -= count
            page[peer]["messages"] = [message.body() for message in held[len(held) - count :]]
        return page

    def history(self, user: str, peer: str, before: int | None, after: int | None, limit: int | None) -> Json | str:
        limits = self.limits
        if peer not in self.names:
            return "unknown user"
        if before is not None and after is not None:
            return "bad request"
        held = self.talk(user, peer)
        if any(seq is not None and not 0 <= seq <= len(held) + 1 for seq in (before, after)):
            return "unknown cursor"
        size = limits.page if limit is None else limit
        if not 1 <= size <= limits.max_page:
            return "bad request"
        if after is not None:
            found = [message for message in held if message.seq > after]
            kept = found[:size]
        else:
            found = [message for message in held if before is None or message.seq < before]
            kept = found[-size:]
        return {"messages": [message.body() for message in kept], "more": len(kept) < len(found)}

    def person(self, user: str, connected: bool) -> Json:
        return {
            "userID": user,
            "username": self.names[user],
            "connected": connected,
            "lastSeen": self.last_seen.get(user),
        }

    def directory(self, after: str | None, limit: int | None, online: set[str]) -> Json | str:
        size = self.limits.page if limit is None else limit
        if not 1 <= size <= self.limits.max_page:
            return "bad request"
        found = [user for user in sorted(self.names) if user > (after or "")]
        people = [self.person(user, user in online) for user in found[:size]]
        return {"people": people, "next": found[size - 1] if len(found) > size else None}
