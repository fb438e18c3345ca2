"""From the results of several nodes to a table of medians, and which targets were met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Final

from bench.peers.launch import LOAD_CORE, SERVER_CORE

PEERS: Final = ("duologue", "node")
IDLE: Final = "next to idle"
TWO_CORES: Final = "throughput on two cores"
SIGN_INS: Final = ("sign-ins, 50 a second", "sign-ins, each told to three", "sign-ins, as fast as they go")

DELIVERIES: Final = 20_000
"""A second, on two cores, everything included."""

IDLE_BATCH: Final = 1.1
"""Messages that a batch of a system that has nothing to do may have: nobody waits for company."""

IDLE_WAIT: Final = 2.0
"""What a delivery may take then, of what it takes the guide's servers, which have no database, and a transaction alone together:
a batch that waited for its time would show."""

BUSY_SHARE: Final = 0.25
"""Of the messages that are under way at one node, what a batch has when there's no end of them. It can't be much more than a
half: while one half is being written and delivered, the other gathers."""

Results = list[dict[str, Any]]

MEASURES: Final = (
    ("deliveries_per_second", "deliveries/s", "{:,.0f}"),
    ("p50_ms", "p50 ms", "{:.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("sign_ins_per_second", "sign-ins/s, as many leave", "{:,.0f}"),
    ("nodes_cpu_ms_per_sign_in", "ms of CPU a sign-in, nodes", "{:.2f}"),
    ("postgresql_cpu_ms_per_sign_in", "ms of CPU a sign-in, PostgreSQL", "{:.2f}"),
    ("nats_cpu_ms_per_sign_in", "ms of CPU a sign-in, NATS", "{:.2f}"),
    ("bus_bytes_per_sign_in", "bytes on the bus a sign-in, in and out", "{:,.0f}"),
    ("bus_messages_per_sign_in", "messages on the bus a sign-in, in and out", "{:.1f}"),
    ("wal_syncs_per_sign_in", "syncs of the database's log a sign-in", "{:.2f}"),
    ("wal_bytes_per_sign_in", "bytes written to the database's log a sign-in", "{:,.0f}"),
    ("told_per_sign_in", "clients told of a sign-in or of its end", "{:.1f}"),
    ("bytes_per_connection", "bytes of a node's memory for an idle connection", "{:,.0f}"),
    ("bytes_per_user", "bytes for the first connection of a user, subscription included", "{:,.0f}"),
    ("database_p50_ms", "p50 ms of the database's transaction alone", "{:.2f}"),
    ("fsync_p50_ms", "p50 ms of 16 kB synced to the database's disk alone", "{:.2f}"),
    ("fsync_p99_ms", "p99 ms of the same", "{:.2f}"),
    ("wal_sync_ms", "ms of a sync of the database's log, mean", "{:.2f}"),
    ("wal_syncs_per_message", "syncs of the database's log a message", "{:.3f}"),
    ("wal_writes_per_message", "writes to the database's log a message", "{:.3f}"),
    ("wal_bytes_per_message", "bytes written to the database's log a message", "{:,.0f}"),
    ("bytes_stored_per_message", "bytes of a message in the database, indexes included", "{:,.0f}"),
    ("commits_per_second", "commits/s of messages, all nodes", "{:,.0f}"),
    ("batch_mean", "messages a batch, mean", "{:,.1f}"),
    ("batch_p50", "messages a batch, median", "{:,.0f}"),
    ("batch_max", "messages a batch, most", "{:,.0f}"),
    ("bus_bytes_per_message", "bytes on the bus a message, in and out", "{:,.0f}"),
    ("bus_messages_per_message", "messages on the bus a message, in and out", "{:.2f}"),
    ("nodes_cpu_us_per_message", "µs of CPU a message, nodes", "{:.1f}"),
    ("loops_cpu_us_per_message", "µs of CPU a message, of it the event loops", "{:.1f}"),
    ("other_threads_cpu_us_per_message", "µs of CPU a message, of it the other threads", "{:.1f}"),
    ("postgresql_cpu_us_per_message", "µs of CPU a message, PostgreSQL", "{:.1f}"),
    ("nats_cpu_us_per_message", "µs of CPU a message, NATS", "{:.1f}"),
    ("redis_cpu_us_per_message", "µs of CPU a message, Redis", "{:.1f}"),
    ("load_cpu", "load CPU", "{:.0%}"),
)


def table(described: dict[str, Any], results: Results) -> str:
    """Markdown: the facts of the run, a table per scenario, the targets."""
    lines = ["# Several nodes", "", *(f"- {name}: {value}" for name, value in described.items()), ""]
    lines += ["Partners are on different nodes, and whoever comes back comes to the next node.", ""]
    for scenario in dict.fromkeys(each["scenario"] for each in results):
        counts = list(dict.fromkeys(each["nodes"] for each in results))
        present = {(each["nodes"], each["peer"]) for each in results if each["scenario"] == scenario}
        columns = [(count, peer) for count in counts for peer in PEERS if (count, peer) in present]
        lines += [f"## {scenario}", ""]
        lines.append("| | " + " | ".join(f"{peer}, {count} nodes" for count, peer in columns) + " |")
        lines.append("|---" * (len(columns) + 1) + "|")
        for measure, title, form in MEASURES:
            found = [_median(results, scenario, *column, measure) for column in columns]
            if any(value is not None for value in found):
                cells = ("-" if value is None else form.format(value) for value in found)
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    invalid = [each for each in results if not each["valid"]]
    lines += [f"INVALID rounds: {len(invalid)}", ""] if invalid else []
    return "\n".join([*lines, "## Targets", "", *(f"- {line}" for line in verdicts(results)), ""])


def verdicts(results: Results) -> list[str]:
    counts = dict.fromkeys(each["nodes"] for each in results)
    found = [each for count in counts for each in (*_throughput(results, count), *_batches(results, count))]
    return [f"{'met' if met else 'MISSED'}: {wanted} ({seen})" for wanted, seen, met in found]


def _throughput(results: Results, count: int) -> Iterator[tuple[str, str, bool]]:
    speed = _median(results, TWO_CORES, count, "duologue", "deliveries_per_second")
    if speed is not None:
        wanted = (
            f"{count} nodes, cores {SERVER_CORE} and {LOAD_CORE}: at least {DELIVERIES:,} durable deliveries a second"
        )
        yield wanted, f"{speed:,.0f}", speed >= DELIVERIES


def _batches(results: Results, count: int) -> Iterator[tuple[str, str, bool]]:
    def figure(scenario: str, measure: str) -> float | None:
        return _median(results, scenario, count, "duologue", measure)

    batch, wait, database = (figure(IDLE, each) for each in ("batch_mean", "p50_ms", "database_p50_ms"))
    guide = _median(results, IDLE, count, "node", "p50_ms")
    if batch is not None:
        yield f"{count} nodes, {IDLE}: at most {IDLE_BATCH} messages a batch", f"{batch:.2f}", batch <= IDLE_BATCH
    if wait is not None and database is not None and guide is not None:
        most = IDLE_WAIT * (guide + database)
        wanted = f"{count} nodes, {IDLE}: p50 at most {IDLE_WAIT:g} x the guide's and a transaction's"
        yield wanted, f"{wait:.2f} of {most:.2f} ms", wait <= most
    for scenario in ("throughput", TWO_CORES):
        batch, under_way = (figure(scenario, each) for each in ("batch_mean", "under_way_per_node"))
        if batch is not None and under_way is not None:
            wanted = f"{count} nodes, {scenario}: a batch has at least {BUSY_SHARE:g} of what is under way at its node"
            yield wanted, f"{batch:,.0f} of {under_way:,.0f}", batch >= BUSY_SHARE * under_way


def _median(results: Results, scenario: str, count: int, peer: str, measure: str) -> float | None:
    found = [
        each[measure]
        for each in results
        if (each["scenario"], each["nodes"], each["peer"]) == (scenario, count, peer)
        and each["valid"]
        and measure in each
    ]
    return statistics.median(found) if found else None
