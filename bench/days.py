"""What the peak of a day of many people asks of nodes, database and bus, and what happens then if a node dies or all of them are
started anew. The costs were measured, the habits of people are assumed, and how full a server may be is chosen."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.measured import Cost, Costs, Cpu
from bench.storms import FanOut, Servers, fan_out, poisson, storm
from duologue.server.reach import PULSE
from duologue.store.postgres.store import READERS

NODE_SHARE: Final = 0.6
"""How much of its core a node may use at the peak of a day. Chosen."""

CONNECTIONS_A_NODE: Final = 50_000
"""More would make the loss of one a long storm, whatever its memory. Chosen."""

DATABASE_SHARE: Final = 0.6
"""How much of its cores a database server may use at the peak of a day. Chosen."""

DATABASE_CORES: Final = 8
BUS_CORES: Final = 4
"""Of a server. Chosen."""

ONE_NODE: Final = 10_000
"""People a day for whom one node does, if nobody minds that it may fail. Chosen."""

CHANGES: Final = 50_000
"""People who come or go in the simulation of the news about them, at most."""


@dataclass(frozen=True)
class Habits:
    """Of people, a day. Assumed, for nobody can measure them here."""

    messages: float = 40
    online: float = 0.12
    """Share of the day's people who are connected at its peak."""
    devices: float = 1.3
    peak: float = 3.0
    """The peak's messages a second, as a multiple of the day's mean."""
    visits: float = 12
    """Times that somebody comes online."""
    watchers: int = 3
    """Clients that show somebody, when they come or go."""
    acquaintances: float = 20
    """Conversations of somebody, whose people are hinted at when they come or go."""
    receipts: float = 1.0
    """Position events for each message, each taken to cost as much as one."""
    pause: tuple[float, float] = (0.25, 0.75)
    """Seconds after which the web client comes back once it was cut off, drawn in between: half a second, give or take half."""
    spread: float = 300.0
    """Seconds over which clients would come back if the server could ask them to; the protocol has no such word yet."""


class Day:
    """`figures` has a row a name, in order; those of a dead node only where there are others."""

    def __init__(self, people: int, habits: Habits, costs: Costs, rng: random.Random) -> None:
        self._habits, self._costs, self._rng = habits, costs, rng
        self.rate = people * habits.messages / 86_400 * habits.peak
        self.writes = self.rate * (1 + habits.receipts)
        self.connections = people * habits.online * habits.devices
        self.sign_ins = people * habits.visits / 86_400 * habits.peak
        self.nodes = max(1 if people <= ONE_NODE else 2, math.ceil(self.connections / CONNECTIONS_A_NODE))
        while (needed := math.ceil(self._use().nodes / NODE_SHARE)) > self.nodes:
            self.nodes = min(self.nodes * 2, needed)
        use = self._use()
        self.databases = max(1, math.ceil(use.postgresql / (DATABASE_CORES * DATABASE_SHARE)))
        self.figures = {
            "messages a second": self.rate,
            "connections": self.connections,
            "sign-ins a second, and as many who leave": self.sign_ins,
            "nodes (one core each)": self.nodes,
            "cores that the nodes use": use.nodes,
            "memory of a node's connections, MB": self.connections
            / self.nodes
            * (costs.connection_bytes + costs.user_bytes / habits.devices)
            / 1e6,
            "commits a second": self.commits,
            "messages and receipts a commit": self.writes / self.commits,
            f"database servers ({DATABASE_CORES} cores each)": self.databases,
            "cores that PostgreSQL uses": use.postgresql,
            "connections to each database server": self.nodes * (READERS + 1),
            "syncs of the log a second, of each": self._syncs() / self.databases,
            "writes to the log a second, of each": self._by_message(costs.wal_writes) / self.databases,
            "log, MB a second, of each": self._by_message(costs.wal_bytes) / self.databases / 1e6,
            "stored in a year, TB": people * habits.messages * 365 * costs.stored_bytes / 1e12,
            "cores that NATS uses": use.nats,
            **self._bus(),
            **self._a_node_dies(use),
            **self._restart(),
        }

    @property
    def commits(self) -> float:
        """A second. Each node begins a batch when the one before is done and there's something to write: at once, unless nothing
        has come meanwhile, which for messages that come at random has this probability."""
        alone = self.writes / self.nodes
        cycle = self._costs.all.batch + self._costs.sync
        return self.nodes / (cycle + math.exp(-alone * cycle) / alone)

    def _use(self) -> Cpu:
        """Cores."""
        costs, commits = self._costs, self.commits
        told = 2 * self.sign_ins * self._habits.watchers
        return Cpu(
            *(
                self.writes * cost.message + commits * cost.batch + self.sign_ins * sign_in + told * news
                for cost, sign_in, news in zip(
                    (costs.nodes, costs.postgresql, costs.nats), costs.sign_in, costs.news, strict=True
                )
            )
        )

    def _by_message(self, cost: Cost) -> float:
        return self.writes * cost.message + self.commits * cost.batch

    def _syncs(self) -> float:
        # Commits that wait for the same sync share it, so one disk has no more than it has time for.
        wanted = self._by_message(self._costs.wal_syncs) + self.sign_ins * self._costs.sign_in_wal_syncs
        return min(wanted, self.databases / self._costs.sync)

    def _bus(self) -> dict[str, float]:
        changes = 2 * self.sign_ins
        seconds = min(30.0, CHANGES / changes)
        news = self._news(poisson(changes, seconds, self._rng), self.nodes)
        signs = self.nodes * self.nodes / PULSE  # each in once, and out to all the others
        return {
            "messages on the bus a second, in and out": self.writes * self._costs.bus_messages
            + news.bus_messages / seconds
            + signs,
            "of them news of who came or went": news.bus_messages / seconds,
            "of them signs of life of the nodes": signs,
            "bus, MB a second": self.writes * self._costs.bus_bytes / 1e6,
            "clients told of it a second": news.told / seconds,
            "look-ups in the registry for that a second": news.look_ups / seconds,
            "p99 until they are told, ms": news.p99 * 1000,
            "clients told a second, if everybody were": changes * self.connections,
        }

    def _a_node_dies(self, use: Cpu) -> dict[str, float]:
        """Its people come to the others, which go on with what they had to do."""
        title = "a node dies, its people come back"
        if self.nodes == 1:
            return {}
        survivors = self.nodes - 1
        servers = Servers(
            survivors,
            max(0.1, 1 - use.nodes / survivors),
            DATABASE_CORES * self.databases - use.postgresql,
            max(1.0, BUS_CORES - use.nats),
        )
        count = int(self.connections / self.nodes)
        found = storm(self._moments(count, *self._habits.pause), self._storm_cost(), servers, self._rng)
        news = self._news(found.done, survivors)
        return {
            f"{title}: sign-ins": count,
            f"{title}: all signed in after, s": found.last,
            f"{title}: the longest wait, s": found.longest,
            f"{title}: clients told of them": news.told,
            f"{title}: look-ups for that": news.look_ups,
        }

    def _restart(self) -> dict[str, float]:
        """Of everything. All nodes are alike then and each database server has the same: so it's one server with its nodes."""
        title = "everything restarts"
        nodes = max(1, round(self.nodes / self.databases))
        count = int(self.connections / self.nodes * nodes)
        servers = Servers(nodes, 1.0, DATABASE_CORES, BUS_CORES)
        cost = self._storm_cost()
        figures: dict[str, float] = {}
        for how, moments in (
            ("of their own accord", self._habits.pause),
            (f"spread over {self._habits.spread:g} s", (0.0, self._habits.spread)),
        ):
            found = storm(self._moments(count, *moments), cost, servers, self._rng)
            figures[f"{title}, {how}: all signed in after, s"] = found.last
            figures[f"{title}, {how}: the longest wait, s"] = found.longest
        figures[f"{title}: the spread that it would need, s"] = count * max(
            cost.nodes / nodes, cost.postgresql / DATABASE_CORES, cost.nats / BUS_CORES
        )
        return figures

    def _news(self, changes: Sequence[float], nodes: int) -> FanOut:
        habits = self._habits
        return fan_out(changes, nodes, habits.watchers, habits.acquaintances, self._costs, self._rng)

    def _moments(self, count: int, first: float, last: float) -> list[float]:
        return [self._rng.uniform(first, last) for _ in range(count)]

    def _storm_cost(self) -> Cpu:
        """Of a sign-in of many at the same time, told to whoever watches."""
        both = zip(self._costs.hurried_sign_in, self._costs.news, strict=True)
        return Cpu(*(sign_in + self._habits.watchers * news for sign_in, news in both))
