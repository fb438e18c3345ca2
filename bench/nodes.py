"""Several nodes, beside the guide's Part IV: `python -m bench.nodes`.

Duologue on PostgreSQL and NATS, every message on disk and acknowledged, against the guide's servers on Node with the Redis
adapter and messages in Redis' memory. All that serves shares core 0, the load has core 1; partners are on different nodes, so
that every delivery crosses from one to another. Writes docs/benchmarks/nodes.json and nodes.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
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
from typing import Any, Final

import psutil

import hatch_build
from bench.__main__ import facts
from bench.peers.launch import (
    LOAD_CORE,
    ROOT,
    SERVER_CORE,
    STOP_TIMEOUT,
    free_port,
    pinned,
    serve_command,
    wait_until_listening,
)
from cluster.nats import NatsServer
from cluster.postgres import Postgres

PEERS: Final = ("duologue", "node")
LOAD_TIMEOUT: Final = 300.0

Result = dict[str, Any]


class Nodes:
    """What runs: the nodes' URLs, all processes, and how many bytes have gone through what connects them."""

    def __init__(self, bus_bytes: Callable[[], int]) -> None:
        self.ports: list[int] = []
        self.processes: dict[str, list[psutil.Process]] = {}
        self.bus_bytes = bus_bytes

    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket" for port in self.ports]

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far, by component."""
        return {name: sum(map(_cpu, processes)) for name, processes in self.processes.items()}


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def duologue(count: int) -> Iterator[Nodes]:
    with ExitStack() as stack:
        # PostgreSQL gets one of its own, into which it lets nobody else.
        folder, own = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duologue-bench-"))) for _ in range(2)
        )
        monitor = free_port()
        postgres = stack.enter_context(Postgres(own))
        nats = stack.enter_context(NatsServer(folder, ("-m", str(monitor))))
        for server in (postgres, nats):
            _pin(server.pid)
        nodes = Nodes(lambda: _nats_bytes(monitor))
        nodes.processes = {"postgresql": [psutil.Process(postgres.pid)], "nats": [psutil.Process(nats.pid)]}
        shared = ["--database", postgres.url, "--bus", nats.url]
        _start(stack, nodes, count, lambda port: serve_command(port, folder / "unused", *shared))
        yield nodes


@contextmanager
def guide(count: int, node: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        port = free_port()
        # The guide's Redis keeps nothing on disk.
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = stack.enter_context(_running(pinned(SERVER_CORE, redis), port))
        nodes = Nodes(lambda: _redis_bytes(port))
        nodes.processes = {"redis": [psutil.Process(process.pid)]}
        script = str(ROOT / "bench/peers/node/cluster.js")
        _start(stack, nodes, count, lambda own: [node, script, str(own), str(port)])
        yield nodes


def _start(stack: ExitStack, nodes: Nodes, count: int, command: Callable[[int], list[str]]) -> None:
    nodes.processes["nodes"] = []
    for _ in range(count):
        port = free_port()
        process = stack.enter_context(_running(pinned(SERVER_CORE, command(port)), port))
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


def _pin(pid: int) -> None:
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        each.cpu_affinity([int(SERVER_CORE)])


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
    return result


def measure_all(options: argparse.Namespace, node: str) -> Iterator[Result]:
    starts: dict[str, Callable[[int], Any]] = {"duologue": duologue, "node": lambda count: guide(count, node)}
    seconds = ("--seconds", str(options.seconds), "--sockets", str(options.sockets))
    for count in options.nodes:
        for turn in range(options.rounds):
            for peer in PEERS if turn % 2 == 0 else reversed(PEERS):
                with starts[peer](count) as nodes:
                    for name, scenario, flags in (
                        ("throughput", "closed", ("--window", "20")),
                        (f"{options.rate:g} a second", "open", ("--rate", str(options.rate))),
                    ):
                        figures = measure(nodes, peer, scenario, *flags, *seconds)
                        result = {"peer": peer, "nodes": count, "scenario": name, "round": turn, **figures}
                        print(_headline(result), file=sys.stderr, flush=True)
                        yield result


def _headline(result: Result) -> str:
    begin = f"{result['nodes']} nodes, {result['peer']:9} {result['scenario']:14}"
    if not result["valid"]:
        return f"{begin} INVALID {result}"
    return (
        f"{begin} {result['deliveries_per_second']:>8,.0f} a second, p50 {result['p50_ms']:.2f} ms, "
        f"p99 {result['p99_ms']:.2f} ms, {result['bus_bytes_per_message']:,.0f} bytes on the bus a message"
    )


MEASURES: Final = (
    ("deliveries_per_second", "deliveries/s", "{:,.0f}"),
    ("p50_ms", "p50 ms", "{:.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("bus_bytes_per_message", "bytes on the bus a message, in and out", "{:,.0f}"),
    ("nodes_cpu_us_per_message", "µs of CPU a message, nodes", "{:.1f}"),
    ("postgresql_cpu_us_per_message", "µs of CPU a message, PostgreSQL", "{:.1f}"),
    ("nats_cpu_us_per_message", "µs of CPU a message, NATS", "{:.1f}"),
    ("redis_cpu_us_per_message", "µs of CPU a message, Redis", "{:.1f}"),
    ("load_cpu", "load CPU", "{:.0%}"),
)


def table(described: dict[str, Any], results: list[Result]) -> str:
    lines = ["# Several nodes", "", *(f"- {name}: {value}" for name, value in described.items()), ""]
    for scenario in dict.fromkeys(each["scenario"] for each in results):
        counts = list(dict.fromkeys(each["nodes"] for each in results))
        columns = [(count, peer) for count in counts for peer in PEERS]
        lines += [f"## {scenario}, partners on different nodes", ""]
        lines.append("| | " + " | ".join(f"{peer}, {count} nodes" for count, peer in columns) + " |")
        lines.append("|---" * (len(columns) + 1) + "|")
        for measure_name, title, form in MEASURES:
            cells = [_cell(results, scenario, *column, measure_name, form) for column in columns]
            if any(cells):
                lines.append(f"| {title} | " + " | ".join(cell or "-" for cell in cells) + " |")
        lines.append("")
    invalid = [each for each in results if not each["valid"]]
    lines += [f"INVALID rounds: {len(invalid)}", ""] if invalid else []
    return "\n".join(lines)


def _cell(results: list[Result], scenario: str, count: int, peer: str, measure_name: str, form: str) -> str:
    found = [
        each[measure_name]
        for each in results
        if (each["scenario"], each["nodes"], each["peer"]) == (scenario, count, peer)
        and each["valid"]
        and measure_name in each
    ]
    return form.format(statistics.median(found)) if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1000, help="messages a second of the second scenario")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    node = str(hatch_build.find_node()[0])
    described = {**facts(node), "command": shlex.join(["python", "-m", "bench.nodes", *sys.argv[1:]])}
    results: list[Result] = []
    try:
        for result in measure_all(options, node):
            results.append(result)  # noqa: PERF402 -- what came before a failure has to stay
    finally:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "nodes.json").write_text(json.dumps({"facts": described, "results": results}, indent=1) + "\n")
        (options.out / "nodes.md").write_text(table(described, results))
    print(table(described, results))


if __name__ == "__main__":
    main()
