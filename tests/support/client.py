"""A chat client for docs/protocol.md that writes down what it was promised and what it saw.

    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "bob", record) as bob:
        ack = await alice.send(bob.user_id, "hello")            # {id, seq, at}
        await bob.wait_for_message("hello")
        bob.cut(); await bob.connect()                          # resumes its session from its last cursor
        await bob.complete()
    check(record, await stored_messages([alice, bob])).assert_clean()

It is a device that keeps to the contract: the cursor it asks from covers what it holds, a jump in the seqs is filled from
the history, a send that got no ack may be repeated with the same id. It never reconnects by itself: a test says when.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from tests.support.coverage import Coverage
from tests.support.links import LinkFailed
from tests.support.record import Ack, How, Message, MessageKey, Record, Sent, SocketLog
from tests.support.sockets import PATIENCE, ConnectionLost, Event, NoAnswer, Refused, SocketClient

__all__ = ["ChatClient", "ConnectionLost", "Event", "NoAnswer", "Refused", "stored_messages"]

PAGE: Final = 200
RETRY_PAUSE: Final = 0.05
"""Seconds between two attempts while a server is away."""

_devices = itertools.count(1)


class ChatClient(SocketClient):
    """One device of one user. After `connect` it has `user_id`, `session_id` and, in the sync form, `cursor`.

    `guide=True` speaks as the guide's client does: no sync, `users` gets the roster. `transport` is "websocket" or "polling".
    """

    def __init__(
        self,
        url: str,
        username: str,
        record: Record | None = None,
        *,
        session_id: str | None = None,
        guide: bool = False,
        transport: str = "websocket",
    ) -> None:
        super().__init__(url, transport, f"{username}/{next(_devices)}")
        self.username = username
        self.record = record if record is not None else Record()
        self.guide = guide
        self.session_id = session_id
        self.user_id = ""
        self.cursor: str | None = None
        self.users: list[dict[str, Any]] = []
        self.pages: list[dict[str, Any]] = []
        """The pages of the last sync."""
        self.heads: dict[str, int] = {}
        """Peer -> last seq that is known to exist."""
        self.log = SocketLog("", self.device, 0)
        self._held: dict[str, Coverage] = {}
        self.may_be_dismissed = False
        self.dismissed = False
        self._synced = False
        self._last_cursor: str | None = None

    # -- connection -------------------------------------------------------------------------------------------------

    async def connect(self, timeout: float = PATIENCE) -> Self:
        """Sign in, or resume the session from the last cursor. Raises `LinkFailed`, `Refused` or `ConnectionLost`."""
        if self.connected:
            raise RuntimeError("connected already")
        self._synced = False
        self._last_cursor = None
        try:
            async with asyncio.timeout(timeout):
                await self._open(self._auth())
                if not self.guide:
                    await self._finish_sync()
        except TimeoutError:
            self.cut()
            raise NoAnswer(
                f"{self.device} by {self.transport}: not connected in time, saw only {self.events}"
            ) from None
        except BaseException:
            self.cut()
            raise
        return self

    async def connect_surely(self, timeout: float = 60.0) -> Self:
        """Connect, again and again while the server is away or busy."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await self.connect()
                except (LinkFailed, ConnectionLost, NoAnswer):
                    await asyncio.sleep(RETRY_PAUSE)
                except Refused as refusal:
                    if "retryAfter" not in refusal.answer.get("data", {}):
                        raise
                    await asyncio.sleep(refusal.answer["data"]["retryAfter"])

    def _auth(self) -> dict[str, Any]:
        auth: dict[str, Any] = {"sessionID": self.session_id} if self.session_id else {"username": self.username}
        return auth if self.guide else {**auth, "sync": {"since": self.cursor}}

    # -- asking -----------------------------------------------------------------------------------------------------

    async def send(self, to: str, content: str, *, id: str | None = None, timeout: float = PATIENCE) -> dict[str, Any]:
        """Send a message once; `{id, seq, at}`. Raises as `request`; after all but `Refused`, retry with the same id."""
        id = id or str(uuid.uuid4())
        self.record.sent.append(Sent(self.user_id, to, id, content))
        answer = await self.request("private message", {"content": content, "to": to, "id": id}, timeout=timeout)
        if answer["id"].lower() != id.lower():
            self.record.broken.append(f"{self.device} sent {id} and was acknowledged {answer}")
        self.record.note_ack(self.device, Ack(MessageKey(self.user_id, to, answer["id"]), answer["seq"], answer["at"]))
        self._hold(to, [answer["seq"]])
        return answer

    async def send_surely(
        self, to: str, content: str, *, id: str | None = None, timeout: float = 60.0
    ) -> dict[str, Any]:
        """Send until it is acknowledged, through lost connections and retryable refusals, always with the same id."""
        id = id or str(uuid.uuid4())
        async with asyncio.timeout(timeout):
            while True:
                try:
                    if not self.connected:
                        await self.connect_surely(timeout)
                    return await self.send(to, content, id=id)
                except ConnectionLost:
                    continue
                except NoAnswer:
                    self.cut()
                except Refused as refusal:
                    if "retryAfter" not in refusal.answer:
                        raise
                    await asyncio.sleep(refusal.answer["retryAfter"])

    def say(self, to: str, content: str) -> None:
        """Send in the guide's form: no id, no ack."""
        self.record.sent.append(Sent(self.user_id, to, None, content))
        self.emit("private message", {"content": content, "to": to})

    async def history(self, peer: str, **place: int) -> dict[str, Any]:
        """A page as the server gives it; `place` is before=, after=, limit=."""
        page = await self.request("history", {"with": peer, **place})
        self.log.note(page["messages"], How.HISTORY)
        self._hold(peer, [message["seq"] for message in page["messages"]])
        return page

    async def complete(self) -> None:
        """Read whatever this device is still missing, and have the checker expect that it misses nothing."""
        if not self.connected:
            await self.connect_surely()
        for peer in list(self.heads):
            await self._fill(peer)
        self.record.complete[self.device] = self.user_id

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def wait_for_message(self, content: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The first live message with that text."""
        event = await self.wait_for(
            lambda event: event[0] == "private message" and event[1][0]["content"] == content, timeout
        )
        message: dict[str, Any] = event[1][0]
        return message

    # -- inside -----------------------------------------------------------------------------------------------------

    def _on_dismissal(self) -> None:
        # Unless its session has ended this server closes transports instead.
        if not self.may_be_dismissed:
            self.record.broken.append(f"{self.log.name} was dismissed by a DISCONNECT packet")
        self.dismissed = True

    def _on_event(self, name: str, arguments: list[Any]) -> None:
        match name:
            case "session":
                self._on_session(arguments[0])
            case "users":
                self._on_users(arguments[0])
            case "sync":
                self.pages = [arguments[0]]
                if arguments[0]["reset"]:
                    # At once: what comes live behind it is to be kept.
                    self._held.clear()
                    self.heads.clear()
                    self.log.reset = True
                self._settle_connect()
            case "private message":
                self._on_message(arguments[0])
        if arguments and isinstance(arguments[0], dict) and (cursor := arguments[0].get("cursor")) and name != "sync":
            self._on_cursor(cursor)

    def _on_session(self, session: dict[str, Any]) -> None:
        if self.user_id and session["userID"] != self.user_id:
            self.record.broken.append(f"{self.device} resumed {self.user_id} and became {session['userID']}")
        self.user_id = session["userID"]
        self.session_id = session["sessionID"]
        self.log = self.record.open_socket(self.user_id, self.device)

    def _on_users(self, users: list[dict[str, Any]]) -> None:
        self.users = users
        # The guide's client starts from nothing at each connect, so it may be told everything again.
        self.log.reset = True
        for user in users:
            self.log.note(user["messages"], How.ROSTER)
            self._hold(user["userID"], [message["seq"] for message in user["messages"]])
        self.log.keep()
        self._settle_connect()

    def _on_message(self, value: dict[str, Any]) -> None:
        self.log.note([value], How.LIVE, value.get("cursor"))
        self._hold(self._peer(Message.parse(value)), [value["seq"]])
        if self.guide:
            self.log.keep()

    def _on_cursor(self, cursor: str) -> None:
        self.log.cursors.append(cursor)
        self._last_cursor = cursor
        if self._synced:
            self.cursor = cursor
            self.log.keep()

    def _peer(self, message: Message) -> str:
        return message.recipient if message.sender == self.user_id else message.sender

    def _hold(self, peer: str, seqs: Iterable[int]) -> None:
        seqs = list(seqs)
        self._held.setdefault(peer, Coverage()).add(seqs)
        self.heads[peer] = max([self.heads.get(peer, 0), *seqs])

    async def _finish_sync(self) -> None:
        """Take the first page, fetch the others, fill the gaps; only then does the cursor move."""
        first = self.pages[0]
        since = self.cursor
        gaps = self._take_page(first)
        token = first["next"]
        while token is not None:
            page = await self.request("sync", {"since": since, "next": token})
            self.pages.append(page)
            gaps += self._take_page(page)
            token = page["next"]
        for peer in gaps:
            await self._fill(peer)
        self._synced = True
        self.cursor = self._last_cursor or first["cursor"]
        self.log.keep()

    def _take_page(self, page: dict[str, Any]) -> list[str]:
        """Note a page's messages; the peers whose conversations have a gap."""
        gaps = []
        for entry in page["conversations"]:
            peer = entry["with"]["userID"]
            self.log.note(entry["messages"], How.SYNC)
            self._hold(peer, [message["seq"] for message in entry["messages"]])
            self.heads[peer] = max(self.heads[peer], entry["seq"])
            if entry["gap"] is not None:
                gaps.append(peer)
            self._judge_page(peer, entry)
        return gaps

    def _judge_page(self, peer: str, entry: dict[str, Any]) -> None:
        """P4: what a page leaves out has to be announced."""
        after, before = (entry["gap"]["after"], entry["gap"]["before"]) if entry["gap"] else (0, 0)
        for first, last in self._held[peer].holes(entry["seq"]):
            if not after < first <= last < before:
                self.record.broken.append(
                    f"{self.log.name}: a sync left out {first} to {last} with {peer} and announced {entry['gap']}"
                )

    async def _fill(self, peer: str) -> None:
        for first, last in list(self._held.get(peer, Coverage()).holes(self.heads[peer])):
            after = first - 1
            while after < last:
                page = await self.history(peer, after=after, limit=min(PAGE, last - after))
                if not page["messages"]:
                    self.record.broken.append(
                        f"{self.log.name}: no history with {peer} after {after}, head {self.heads[peer]}"
                    )
                    return
                after = page["messages"][-1]["seq"]

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def stored_messages(readers: Iterable[ChatClient]) -> list[Message]:
    """Everything stored in the conversations of these users, read by history from seq 1, each conversation once.

    The readers must be connected and take part, between them, in every conversation of the run's record, or the checker
    takes the others for lost. It asks the server, so it sees what the store answers now, nothing that a client holds.
    """
    stored: dict[tuple[str, str], list[Message]] = {}
    for reader in readers:
        # What comes meanwhile may be of a peer whom this reader didn't know yet, or begin its heads anew.
        while (peer := _unread(reader, stored)) is not None:
            found: list[Message] = []
            more = True
            while more:
                after = found[-1].seq if found else 0
                page = await reader.request("history", {"with": peer, "after": after, "limit": PAGE})
                found += [Message.parse(value) for value in page["messages"]]
                more = page["more"]
            stored[_pair(reader.user_id, peer)] = found
    return [message for messages in stored.values() for message in messages]


def _pair(one: str, other: str) -> tuple[str, str]:
    return min(one, other), max(one, other)


def _unread(reader: ChatClient, stored: Mapping[tuple[str, str], object]) -> str | None:
    """A peer of the reader whose conversation isn't among those; None if there's none left."""
    return next((peer for peer in reader.heads if _pair(reader.user_id, peer) not in stored), None)
