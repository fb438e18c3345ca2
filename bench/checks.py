"""The model beside all that was measured with several nodes, each misfit in per cent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from bench.batches import Seen, busy, paced
from bench.measured import BUSY, CALM_SIGN_IN, HURRIED_SIGN_IN, PACE, PACED, Costs, Measured
from bench.nodes import WINDOW
from bench.nodes_report import IDLE, TWO_CORES
from bench.nodes_servers import IDLE_RATE
from bench.storms import hints

SECONDS = 4.0
"""Of each simulation."""

PARTS = ("nodes", "postgresql", "nats")


class Pair(NamedTuple):
    model: float
    seen: float

    @property
    def misfit(self) -> float:
        """0.1 if the model says a tenth too much."""
        return self.model / self.seen - 1


class Check(NamedTuple):
    scenario: str
    what: str
    pairs: dict[int, Pair]
    """By the number of nodes."""


def checks(costs: Costs, measured: Measured) -> list[Check]:
    """Raises `MissingMeasurement`."""
    rows: dict[tuple[str, str], dict[int, Pair]] = {}
    for count in measured.counts:
        for scenario, what, pair in _of(costs, measured, count):
            rows.setdefault((scenario, what), {})[count] = pair
    return [Check(*row, pairs) for row, pairs in rows.items()]


def _of(costs: Costs, measured: Measured, count: int) -> Iterator[tuple[str, str, Pair]]:
    def seen(scenario: str, measure: str) -> float:
        return measured(scenario, measure, count)

    # What the load takes of the second core isn't there for those who serve.
    both_cores = 2 - seen(TWO_CORES, "load_cpu")
    simulated = {
        BUSY: busy(costs, count, WINDOW, SECONDS),
        PACED: paced(costs, count, PACE, SECONDS),
        # So few that they need more time.
        IDLE: paced(costs, count, IDLE_RATE, SECONDS * 10),
        TWO_CORES: busy(costs, count, WINDOW, SECONDS, both_cores),
    }
    for scenario, found in simulated.items():
        if scenario in (BUSY, TWO_CORES):
            yield scenario, "deliveries/s", Pair(found.per_second, seen(scenario, "deliveries_per_second"))
        yield scenario, "p50 ms", Pair(found.p50 * 1000, seen(scenario, "p50_ms"))
        yield scenario, "p99 ms", Pair(found.p99 * 1000, seen(scenario, "p99_ms"))
        yield scenario, "messages a batch, mean", Pair(found.batch_mean, seen(scenario, "batch_mean"))
        yield scenario, "µs of CPU a message", Pair(*_cpu(costs, found, measured, scenario, count))
        yield scenario, "bytes on the bus a message", Pair(costs.bus_bytes, seen(scenario, "bus_bytes_per_message"))
    # Of coming and of going; everybody has one acquaintance there.
    yield (
        CALM_SIGN_IN,
        "messages on the bus a sign-in",
        Pair(2 * hints(1), seen(CALM_SIGN_IN, "bus_messages_per_sign_in")),
    )
    hurried = 1 / costs.hurried_sign_in.total
    yield HURRIED_SIGN_IN, "sign-ins/s", Pair(hurried, seen(HURRIED_SIGN_IN, "sign_ins_per_second"))


def _cpu(costs: Costs, found: Seen, measured: Measured, scenario: str, count: int) -> tuple[float, float]:
    seen = math.fsum(measured(scenario, f"{part}_cpu_us_per_message", count) for part in PARTS)
    return costs.all.of_message(found.batch_mean) * 1e6, seen
