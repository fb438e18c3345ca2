"""The chat of the state machine: everybody's devices, what was done, and the comparison with `Model` that ends each rule.

Store, bus, hub, gateway, transports and wire core are the real ones. A device is a `Pipe`: packets in, frames out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from duologue.domain.limits import ChatLimits
from tests.actions.device import Device, is_uuid, made_up_ids, same
from tests.actions.model import Json, Message, Model
from tests.support import image
from tests.support.clock import SetClock
from tests.support.composition import Chat
from tests.support.pipe import PATIENCE

LIMITS = ChatLimits(
    max_content=20, page=2, max_page=4, sync_total=3, page_bytes=1_000_000, announce_people=4, roster_people=100,
    roster_messages=3, roster_total=5, message_rate=1e9, message_burst=1e9, connect_rate=1e9, connect_burst=1e9,
    max_user_connections=100, request_limit=16, max_watch=8, presence_grace=0,
    typing_repeat=3, typing_expires=6,
)  # fmt: skip
"""Small enough that every page, gap and bound is met within a few steps; the fifth person passes `announce_people`."""

MOST_PEOPLE = 6
MOST_DEVICES = 7

NOBODY = "0" * 16


class Send(NamedTuple):
    device: int
    to: int
    id: int | None
    content: str
    ack: bool


class Mark(NamedTuple):
    device: int
    peer: int
    event: str
    seq: int
    ack: bool


class Cut(NamedTuple):
    device: int
    how: str


class Join(NamedTuple):
    token: int
    syncs: bool
    since: int


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SetClock()
        self.devices: list[Device] = []
        self.gone: list[Device] = []
        self.epochs: list[str] = []
        self.backup: tuple[image.Image, Model] | None = None
        self.guests = 0
        self.versions: dict[str, int] = {}
        """Each user's version when the last rule ended: no page may be behind it."""
        self.outcomes: dict[int, Message | Json | str] = {}
        """By the model's step."""
        self.lingering: set[str] = set()
        """Who left but isn't told of for the grace."""
        self.came: set[str] = set()
        self.left: set[str] = set()
        """Who signed in, and who went offline, since the last rule ended."""
        self.errors = _Errors()
        self.chat: Chat
        self.model: Model
        self.observer: Device
        """Watches everybody and is never cut off, so that one can wait for what it is told."""

    # Choices

    def device(self, pick: int) -> Device:
        ready = [device for device in self.devices if device.ready]
        return ready[pick % len(ready)]

    def person(self, pick: int) -> str:
        people = list(self.model.names)
        return people[pick % len(people)]

    def cursor(self, user: str, pick: int) -> object:
        """Mostly cursors of the user, and now and then what no server gave out, or not this one."""
        version = self.model.version(user)
        if pick >= 0:
            return self.model.cursor(version - pick if pick <= version else version + pick)
        strange = (None, f"{self.epochs[0]}x.0", "", f"{self.model.epoch}.-1")
        return f"{self.epochs[-2]}.{version}" if pick == -4 and len(self.epochs) > 1 else strange[-pick - 1]

    # Life

    async def begin(self, guests: int, grace: bool) -> None:
        logging.getLogger("duologue").addHandler(self.errors)
        self.grace = grace
        await self.open_chat()
        self.model = Model(self.chat.store.epoch, LIMITS)
        self.epochs.append(self.model.epoch)
        self.observer = await self.sign_in_anew("Observer", syncs=True)
        await self.watch_everybody()
        for number in range(guests):
            await self.new_guest(syncs=number % 2 == 0)

    async def open_chat(self) -> None:
        limits = msgspec.structs.replace(LIMITS, presence_grace=1e6) if self.grace else LIMITS
        self.chat = await Chat.open(self.folder, self.clock, limits)
        self.lingering.clear()

    async def leave(self) -> None:
        logging.getLogger("duologue").removeHandler(self.errors)
        await self.chat.leave()

    async def sign_in_anew(self, name: str, *, syncs: bool) -> Device:
        device = Device(self.chat.transport, syncs, None)
        device.connect({"username": name, **({"sync": {"since": None}} if syncs else {})})
        await device.until(lambda: device.paged)
        device.greeted()
        assert device.token not in self.model.tokens
        assert device.user not in self.model.names
        self.model.join(device.user, name, device.token)
        self.devices.append(device)
        return device

    async def new_guest(self, syncs: bool) -> None:
        self.guests += 1
        await self.sign_in_anew(f"guest {self.guests}", syncs=syncs)
        await self.watch_everybody()
        await self.settle()

    async def watch_everybody(self) -> None:
        everybody = sorted(self.model.names)
        answer = await self.observer.ask("watch", {"users": everybody})
        self.observer.watched = set(everybody)
        self.observer.online |= {person["userID"]: person["connected"] for person in answer["people"]}

    def join(self, action: Join) -> Device:
        tokens = list(self.model.tokens)
        token = tokens[action.token % len(tokens)]
        user = self.model.tokens[token]
        since = self.cursor(user, action.since)
        device = Device(self.chat.transport, action.syncs, since, user)
        device.earliest = self.versions.get(user, 0)
        device.connect({"sessionID": token, **({"sync": {"since": since}} if action.syncs else {})})
        self.devices.append(device)
        self.came.add(user)
        return device

    # What is done without waiting for the answer; the model is told what is to become of it

    def feed(self, action: Send | Mark | Cut | Join) -> None:
        if isinstance(action, Join):
            if len(self.devices) < MOST_DEVICES:
                self.join(action)
            return
        device = self.device(action.device)
        if isinstance(action, Cut):
            if device is not self.observer:
                self.cut(device, action.how)
        elif isinstance(action, Send):
            self.send(device, self.person(action.to), action)
        else:
            self.mark(device, self.person(action.peer), action)

    def send(self, device: Device, to: str, action: Send) -> None:
        id = uuid_of(action.id)
        ack_id = device.emit(
            "private message",
            {"content": action.content, "to": to, "from": NOBODY, "seq": 99, **({"id": id} if id else {})},
            ack=action.ack,
        )
        if to in self.model.names and to not in self.model.peers(device.user):
            device.unsure.add(to)
        device.wrote_to.add(to)
        outcome = self.model.send(device.user, to, id, action.content, self.clock.wall, device)
        self.outcomes[self.model.steps] = outcome
        if isinstance(outcome, str):
            device.expect_refusal(ack_id, "private message", outcome, id)
        elif ack_id is not None:
            device.promised[ack_id] = outcome.ack
            device.steps[self.model.steps] = ack_id

    def mark(self, device: Device, peer: str, action: Mark) -> None:
        ack_id = device.emit(action.event, {"with": peer, "seq": action.seq}, ack=action.ack)
        read = action.seq if action.event == "read" else 0
        outcome = self.model.receipt(device.user, peer, action.seq, read, device)
        self.outcomes[self.model.steps] = outcome
        if isinstance(outcome, str):
            device.expect_refusal(ack_id, action.event, outcome)
        elif ack_id is not None:
            device.promised[ack_id] = lambda: outcome
            device.steps[self.model.steps] = ack_id

    def cut(self, device: Device, how: str) -> None:
        getattr(device, how)()
        self.devices.remove(device)
        self.gone.append(device)
        self.goes(device.user)

    def online(self) -> set[str]:
        return {device.user for device in self.devices} | self.lingering

    def goes(self, user: str) -> None:
        """A socket of the user is gone."""
        if self.grace:
            self.lingering.add(user)
        elif user not in self.online():
            self.left.add(user)

    # The end of every rule

    async def settle(self) -> None:
        """Wait until all that was begun has ended, and compare everything."""
        for device in self.devices:
            if not device.ready:
                await device.until(lambda device=device: device.paged)
                if not device.user or not device.token:
                    device.greeted()
        await self.wait_for_writes()
        await self.learn_ids()
        for device in self.devices:
            if not device.ready:
                device.compare_page(self.model)
        online = self.online()
        for device in self.devices:
            # Beyond `announce_people` acquaintances are read before they are told.
            await self._wait_for_presence(device, online)
        await self._wait_for_departures()
        for device in self.devices:
            device.listen(self.model)
            device.compare(self.model)
            same(device.misled(self.model, online), {})
        for device in self.gone:
            device.compare_prefix(self.model)
        self.gone.clear()
        assert self.errors.found == []
        self.versions = {user: self.model.version(user) for user in self.model.names}

    async def _wait_for_presence(self, device: Device, online: set[str]) -> None:
        def right() -> bool:
            device.listen(self.model)
            return not device.misled(self.model, online)

        try:
            await device.until(right)
        except TimeoutError:
            same(device.misled(self.model, online), {})
            raise

    async def wait_for_writes(self) -> None:
        """A receipt that moves nothing is answered after all that was submitted before it."""
        answer = await self.observer.ask("received", {"with": self.observer.user, "seq": 0})
        assert "error" not in answer
        await asyncio.sleep(0)

    async def _wait_for_departures(self) -> None:
        """Until it is written down who has left. Of somebody who came back at once it may have been or not."""
        for user in self.left | self.came:
            before = self.model.last_seen.get(user)
            now = max(self.clock.wall, before or 0)  # it only moves forward, also if the clock doesn't
            may: set[int | None] = {now} if user in self.left else {before}
            if user in self.came:
                may |= {now, before}
            async with asyncio.timeout(PATIENCE):
                while True:
                    (person,) = await self.chat.store.people([user])
                    if person.last_seen in may:
                        break
            if person.last_seen is not None:
                self.model.last_seen[user] = person.last_seen
        self.left.clear()
        self.came.clear()

    async def learn_ids(self) -> None:
        for message in made_up_ids(self.model):
            page = await self.chat.store.history(message.sender, message.to, None, message.seq - 1, 1)
            assert is_uuid(page.messages[0].id)
            message.id = page.messages[0].id

    async def at_once(self, actions: Sequence[Send | Mark | Cut | Join], turns: Sequence[int]) -> None:
        for action, count in zip(actions, turns, strict=False):
            self.feed(action)
            for _ in range(count):
                await asyncio.sleep(0)
        await self.settle()

    async def join_and_cut(self, action: Join, turns: int) -> None:
        if len(self.devices) == MOST_DEVICES:
            return
        device = self.join(action)
        for _ in range(turns):
            await asyncio.sleep(0)
        # Who is cut off before the sign-in ends was never there for anybody.
        online = self.chat.gateway.presence.is_online(device.user)
        device.lose()
        self.devices.remove(device)
        if online:
            self.goes(device.user)
        self.came.discard(device.user)
        await self.settle()


class _Errors(logging.Handler):
    """What a server must not log in all this: an exception that nobody expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


def uuid_of(id: int | None) -> str | None:
    return None if id is None else f"{id:08x}-0000-4000-8000-000000000000"
