"""Presence of several nodes: what happens here is written to the registry and hinted at, what is hinted at is looked up.

A hint says of whom, never what: whoever hears it asks the registry, so that the last word to every client is what is, in
whatever order the hints of a user who moves between nodes arrive. Hints go to the topic `p.<user>`, which a node subscribes
to for those whom its clients watch, and as `p.*` for clients of the guide's form while everybody is announced to everybody.
Beyond that the node where somebody comes or goes hints at them to each of their acquaintances, at `g.<acquaintance>`.

A hint may be lost. Every lease and a third, whenever the bus says that some may have been lost, and when the registry has
lost what it knew, everybody whom clients here show is compared with the registry, and whoever is found otherwise than was
told last is told anew. Whoever is newly shown here is compared by themselves, a moment later (`second_look`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

from duologue.domain.identity import is_user_id
from duologue.domain.limits import ChatLimits
from duologue.domain.model import User
from duologue.domain.ports import Bus, Registry, Store
from duologue.server.second_look import SecondLook

logger = logging.getLogger(__name__)

AT_ONCE: Final = 500
"""Users in one write to the registry or one look-up."""

PEERS_AT_ONCE: Final = 16
"""Users whose acquaintances are read at once; each may have `roster_people` of them."""

MAX_LOOKS: Final = 100_000
"""Users who wait to be looked up; hints beyond that are dropped."""

MAX_TOLD: Final = 100_000
"""Users who aren't watched of whom it's remembered what was told last; of others it's told once more than need be."""

RETRY_PAUSE: Final = 1.0
"""Seconds until what failed is tried again."""

BEATS_PER_LEASE: Final = 3
"""Signs of life in a lease. As often, at most, all who are shown here are compared with the registry."""

EVERYBODY: Final = "p.*"


class Local(Protocol):
    """This node's part of presence."""

    def here(self) -> Collection[str]:
        """The users who count as connected to this node."""
        ...

    def everybody_is_announced(self) -> bool: ...

    def tell(self, user: User, online: bool, acquaintances: Iterable[str]) -> None:
        """Tell whoever is here and has to know; of those who are told of acquaintances only, these."""
        ...


class Elsewhere:
    """Belongs to one node's presence. `run` until cancelled."""

    def __init__(self, registry: Registry, store: Store, bus: Bus, limits: ChatLimits) -> None:
        self._registry = registry
        self._store = store
        self._bus = bus
        self._limits = limits
        self._local: Local
        self._moved: OrderedDict[str, None] = OrderedDict()
        """Users who came or went here, of which the registry has still to be told."""
        self._looks: OrderedDict[str, set[str]] = OrderedDict()
        """Users to look up, and the acquaintances on whose behalf."""
        self._guides: dict[str, int] = {}
        """Users who are here with clients of the guide's form, and with how many."""
        self._follows_everybody = False
        self._watched: dict[str, bool | None] = {}
        """Whether the watchers of a user were told last that they're online; None until they're told."""
        self._told: OrderedDict[str, bool] = OrderedDict()
        """The same of those whom nobody watches, for whoever else shows them."""
        self._newly_shown = SecondLook(self._compare_topics)
        self._lease = asyncio.Lock()
        """Held while the lease is renewed or given up, for a renewal that comes after its end would bring the users back."""
        self._registered = asyncio.Event()
        """Set by the first renewal, before which the registry refuses whoever comes."""
        self._retired = False
        self._wake_writer = asyncio.Event()
        self._wake_looker = asyncio.Event()
        self._wake_reviewer = asyncio.Event()

    def connect(self, local: Local) -> None:
        """Called once, before anything else."""
        self._local = local

    def moved(self, user_id: str) -> None:
        """A user came or went here."""
        self._moved[user_id] = None
        self._wake_writer.set()

    def look(self, user_id: str, acquaintance: str | None = None) -> None:
        """Look a user up and tell whoever is here and has to know."""
        if user_id not in self._looks and len(self._looks) >= MAX_LOOKS:
            logger.warning("%d users wait to be looked up, a further one is left out", MAX_LOOKS)
            return
        asked = self._looks.setdefault(user_id, set())
        if acquaintance is not None:
            asked.add(acquaintance)
        self._wake_looker.set()

    async def online(self, users: Collection[str]) -> frozenset[str]:
        """Those of the users who are connected to any node. Raises `Refusal(UNAVAILABLE)`."""
        return await self._registry.online(list(users))

    def told(self, user_id: str, online: bool, reader: str) -> None:
        """A client of the reader's was told that this user is online, or isn't. If the others here were told otherwise
        one of them is wrong, and all are told again."""
        before = self._told_last(user_id)
        if before is None:
            self._remember(user_id, online)
        elif before != online:
            self.look(user_id, reader)

    def review(self) -> None:
        """Hints may have been lost."""
        self._wake_reviewer.set()

    def watch(self, user_id: str) -> None:
        """Somebody here is told of this user from now on."""
        self._watched[user_id] = self._told.pop(user_id, None)
        self._subscribe(f"p.{user_id}")

    def unwatch(self, user_id: str) -> None:
        told = self._watched.pop(user_id)
        if told is not None:
            self._remember(user_id, told)
        self._bus.unsubscribe_topic(f"p.{user_id}")

    def expect(self, user_id: str) -> None:
        """A client of the guide's form, of this user, is here."""
        count = self._guides.get(user_id, 0)
        self._guides[user_id] = count + 1
        if not count:
            self._subscribe(f"g.{user_id}")
        self._follow_everybody_or_not()

    def leave(self, user_id: str) -> None:
        """Such a client is gone."""
        left = self._guides[user_id] - 1
        if left:
            self._guides[user_id] = left
        else:
            del self._guides[user_id]
            self._bus.unsubscribe_topic(f"g.{user_id}")
        self._follow_everybody_or_not()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._write())
            group.create_task(self._look_up())
            group.create_task(self._review())
            group.create_task(self._newly_shown.run())

    async def retire(self) -> None:
        """This node leaves; who comes back elsewhere within the grace was never away. Raises `Refusal`."""
        self._retired = True
        async with self._lease:
            await self._registry.retire(self._limits.presence_grace)

    def _subscribe(self, topic: str) -> None:
        self._bus.subscribe_topic(topic, self._hint)
        self._newly_shown.note(topic)

    def _told_last(self, user_id: str) -> bool | None:
        return self._watched[user_id] if user_id in self._watched else self._told.get(user_id)

    def _remember(self, user_id: str, online: bool) -> None:
        if user_id in self._watched:
            self._watched[user_id] = online
        else:
            self._told[user_id] = online
            if len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)

    def _follow_everybody_or_not(self) -> None:
        wanted = bool(self._guides) and self._local.everybody_is_announced()
        if wanted and not self._follows_everybody:
            self._subscribe(EVERYBODY)
        elif self._follows_everybody and not wanted:
            self._bus.unsubscribe_topic(EVERYBODY)
        self._follows_everybody = wanted

    def _hint(self, topic: str, data: bytes) -> None:
        """From any node, this one included; a stranger on the bus may have sent anything."""
        kind, name = _parts(topic)
        user_id = name if kind == "p" else data.decode(errors="replace")
        if is_user_id(user_id):
            self.look(user_id, name if kind == "g" else None)
        if self._follows_everybody:
            self._follow_everybody_or_not()

    async def _beat(self) -> None:
        """Give signs of life, and speak for nodes that give none any more."""
        failing = False
        beats_until_review = 0
        while True:
            try:
                async with self._lease:
                    if self._retired:
                        return
                    renewal = await self._registry.renew(list(self._local.here()))
            except Exception as error:  # whatever it is: a node without signs of life loses all its users
                if not failing:
                    logger.warning("the registry of connected users can't be reached, presence stands still: %r", error)
                failing = True
                await asyncio.sleep(RETRY_PAUSE)
                continue
            failing = False
            self._registered.set()
            if renewal.taken_over:
                logger.info("%d users of a node that gives no sign of life are taken over", len(renewal.taken_over))
            # To be hinted at; it's no harm to write them down once more.
            self._moved.update(dict.fromkeys(renewal.anew | renewal.taken_over))
            self._wake_writer.set()
            if renewal.anew:
                # Perhaps the registry has lost everything: the others are there again within a lease, or are gone, and
                # then nobody else will say so.
                beats_until_review = BEATS_PER_LEASE + 1
            if beats_until_review:
                beats_until_review -= 1
                if not beats_until_review:
                    self.review()
            await asyncio.sleep(self._limits.presence_lease / BEATS_PER_LEASE)

    async def _write(self) -> None:
        """Tell the registry who came and went, and hint at them when it knows."""
        await self._registered.wait()
        while True:
            await self._wake_writer.wait()
            self._wake_writer.clear()
            while self._moved:
                users = list(self._moved)[:AT_ONCE]
                for user_id in users:
                    del self._moved[user_id]
                here = self._local.here()
                came = [user_id for user_id in users if user_id in here]
                gone = [user_id for user_id in users if user_id not in here]
                try:
                    if came:
                        await self._registry.arrive(came)
                    if gone:
                        await self._registry.leave(gone)
                    await self._hint_at(users)
                except Exception as error:
                    logger.info("%d users who came or went are written down later: %r", len(users), error)
                    self._moved.update(dict.fromkeys(users))
                    await asyncio.sleep(RETRY_PAUSE)

    async def _hint_at(self, users: Sequence[str]) -> None:
        for user_id in users:
            self._bus.publish_topic(f"p.{user_id}", b"")
        if self._local.everybody_is_announced():
            return
        for start in range(0, len(users), PEERS_AT_ONCE):
            some = users[start : start + PEERS_AT_ONCE]
            for user_id, peers in (await self._store.peers(some, self._limits.roster_people)).items():
                for peer in peers:
                    self._bus.publish_topic(f"g.{peer}", user_id.encode())

    async def _look_up(self) -> None:
        while True:
            await self._wake_looker.wait()
            self._wake_looker.clear()
            while self._looks:
                wanted = dict([self._looks.popitem(last=False) for _ in range(min(AT_ONCE, len(self._looks)))])
                try:
                    online = await self.online(wanted)
                    people = await self._store.people(list(wanted))
                except Exception as error:
                    logger.info("%d users are looked up later: %r", len(wanted), error)
                    for user_id, acquaintances in wanted.items():
                        self._looks.setdefault(user_id, set()).update(acquaintances)
                    await asyncio.sleep(RETRY_PAUSE)
                    continue
                for person in people:
                    user = person.user
                    # One who came here while we asked is written down later, and is hinted at again then.
                    is_online = user.id in online or user.id in self._local.here()
                    self._remember(user.id, is_online)
                    self._local.tell(user, is_online, wanted[user.id])

    async def _review(self) -> None:
        """Every lease and a third, and when something may have been lost: then once more a while after, for the servers of a
        bus that is back learn of the subscriptions one after another."""
        pause = self._limits.presence_lease
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._wake_reviewer.wait()
            except TimeoutError:
                pass
            lost = self._wake_reviewer.is_set()
            self._wake_reviewer.clear()
            try:
                await self._compare(list(self._watched))
                if self._guides and self._local.everybody_is_announced():
                    await self._compare(await self._everybody())
                else:
                    for user_id in list(self._guides):
                        await self._compare_peers(user_id, all_again=lost)
                pause = 0.0 if lost else self._limits.presence_lease
            except Exception as error:
                logger.info("who is online is compared later: %r", error)
                self._wake_reviewer.set()
            await asyncio.sleep(self._limits.presence_lease / BEATS_PER_LEASE)

    async def _compare_topics(self, topics: list[str]) -> None:
        """Compare those of whom somebody here is told since these topics were subscribed to."""
        watched = [name for kind, name in map(_parts, topics) if kind == "p" and name in self._watched]
        await self._compare(watched)
        everybody = self._local.everybody_is_announced()
        if EVERYBODY in topics and everybody:
            await self._compare(await self._everybody())
        for kind, name in map(_parts, topics):
            if kind == "g" and name in self._guides and not everybody:
                await self._compare_peers(name)

    async def _compare_peers(self, user_id: str, all_again: bool = False) -> None:
        """Those of whom this user's clients of the guide's form are told. What was told last was perhaps told to another's:
        with `all_again` set they are looked up whatever it was."""
        peers = (await self._store.peers([user_id], self._limits.roster_people))[user_id]
        if not all_again:
            await self._compare(peers, user_id)
            return
        for peer in peers:
            self.look(peer, user_id)

    async def _compare(self, users: list[str], acquaintance: str | None = None) -> None:
        """Look those users up who are found otherwise than was told of them."""
        for start in range(0, len(users), AT_ONCE):
            some = users[start : start + AT_ONCE]
            online = await self.online(some)
            for user_id in some:
                if self._told_last(user_id) != (user_id in online or user_id in self._local.here()):
                    self.look(user_id, acquaintance)

    async def _everybody(self) -> list[str]:
        """Everybody who is announced to everybody."""
        users: list[str] = []
        place: str | None = ""
        while place is not None and len(users) <= self._limits.announce_people:
            page = await self._store.directory(place, AT_ONCE)
            users += [person.user.id for person in page.people]
            place = page.next
        return users


def _parts(topic: str) -> tuple[str, str]:
    kind, _, name = topic.partition(".")
    return kind, name
