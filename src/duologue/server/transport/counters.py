"""What a server counts, for its operator."""

from __future__ import annotations


class Counters:
    """Plain numbers, since the start unless said otherwise."""

    __slots__ = (
        "connections", "handshakes_refused", "internal_errors", "opened", "ping_timeouts", "slow_readers_closed",
        "upgrades", "violations",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connections = 0  # now
        self.opened = 0
        self.upgrades = 0
        self.handshakes_refused = 0
        self.violations = 0
        self.ping_timeouts = 0
        self.slow_readers_closed = 0
        self.internal_errors = 0

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}
