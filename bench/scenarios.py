"""What is measured: each scenario takes a running peer and returns the figures of one round."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.peers.launch import LOAD_CORE, PEERS, RELAY, ROOT, Peer, pinned, running

LOAD_TIMEOUT: Final = 600.0
SETTLE_TIMEOUT: Final = 60.0
SETTLED_FOR: Final = 2.0
"""Seconds that the memory may not move by more than 1% before it counts."""

Result = dict[str, Any]
_T = TypeVar("_T")
Measure = Callable[[Peer], Result]


@dataclass(frozen=True)
class Scenario:
    name: str
    measure: Measure
    rounds: int
    peers: Sequence[str] = PEERS


def scenarios(rounds: int, seconds: float, idle_sockets: int) -> list[Scenario]:
    found = []
    for sockets, window in ((100, 20), (1000, 4)):
        for pattern in ("random", "circle", "pairs"):
            name = f"throughput, {sockets:,} sockets, {pattern}"
            found.append(Scenario(name, throughput(sockets, window, pattern, seconds), rounds))
    syncing = throughput(100, 20, "random", seconds, "--sync")
    return [
        *found,
        Scenario("throughput, 100 sockets, random, signed in by sync", syncing, rounds, ("duologue",)),
        Scenario("ceiling of the load, 100 sockets", throughput(100, 20, "random", seconds), 1, (RELAY,)),
        Scenario("2,000 a second, 100 sockets", paced(100, 2000, seconds), rounds),
        # Not python-socketio: it would announce 12 million arrivals for many minutes, and no target compares with it.
        Scenario(f"idle, {idle_sockets:,} sockets", idle(idle_sockets), 1, ("duologue", "node")),
    ]


def load(scenario: str, peer: Peer, *flags: str) -> Result:
    """Run the load on its own core until it ends. A load that fails is an invalid round, not the end of the benchmark."""
    try:
        command = load_command(scenario, peer, *flags)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LOAD_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"valid": False, "refusal": f"the load took more than {LOAD_TIMEOUT:g} s"}
    if done.returncode != 0:
        return {"valid": False, "refusal": f"the load ended with exit code {done.returncode}"}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def load_command(scenario: str, peer: Peer, *flags: str) -> list[str]:
    acks = ["--acks"] if peer.name == "duologue" and scenario in ("closed", "open", "overload") else []
    return pinned(LOAD_CORE, [sys.executable, "-m", "bench.load", scenario, "--url", peer.url, *acks, *flags])


def throughput(sockets: int, window: int, pattern: str, seconds: float, *flags: str) -> Measure:
    def measure(peer: Peer) -> Result:
        cpu, written, began = peer.cpu(), peer.written(), time.monotonic()
        how = ("--sockets", str(sockets), "--window", str(window), "--pattern", pattern, "--seconds", str(seconds))
        result = load("closed", peer, *how, *flags)
        result["server_cpu"] = (peer.cpu() - cpu) / (time.monotonic() - began)
        result["bytes_written_per_message"] = (peer.written() - written) / max(1, result.get("delivered", 0))
        if "connect_seconds" in result:
            result["connects_per_second"] = sockets / result["connect_seconds"]
        return result

    return measure


def paced(sockets: int, rate: float, seconds: float) -> Measure:
    def measure(peer: Peer) -> Result:
        return load("open", peer, "--sockets", str(sockets), "--rate", str(rate), "--seconds", str(seconds))

    return measure


def idle(sockets: int) -> Measure:
    """Memory per connection, and connects a second, each with the sign-in and the first page."""

    def measure(peer: Peer) -> Result:
        before = settled_memory(peer)
        with subprocess.Popen(
            load_command("idle", peer, "--sockets", str(sockets)),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                return {"valid": False, "refusal": "not everybody could connect"}
            result: Result = {"valid": True, **json.loads(line)}
            result["bytes_per_connection"] = (settled_memory(peer) - before) / sockets
            result["connects_per_second"] = sockets / result["connect_seconds"]
            process.communicate("\n", timeout=LOAD_TIMEOUT)
        return result

    return measure


def settled_memory(peer: Peer) -> int:
    """Resident bytes once they have stopped moving, or after SETTLE_TIMEOUT."""
    last, since, deadline = peer.rss(), time.monotonic(), time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < deadline and time.monotonic() - since < SETTLED_FOR:
        time.sleep(0.25)
        now = peer.rss()
        if abs(now - last) > last * 0.01:
            last, since = now, time.monotonic()
    return peer.rss()


def reconnects(node: str, sizes: Sequence[int], rounds: int, times: int) -> Iterator[Result]:
    """Syncs after one missed message, everybody `times` times, with a short and a long history, taking turns."""
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as temporary:
        folder, sessions = Path(temporary), Path(temporary) / "sessions"
        sessions.mkdir()
        for size in sizes:
            command = [sys.executable, "-m", "bench.fill", str(folder / str(size)), str(sessions / str(size))]
            subprocess.run(
                [*command, "--messages", str(size), "--times", str(times)], cwd=ROOT, check=True, timeout=LOAD_TIMEOUT
            )
        for turn in range(rounds):
            for size in rotated(sizes, turn):
                count = len(json.loads((sessions / str(size)).read_text()))
                with running("duologue", node, folder / str(size)) as peer:
                    cpu = peer.cpu()
                    result = load("reconnect", peer, "--sockets", "50", "--sessions", str(sessions / str(size)))
                    result["server_cpu_ms"] = (peer.cpu() - cpu) / count * 1000
                yield {"peer": "duologue", "scenario": f"reconnect, {size:,} stored", "round": turn, **result}


def rotated(items: Sequence[_T], turn: int) -> Sequence[_T]:
    """The same items, beginning with another one each turn."""
    shift = turn % len(items)
    return [*items[shift:], *items[:shift]]
