"""The model's parameters, all from docs/benchmarks/nodes.json: what a message, a batch, a sign-in and the news of somebody's
coming take of each component. What isn't there is an error and never a guess."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.nodes_report import IDLE, SIGN_INS

BUSY: Final = "throughput"
PACED: Final = "1000 a second"
PACE: Final = 1000.0
"""Messages a second of PACED."""

CALM_SIGN_IN, TOLD_SIGN_IN, HURRIED_SIGN_IN = SIGN_INS


class MissingMeasurement(Exception):
    """What the model needs and the file doesn't have. The message says how to measure it."""


class Measured:
    """The medians of Duologue's rounds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: list[dict[str, Any]] = [
            each for each in json.loads(path.read_text())["results"] if each["peer"] == "duologue" and each["valid"]
        ]
        self.counts: tuple[int, ...] = tuple(dict.fromkeys(each["nodes"] for each in self._results))
        """Numbers of nodes, the smallest first."""

    def __call__(self, scenario: str, measure: str, nodes: int | None = None) -> float:
        """With the smallest number of nodes if none is given. Raises `MissingMeasurement`."""
        if not self.counts:
            raise MissingMeasurement(f"{self._path} has no valid results: run `python -m bench.nodes`")
        count = nodes or self.counts[0]
        found = [
            float(each[measure])
            for each in self._results
            if (each["scenario"], each["nodes"]) == (scenario, count) and measure in each
        ]
        if not found:
            raise MissingMeasurement(
                f"{self._path} has no valid `{measure}` of '{scenario}' with {count} nodes: run `python -m bench.nodes`"
            )
        return statistics.median(found)


class Cost(NamedTuple):
    """Of something that is done for each message, and for each batch whatever is in it."""

    message: float
    batch: float

    def of_message(self, batch_size: float) -> float:
        return self.message + self.batch / batch_size


class Cpu(NamedTuple):
    """Seconds of a core, of each component."""

    nodes: float
    postgresql: float
    nats: float

    @property
    def total(self) -> float:
        return self.nodes + self.postgresql + self.nats


@dataclass(frozen=True)
class Costs:
    loops: Cost
    """Of the nodes: receiving and delivering."""
    writers: Cost
    """Of the nodes: their other threads."""
    postgresql: Cost
    nats: Cost
    """Seconds of a core."""
    load: float
    """Seconds of its own core that the benchmark's load takes for a message."""
    wal_bytes: Cost
    wal_writes: Cost
    wal_syncs: Cost
    sync: float
    """Seconds that PostgreSQL waits for a sync of its log's disk."""
    look_up: float
    """Seconds of a transaction alone on the database."""
    bus_bytes: float
    bus_messages: float
    """By message, in and out."""
    sign_in: Cpu
    """And of leaving again, where there's time for everything."""
    hurried_sign_in: Cpu
    """The same where there isn't."""
    news: Cpu
    """Of one client being told of one who came or went."""
    sign_in_wal_syncs: float
    connection_bytes: float
    user_bytes: float
    """Beside the connection: mostly a subscription."""
    stored_bytes: float

    @property
    def nodes(self) -> Cost:
        return Cost(self.loops.message + self.writers.message, self.loops.batch + self.writers.batch)

    @property
    def all(self) -> Cost:
        # By fsum everywhere: `sum` of floats is another one since Python 3.12, and then so would simulation.md be.
        parts = (self.nodes, self.postgresql, self.nats)
        return Cost(math.fsum(each.message for each in parts), math.fsum(each.batch for each in parts))


def costs(measured: Measured) -> Costs:
    """Raises `MissingMeasurement`."""
    many, few = measured(BUSY, "batch_mean"), measured(PACED, "batch_mean")
    if many <= few:
        raise MissingMeasurement(
            "full batches are no larger than others, so what a batch costs can't be told from them"
        )

    def cost(measure: str, unit: float = 1.0) -> Cost:
        """From what a message takes in large batches and in small ones. Neither part can be negative."""
        in_many, in_few = measured(BUSY, measure) * unit, measured(PACED, measure) * unit
        batch = max(0.0, (in_few - in_many) / (1 / few - 1 / many))
        return Cost(max(0.0, in_many - batch / many), batch)

    def cpu(scenario: str) -> Cpu:
        return Cpu(*(measured(scenario, f"{part}_cpu_ms_per_sign_in") / 1000 for part in Cpu._fields))

    calm, told = cpu(CALM_SIGN_IN), cpu(TOLD_SIGN_IN)
    events = measured(TOLD_SIGN_IN, "told_per_sign_in")
    connection = measured(CALM_SIGN_IN, "bytes_per_connection")
    return Costs(
        loops=cost("loops_cpu_us_per_message", 1e-6),
        writers=cost("other_threads_cpu_us_per_message", 1e-6),
        postgresql=cost("postgresql_cpu_us_per_message", 1e-6),
        nats=cost("nats_cpu_us_per_message", 1e-6),
        load=measured(BUSY, "load_cpu") / measured(BUSY, "deliveries_per_second"),
        wal_bytes=cost("wal_bytes_per_message"),
        wal_writes=cost("wal_writes_per_message"),
        wal_syncs=cost("wal_syncs_per_message"),
        sync=measured(PACED, "wal_sync_ms") / 1000,
        look_up=measured(IDLE, "database_p50_ms") / 1000,
        bus_bytes=measured(BUSY, "bus_bytes_per_message"),
        bus_messages=measured(BUSY, "bus_messages_per_message"),
        sign_in=calm,
        hurried_sign_in=cpu(HURRIED_SIGN_IN),
        news=Cpu(*(max(0.0, (with_ - without) / events) for with_, without in zip(told, calm, strict=True))),
        sign_in_wal_syncs=measured(CALM_SIGN_IN, "wal_syncs_per_sign_in"),
        connection_bytes=connection,
        user_bytes=max(0.0, measured(CALM_SIGN_IN, "bytes_per_user") - connection),
        stored_bytes=measured(BUSY, "bytes_stored_per_message"),
    )
