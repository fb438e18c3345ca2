"""A clock that a test sets (`duologue.domain.ports.Clock`)."""

from __future__ import annotations

import time


class SetClock:
    """A wall clock that a test sets, and the real monotonic one, which a test may put ahead."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000
        self.ahead = 0.0

    def wall_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead
