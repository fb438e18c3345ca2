"""One signed-in socket of the state machine: what it was promised, and the comparison with what it got."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from duologue.server.transport import SocketServer
from tests.actions.model import Json, Message, Model
from tests.support.pipe import Pipe

DURABLE = ("private message", "receipt")
PRESENCE = ("user connected", "user disconnected")


class Device(Pipe):
    """`syncs`: it has the sync form of the protocol, else the guide's. `since` is the cursor that it came with."""

    def __init__(self, server: SocketServer, syncs: bool, since: object, user: str | None = None) -> None:
        super().__init__(server)
        self.syncs = syncs
        self.since = since
        self.user = user or ""
        self.token = ""
        self.page: Any = None
        self.start: int | None = None
        """The version that the first page brought it to, once that was compared."""
        self.earliest = 0
        """The version that it can't be behind: what was committed before it connected."""
        self.promised: dict[int, Callable[[], Json | str]] = {}
        """What each ack has to say; a text is the code of a refusal."""
        self.steps: dict[int, int] = {}
        """The model's step to the ack id."""
        self.refusals: list[tuple[str, str, str | None]] = []
        self.hints: list[Json] = []
        self.online: dict[str, bool] = {}
        """What it was last told of whom."""
        self.unsure: set[str] = set()
        """Whose presence it may not have been told yet: it wrote to them first, so it is asked for nothing."""
        self.wrote_to: set[str] = set()
        self.watched: set[str] = set()
        self._heard = 0
        self._known: set[str] = set()

    @property
    def ready(self) -> bool:
        return self.start is not None

    @property
    def paged(self) -> bool:
        return any(name in ("users", "sync") for name, _ in self.events)

    def greeted(self) -> None:
        """The first page has come: note who we are."""
        (session, *_), (page, *_) = (
            [body for name, body in self.events if name in names] for names in (("session",), ("users", "sync"))
        )
        assert [name for name, _ in self.events][:2] == ["session", "sync" if self.syncs else "users"]
        self.token, self.page = session["sessionID"], page
        assert self.user in ("", session["userID"]), "signed in as somebody else"
        self.user = session["userID"]

    def compare_page(self, model: Model) -> None:
        """The first page is the state of one version, and all that follows is live. Sets `start`."""
        latest = model.version(self.user)
        if self.syncs:
            version = int(self.page["cursor"].rpartition(".")[2])
            assert self.earliest <= version <= latest
            same(without_presence(self.page), model.sync(self.user, self.since, None, version))
            self.start = version
            return
        page = {person["userID"]: without_presence(person) for person in self.page}
        assert len(page) == len(self.page), "somebody is listed twice"
        # The guide's page has no cursor: it's that of some version since we came, and what follows says of which.
        of_page = [
            version for version in range(self.earliest, latest + 1) if model.users(self.user, version) == page
        ]  # fmt: skip
        if not of_page:
            same(page, model.users(self.user, latest))
        of_both = [version for version in of_page if model.live(self.user, version, self) == self.seen(DURABLE)]
        self.start = (of_both or of_page)[-1]

    def answered(self, step: int) -> bool:
        return self.steps.get(step) in self.acks

    def seen(self, names: tuple[str, ...]) -> list[tuple[str, Any]]:
        return [event for event in self.events if event[0] in names]

    def listen(self, model: Model) -> None:
        """Follow what was said of people, and hold that against who may be told of whom."""
        for name, body in self.events[self._heard :]:
            if name == "users":
                self.online |= {person["userID"]: person["connected"] for person in body}
                self._known |= self.online.keys()
            elif name == "sync":
                self._known |= {conversation["with"]["userID"] for conversation in body["conversations"]}
                upto = int(body["cursor"].rpartition(".")[2])
                self._known |= {change.peer for change in model.changes[self.user][:upto]}
            elif name in PRESENCE:
                about = body["userID"] if name == "user connected" else body
                if name == "user connected":
                    assert body == {**body, "username": model.names[about], "messages": []}
                self.online[about] = name == "user connected" and body["connected"]
                self.unsure.discard(about)
                self._known.add(about)
                allowed = self.watched | model.peers(self.user)
                if not self.syncs and model.everybody_is_announced:
                    allowed |= model.names.keys()
                assert about in allowed, f"told of {about}, who is nobody to it"
            elif name == "private message":
                peer = body["to"] if body["from"] == self.user else body["from"]
                assert peer in self._known | self.wrote_to | {self.user}, "a message of somebody it was never told of"
        self._heard = len(self.events)

    def compare(self, model: Model) -> None:
        """All that came since the first page, exactly."""
        assert self.start is not None
        assert self.broken == []
        same(self.seen(DURABLE), model.live(self.user, self.start, self))
        assert self.acks.keys() >= self.promised.keys()
        for id, promise in self.promised.items():
            assert_answer(self.acks[id], promise())
        # What is refused at once overtakes what the store refuses.
        refused = Counter((body["event"], body["error"]) for _, body in self.seen(("refused",)))
        same(refused, Counter((event, error) for event, error, _ in self.refusals))
        named = Counter((body["event"], body["error"], body.get("id")) for _, body in self.seen(("refused",)))
        assert Counter(refusal for refusal in self.refusals if refusal[2] is not None) <= named
        same([body for _, body in self.seen(("typing",))], self.hints)

    def compare_prefix(self, model: Model) -> None:
        """Of a device that was cut off: what came until then is the beginning of what there was to come."""
        assert self.broken == []
        if self.start is None:
            return
        seen = self.seen(DURABLE)
        same(seen, model.live(self.user, self.start, self)[: len(seen)])
        for id in self.promised.keys() & self.acks.keys():
            assert_answer(self.acks[id], self.promised[id]())

    def expect_refusal(self, ack_id: int | None, event: str, code: str, id: str | None = None) -> None:
        if ack_id is None:
            self.refusals.append((event, code, id))
        else:
            self.promised[ack_id] = lambda: code

    def entitled(self, model: Model) -> set[str]:
        """Whose coming and going it has to be right about."""
        if self.syncs:
            return self.watched
        if model.everybody_is_announced:
            return model.names.keys() - {self.user}
        return model.peers(self.user) - {self.user} - self.unsure

    def misled(self, model: Model, online: set[str]) -> dict[str, bool | None]:
        """Whom it believes wrong things of."""
        return {
            user: self.online.get(user)
            for user in self.entitled(model)
            if self.online.get(user) is not (user in online)
        }  # fmt: skip


def assert_answer(got: Any, wanted: Json | str) -> None:
    if isinstance(wanted, str):
        assert got.get("error") == wanted, (got, wanted)
        assert got["message"]
        assert got.keys() <= {"error", "message"}
    else:
        same(got, wanted)


def same(got: Any, wanted: Any) -> None:
    """Says both where they differ, also where pytest does not rewrite assertions."""
    assert got == wanted, f"\n   got {got}\nwanted {wanted}"


def without_presence(page: Any) -> Any:
    """The page without who is online at the moment, which is compared by itself."""
    if isinstance(page, dict):
        return {name: without_presence(value) for name, value in page.items() if name != "connected"}
    if isinstance(page, list):
        return [without_presence(value) for value in page]
    return page


def made_up_ids(model: Model) -> list[Message]:
    return [message for held in model.messages.values() for message in held if message.id is None]


def is_uuid(text: object) -> bool:
    return isinstance(text, str) and str(uuid.UUID(text)) == text
