"""Several nodes, beside the guide's Part IV: `python -m bench.nodes`, and at the end of `make bench`.

Duologue on PostgreSQL and NATS, every message on disk and acknowledged, against the guide's servers on Node with the Redis
adapter and messages in Redis' memory. All that serves shares core 0, the load has core 1; with "two cores" what serves may use
both, one of which it shares with the load. Partners are on different nodes, so that every delivery crosses from one to another.
Writes docs/benchmarks/nodes.json, nodes.md and nodes.svg.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import hatch_build
from bench import visits
from bench.archive import ASIDE, DOCUMENTS
from bench.facts import facts
from bench.nodes_report import IDLE, PEERS, SIGN_INS, TWO_CORES, table
from bench.nodes_servers import IDLE_RATE, Nodes, Result, Wal, duologue, guide, redis_version
from bench.peers.launch import LOAD_CORE, ROOT, SERVER_CORE, pinned
from bench.plots import draw_nodes

LOAD_TIMEOUT: Final = 300.0

WARM_UP: Final = 2.0
"""Seconds of the load before it's measured."""

PAUSE: Final = 2.5
"""Seconds from the sign-ins to the first message: some of what follows a sign-in is done after one to two seconds
(server/second_look.py), and is no cost of messages."""

SIGN_INS_TOLD: Final = 1.5
"""Seconds of the load after which the database's statistics have the sign-ins before it: those of a backend come once a second
at most."""

TIMES: Final = ("--pause", f"{PAUSE}", "--warm-up", f"{WARM_UP}")

WINDOW: Final = 20
"""Messages that each socket keeps under way where it goes as fast as it can."""


class Scenario(NamedTuple):
    """Messages between sockets that stay connected."""

    name: str
    load: str
    """Of `bench.load`."""
    flags: tuple[str, ...]
    window: int = 0
    """Messages that each socket keeps under way; 0 if it sends by the clock."""


class Group(NamedTuple):
    """What is measured one after another on the same servers."""

    cores: str
    peers: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    """None: sign-ins (`bench.visits`)."""

    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.scenarios) or SIGN_INS


class Size(NamedTuple):
    counts: tuple[int, ...]
    rounds: int
    seconds: float
    sockets: int = 100
    rate: float = 1000
    people: int = 4_000
    """Who sign in again and again."""
    only: tuple[str, ...] = ()
    """If there are any: the groups in which a scenario's name contains one of these."""

    def groups(self) -> list[Group]:
        busy = ("closed", ("--window", f"{WINDOW}"), WINDOW)
        one_core = (
            Scenario("throughput", *busy),
            Scenario(f"{self.rate:g} a second", "open", ("--rate", f"{self.rate:g}")),
            Scenario(IDLE, "open", ("--rate", f"{IDLE_RATE}")),
        )
        groups = [
            Group(SERVER_CORE, PEERS, one_core),
            Group(f"{SERVER_CORE},{LOAD_CORE}", PEERS, (Scenario(TWO_CORES, *busy),)),
            # Not the guide's servers: what they send at each sign-in grows with the number of people.
            Group(SERVER_CORE, ("duologue",), ()),
        ]
        return [
            group
            for group in groups
            if not self.only or any(text in name for text in self.only for name in group.names())
        ]


FULL: Final = Size((2, 4, 8), 3, 4)
QUICK: Final = Size((2,), 1, 1.5, people=400)


def measure(nodes: Nodes, peer: str, scenario: str, *flags: str) -> Result:
    # Or those of the scenario before would be announced to everybody in the middle of this one.
    if not nodes.wait_until_left(0):
        return {"valid": False, "refusal": "those who have left still count as online"}
    alone = nodes.alone() if scenario == "open" else {}
    wal: Wal | None = None
    urls = [part for url in nodes.urls() for part in ("--url", url)]
    acks = ["--acks"] if peer == "duologue" else []
    command = [
        sys.executable,
        "-m",
        "bench.load",
        scenario,
        *urls,
        *acks,
        "--pattern",
        "pairs",
        "--warm-up",
        str(WARM_UP),
        *flags,
    ]
    with subprocess.Popen(pinned(LOAD_CORE, command), cwd=ROOT, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        load.stdout.readline()  # everybody is signed in: from here on what it costs is the messages' cost
        cpu, passed, began = nodes.cpu(), nodes.bus(), time.monotonic()
        try:
            time.sleep(SIGN_INS_TOLD)
            wal = nodes.wal()
            rest, _ = load.communicate(timeout=LOAD_TIMEOUT)
        except subprocess.TimeoutExpired:
            load.kill()
            return {"valid": False, "refusal": f"the load took more than {LOAD_TIMEOUT:g} s"}
    if load.returncode:
        return {"valid": False, "refusal": f"the load ended with exit code {load.returncode}"}
    result: Result = json.loads(rest.splitlines()[-1])
    took, count = time.monotonic() - began, max(1, result["delivered"])
    result |= {f"bus_{name}_per_message": (now - passed[name]) / count for name, now in nodes.bus().items()}
    for name, seconds in nodes.cpu().items():
        result[f"{name}_cpu_us_per_message"] = (seconds - cpu[name]) / count * 1e6
        result[f"{name}_cpu"] = (seconds - cpu[name]) / took
    if wal is not None and (after := nodes.wal()) is not None:
        result |= _written(after.since(wal))
    return {**result, **alone, **nodes.batches(result["from_ms"], result["until_ms"])}


def _written(wal: Wal) -> Result:
    """By message, what went to the database's log. Nothing, if the statistics haven't moved meanwhile."""
    if not wal.messages or not wal.syncs:
        return {}
    return {
        "wal_bytes_per_message": wal.bytes / wal.messages,
        "wal_writes_per_message": wal.writes / wal.messages,
        "wal_syncs_per_message": wal.syncs / wal.messages,
        "wal_sync_ms": wal.sync_ms / wal.syncs,
    }


def measure_all(size: Size, node: str) -> Iterator[Result]:
    starts: dict[str, Callable[[int, str], Any]] = {
        "duologue": duologue,
        "node": lambda count, cores: guide(count, cores, node),
    }
    for count in size.counts:
        for turn in range(size.rounds):
            for group in size.groups():
                for peer in group.peers if turn % 2 == 0 else reversed(group.peers):
                    with starts[peer](count, group.cores) as nodes:
                        for name, figures in _measure_group(size, group, nodes, peer):
                            result = {"peer": peer, "nodes": count, "scenario": name, "round": turn, **figures}
                            print(_headline(result), file=sys.stderr, flush=True)
                            yield result


def _measure_group(size: Size, group: Group, nodes: Nodes, peer: str) -> Iterator[tuple[str, Result]]:
    if not group.scenarios:
        # A load that ends too early leaves some out.
        yield from zip(SIGN_INS, visits.measure(nodes, size.people, size.seconds), strict=False)
    for each in group.scenarios:
        how = ("--seconds", str(size.seconds), "--sockets", str(size.sockets))
        figures = measure(nodes, peer, each.load, *each.flags, *how)
        if each.window:
            figures["under_way_per_node"] = size.sockets * each.window / len(nodes.ports)
        yield each.name, figures


def run(size: Size, out: Path, node: str, described: dict[str, Any]) -> str:
    """Measure, write the figures to the folder `out`, and return the table."""
    described = {**described, "redis": redis_version()}
    results: list[Result] = []
    try:
        for result in measure_all(size, node):
            results.append(result)  # noqa: PERF402 -- extend doesn't promise to keep what came before a failure
    finally:
        out.mkdir(parents=True, exist_ok=True)
        (out / "nodes.json").write_text(json.dumps({"facts": described, "results": results}, indent=1) + "\n")
        found = table(described, results)
        (out / "nodes.md").write_text(found)
        draw_nodes(results, out)
    return found


def _headline(result: Result) -> str:
    begin = f"{result['nodes']} nodes, {result['peer']:9} {result['scenario']:14}"
    if not result["valid"]:
        return f"{begin} INVALID {result}"
    if "sign_ins_per_second" in result:
        cpu = ", ".join(f"{result[f'{name}_cpu_ms_per_sign_in']:.2f}" for name in ("nodes", "postgresql", "nats"))
        return (
            f"{begin} {result['sign_ins_per_second']:>8,.0f} a second, {cpu} ms of CPU each (nodes, PostgreSQL, NATS)"
        )
    return (
        f"{begin} {result['deliveries_per_second']:>8,.0f} a second, p50 {result['p50_ms']:.2f} ms, "
        f"p99 {result['p99_ms']:.2f} ms, {result['bus_bytes_per_message']:,.0f} bytes on the bus a message"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=FULL.counts)
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--seconds", type=float, default=FULL.seconds)
    parser.add_argument("--sockets", type=int, default=FULL.sockets)
    parser.add_argument("--rate", type=float, default=FULL.rate, help="messages a second of the second scenario")
    parser.add_argument("--people", type=int, default=FULL.people, help="who sign in again and again; an even number")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="what is measured on the same servers as a scenario whose name contains this; may be given again for more",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the JSON, the table and the plot (docs/benchmarks; with --only build/benchmarks)",
    )
    options = parser.parse_args()
    options.out = options.out or (ASIDE if options.only else DOCUMENTS)
    node = str(hatch_build.find_node()[0])
    size = Size(
        tuple(options.nodes),
        options.rounds,
        options.seconds,
        options.sockets,
        options.rate,
        options.people,
        tuple(options.only),
    )
    print(run(size, options.out, node, facts(node, "bench.nodes")))


if __name__ == "__main__":
    main()
