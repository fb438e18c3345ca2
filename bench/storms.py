"""Many who come at once: sign-ins that queue at their node, then at the one database, then at the bus; and the news of them, as
events that reach the nodes where somebody shows them. Everything random comes from the caller."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from bench.measured import Costs, Cpu
from duologue.server.elsewhere import AT_ONCE


class Servers(NamedTuple):
    """What a storm meets."""

    nodes: int
    node: float
    """Cores that one of them has left for the storm."""
    database: float
    """Cores that all of the database has left for it."""
    bus: float


class Storm(NamedTuple):
    last: float
    """Seconds from its begin until everybody is signed in."""
    longest: float
    """That anybody waited."""
    done: list[float]
    """When each sign-in was over, in order."""


def storm(moments: Sequence[float], cost: Cpu, servers: Servers, rng: random.Random) -> Storm:
    """Somebody comes at each of the moments, to a node drawn by chance. First in, first out everywhere; the database and the bus
    are shared by all nodes."""
    queues: list[list[float]] = [[] for _ in range(servers.nodes)]
    for moment in sorted(moments):
        queues[rng.randrange(servers.nodes)].append(moment)
    at_nodes = [
        each for queue in queues for each in _served([(came, came) for came in queue], cost.nodes / servers.node)
    ]
    at_database = _served(sorted(at_nodes), cost.postgresql / servers.database)
    ended = _served(at_database, cost.nats / servers.bus)
    return Storm(ended[-1][0], max(end - came for end, came in ended), [end for end, _ in ended])


def _served(ready: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """One after another. Of each: when it's ready for this server (in order), then when it's done; and when it came at all."""
    free, done = 0.0, []
    for moment, came in ready:
        free = max(free, moment) + seconds
        done.append((free, came))
    return done


class FanOut(NamedTuple):
    bus_messages: float
    """Hints, in and out of the bus."""
    look_ups: int
    """In the registry, each of up to 500 people."""
    told: int
    """Clients who were told."""
    p99: float
    """Seconds from a change until a node has told of it."""


def hints(acquaintances: float) -> float:
    """That a node publishes when somebody comes or goes: one for those who watch, and where not everybody is announced one for
    each of their acquaintances, which nobody hears where all clients sync (server/elsewhere.py)."""
    return 1 + acquaintances


def fan_out(
    changes: Sequence[float], nodes: int, watchers: int, acquaintances: float, costs: Costs, rng: random.Random
) -> FanOut:
    """Somebody comes or goes at each of these moments, in order. Their node hints at it, the bus brings that to the other nodes
    where a watcher is, each looks up whatever it has heard of while it looked up what was before, and tells."""
    heard: list[list[float]] = [[] for _ in range(nodes)]
    bus_messages = 0.0
    for moment in changes:
        here = rng.randrange(nodes)
        where = {rng.randrange(nodes) for _ in range(watchers)}
        bus_messages += hints(acquaintances) + len(where - {here})
        for node in where:
            heard[node].append(moment)
    look_ups, waits = 0, []
    for waiting in heard:
        free, first = 0.0, 0
        while first < len(waiting):
            begin, last = max(free, waiting[first]), first + 1
            while last < len(waiting) and waiting[last] <= begin and last - first < AT_ONCE:
                last += 1
            free = begin + costs.look_up
            waits += [free - hint for hint in waiting[first:last]]
            look_ups, first = look_ups + 1, last
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)] if waits else 0.0
    return FanOut(bus_messages, look_ups, len(changes) * watchers, p99)


def poisson(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Moments at random, `rate` a second."""
    times, now = [], 0.0
    while (now := now + rng.expovariate(rate)) < seconds:
        times.append(now)
    return times
