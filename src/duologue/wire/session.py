"""The server's side of one Engine.IO session: which transport carries it, and what each may say now.

    state       input               next state   meaning
    POLLING     poll                POLLING      a poll or a body of the long-polling transport
    POLLING     attach              PROBING      a websocket came with this session's id
    PROBING     poll                PROBING
    PROBING     probe               PROBED       `2probe`: answered `3probe`; the pending poll is released by a noop
    PROBING     detach              POLLING      the websocket went away or said something else: only it is dropped
    PROBED      poll                PROBED       answered at once, so that the client can stop polling
    PROBED      upgrade             WEBSOCKET    `5`: what is queued goes there from now on
    PROBED      detach              POLLING
    WEBSOCKET   message             WEBSOCKET
    any         close               CLOSED

A session that begins with a websocket starts in WEBSOCKET. What's not in the table isn't allowed: see `step`.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    POLLING = enum.auto()
    PROBING = enum.auto()
    PROBED = enum.auto()
    WEBSOCKET = enum.auto()
    CLOSED = enum.auto()


class Input(enum.Enum):
    POLL = enum.auto()
    ATTACH = enum.auto()
    PROBE = enum.auto()
    UPGRADE = enum.auto()
    DETACH = enum.auto()
    MESSAGE = enum.auto()
    CLOSE = enum.auto()


TABLE: dict[tuple[State, Input], State] = {
    (State.POLLING, Input.POLL): State.POLLING,
    (State.POLLING, Input.ATTACH): State.PROBING,
    (State.POLLING, Input.CLOSE): State.CLOSED,
    (State.PROBING, Input.POLL): State.PROBING,
    (State.PROBING, Input.PROBE): State.PROBED,
    (State.PROBING, Input.DETACH): State.POLLING,
    (State.PROBING, Input.CLOSE): State.CLOSED,
    (State.PROBED, Input.POLL): State.PROBED,
    (State.PROBED, Input.UPGRADE): State.WEBSOCKET,
    (State.PROBED, Input.DETACH): State.POLLING,
    (State.PROBED, Input.CLOSE): State.CLOSED,
    (State.WEBSOCKET, Input.MESSAGE): State.WEBSOCKET,
    (State.WEBSOCKET, Input.CLOSE): State.CLOSED,
}


def step(state: State, what: Input) -> State | None:
    """The next state, or None where the input isn't allowed: a poll is answered with an error and changes nothing, a
    websocket that probes wrongly is detached, a second close does nothing."""
    return TABLE.get((state, what))
