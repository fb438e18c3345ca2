"""Several nodes, beside the guide's Part IV: `python -m bench.nodes`, and at the end of `make bench`.

Duologue on PostgreSQL and NATS, every message on disk and acknowledged, against the guide's servers on Node with the Redis
adapter and messages in Redis' memory. All that serves shares core 0, the load has core 1; with "two cores" what serves may use
both, one of which it shares with the load. Partners are on different nodes, so that every delivery crosses from one to another.
Writes docs/benchmarks/nodes.json and nodes.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import psutil

import hatch_build
from bench.facts import facts
from bench.nodes_report import IDLE, PEERS, TWO_CORES, table
from bench.peers.launch import (
    LOAD_CORE,
    ROOT,
    SERVER_CORE,
    STOP_TIMEOUT,
    UNLIMITED,
    free_port,
    pinned,
    serve_command,
    wait_until_listening,
)
from cluster.nats import NatsServer
from cluster.postgres import Postgres

LOAD_TIMEOUT: Final = 300.0

TRANSACTIONS: Final = 40
"""Of which one sees what the database alone takes."""

WINDOW: Final = 20
"""Messages that each socket keeps under way where it goes as fast as it can."""

IDLE_RATE: Final = 20
"""Messages a second of a system that has nothing to do: each finds everybody waiting."""

_BATCHES: Final = """
    SELECT coalesce(sum(size), 0), coalesce(avg(size), 0), coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY size), 0),
        coalesce(max(size), 0)
    FROM (SELECT count(*) AS size FROM duologue.message WHERE at >= {} AND at < {} GROUP BY xmin::text) AS batch
"""
"""A batch is a transaction, and each row has the number of that which wrote it."""

Result = dict[str, Any]


class Scenario(NamedTuple):
    name: str
    load: str
    """Of `bench.load`."""
    flags: tuple[str, ...]
    cores: str = SERVER_CORE
    window: int = 0
    """Messages that each socket keeps under way; 0 if it sends by the clock."""


class Size(NamedTuple):
    counts: tuple[int, ...]
    rounds: int
    seconds: float
    sockets: int = 100
    rate: float = 1000

    def scenarios(self) -> list[Scenario]:
        busy = ("closed", ("--window", f"{WINDOW}"))
        return [
            Scenario("throughput", *busy, window=WINDOW),
            Scenario(f"{self.rate:g} a second", "open", ("--rate", f"{self.rate:g}")),
            Scenario(IDLE, "open", ("--rate", f"{IDLE_RATE}")),
            Scenario(TWO_CORES, *busy, f"{SERVER_CORE},{LOAD_CORE}", WINDOW),
        ]


FULL: Final = Size((2, 4, 8), 3, 4)
QUICK: Final = Size((2,), 1, 1.5)


class Nodes:
    """What runs: the nodes' URLs, all processes, and how many bytes have gone through what connects them."""

    def __init__(self, bus_bytes: Callable[[], int], postgres: Postgres | None = None) -> None:
        self.ports: list[int] = []
        self.processes: dict[str, list[psutil.Process]] = {}
        self.bus_bytes = bus_bytes
        self._postgres = postgres

    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket" for port in self.ports]

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far, by component; of the nodes also that of the threads which run their loops."""
        used = {name: sum(map(_cpu, processes)) for name, processes in self.processes.items()}
        loops = sum(map(_main_thread_cpu, self.processes["nodes"]))
        return {**used, "loops": loops, "other_threads": used["nodes"] - loops}

    def alone(self) -> Result:
        """What the database alone takes for a transaction, while nothing else happens."""
        return {} if self._postgres is None else {"database_p50_ms": asyncio.run(_transaction_ms(self._postgres.url))}

    def batches(self, from_ms: int, until_ms: int) -> Result:
        """The messages of a batch, of those that were written in this time."""
        if self._postgres is None:
            return {}
        _, mean, median, most = self._postgres.sql(_BATCHES.format(from_ms, until_ms)).split("|")
        return {"batch_mean": float(mean), "batch_p50": int(median), "batch_max": int(most)}


async def _transaction_ms(url: str) -> float:
    """Median milliseconds of a transaction that goes to the database as often as that of a batch: to begin, to lock, to read,
    to write and to commit. One at a time, at the pace of IDLE_RATE: what rests between two is slower than what runs."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE bench_row AS SELECT 1 AS id, '' AS content")
        took = []
        for _ in range(TRANSACTIONS):
            await asyncio.sleep(1 / IDLE_RATE)
            began = time.perf_counter()
            async with connection.transaction():
                await connection.fetch("SELECT id FROM bench_row WHERE id = $1 FOR NO KEY UPDATE", 1)
                await connection.fetch("SELECT content FROM bench_row WHERE id = $1", 1)
                await connection.execute("UPDATE bench_row SET content = $2 WHERE id = $1", 1, "x" * 100)
            took.append((time.perf_counter() - began) * 1000)
        await connection.execute("DROP TABLE bench_row")
    finally:
        await connection.close()
    return statistics.median(took)


def _main_thread_cpu(process: psutil.Process) -> float:
    return sum((each.user_time + each.system_time for each in process.threads() if each.id == process.pid), 0.0)


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def _cores(cores: str) -> Iterator[None]:
    """What is started meanwhile, with all its threads, stays on these."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def duologue(count: int, cores: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        # PostgreSQL gets one of its own, into which it lets nobody else.
        folder, own = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duologue-bench-"))) for _ in range(2)
        )
        monitor = free_port()
        with _cores(cores):
            postgres = stack.enter_context(Postgres(own))
            nats = stack.enter_context(NatsServer(folder, ("-m", str(monitor))))
        nodes = Nodes(lambda: _nats_bytes(monitor), postgres)
        nodes.processes = {"postgresql": [psutil.Process(postgres.pid)], "nats": [psutil.Process(nats.pid)]}
        shared = ["--database", postgres.url, "--bus", nats.url]
        _start(stack, nodes, count, cores, lambda port: serve_command(port, folder / "unused", *UNLIMITED, *shared))
        yield nodes


@contextmanager
def guide(count: int, cores: str, node: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        port = free_port()
        # The guide's Redis keeps nothing on disk.
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = stack.enter_context(_running(pinned(cores, redis), port))
        nodes = Nodes(lambda: _redis_bytes(port))
        nodes.processes = {"redis": [psutil.Process(process.pid)]}
        script = str(ROOT / "bench/peers/node/cluster.js")
        _start(stack, nodes, count, cores, lambda own: [node, script, str(own), str(port)])
        yield nodes


def _start(stack: ExitStack, nodes: Nodes, count: int, cores: str, command: Callable[[int], list[str]]) -> None:
    nodes.processes["nodes"] = []
    for _ in range(count):
        port = free_port()
        process = stack.enter_context(_running(pinned(cores, command(port)), port))
        nodes.ports.append(port)
        nodes.processes["nodes"].append(psutil.Process(process.pid))


@contextmanager
def _running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "NODE_ENV": "production"}
    )
    try:
        wait_until_listening(process, port)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _nats_bytes(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=10) as answer:
        state = json.load(answer)
    return int(state["in_bytes"]) + int(state["out_bytes"])


def _redis_bytes(port: int) -> int:
    info = subprocess.run(
        ["redis-cli", "-p", str(port), "info", "stats"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    lines = dict(line.strip().split(":", 1) for line in info.splitlines() if ":" in line)
    return int(lines["total_net_input_bytes"]) + int(lines["total_net_output_bytes"])


def measure(nodes: Nodes, peer: str, scenario: str, *flags: str) -> Result:
    alone = nodes.alone() if scenario == "open" else {}
    urls = [part for url in nodes.urls() for part in ("--url", url)]
    acks = ["--acks"] if peer == "duologue" else []
    command = [sys.executable, "-m", "bench.load", scenario, *urls, *acks, "--pattern", "pairs", *flags]
    with subprocess.Popen(pinned(LOAD_CORE, command), cwd=ROOT, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        load.stdout.readline()  # everybody is signed in: from here on what it costs is the messages' cost
        cpu, passed, began = nodes.cpu(), nodes.bus_bytes(), time.monotonic()
        try:
            rest, _ = load.communicate(timeout=LOAD_TIMEOUT)
        except subprocess.TimeoutExpired:
            load.kill()
            return {"valid": False, "refusal": f"the load took more than {LOAD_TIMEOUT:g} s"}
    if load.returncode:
        return {"valid": False, "refusal": f"the load ended with exit code {load.returncode}"}
    result: Result = json.loads(rest.splitlines()[-1])
    took, count = time.monotonic() - began, max(1, result["delivered"])
    result["bus_bytes_per_message"] = (nodes.bus_bytes() - passed) / count
    for name, seconds in nodes.cpu().items():
        result[f"{name}_cpu_us_per_message"] = (seconds - cpu[name]) / count * 1e6
        result[f"{name}_cpu"] = (seconds - cpu[name]) / took
    return {**result, **alone, **nodes.batches(result["from_ms"], result["until_ms"])}


def measure_all(size: Size, node: str) -> Iterator[Result]:
    starts: dict[str, Callable[[int, str], Any]] = {
        "duologue": duologue,
        "node": lambda count, cores: guide(count, cores, node),
    }
    how = ("--seconds", str(size.seconds), "--sockets", str(size.sockets))
    scenarios = size.scenarios()
    for count in size.counts:
        for turn in range(size.rounds):
            for cores in dict.fromkeys(scenario.cores for scenario in scenarios):
                for peer in PEERS if turn % 2 == 0 else reversed(PEERS):
                    with starts[peer](count, cores) as nodes:
                        for each in scenarios:
                            if each.cores == cores:
                                figures = measure(nodes, peer, each.load, *each.flags, *how)
                                if each.window:
                                    figures["under_way_per_node"] = size.sockets * each.window / count
                                result = {"peer": peer, "nodes": count, "scenario": each.name, "round": turn, **figures}
                                print(_headline(result), file=sys.stderr, flush=True)
                                yield result


def run(size: Size, out: Path, node: str, described: dict[str, Any]) -> str:
    """Measure, write the figures to the folder `out`, and return the table."""
    results: list[Result] = []
    try:
        for result in measure_all(size, node):
            results.append(result)  # noqa: PERF402 -- what came before a failure has to stay
    finally:
        out.mkdir(parents=True, exist_ok=True)
        (out / "nodes.json").write_text(json.dumps({"facts": described, "results": results}, indent=1) + "\n")
        found = table(described, results)
        (out / "nodes.md").write_text(found)
    return found


def _headline(result: Result) -> str:
    begin = f"{result['nodes']} nodes, {result['peer']:9} {result['scenario']:14}"
    if not result["valid"]:
        return f"{begin} INVALID {result}"
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
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    node = str(hatch_build.find_node()[0])
    size = Size(tuple(options.nodes), options.rounds, options.seconds, options.sockets, options.rate)
    print(run(size, options.out, node, facts(node, "bench.nodes")))


if __name__ == "__main__":
    main()
