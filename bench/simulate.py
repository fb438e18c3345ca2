"""How far Duologue goes: `python -m bench.simulate`, after `python -m bench.nodes`.

A capacity model whose parameters were measured (bench/measured.py, from docs/benchmarks/nodes.json), beside all that was
measured (bench/checks.py), and asked for 10 thousand, 1 million and 100 million people a day (bench/days.py), with storms and
the news of who comes and goes as events (bench/storms.py). Writes docs/benchmarks/simulation.md, and the figures into
docs/scaling.md: a number there that is followed by a comment with a name (`38<!--name-->`) is this module's. Everything random
follows from --seed.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
from pathlib import Path
from typing import Final

from bench.batches import RECEIVING
from bench.checks import Check, checks
from bench.days import CONNECTIONS_A_NODE, DATABASE_CORES, DATABASE_SHARE, NODE_SHARE, Day, Habits
from bench.measured import HURRIED_SIGN_IN, PACED, Cost, Costs, Cpu, Measured, MissingMeasurement, costs
from bench.nodes_report import IDLE
from bench.peers.launch import ROOT

DOCS: Final = ROOT / "docs"
MEASURED: Final = DOCS / "benchmarks/nodes.json"
SIMULATION: Final = DOCS / "benchmarks/simulation.md"
SCALING: Final = DOCS / "scaling.md"

SEED: Final = 1
DAYS: Final = (10_000, 1_000_000, 100_000_000)

_FIGURE: Final = re.compile(r"[-+]?\d[\d.,]*(?=<!--(.+?)-->)")
"""A number in a page, and the name that follows it."""


class Simulation:
    """All of it. Raises `MissingMeasurement`."""

    def __init__(self, measured: Measured, seed: int) -> None:
        rng = random.Random(seed)
        self.costs = costs(measured)
        self.checks = checks(self.costs, measured)
        self.days = {people: Day(people, Habits(), self.costs, rng) for people in DAYS}
        self._measured = measured

    def report(self) -> str:
        lines = [
            "# Simulation",
            "",
            "Made by `python -m bench.simulate` of [nodes.json](nodes.json). What is assumed of people, and",
        ]
        lines += ["how full a server may be, is in bench/days.py; how messages wait is in bench/batches.py.", ""]
        lines += ["## Parameters, measured", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _parameters(self.costs)]
        lines += ["", "## Assumed, or chosen", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _assumed(Habits())]
        lines += [
            "",
            "## Beside what was seen",
            "",
            "Model / measured (misfit). The costs of batches and messages are those of",
        ]
        smallest = self._measured.counts[0]
        lines += [f"{smallest} nodes under load and at {PACED}: nothing else is fitted.", ""]
        lines += ["| | | " + " | ".join(f"{count} nodes" for count in self._measured.counts) + " |"]
        lines += ["|---" * (len(self._measured.counts) + 2) + "|", *map(_row, self.checks)]
        lines += [
            "",
            "## The peak of a day, by people",
            "",
            "| | " + " | ".join(f"{people:,}" for people in DAYS) + " |",
        ]
        lines += ["|---" * (len(DAYS) + 1) + "|"]
        for name in self.days[DAYS[-1]].figures:
            cells = (_number(day.figures.get(name, math.nan)) for day in self.days.values())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join([*lines, ""])

    def figures(self) -> dict[str, str]:
        """By the names that docs/scaling.md may use."""
        costs, found = self.costs, {}
        for part, cost in (("nodes", costs.nodes), ("postgresql", costs.postgresql), ("nats", costs.nats)):
            found[f"{part}, message"] = _number(cost.message * 1e6)
        for part, calm, hurried in zip(Cpu._fields, costs.sign_in, costs.hurried_sign_in, strict=True):
            found[f"{part}, sign-in"] = _number(calm * 1000)
            found[f"{part}, hurried sign-in"] = _number(hurried * 1000)
        found |= {
            "batch": _number(costs.all.batch * 1000),
            "sync": _number(costs.sync * 1000),
            "bus bytes": _number(costs.bus_bytes),
            "connection": _number(costs.connection_bytes / 1000),
            "user": _number(costs.user_bytes / 1000),
            "stored": _number(costs.stored_bytes),
            "hurried sign-ins": _number(self._measured(HURRIED_SIGN_IN, "sign_ins_per_second")),
            "idle p50": _number(self._measured(IDLE, "p50_ms")),
        }
        for check in self.checks:
            for count, pair in check.pairs.items():
                found[f"{check.scenario}, {check.what}, {count}"] = _number(pair.seen)
                found[f"misfit: {check.scenario}, {check.what}, {count}"] = f"{pair.misfit * 100:+.0f}"
        for people, day in self.days.items():
            for name, value in day.figures.items():
                found[f"{people:,}: {name}"] = _number(value)
        return found


def fill(page: str, figures: dict[str, str]) -> str:
    """The page with its figures. Raises KeyError for a name that there isn't."""
    return _FIGURE.sub(lambda found: figures[found[1]], page)


def _parameters(costs: Costs) -> list[tuple[str, str]]:
    def three(costs: tuple[Cost, ...], part: str, unit: float) -> str:
        return " + ".join(_number(getattr(each, part) * unit) for each in costs)

    def cpu(cost: Cpu) -> str:
        return " + ".join(_number(each * 1000) for each in cost) + " ms of a core"

    parts = (costs.nodes, costs.postgresql, costs.nats)
    log = (costs.wal_bytes, costs.wal_writes, costs.wal_syncs)
    return [
        ("a message: nodes, PostgreSQL, NATS", three(parts, "message", 1e6) + " µs of a core"),
        ("a batch, whatever is in it", three(parts, "batch", 1e6) + " µs of a core"),
        (
            "of the nodes' part, the event loops",
            _number(costs.loops.message * 1e6) + " and " + _number(costs.loops.batch * 1e6) + " µs",
        ),
        (
            "a message, on the bus, in and out",
            f"{_number(costs.bus_bytes)} bytes, {_number(costs.bus_messages)} messages",
        ),
        (
            "a message, in the database's log",
            "{} bytes, {} writes, {} syncs".format(*(_number(each.message) for each in log)),
        ),
        (
            "a batch, in the database's log",
            "{} bytes, {} writes, {} syncs".format(*(_number(each.batch) for each in log)),
        ),
        ("a sync of the log", f"{_number(costs.sync * 1000)} ms"),
        ("a transaction alone", f"{_number(costs.look_up * 1000)} ms"),
        ("a sign-in, and leaving: nodes, PostgreSQL, NATS", cpu(costs.sign_in)),
        ("the same, as fast as they go", cpu(costs.hurried_sign_in)),
        ("one client being told who came or went", cpu(costs.news)),
        (
            "a connection, and a user beside it",
            f"{_number(costs.connection_bytes)} and {_number(costs.user_bytes)} bytes",
        ),
        ("a message stored, indexes included", f"{_number(costs.stored_bytes)} bytes"),
    ]


def _assumed(habits: Habits) -> list[tuple[str, str]]:
    low, high = habits.pause
    chosen = f"{NODE_SHARE:.0%}, {CONNECTIONS_A_NODE:,}, {DATABASE_SHARE:.0%} of {DATABASE_CORES}"
    return [
        ("messages of a person a day, and receipts for each", f"{habits.messages:g}, {habits.receipts:g}"),
        ("the peak's rate, of the mean", f"{habits.peak:g}"),
        ("of a day's people online at the peak, devices of each", f"{habits.online:.0%}, {habits.devices:g}"),
        ("visits of a person a day, clients who show them", f"{habits.visits:g}, {habits.watchers:g}"),
        ("acquaintances of a person", f"{habits.acquaintances:g}"),
        ("chosen: of a node's core, connections of a node, of a database server's cores, at most", chosen),
        ("of what a message takes the loop, receiving", f"{RECEIVING:g}"),
        ("who is cut off comes back after, s", f"{low:g} to {high:g}"),
    ]


def _row(check: Check) -> str:
    cells = (f"{_number(pair.model)} / {_number(pair.seen)} ({pair.misfit:+.0%})" for pair in check.pairs.values())
    return f"| {check.scenario} | {check.what} | " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="what `python -m bench.nodes` wrote")
    parser.add_argument("--out", type=Path, default=SIMULATION)
    parser.add_argument("--page", type=Path, default=SCALING, help="whose figures are renewed")
    options = parser.parse_args()
    try:
        simulation = Simulation(Measured(options.measured), options.seed)
    except MissingMeasurement as error:
        sys.exit(f"bench.simulate: {error}")
    options.out.write_text(simulation.report())
    options.page.write_text(fill(options.page.read_text(), simulation.figures()))
    print(simulation.report())


if __name__ == "__main__":
    main()
