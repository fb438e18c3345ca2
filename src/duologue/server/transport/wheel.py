"""One timer for everything that waits: heartbeats, handshakes, slow headers.

A timer of the event loop for each connection would cost more than the connection's own work: heartbeats outnumber chat
messages. Here scheduling is one set insertion, and one owned task turns the wheel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("duologue.transport")

_FAIR_TICKS = 2
_FAIR_SECONDS = 0.05
"""How late a turn may be, in ticks or in seconds, whichever is longer. What the loop lost beyond that (a blocking
call, a stopped process) is given back to everybody: nobody could have been heard in that time."""


class Entry(Protocol):
    """What the wheel holds. `due` belongs to the wheel: the tick, or 0 while it isn't scheduled."""

    due: int

    def expire(self) -> None: ...


class Wheel:
    """Deadlines at a resolution of `tick` seconds. An entry expires up to three ticks early, and not late while the
    turns are on time. Without a clock: `advance` is told how much time has passed."""

    __slots__ = ("_now", "_part", "_slots", "tick")

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._now = 1
        self._part = 0.0
        self._slots: dict[int, set[Entry]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def schedule(self, entry: Entry, delay: float) -> None:
        """Expire in `delay` seconds; an earlier deadline of the entry is forgotten."""
        self.cancel(entry)
        due = self._now + max(1, int((delay + self._part) / self.tick) - 1)
        entry.due = due
        slot = self._slots.get(due)
        if slot is None:
            self._slots[due] = {entry}
        else:
            slot.add(entry)

    def cancel(self, entry: Entry) -> None:
        if entry.due:
            slot = self._slots.get(entry.due)
            if slot is not None:
                slot.discard(entry)
            entry.due = 0

    def advance(self, elapsed: float) -> None:
        """Let `elapsed` seconds pass, or as many of them as the loop had a fair chance to work in."""
        self._part += min(elapsed, max(_FAIR_TICKS * self.tick, _FAIR_SECONDS))
        while self._part >= self.tick:
            self._part -= self.tick
            self._now += 1
            for entry in self._slots.pop(self._now, ()):
                if entry.due != self._now:
                    continue  # cancelled or moved by another entry of this very slot
                entry.due = 0
                try:
                    entry.expire()
                except Exception:
                    log.exception("a deadline's action failed")


async def turn(wheel: Wheel, clock: Callable[[], float]) -> None:
    """Turn the wheel until cancelled. `clock` is monotonic, in seconds."""
    last = clock()
    while True:
        await asyncio.sleep(wheel.tick)
        now = clock()
        wheel.advance(now - last)
        last = now
