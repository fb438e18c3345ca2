"""The server's side of one Socket.IO connection: which namespaces the peer is in, and what it may send there.

    state        input              next state
    ABSENT       CONNECT            CONNECTING   the application decides
    CONNECTING   accept             CONNECTED
    CONNECTING   refuse             ABSENT
    CONNECTING   DISCONNECT         ABSENT
    CONNECTED    EVENT, ACK         CONNECTED
    CONNECTED    DISCONNECT         ABSENT
    CONNECTED    disconnect         DISMISSED    by the server; what the peer sent meanwhile is on its way
    CONNECTING   disconnect         DISMISSED
    DISMISSED    EVENT, ACK         DISMISSED    dropped
    DISMISSED    DISCONNECT         ABSENT
    DISMISSED    CONNECT            CONNECTING

Capitals are packets of the peer, small letters the server's own doings. What's not in the table is a violation when
the peer does it, and has no effect when the server does.
"""

from __future__ import annotations

import enum

from duologue.wire.attachments import resolve_attachments
from duologue.wire.limits import Limits
from duologue.wire.socketio import MAIN, Ack, Announced, Connect, Disconnect, Event, decode
from duologue.wire.violation import Violation


class State(enum.Enum):
    ABSENT = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    DISMISSED = enum.auto()


# A member of an enumeration is looked up through its metaclass, too slow for what happens for each event.
_CONNECTED = State.CONNECTED


class Input(enum.Enum):
    ACCEPT = enum.auto()
    REFUSE = enum.auto()
    DISCONNECT = enum.auto()


_BY_PEER: dict[tuple[State, type], State] = {
    (State.ABSENT, Connect): State.CONNECTING,
    (State.CONNECTING, Disconnect): State.ABSENT,
    (State.CONNECTED, Event): State.CONNECTED,
    (State.CONNECTED, Ack): State.CONNECTED,
    (State.CONNECTED, Disconnect): State.ABSENT,
    (State.DISMISSED, Event): State.DISMISSED,
    (State.DISMISSED, Ack): State.DISMISSED,
    (State.DISMISSED, Disconnect): State.ABSENT,
    (State.DISMISSED, Connect): State.CONNECTING,
}

_BY_SERVER: dict[tuple[State, Input], State] = {
    (State.CONNECTING, Input.ACCEPT): State.CONNECTED,
    (State.CONNECTING, Input.REFUSE): State.ABSENT,
    (State.CONNECTING, Input.DISCONNECT): State.DISMISSED,
    (State.CONNECTED, Input.DISCONNECT): State.DISMISSED,
}

Received = Connect | Disconnect | Event | Ack | Violation | None
"""None: nothing to tell, either because attachments are missing or because the packet came after a dismissal."""


class Namespaces:
    """Feed it text and binary messages in order of arrival; it returns what happened.

    After a `Violation` the connection is to be closed and the object not used any more. Holds at most one unfinished
    binary packet, of at most `Limits.attachment_bytes`.

    While it's `open`, an application with types for its events may ask its `Schemas` first, and feed what they decline.
    """

    __slots__ = ("_announced", "_attachments", "_limits", "_states", "open")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.open = False
        """Whether the next text message may be an event of the main namespace."""
        self._states: dict[str, State] = {}
        self._announced: Announced | None = None
        self._attachments: list[bytes] | None = None

    @property
    def occupied(self) -> bool:
        """Whether the peer is in some namespace, or about to be."""
        return any(state is not State.DISMISSED for state in self._states.values())

    def receive_text(self, packet: bytes) -> Received:
        """`packet` is a whole Engine.IO text message, `4` included."""
        if self._announced is not None:
            return Violation("text packet where an attachment was due")
        decoded = decode(packet, self._limits)
        kind = type(decoded)
        # The hot path, for which a look into the table would cost as much as the rest of this function.
        if kind is Event and self._states.get(decoded.namespace) is _CONNECTED:  # type: ignore[union-attr]
            return decoded  # type: ignore[return-value]
        if isinstance(decoded, Violation):
            return decoded
        if isinstance(decoded, Announced):
            if self._states.get(decoded.packet.namespace) not in (State.CONNECTED, State.DISMISSED):
                return Violation("binary packet outside a namespace")
            self._announced = decoded
            self._attachments = []
            self.open = False
            return None
        return self._step(decoded)

    def receive_binary(self, content: bytes) -> Received:
        announced, attachments = self._announced, self._attachments
        if announced is None or attachments is None:
            return Violation("binary message without an announcement")
        attachments.append(content)
        if sum(map(len, attachments)) > self._limits.attachment_bytes:
            return Violation("attachments are too large")
        if len(attachments) < announced.missing:
            return None
        packet = announced.packet
        packet.attachments = tuple(attachments)
        self._announced = self._attachments = None
        self._look()
        resolved = resolve_attachments(packet.args, packet.attachments)
        return resolved if isinstance(resolved, Violation) else self._step(packet)

    def apply(self, namespace: str, what: Input) -> bool:
        """The server's own move. False when it's not possible in this state, and then nothing has changed."""
        state = _BY_SERVER.get((self._states.get(namespace, State.ABSENT), what))
        if state is None:
            return False
        self._set(namespace, state)
        return True

    def _step(self, packet: Connect | Disconnect | Event | Ack) -> Received:
        namespace = packet.namespace
        before = self._states.get(namespace, State.ABSENT)
        after = _BY_PEER.get((before, type(packet)))
        if after is None:
            return Violation(_REASONS[type(packet)])
        if before is State.ABSENT and len(self._states) >= self._limits.namespaces:
            return Violation("too many namespaces")
        self._set(namespace, after)
        if before is State.DISMISSED and after is not State.CONNECTING:
            return None
        return packet

    def _set(self, namespace: str, state: State) -> None:
        if state is State.ABSENT:
            self._states.pop(namespace, None)
        else:
            self._states[namespace] = state
        self._look()

    def _look(self) -> None:
        self.open = self._announced is None and self._states.get(MAIN) is _CONNECTED


_REASONS: dict[type, str] = {
    Connect: "second CONNECT to a namespace",
    Disconnect: "DISCONNECT outside a namespace",
    Event: "event outside a namespace",
    Ack: "ack outside a namespace",
}
