"""People whom the page of `bench.web` talks to: sockets that write, tell that they type, and read what they get."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from typing import Any, Final

import picows
from picows import WSTransport

from bench.client import Client
from bench.frames import EVENT

PATIENCE: Final = 60.0
"""Seconds for signing in, and for the acks of a batch."""

BATCH: Final = 200
"""Messages under way while a history is written."""

SPEECH: Final = (
    "and so we went on to the old harbour because nobody knew whether tomorrow would be better than today "
    "which is why I think that you should come along with us although it may rain again in the evening"
)


class Person(Client):
    """One socket of somebody, signed in by the sync form."""

    def __init__(self, auth: dict[str, Any]) -> None:
        super().__init__({**auth, "sync": {"since": None}})
        self.name = str(auth.get("username", ""))
        self.user_id = ""
        self.session_id = ""
        self.refusal = ""
        self.read = 0
        """Messages that came and were read."""
        self._acks = 0
        self._waiting = 0
        self._acked = asyncio.Event()

    def on_packet(self, payload: bytes) -> None:
        if payload.startswith(EVENT):
            self._arrived(json.loads(payload[2:])[1])
        elif payload.startswith(b"43"):
            self._answered(payload)
        elif payload.startswith(b'42["session"'):
            session = json.loads(payload[2:])[1]
            self.user_id, self.session_id = session["userID"], session["sessionID"]
        elif payload.startswith(b'42["sync"'):
            self.ready.set_result(None)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.refusal = self.refusal or "a socket was lost"
        self._acked.set()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("closed at sign-in"))

    def _arrived(self, message: dict[str, Any]) -> None:
        if message["from"] == self.user_id:
            return
        self.read += 1
        self._ask("read", {"with": message["from"], "seq": message["seq"]})

    def _answered(self, payload: bytes) -> None:
        if b'"error"' in payload:
            self.refusal = payload.decode()
        self._waiting -= 1
        if self._waiting == 0:
            self._acked.set()

    def _ask(self, event: str, body: dict[str, Any]) -> None:
        self._acks += 1
        self._waiting += 1
        self._acked.clear()
        self.write(b"42%d" % self._acks + json.dumps([event, body]).encode())

    def type(self, to: str) -> None:
        self._ask("typing", {"to": to})

    def say(self, to: str, content: str) -> None:
        self._ask("private message", {"content": content, "to": to, "id": str(uuid.uuid4())})

    async def answered(self) -> None:
        """Everything that was asked has its ack. Raises RuntimeError if something was refused."""
        if self._waiting:
            await asyncio.wait_for(self._acked.wait(), PATIENCE)
        if self.refusal:
            raise RuntimeError(self.refusal)

    def leave(self) -> None:
        self.transport.disconnect(False)


async def enter(url: str, **auth: str) -> Person:
    """Signs in with a `username` or a `sessionID`."""
    person = Person(auth)
    await picows.ws_connect(lambda: person, url, max_frame_size=10_000_000)
    await asyncio.wait_for(person.ready, PATIENCE)
    return person


def texts(seed: int) -> Iterator[str]:
    """What people write: mostly a few words, now and then some lines, a link or an emoji."""
    chosen, speech = random.Random(seed), SPEECH.split()
    while True:
        longest = chosen.choices((4, 12, 60), (45, 45, 10))[0]
        words = chosen.choices(speech, k=chosen.randint(1, longest))
        if chosen.random() < 0.05:
            words.append(f"https://example.org/{chosen.randrange(10**6)}")
        if chosen.random() < 0.1:
            words.append(chosen.choice("😀👍🎉❤"))
        yield " ".join(words)


async def converse(one: Person, other: Person, count: int) -> None:
    """Writes a history: they take turns of one to four messages."""
    chosen, content = random.Random(count), texts(count)
    written = 0
    while written < count:
        until = min(written + BATCH, count)
        while written < until:
            writer, reader = (one, other) if chosen.random() < 0.5 else (other, one)
            for _ in range(min(chosen.randint(1, 4), until - written)):
                writer.say(reader.user_id, next(content))
                written += 1
        await one.answered()
        await other.answered()
