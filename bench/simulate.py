"""What a day of many people asks of nodes, database and bus: `python -m bench.simulate`.

A model with parameters that were measured (docs/benchmarks/results.json and nodes.json), checked against the same
measurements, and asked for 10 thousand, 1 million and 100 million people a day. The habits of people (`Habits`) are assumed.
Writes docs/benchmarks/simulation.md. Everything random follows from --seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.peers.launch import ROOT

BENCHMARKS: Final = ROOT / "docs/benchmarks"
DAYS: Final = (10_000, 1_000_000, 100_000_000)

NODE_SHARE: Final = 0.6
"""How much of its core a node may use at the peak of a day."""

CONNECTIONS_A_NODE: Final = 50_000
"""More would make the loss of one a long storm, whatever its memory."""

DATABASE_SHARE: Final = 0.6
"""How much of its cores a database server may use at the peak of a day."""

DATABASE_CORES: Final = 8

COMMITS: Final = 100
"""A second, of a node that is never without messages: each takes some 10 ms, most of it waiting."""

SYNC: Final = 0.0015
"""Seconds that a commit takes to reach the disk: what fdatasync takes on the machine of the measurements."""

STORED: Final = 394
"""Bytes of a message of 94 characters with its indexes in PostgreSQL: `pg_total_relation_size` of 200,000 that bench/fill.py
made and `duologue migrate` brought there, on 2026-11-23. (The same take 246 bytes each in SQLite.)"""


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
    watchers: float = 3
    """Clients that show somebody, when they come or go."""
    receipts: float = 1.0
    """Position events for each message."""


@dataclass(frozen=True)
class Costs:
    """Seconds of processor time and bytes, from the measurements."""

    node_message: float
    database_message: float
    bus_message: float
    node_batch: float
    database_batch: float
    bus_batch: float
    """Of a batch, whatever is in it: round trips, a commit, a turn of the loop."""
    bus_bytes: float
    sign_in: float
    connection_bytes: float

    @property
    def message(self) -> float:
        return self.node_message + self.database_message + self.bus_message

    @property
    def batch(self) -> float:
        return self.node_batch + self.database_batch + self.bus_batch


def measured() -> tuple[Costs, dict[str, float]]:
    """The model's parameters, and the measurements that it has to agree with."""
    nodes = json.loads((BENCHMARKS / "nodes.json").read_text())["results"]
    alone = json.loads((BENCHMARKS / "results.json").read_text())["results"]

    def of_nodes(scenario: str, measure: str, count: int = 2) -> float:
        return statistics.median(
            float(each[measure])
            for each in nodes
            if each["peer"] == "duologue"
            and each["nodes"] == count
            and each["valid"]
            and each["scenario"].startswith(scenario)
        )

    def of_one(scenario: str, measure: str) -> float:
        found = [
            each[measure] for each in alone if each["peer"] == "duologue" and each["scenario"].startswith(scenario)
        ]
        return float(statistics.median(found))

    parts = ("nodes", "postgresql", "nats")
    busy = {part: of_nodes("throughput", f"{part}_cpu_us_per_message") / 1e6 for part in parts}
    calm = {part: of_nodes("1000", f"{part}_cpu_us_per_message") / 1e6 for part in parts}
    # While few messages come each node's batches have about as many as arrive during one: the latency says how many.
    in_a_batch = max(1.0, 500 * of_nodes("1000", "p50_ms") / 1000)
    batch = {part: max(0.0, calm[part] - busy[part]) * in_a_batch for part in parts}
    costs = Costs(
        node_message=busy["nodes"],
        database_message=busy["postgresql"],
        bus_message=busy["nats"],
        node_batch=batch["nodes"],
        database_batch=batch["postgresql"],
        bus_batch=batch["nats"],
        bus_bytes=of_nodes("throughput", "bus_bytes_per_message"),
        sign_in=of_one("reconnect, 1,000,000", "server_cpu_ms") / 1000,
        connection_bytes=of_one("idle", "bytes_per_connection"),
    )
    seen = {
        "deliveries a second, 2 nodes": of_nodes("throughput", "deliveries_per_second"),
        "deliveries a second, 8 nodes": of_nodes("throughput", "deliveries_per_second", 8),
        "p50 at 1,000 a second, 2 nodes, ms": of_nodes("1000", "p50_ms"),
        "p99 at 1,000 a second, 2 nodes, ms": of_nodes("1000", "p99_ms"),
    }
    return costs, seen


def committer(costs: Costs, rate: float, nodes: int, seconds: float, rng: random.Random) -> list[float]:
    """Latencies of messages that come at random to `nodes` nodes which share one core, as in the benchmark: whoever has
    messages takes them all and commits them; the others wait for the core and for the locks."""
    free = 0.0
    arrivals = [_poisson(rate / nodes, seconds, rng) for _ in range(nodes)]
    waiting = [0] * nodes
    latencies: list[float] = []
    while True:
        ready = [(arrivals[node][waiting[node]], node) for node in range(nodes) if waiting[node] < len(arrivals[node])]
        if not ready:
            return latencies
        first, node = min(ready)
        begin = max(free, first)
        end_of_batch = waiting[node]
        while end_of_batch < len(arrivals[node]) and arrivals[node][end_of_batch] <= begin:
            end_of_batch += 1
        count = max(1, end_of_batch - waiting[node])
        free = begin + costs.batch + count * costs.message + SYNC
        latencies += [free - arrivals[node][index] for index in range(waiting[node], waiting[node] + count)]
        waiting[node] += count


def _poisson(rate: float, seconds: float, rng: random.Random) -> list[float]:
    times, now = [], 0.0
    while (now := now + rng.expovariate(rate)) < seconds:
        times.append(now)
    return times


def storm(costs: Costs, connections: int, others: int, spread: float, rng: random.Random) -> tuple[float, float]:
    """A node dies and its connections come to the `others`, each at a random moment of `spread` seconds. Returns the seconds
    until the last one is signed in, and the longest that anybody waited."""
    last = worst = 0.0
    share = connections // others
    for _ in range(min(others, 8)):  # they're alike
        free = 0.0
        for moment in sorted(rng.uniform(0, spread) for _ in range(share)):
            free = max(free, moment) + costs.sign_in
            worst = max(worst, free - moment)
        last = max(last, free)
    return last, worst


def day(people: int, habits: Habits, costs: Costs, rng: random.Random) -> dict[str, Any]:
    """What the peak of a day asks for."""
    rate = people * habits.messages / 86_400 * habits.peak
    writes = rate * (1 + habits.receipts)
    connections = people * habits.online * habits.devices
    arrivals = people * habits.visits * 2 / 86_400 * habits.peak
    nodes = max(2 if people > DAYS[0] else 1, math.ceil(connections / CONNECTIONS_A_NODE))
    while True:
        # Each node commits what has come since its last commit.
        commits = min(writes, nodes * COMMITS)
        node_cpu = writes * costs.node_message + commits * costs.node_batch + arrivals / 2 * costs.sign_in
        needed = math.ceil(node_cpu / NODE_SHARE)
        if needed <= nodes:
            break
        nodes = min(nodes * 2, needed)
    database_cpu = writes * costs.database_message + commits * costs.database_batch
    databases = max(1, math.ceil(database_cpu / (DATABASE_CORES * DATABASE_SHARE)))
    hints = arrivals * habits.watchers
    everybody = arrivals * connections
    survivors = max(1, nodes - 1)
    took, waited = storm(costs, int(connections / nodes), survivors, 5.0, rng) if nodes > 1 else (0.0, 0.0)
    return {
        "messages a second at the peak": rate,
        "connections at the peak": connections,
        "nodes (one core each)": nodes,
        "memory of a node's connections, MB": connections / nodes * costs.connection_bytes / 1e6,
        f"database servers ({DATABASE_CORES} cores each)": databases,
        "commits a second": commits,
        "messages on the bus a second": writes * 2 + hints,
        "bus, MB a second": (writes * costs.bus_bytes + hints * 200) / 1e6,
        "presence, hints a second": hints,
        "the same, if everybody were told": everybody,
        "stored in a year, TB": people * habits.messages * 365 * STORED / 1e12,
        "a node dies: all signed in again after, s": took,
        "a node dies: the longest wait of one, s": waited,
    }


def report(costs: Costs, seen: dict[str, float], rng: random.Random) -> str:
    calm = sorted(committer(costs, 1000, 2, 20.0, rng))
    predicted = {
        "deliveries a second, 2 nodes": 1 / costs.message,
        "deliveries a second, 8 nodes": 1 / costs.message,
        "p50 at 1,000 a second, 2 nodes, ms": calm[len(calm) // 2] * 1000,
        "p99 at 1,000 a second, 2 nodes, ms": calm[int(len(calm) * 0.99)] * 1000,
    }
    lines = ["# Simulation", "", "Made by `python -m bench.simulate`; the assumptions are in bench/simulate.py.", ""]
    lines += ["## Parameters, measured", "", "| | |", "|---|---|"]
    lines += [
        "| a message: nodes, PostgreSQL, NATS | "
        + " + ".join(f"{cost * 1e6:.1f}" for cost in (costs.node_message, costs.database_message, costs.bus_message))
        + " µs of a core |",
        "| a batch, whatever is in it | "
        + " + ".join(f"{cost * 1e6:,.0f}" for cost in (costs.node_batch, costs.database_batch, costs.bus_batch))
        + f" µs of a core, and {SYNC * 1000:g} ms for the disk (assumed) |",
        f"| a message on the bus, in and out | {costs.bus_bytes:,.0f} bytes |",
        f"| a sign-in | {costs.sign_in * 1e6:,.0f} µs of a core |",
        f"| an idle connection | {costs.connection_bytes:,.0f} bytes |",
    ]
    lines += ["", "## Checked against what was seen", "", "| | model | measured |", "|---|---|---|"]
    lines += [f"| {name} | {predicted[name]:,.1f} | {value:,.1f} |" for name, value in seen.items()]
    columns = {people: day(people, Habits(), costs, rng) for people in DAYS}
    lines += ["", "## People a day", "", "| | " + " | ".join(f"{people:,}" for people in DAYS) + " |"]
    lines.append("|---" * (len(DAYS) + 1) + "|")
    for name in columns[DAYS[0]]:
        lines.append(f"| {name} | " + " | ".join(_number(columns[people][name]) for people in DAYS) + " |")
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "simulation.md")
    options = parser.parse_args()
    text = report(*measured(), random.Random(options.seed))
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
