"""One Engine.IO session: what both transports share, and what whoever is above them talks to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.counters import Counters
from duologue.server.transport.flusher import Flusher
from duologue.server.transport.wheel import Wheel
from duologue.wire.engineio import NOOP, PING, PROBE_PING, PROBE_PONG, UPGRADE, PacketType
from duologue.wire.frames import SEPARATOR, Frame, encode_frame
from duologue.wire.limits import Limits
from duologue.wire.session import Input, State, step

log = logging.getLogger("duologue.transport")

PING_FRAME = encode_frame(PING)
PROBE_FRAME = encode_frame(PROBE_PONG)
NOOP_FRAME = encode_frame(NOOP)
CLOSE_PACKET = b"1"

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012

SHUTTING_DOWN = "server is shutting down"

# A member of an enumeration is looked up through its metaclass, too slow for what happens for each frame.
_CLOSED = State.CLOSED

_MESSAGE = int(PacketType.MESSAGE)
_PONG = int(PacketType.PONG)
_CLOSE = int(PacketType.CLOSE)


class Handler(Protocol):
    """What sits on a session. Messages come in order of arrival; after `on_close` nothing comes any more."""

    def on_text(self, packet: bytes) -> None:
        """A whole text packet, its Engine.IO type (`4`) included. It is valid UTF-8 on a websocket."""
        ...

    def on_binary(self, content: bytes) -> None: ...

    def flush(self) -> None:
        """Send what was put off: before what is queued leaves, and before the end."""
        ...

    def on_close(self, reason: str) -> None: ...


class Websocket(Protocol):
    """The session's view of a websocket."""

    def write(self, data: bytes) -> None: ...

    def buffered(self) -> int:
        """Bytes that the peer has not taken yet."""
        ...

    def close(self, code: int) -> None:
        """Close frame, then wait for the peer's, for a bounded time."""
        ...

    def abort(self) -> None:
        """Let go of everything at once."""
        ...


class _Nobody:
    """Sits on a session that has ended, so that it lets go of what sat there before."""

    def on_text(self, packet: bytes) -> None:
        pass

    def on_binary(self, content: bytes) -> None:
        pass

    def flush(self) -> None:
        pass

    def on_close(self, reason: str) -> None:
        pass


_NOBODY = _Nobody()


class Shared:
    """What all sessions of a server have in common."""

    __slots__ = ("config", "counters", "draining", "flusher", "forget", "limits", "wheel")

    def __init__(
        self, config: TransportConfig, limits: Limits, wheel: Wheel, forget: Callable[[Session], None]
    ) -> None:
        self.config = config
        self.limits = limits
        self.wheel = wheel
        self.forget = forget
        self.flusher = Flusher()
        self.counters = Counters()
        self.draining = False


class Session:
    """Outgoing frames queue here until the end of the loop's turn (websocket) or the next poll; the queue is bounded by
    `max_unsent`. Memory per idle connection counts, so parts that few need are made when they do."""

    __slots__ = (
        "_awaiting_pong", "_dirty", "_max_unsent", "_paused", "_poll", "_posting", "_probe", "_queue", "_shared", "_unsent",
        "address", "due", "handler", "headers", "sid", "state", "websocket",
    )  # fmt: skip

    handler: Handler

    def __init__(self, shared: Shared, sid: str, address: str, headers: Mapping[str, str]) -> None:
        self._shared = shared
        self.sid = sid
        self.address = address
        self.headers = headers
        self.state = State.POLLING
        self.due = 0
        self._queue: list[Frame] = []
        self._unsent = 0
        self._max_unsent = shared.config.max_unsent
        self._dirty = False
        self._paused = False
        self._awaiting_pong = False
        self._posting = False
        self.websocket: Websocket | None = None
        """What carries the session; None while that is long-polling, and after the end."""
        self._probe: Websocket | None = None
        self._poll: asyncio.Future[bytes] | None = None
        shared.wheel.schedule(self, shared.config.ping_interval)

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def settled(self) -> bool:
        """Whether a close now takes along all that was sent: what a polling peer is owed may need several more polls."""
        return self.websocket is not None or (self._poll is not None and not self._queue)

    # Sending

    def send(self, frame: Frame) -> None:
        """Queue a frame. Does nothing once the session is closed, or is about to be because its peer is too far
        behind."""
        if self.state is _CLOSED or self._unsent > self._max_unsent:
            return
        self._queue.append(frame)
        self._unsent += len(frame.ws)
        if not self._dirty:  # as `mark` does, without the call: the hot path
            self._dirty = True
            self._shared.flusher.mark(self)

    def mark(self) -> None:
        """Have `flush` called at the end of this turn of the loop."""
        if not self._dirty:
            self._dirty = True
            self._shared.flusher.mark(self)

    def flush(self) -> None:
        """Called by the flusher, so that a slow reader is never closed amid the application's own loop over its
        sockets."""
        self.handler.flush()
        self._dirty = False
        if not self._queue:
            return
        if self._behind():
            self._shared.counters.slow_readers_closed += 1
            self._end("slow reader", log_level=logging.WARNING, abort=True)
        elif self.websocket is not None:
            # While the socket's buffer is full the frames stay here, where all sockets share them.
            if not self._paused:
                self.websocket.write(self._take_all())
        elif self._poll is not None:
            self._answer_poll(self._take_payload())

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.flush()

    def _behind(self) -> bool:
        buffered = self.websocket.buffered() if self._paused and self.websocket is not None else 0
        return self._unsent + buffered > self._shared.config.max_unsent

    def _take_all(self) -> bytes:
        queue = self._queue
        self._unsent = 0
        if len(queue) == 1:
            data = queue[0].ws
            queue.clear()
            return data
        self._queue = []
        return b"".join([frame.ws for frame in queue])

    def _take_payload(self) -> bytes:
        """The next poll's answer: as many packets as one may carry, but at least one frame."""
        limits = self._shared.limits
        payloads: list[bytes] = []
        size = packets = count = 0
        for frame in self._queue:
            payload = frame.payload
            size += len(payload) + len(SEPARATOR)
            packets += frame.packets
            if payloads and (size - 1 > limits.max_payload or packets > limits.poll_packets):
                break
            payloads.append(payload)
            self._unsent -= len(frame.ws)
            count += 1
        del self._queue[:count]
        return SEPARATOR.join(payloads)

    # Receiving

    def receive_text(self, packet: bytes) -> None:
        """A text packet of the transport that carries the session."""
        kind = packet[0] if packet else 0
        if kind == _MESSAGE:
            self.handler.on_text(packet)
        elif kind == _PONG:
            if self._awaiting_pong:  # one that nobody asked for must not prolong anything
                self._awaiting_pong = False
                self._shared.wheel.schedule(self, self._shared.config.ping_interval)
        elif kind == _CLOSE:
            self._end("client closed")
        else:
            self.violate("unexpected Engine.IO packet")

    def receive_binary(self, content: bytes) -> None:
        self.handler.on_binary(content)

    # Long-polling

    @property
    def polled(self) -> bool:
        """Whether a poll may be answered or a body taken now."""
        return step(self.state, Input.POLL) is not None

    def begin_poll(self) -> bytes | asyncio.Future[bytes] | None:
        """What a poll gets: an answer, or the future of one. None if another poll waits: then the session is over."""
        if self._poll is not None:
            self.violate("two polls at once")
            return None
        if self._queue:
            return self._take_payload()
        if self._shared.draining:
            # The peer has read all there was, or it wouldn't ask for more.
            self.close(SHUTTING_DOWN, SERVICE_RESTART)
            return CLOSE_PACKET
        if self.state is State.PROBED:
            return NOOP
        self._poll = asyncio.get_running_loop().create_future()
        return self._poll

    def abandon_poll(self) -> None:
        """The connection of the waiting poll broke, and what it may have been given can't be had back."""
        self._poll = None
        self._end("poll aborted")

    def begin_post(self) -> bool:
        """False if another body is on its way: then the session is over."""
        if self._posting:
            self.violate("two bodies at once")
            return False
        self._posting = True
        return True

    def end_post(self) -> None:
        self._posting = False

    def _answer_poll(self, payload: bytes) -> None:
        poll, self._poll = self._poll, None
        if poll is not None and not poll.done():
            poll.set_result(payload)

    # Websocket and upgrade

    def start_websocket(self, websocket: Websocket) -> None:
        """The session begins on a websocket."""
        self.state = State.WEBSOCKET
        self.websocket = websocket

    def attach(self, websocket: Websocket) -> bool:
        """A websocket wants to take over. False if it can't: then it's to be closed and the session goes on."""
        state = step(self.state, Input.ATTACH)
        if state is None:
            return False
        self.state = state
        self._probe = websocket
        return True

    def receive_probe(self, packet: bytes) -> None:
        """A text packet of the websocket that probes."""
        probe = self._probe
        what = {PROBE_PING: Input.PROBE, UPGRADE: Input.UPGRADE}.get(packet, Input.DETACH)
        state = step(self.state, what)
        if probe is None or state is None or what is Input.DETACH:
            if probe is not None:
                self.detach(probe)
                probe.close(PROTOCOL_ERROR)
            return
        self.state = state
        if what is Input.PROBE:
            probe.write(PROBE_FRAME.ws)
            if self._poll is not None:
                self._answer_poll(self._take_payload() if self._queue else NOOP)
            return
        self._probe = None
        self.websocket = probe
        self._paused = False
        self._shared.counters.upgrades += 1
        self._answer_poll(NOOP)
        self.flush()

    def probing(self, websocket: Websocket) -> bool:
        return self._probe is websocket

    def detach(self, websocket: Websocket) -> None:
        """The websocket that probed is gone; long-polling goes on."""
        if self._probe is websocket:
            self._probe = None
            self.state = step(self.state, Input.DETACH) or self.state

    def lost(self, violated: bool) -> None:
        """The websocket's connection ended, `violated` if that was because the peer broke the websocket protocol."""
        self.websocket = None
        if violated:
            self.violate("bad websocket frame")
        else:
            self._end("connection lost")

    # Ending

    def expire(self) -> None:
        """A deadline of the heartbeat: time for a ping, or the pong didn't come."""
        if self._awaiting_pong:
            self._shared.counters.ping_timeouts += 1
            self._end("ping timeout", packet=CLOSE_PACKET)
            return
        self._awaiting_pong = True
        self._shared.wheel.schedule(self, self._shared.config.ping_timeout)
        self.send(PING_FRAME)

    def violate(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        """The peer broke the protocol. `reason` is one of our own sentences, never the peer's words."""
        self._shared.counters.violations += 1
        self._end(f"protocol error: {reason}", log_level=logging.WARNING, packet=CLOSE_PACKET, code=code)

    def fail(self) -> None:
        """What sits on the session has failed; whoever calls has logged how."""
        self._shared.counters.internal_errors += 1
        self._end("internal error", log_level=logging.ERROR, packet=CLOSE_PACKET, code=INTERNAL_ERROR)

    def close(self, reason: str, code: int = NORMAL) -> None:
        """The server's own decision. What is queued still leaves first."""
        self._end(reason, packet=CLOSE_PACKET, code=code)

    def _end(
        self,
        reason: str,
        *,
        log_level: int = logging.DEBUG,
        packet: bytes = NOOP,
        code: int = NORMAL,
        abort: bool = False,
    ) -> None:
        if self.state is State.CLOSED:
            return
        self.handler.flush()
        self.state = State.CLOSED
        self._shared.wheel.cancel(self)
        self._shared.forget(self)
        log.log(log_level, "session %s of %s closed: %s", self.sid[:6], self.address, reason, extra={"kind": reason})
        websocket, self.websocket = self.websocket, None
        probe, self._probe = self._probe, None
        if websocket is not None:
            if abort:
                websocket.abort()
            else:
                if self._queue:
                    websocket.write(self._take_all())
                websocket.close(code)
        elif self._poll is not None:
            queued = [self._take_payload()] if self._queue else []
            self._answer_poll(SEPARATOR.join([*queued, packet]))
        if probe is not None:
            probe.close(code)
        self._queue = []
        self._unsent = 0
        handler, self.handler = self.handler, _NOBODY  # the two refer to each other: no work for the cycle collector
        handler.on_close(reason)
