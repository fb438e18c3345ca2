"""The one place where a refusal becomes what the peer sees."""

from __future__ import annotations

import functools
import logging
from typing import Final

from duologue.domain.errors import Code, Refusal
from duologue.server import events
from duologue.server.hub import Client
from duologue.server.transport import Frame, Socket
from duologue.wire import encode_event

logger = logging.getLogger(__name__)

RETRY_AFTER: Final = 1.0
"""Seconds, where a retry can help and nothing better is known."""

KEPT_ANSWERS: Final = 1_024
"""Answers to acks whose JSON is kept: an overloaded server gives few different ones, each a thousand times a second, and so
does one that somebody floods."""


def refuse(client: Client, event: str, ack_id: int | None, refusal: Refusal, id: str | None = None) -> None:
    """Answer an event with its refusal: by the ack if one was asked for, else by the event `refused`."""
    if logger.isEnabledFor(logging.DEBUG):  # asked first, for it's asked more often than anything while overloaded
        logger.debug("user %s: %r refused: %s", client.user_id, event, refusal)
    if ack_id is not None:
        answer = _answer(refusal.code, _milliseconds(refusal))
        client.socket.send(Frame(b"43%d%b" % (ack_id, answer)))
    else:
        body = events.refusal(refusal.code, refusal.code.sentence, seconds_to_wait(refusal), event, id)
        client.socket.send(Frame(encode_event("refused", body)))


@functools.lru_cache(KEPT_ANSWERS)
def _answer(code: Code, milliseconds: int | None) -> bytes:
    """The arguments of the ack."""
    return b"[%b]" % events.refusal(code, code.sentence, _seconds(code, milliseconds))


def refuse_connection(socket: Socket, refusal: Refusal) -> None:
    """CONNECT_ERROR with the code as its message, as the guide's client expects it of `invalid username`."""
    body = {"code": refusal.code, "message": refusal.code.sentence}
    retry_after = seconds_to_wait(refusal)
    if retry_after is not None:
        socket.refuse(refusal.code, events.encode({**body, "retryAfter": retry_after}))
    else:
        socket.refuse(refusal.code, events.encode(body))


def seconds_to_wait(refusal: Refusal) -> float | None:
    """What a peer is told of when to try again; None where that can't help."""
    return _seconds(refusal.code, _milliseconds(refusal))


def _milliseconds(refusal: Refusal) -> int | None:
    return None if refusal.retry_after is None else int(refusal.retry_after * 1000)


def _seconds(code: Code, milliseconds: int | None) -> float | None:
    """The next millisecond: whoever comes again at the very moment that was named must not be early."""
    if not code.retry:
        return None
    return RETRY_AFTER if milliseconds is None else (milliseconds + 1) / 1000
