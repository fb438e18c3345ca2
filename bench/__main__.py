"""`make bench`: Duologue beside its peers, in rounds that take turns, and at the end which targets are met.

The server runs on core 0, all its threads, the load on core 1. One round measures every peer once, each started anew,
in an order that moves by one from round to round, so that whatever disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hatch_build
from bench.peers.launch import LOAD_CORE, PEERS, ROOT, Peer, pinned, running
from bench.report import summarise

LOAD_TIMEOUT = 600


def load(scenario: str, peer: Peer, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.load", scenario, "--url", peer.url, *flags]
    done = subprocess.run(
        pinned(LOAD_CORE, command), cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LOAD_TIMEOUT, check=False
    )
    if done.returncode != 0:
        return {"valid": False, "refusal": f"the load ended with exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def throughput(sockets: int, window: int, pattern: str, seconds: float) -> Callable[[Peer], dict[str, Any]]:
    def measure(peer: Peer) -> dict[str, Any]:
        flags = ["--sockets", str(sockets), "--window", str(window), "--pattern", pattern, "--seconds", str(seconds)]
        cpu, written, began = peer.cpu(), peer.written(), time.monotonic()
        result = load("closed", peer, *flags, *_acks(peer))
        result["server_cpu"] = (peer.cpu() - cpu) / (time.monotonic() - began)
        result["bytes_written_per_message"] = (peer.written() - written) / max(1, result.get("delivered", 0))
        return result

    return measure


def paced(sockets: int, rate: float, seconds: float) -> Callable[[Peer], dict[str, Any]]:
    def measure(peer: Peer) -> dict[str, Any]:
        flags = ["--sockets", str(sockets), "--rate", str(rate), "--seconds", str(seconds)]
        return load("open", peer, *flags, *_acks(peer))

    return measure


def idle(sockets: int) -> Callable[[Peer], dict[str, Any]]:
    """Memory per connection, and connects a second, with the sign-in and the first page."""

    def measure(peer: Peer) -> dict[str, Any]:
        before = _settled(peer)
        command = [sys.executable, "-m", "bench.load", "idle", "--url", peer.url, "--sockets", str(sockets)]
        with subprocess.Popen(
            pinned(LOAD_CORE, command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            line = process.stdout.readline()
            if not line:
                return {"valid": False, "refusal": "not everybody could connect"}
            result: dict[str, Any] = json.loads(line)
            result["bytes_per_connection"] = (_settled(peer) - before) / sockets
            result["connects_per_second"] = sockets / result["connect_seconds"]
            result["valid"] = True
            process.stdin.write("\n")
            process.stdin.flush()
        return result

    return measure


def _acks(peer: Peer) -> list[str]:
    return ["--acks"] if peer.name == "duologue" else []


def _settled(peer: Peer) -> int:
    """The memory once it has not moved by more than 1% for two seconds."""
    last, since, deadline = peer.rss(), time.monotonic(), time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.25)
        now = peer.rss()
        if abs(now - last) > last * 0.01:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 2:
            break
    return peer.rss()


def reconnects(node: str, sizes: tuple[int, ...], rounds: int, times: int) -> list[dict[str, Any]]:
    """A sync after one missed message, with a short and a long history, taking turns."""
    results = []
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as folder:
        for size in sizes:
            say(f"storing {size:,} messages")
            command = ["-m", "bench.fill", f"{folder}/{size}", f"{folder}/{size}.json", "--messages", str(size)]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=LOAD_TIMEOUT)
            sessions = json.loads(Path(f"{folder}/{size}.json").read_text())
            Path(f"{folder}/{size}.json").write_text(json.dumps(sessions * times))
        for turn in range(rounds):
            for size in sizes[turn % len(sizes) :] + sizes[: turn % len(sizes)]:
                with running("duologue", node, Path(folder) / str(size)) as peer:
                    cpu = peer.cpu()
                    result = load("reconnect", peer, "--sockets", "50", "--sessions", f"{folder}/{size}.json")
                    count = len(json.loads(Path(f"{folder}/{size}.json").read_text()))
                    result |= {"peer": "duologue", "scenario": f"reconnect {size:,} stored", "round": turn}
                    result["server_cpu_ms"] = (peer.cpu() - cpu) / count * 1000
                    result.setdefault("valid", True)
                    results.append(result)
                    say(f"  {size:>9,} stored: {result.get('server_cpu_ms', 0):.3f} ms of CPU a reconnect")
    return results


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def machine(node: str) -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    node_version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    packages = json.loads((ROOT / "bench/peers/node/package-lock.json").read_text())["packages"]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": node_version.strip(),
        "socket.io": packages["node_modules/socket.io"]["version"],
        "bufferutil": packages["node_modules/bufferutil"]["version"],
        **{name: version(name) for name in ("duologue", "picows", "uvicorn", "apsw", "python-socketio", "websockets")},
        "command": "python -m bench " + " ".join(sys.argv[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that everything runs")
    parser.add_argument("--only", help="scenarios whose name contains this")
    parser.add_argument("--no-history", action="store_true", help="leave out the reconnects with 1,000,000 messages")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="folder for the JSON and the table")
    options = parser.parse_args()
    rounds, seconds = (2, 1.5) if options.quick else (options.rounds, options.seconds)
    node = str(hatch_build.find_node()[0])
    scenarios: dict[str, tuple[Callable[[Peer], dict[str, Any]], int]] = {
        "throughput, 100 sockets": (throughput(100, 20, "random", seconds), rounds),
        "throughput, 1,000 sockets": (throughput(1000, 4, "random", seconds), rounds),
        "throughput, 100 sockets in pairs": (throughput(100, 20, "pairs", seconds), rounds),
        "2,000 a second, 100 sockets": (paced(100, 2000, seconds), rounds),
        "idle, 5,000 sockets": (idle(5000 if not options.quick else 500), 1),
    }
    results: list[dict[str, Any]] = []
    for name, (measure, times) in scenarios.items():
        if options.only and options.only not in name:
            continue
        for turn in range(times):
            say(f"{name}, round {turn + 1} of {times}")
            shift = turn % len(PEERS)
            for peer_name in PEERS[shift:] + PEERS[:shift]:
                if peer_name == "python-socketio" and name.startswith("idle"):
                    continue  # it would announce 12 million arrivals for minutes; no target compares with it
                with running(peer_name, node) as peer:
                    result = {"peer": peer_name, **measure(peer), "scenario": name, "round": turn}
                results.append(result)
                say(f"  {peer_name:16} {_headline(result)}")
    if not options.no_history and (not options.only or options.only in "reconnect"):
        sizes = (1_000, 1_000_000) if not options.quick else (1_000, 20_000)
        results += reconnects(node, sizes, rounds, 10 if not options.quick else 2)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = machine(node)
    (options.out / "results.json").write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
    table = summarise(facts, results)
    (options.out / "results.md").write_text(table)
    print(table)


def _headline(result: dict[str, Any]) -> str:
    if not result.get("valid"):
        return f"INVALID: {result}"
    if "deliveries_per_second" in result:
        return (
            f"{result['deliveries_per_second']:>9,.0f} a second, p50 {result.get('p50_ms', 0):.2f} ms, "
            f"p99 {result.get('p99_ms', 0):.2f} ms, the load used {result['load_cpu']:.0%} of its core"
        )
    return f"{result['bytes_per_connection']:,.0f} bytes a connection, {result['connects_per_second']:,.0f} connects a second"


if __name__ == "__main__":
    main()
