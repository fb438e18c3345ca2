"""How the core says that a peer broke the protocol: by a value, never by an exception."""

from __future__ import annotations

import msgspec


class Violation(msgspec.Struct, frozen=True, gc=False):
    """The connection has to be closed. `reason` is for the log; it holds nothing that the peer sent."""

    reason: str
