"""Between sockets and actions: an event's name finds its handler, its arguments are decoded once.

The path of a message is synchronous from here to the committer's queue, and again from the committed batch to the
sockets. Whatever reads the store runs in an owned task with a time-out; how many one socket may have is bounded.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from duologue.actions.send import Senders
from duologue.domain.errors import Code, DuologueError, Refusal
from duologue.domain.identity import check_user_id
from duologue.domain.limits import ChatLimits
from duologue.domain.ports import Bus, Clock, Registry, Store
from duologue.domain.rate import AddressBuckets
from duologue.server import events
from duologue.server.admission import Admission
from duologue.server.answers import ack_of, kept_ack_of, refuse, refuse_connection
from duologue.server.catchup import CatchUp
from duologue.server.comparison import Comparison
from duologue.server.elsewhere import Elsewhere
from duologue.server.hub import LATE_HINT_PATIENCE, Client, Hub
from duologue.server.presence import Presence
from duologue.server.reach import Reach
from duologue.server.requests import REQUESTS, Requests
from duologue.server.returns import Returns
from duologue.server.second_look import SecondLook
from duologue.server.sessions import Sessions
from duologue.server.shares import Shares
from duologue.server.transport import Socket
from duologue.wire import Refuser, encode_event

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = 20.0
"""Seconds that one request may take."""

ADMISSION_TIMEOUT: Final = 60.0
"""Seconds from CONNECT to the first page, waiting in line included."""

CATCH_UPS_AT_ONCE: Final = 64
"""Sockets that are brought up to date at the same time; the others wait in line. After the bus was away it may be all."""

_DRAINING: Final = "the server is shutting down"

_BAD_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for raw JSON that isn't the struct asked for."""

ARGUMENTS: Final[dict[str, type[msgspec.Struct]]] = {
    "private message": events.PrivateMessage,
    "received": events.Position,
    "read": events.Position,
    "typing": events.Typing,
    **{name: type_ for name, (type_, _) in REQUESTS.items()},
}
"""The type of each event's argument. Those that fit come by `on_typed_event`."""

_WRITES: Final = ("private message", "received", "read")
"""Events that the store has to take."""

_decoders = {name: msgspec.json.Decoder(type_).decode for name, type_ in ARGUMENTS.items()}


class Gateway:
    """The application behind the transports (`duologue.server.transport.App`)."""

    def __init__(
        self, store: Store, bus: Bus, clock: Clock, limits: ChatLimits, registry: Registry | None = None
    ) -> None:
        """`registry` is given where there are other nodes, which publish on the bus and write to the store."""
        alone = registry is None
        self._store = store
        self._bus = bus
        self._limits = limits
        self.hub = Hub(
            bus,
            self._catch_up,
            # Another node may count the people differently for a moment, so what it announces is told in any case.
            self._everybody_is_announced if alone else lambda: False,
            limits.page_bytes,
            0.0 if alone else LATE_HINT_PATIENCE,
        )
        elsewhere = None if registry is None else Elsewhere(registry, store, bus, limits)
        self.presence = Presence(self.hub, store, clock, limits, elsewhere)
        self.senders = Senders(store, clock, limits)
        self.sessions = Sessions(self.hub, store, bus, clock, self.spawn, ADMISSION_TIMEOUT)
        self.shares = Shares(self.hub, bus, clock, limits)
        self._comparison = Comparison(self.hub, self.sessions, store)
        self._newcomers = SecondLook(self._look_again)
        self.reach = None if registry is None else Reach(registry, bus, self._reach_changed)
        returns = Returns(self.hub)
        self._admission = Admission(
            self.hub,
            bus,
            self.presence,
            self.sessions,
            self.shares,
            self.senders,
            store,
            limits,
            returns,
            None if alone else self._newcomers,
        )
        self._catch_up_line = asyncio.Semaphore(CATCH_UPS_AT_ONCE)
        self._catchup = CatchUp(self.hub, self.presence, store, limits)
        self._requests = Requests(store, bus, self.presence, self.sessions, limits, returns)
        self._tasks: set[asyncio.Task[None]] = set()
        self._admissions: dict[Socket, asyncio.Task[None]] = {}
        self.refuser = Refuser(_WRITES, store.refusal, kept_ack_of)
        """For events that the store has to take."""
        self._sign_ins = AddressBuckets(limits.connect_rate, limits.connect_burst)
        self._clock = clock
        self._draining = False
        self._handlers: dict[str, Callable[[Client, Any, int | None], None]] = {
            "private message": self._private_message,
            "received": self._received,
            "read": self._read,
            "typing": self._typing,
            **{name: functools.partial(self._request, name) for name in REQUESTS},
        }

    async def start(self) -> None:
        self.sessions.start()
        self.shares.start()
        self.spawn(self.presence.run(), "presence")
        if self.reach is not None:
            self.spawn(self.shares.run(), "shares")
            self.spawn(self._comparison.run(), "comparison")
            self.spawn(self._newcomers.run(), "newcomers")
            self.reach.start()
            self.spawn(self.reach.run(), "reach")

    def start_anew(self) -> None:
        """The store has another epoch: what the clients were told may not be so any more. They come back and sync from the
        start; who is being signed in has to be closed as well, for parts of the page may be from before."""
        for client in self.hub.all_clients():
            client.socket.close("the store has another epoch")

    def compare_soon(self) -> None:
        """What the store announces to all nodes may have been missed."""
        self._comparison.look_soon()

    def without(self) -> Sequence[str]:
        """What the node does without for the time being, in words for its health."""
        return () if self.reach is None else self.reach.without()

    def _reach_changed(self, all_heard: bool) -> None:
        self._comparison.bus_changed(all_heard)
        if all_heard:
            self.presence.review()

    async def _look_again(self, newcomers: list[str]) -> None:
        for user_id in newcomers:
            self.shares.ask(user_id)
        await self._comparison.compare(newcomers)

    async def leave(self) -> None:
        """The server is shutting down: what was submitted is still answered, everything new is refused."""
        self._draining = True
        if self.reach is not None:
            self.reach.leave()
        await self.presence.leave()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_connect(self, socket: Socket, auth: msgspec.Raw | None) -> None:
        if socket.namespace != "/":
            socket.refuse("Invalid namespace")
        elif self._draining:
            socket.close(_DRAINING)
        elif self._sign_ins.take(socket.address, self._clock.monotonic()):
            # Whoever takes a new connection for each was bounded before; this is for many on one.
            logger.warning("%s: closed at sign-in: %s", socket.address, Code.RATE_LIMITED)
            socket.close(Code.RATE_LIMITED)
        else:
            self._admissions[socket] = self.spawn(self._admit(socket, auth), "admission")

    def on_disconnect(self, socket: Socket, reason: str) -> None:
        admission = self._admissions.pop(socket, None)
        if admission is not None:
            admission.cancel()
        self._let_go(socket)

    def _let_go(self, socket: Socket) -> None:
        client = socket.data
        if client is not None:
            socket.data = None
            for request in client.requests or ():
                request.cancel()
            self.hub.detach(client)
            self.shares.went(client.user_id)
            self.presence.depart(client)
            if not self.hub.is_here(client.user_id):
                self.senders.leave(client.sender)

    def on_typed_event(self, socket: Socket, name: str, argument: Any, ack_id: int | None) -> bytes | None:
        """Returns how the writes are answered that come after this in the same turn; None if they are looked at."""
        client: Client = socket.data
        refused = self._spend(client)
        if refused is not None:
            refuse(client, name, ack_id, refused, _id_of(argument))
            return ack_of(refused)
        try:
            self._handlers[name](client, argument, ack_id)
        except Refusal as refusal:
            refuse(client, name, ack_id, refusal, _id_of(argument))
        return None

    def on_event(
        self, socket: Socket, name: str, args: list[msgspec.Raw], ack_id: int | None, attachments: tuple[bytes, ...]
    ) -> None:
        """What `on_typed_event` doesn't get: arguments too many, or of another type."""
        client: Client = socket.data
        try:
            if (refused := self._spend(client)) is not None:
                raise refused
            if not args or attachments:
                raise Refusal(Code.BAD_REQUEST, "one argument is needed, without attachments")
            if name not in self._handlers:
                raise Refusal(Code.UNKNOWN_EVENT)
            self._handlers[name](client, _decoders[name](args[0]), ack_id)
        except Refusal as refusal:
            refuse(client, name, ack_id, refusal, _message_id(args) if name == "private message" else None)
        except _BAD_JSON as error:
            refuse(client, name, ack_id, Refusal(Code.BAD_REQUEST, str(error)))

    def _spend(self, client: Client) -> Refusal | None:
        """Of the user's allowance, or why the event isn't looked at any further."""
        return Refusal(Code.UNAVAILABLE, _DRAINING) if self._draining else client.sender.spend()

    def _private_message(self, client: Client, asked: events.PrivateMessage, ack_id: int | None) -> None:
        client.sender.message(asked.to, asked.content, asked.id, (client, ack_id))

    def _received(self, client: Client, asked: events.Position, ack_id: int | None) -> None:
        client.sender.receipt(asked.peer, asked.seq, 0, (client, ack_id))

    def _read(self, client: Client, asked: events.Position, ack_id: int | None) -> None:
        client.sender.receipt(asked.peer, asked.seq, asked.seq, (client, ack_id))

    def _typing(self, client: Client, asked: events.Typing, ack_id: int | None) -> None:
        check_user_id(asked.to)
        if self._bus.wanted(asked.to):
            packet = encode_event("typing", events.encode({"from": client.user_id}))
            self._bus.publish(asked.to, 0, packet, client.socket.id)
        if ack_id is not None:
            client.socket.ack(ack_id, b"{}")

    def _request(self, name: str, client: Client, asked: Any, ack_id: int | None) -> None:
        under_way = client.requests
        if under_way is None:
            under_way = client.requests = set()
        elif len(under_way) >= self._limits.request_limit:
            raise Refusal(Code.OVERLOADED, f"{len(under_way)} requests are under way")
        task = self.spawn(self._answer(client, name, asked, ack_id), name)
        under_way.add(task)
        task.add_done_callback(functools.partial(_answered, client))

    async def _answer(self, client: Client, name: str, asked: Any, ack_id: int | None) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                answer = await REQUESTS[name][1](self._requests, client, asked)
        except Refusal as refusal:
            refuse(client, name, ack_id, refusal)
        except (TimeoutError, DuologueError) as error:
            logger.warning("user %s: %r was not answered: %r", client.user_id, name, error)
            refuse(client, name, ack_id, Refusal(Code.UNAVAILABLE))
        except Exception:
            refuse(client, name, ack_id, Refusal(Code.UNAVAILABLE))
            raise
        else:
            if ack_id is not None:
                client.socket.ack(ack_id, answer)

    async def _admit(self, socket: Socket, auth: msgspec.Raw | None) -> None:
        try:
            async with asyncio.timeout(ADMISSION_TIMEOUT):
                await self._admission.admit(socket, auth)
        except Refusal as refusal:
            if refusal.code.retry:
                # The stock client never comes back after CONNECT_ERROR, but does after a lost connection.
                logger.warning("%s: closed at sign-in: %s", socket.address, refusal)
                socket.close(str(refusal.code))
            else:
                logger.info("%s: refused at sign-in: %s", socket.address, refusal)
                refuse_connection(socket, refusal)
                self._let_go(socket)  # of one that isn't accepted the transport says no goodbye
        except TimeoutError:
            logger.warning("%s: closed, sign-in took more than %g s", socket.address, ADMISSION_TIMEOUT)
            socket.close("sign-in took too long")
        except Exception:
            socket.close("sign-in failed")
            raise
        finally:
            self._admissions.pop(socket, None)

    def _everybody_is_announced(self) -> bool:
        return self.presence.everybody_is_announced()

    def _catch_up(self, client: Client) -> None:
        self.spawn(self._caught_up(client), "catch-up")

    async def _caught_up(self, client: Client) -> None:
        try:
            async with self._catch_up_line, asyncio.timeout(REQUEST_TIMEOUT):
                if client.backlog is not None:
                    await self._catchup.run(client)
        except (TimeoutError, DuologueError) as error:
            logger.warning("user %s: could not be brought up to date: %r", client.user_id, error)
            client.socket.close("it could not be brought up to date")
        except Exception:
            client.socket.close("it could not be brought up to date")
            raise

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Own a task until it ends or `stop` cancels it; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the task %r failed", task.get_name(), exc_info=error)


def _answered(client: Client, task: asyncio.Task[None]) -> None:
    if client.requests is not None:
        client.requests.discard(task)
        if not client.requests:
            client.requests = None


def _id_of(argument: object) -> str | None:
    """The id of a refused message, so that a client that asked for no ack can tell which one it was."""
    return argument.id if isinstance(argument, events.PrivateMessage) else None


def _message_id(args: list[msgspec.Raw]) -> str | None:
    """The same of arguments that nobody has read."""
    try:
        return msgspec.json.decode(args[0], type=events.PrivateMessage).id
    except (IndexError, *_BAD_JSON):
        return None
