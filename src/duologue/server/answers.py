"""The one place where a refusal becomes what the peer sees."""

from __future__ import annotations

import functools
import logging
import math
from typing import Final

from duologue.domain.errors import Refusal
from duologue.server import events
from duologue.server.hub import Client
from duologue.server.transport import Socket, encode_frame
from duologue.wire import encode_event

logger = logging.getLogger(__name__)

RETRY_AFTER: Final = 1.0
"""Seconds, where a retry can help and nothing better is known."""

KEPT_ANSWERS: Final = 128
"""Refusals whose answer is kept; a store that is overloaded gives out half as many, each a thousand times a second."""


def refuse(client: Client, event: str, ack_id: int | None, refusal: Refusal, id: str | None = None) -> None:
    """Answer an event with its refusal: by the ack if one was asked for, else by the event `refused`."""
    logger.debug("user %s: %r refused: %s", client.user_id, event, refusal)
    retry_after = seconds_to_wait(refusal)
    if ack_id is not None:
        client.socket.ack(ack_id, events.refusal(refusal.code, refusal.code.sentence, retry_after))
    else:
        body = events.refusal(refusal.code, refusal.code.sentence, retry_after, event, id)
        client.socket.send(encode_frame(encode_event("refused", body)))


def ack_of(refusal: Refusal) -> bytes:
    """The arguments of the ack by which an event is answered with a refusal."""
    return b"[%b]" % events.refusal(refusal.code, refusal.code.sentence, seconds_to_wait(refusal))


kept_ack_of = functools.lru_cache(KEPT_ANSWERS)(ack_of)
"""The same of a refusal that `Store.refusal` gave out: made once for each."""


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
    if not refusal.code.retry:
        return None
    # To the next millisecond: whoever comes again at the very moment that was named must not be early.
    return math.floor(refusal.retry_after * 1000 + 1) / 1000 if refusal.retry_after is not None else RETRY_AFTER
