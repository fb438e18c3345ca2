"""Whether this node hears the others, and what it does about it if not.

Its own connection to the bus may be well while others are out of reach: the servers of a cluster have lost the routes between
them. The bus doesn't notice that, nor is anything missing until somebody says something. Therefore each node gives a sign of
life on the bus, and whoever has renewed its lease in the registry and isn't heard is out of reach. As long as that is so, or the
bus is away altogether, the store is asked every second for what was said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from duologue.domain.ports import Bus, Registry

logger = logging.getLogger(__name__)

TOPIC: Final = "nodes"
"""Where nodes give signs of life: `+` and the node's name, or `-` and its name when it leaves."""

PULSE: Final = 2.0
"""Seconds between two signs of life."""

SILENT_PULSES: Final = 3
"""So many of one's own pulses without a sign of another node, and it isn't heard. Not counted by a clock, so that a node that
stood still itself misses nobody."""

LOOK_EVERY: Final = 5
"""Pulses between two looks into the registry while all are heard and known; otherwise it's each pulse."""


class Reach:
    """`on_change` is called with whether this node hears all others: when that changes, and whenever something may have been
    lost in any case. `start` before the first user, `run` until cancelled."""

    def __init__(self, registry: Registry, bus: Bus, on_change: Callable[[bool], None]) -> None:
        self._registry = registry
        self._bus = bus
        self._on_change = on_change
        self._bus_works = False
        self._silent: dict[str, int] = {}
        """The living nodes besides this one, and how many of our pulses each has been silent. Only the registry adds to them:
        a stranger on the bus may name any."""
        self._left: set[str] = set()
        """Those that have said that they leave. They count as living until their people are back elsewhere."""
        self._newcomer = False
        """Somebody is heard whom we don't know: to be looked for in the registry."""
        self._apart: frozenset[str] = frozenset()
        self._leaving = False

    def without(self) -> Sequence[str]:
        """What the node does without, in words for its health."""
        if not self._bus_works:
            return ("bus",)
        return ("part of the bus",) if self._apart else ()

    def start(self) -> None:
        self._bus.subscribe_topic(TOPIC, self._heard)

    def bus_changed(self, works: bool) -> None:
        """The bus went away, or is back, or works and has lost something."""
        if works != self._bus_works:
            self._bus_works = works
            self._silent = dict.fromkeys(self._silent, 0)
            self._apart = frozenset()
        self._on_change(works and not self._apart)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._give_signs())
            group.create_task(self._miss_signs())

    def leave(self) -> None:
        """This node leaves: nobody has to miss it."""
        self._leaving = True
        self._say("-")

    async def _give_signs(self) -> None:
        while not self._leaving:
            self._say("+")
            await asyncio.sleep(PULSE)

    def _say(self, word: str) -> None:
        self._bus.publish_topic(TOPIC, f"{word}{self._registry.node}".encode())

    def _heard(self, _: str, data: bytes) -> None:
        """From any node, this one included; a stranger on the bus may have sent anything."""
        word, node = data[:1], data[1:].decode(errors="replace")
        if node in self._silent:
            self._silent[node] = 0
            if word == b"-":
                self._left.add(node)
        elif node != self._registry.node:
            self._newcomer = True

    async def _miss_signs(self) -> None:
        """Apart from the signs, which wait for no database."""
        pulses = 0
        while True:
            if self._bus_works:
                if self._newcomer or max(self._silent.values(), default=0) > 1 or not pulses % LOOK_EVERY:
                    await self._look()
                self._judge()
            pulses += 1
            await asyncio.sleep(PULSE)
            for node in self._silent:
                self._silent[node] += 1

    async def _look(self) -> None:
        self._newcomer = False
        try:
            living = await self._registry.nodes()
        except Exception as error:  # whatever it is: without looks nobody would be missed any more
            logger.debug("which nodes are alive is asked later: %r", error)
            return
        if living != self._silent.keys():
            logger.info("other nodes that are alive: %d", len(living))
        self._silent = {node: self._silent.get(node, 0) for node in living}
        self._left &= living

    def _judge(self) -> None:
        if not self._bus_works:
            return  # it went away while the registry was asked
        apart = frozenset(node for node, silent in self._silent.items() if silent >= SILENT_PULSES) - self._left
        before, self._apart = self._apart, apart
        if bool(apart) == bool(before):
            return
        if apart:
            logger.warning(
                "%d nodes are alive and not heard, perhaps the servers of the bus don't reach each other: the store is read "
                "for what they say",
                len(apart),
            )
        else:
            logger.info("all living nodes are heard again")
        self._on_change(not apart)
