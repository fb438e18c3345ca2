"""What is measured: each scenario takes a running peer and returns the figures of one round."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from bench.disk import fsync_ms
from bench.neighbour import KINDS
from bench.peers.launch import LIMITED, LOAD_CORE, PACE, PEERS, RELAY, ROOT, SERVER_CORE, Peer, Watch, pinned

LOAD_TIMEOUT: Final = 600.0
SETTLE_TIMEOUT: Final = 60.0
SETTLED_FOR: Final = 2.0
"""Seconds that the memory may not move by more than 1% before it counts."""
AT_REST: Final = 0.02
"""Of a core: a server that uses no more of it has nothing to do of its own ..."""
AT_REST_FOR: Final = 1.0
"""... for so many seconds: processor time is told in hundredths."""

Result = dict[str, Any]
_T = TypeVar("_T")
Measure = Callable[[Peer], Result]


@dataclass(frozen=True)
class Scenario:
    name: str
    measure: Measure
    rounds: int
    peers: Sequence[str] = PEERS
    cores: str = SERVER_CORE
    flags: Sequence[str] = ()
    """For the Node server."""


OURS: Final = ("duologue",)
BOTH: Final = ("duologue", "node")
RATES: Final = (1_000, 5_000, 20_000)
OVERLOADS: Final = 3
"""Rounds at least: what it carries is measured before and after each, and a shared machine changes its speed meanwhile."""


def scenarios(
    rounds: int, seconds: float, idle_sockets: int, overload_seconds: float, crowd: int, beside_seconds: float
) -> list[Scenario]:
    found = []
    for sockets, window in ((100, 20), (1000, 4)):
        for pattern in ("random", "circle", "pairs"):
            name = f"throughput, {sockets:,} sockets, {pattern}"
            found.append(Scenario(name, throughput(sockets, window, pattern, seconds), rounds))
    syncing = throughput(100, 20, "random", seconds, "--sync")
    both_cores = f"{SERVER_CORE},{LOAD_CORE}"
    return [
        *found,
        Scenario("throughput, 100 sockets, random, signed in by sync", syncing, rounds, OURS),
        Scenario(
            "two cores, 100 sockets, circle", throughput(100, 20, "circle", seconds), rounds, BOTH, cores=both_cores
        ),
        Scenario("ceiling of the load, 100 sockets", throughput(100, 20, "random", seconds), 1, (RELAY,)),
        *(Scenario(f"open loop, {rate:,} a second", paced(100, rate, seconds), rounds, BOTH) for rate in RATES),
        Scenario("overload", overload(seconds, overload_seconds), max(OVERLOADS, rounds), OURS),
        Scenario(
            f"neighbours, {crowd:,} sockets, 2,000 a second",
            neighbours(crowd, 2_000, beside_seconds),
            rounds,
            (LIMITED,),
        ),
        # Not python-socketio: nobody compares with it here. The guide's announcements are left out: at 15,000 people
        # they would be 112 million, for many minutes.
        Scenario(f"idle, {idle_sockets:,} sockets", idle(idle_sockets), 1, BOTH, flags=("quiet",)),
    ]


def load(scenario: str, peer: Peer, *flags: str) -> Result:
    """Run the load on its own core until it ends."""
    return outcome(load_command(scenario, peer, *flags))


def outcome(command: list[str]) -> Result:
    """What a load says at its end. One that fails is an invalid round, not the end of the benchmark."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LOAD_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"valid": False, "refusal": f"the load took more than {LOAD_TIMEOUT:g} s"}
    if done.returncode != 0:
        return {"valid": False, "refusal": f"the load ended with exit code {done.returncode}"}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def load_command(scenario: str, peer: Peer, *flags: str) -> list[str]:
    acks = (
        ["--acks"]
        if peer.name in ("duologue", LIMITED) and scenario in ("closed", "open", "overload", "windows")
        else []
    )
    return pinned(LOAD_CORE, [sys.executable, "-m", "bench.load", scenario, "--url", peer.url, *acks, *flags])


def throughput(sockets: int, window: int, pattern: str, seconds: float, *flags: str) -> Measure:
    def measure(peer: Peer) -> Result:
        cpu, written, began = peer.cpu(), peer.written(), time.monotonic()
        how = ("--sockets", str(sockets), "--window", str(window), "--pattern", pattern, "--seconds", str(seconds))
        result = load("closed", peer, *how, *flags)
        result["bytes_stored_per_message"] = stored(peer.folder) / max(1, result.get("delivered", 0))
        result["server_cpu"] = (peer.cpu() - cpu) / (time.monotonic() - began)
        result["bytes_written_per_message"] = (peer.written() - written) / max(1, result.get("delivered", 0))
        if "connect_seconds" in result:
            result["connects_per_second"] = sockets / result["connect_seconds"]
        return result

    return measure


def neighbours(sockets: int, rate: float, seconds: float) -> Measure:
    """The p99 of people who write to one another, with somebody of each kind of `bench.neighbour` beside them in turn, and
    alone before, between and after. They are the same people all the time: others who left would be announced later."""

    def measure(peer: Peer) -> Result:
        how = (
            "--sockets",
            str(sockets),
            "--rate",
            str(rate),
            "--pattern",
            "circle",
            "--seconds",
            str(seconds),
            "--sync",
        )
        with subprocess.Popen(
            load_command("windows", peer, *how), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as people:
            killer = threading.Timer(LOAD_TIMEOUT, people.kill)
            killer.start()
            try:
                return _windows(people, peer)
            except LoadEnded as ended:
                people.kill()
                return {"valid": False, "refusal": str(ended)}
            finally:
                killer.cancel()

    return measure


class LoadEnded(Exception):
    """The load has ended, or was, before it said what it had to; or it's of no use to wait for it any longer."""


def _windows(people: subprocess.Popen[str], peer: Peer) -> Result:
    assert people.stdin is not None
    assert people.stdout is not None
    said(people)  # everybody is signed in
    alone: list[float] = []
    result: Result = {}
    for kind in (None, *itertools.chain.from_iterable((each, None) for each in KINDS)):
        with nullcontext() if kind is None else beside(peer, kind):
            people.stdin.write("\n")
            people.stdin.flush()
            p99 = said(people)["p99_ms"]
        if kind is None:
            alone.append(p99)
        else:
            result[f"{kind}_p99_ms"] = p99
    people.stdin.close()
    return {**said(people), **result, "alone_p99_ms": statistics.median(alone), "alone_worst_p99_ms": max(alone)}


def said(load: subprocess.Popen[str]) -> Result:
    """The next thing that the load says. Raises `LoadEnded`."""
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        raise LoadEnded("the load ended too early")
    result: Result = json.loads(line)
    return result


@contextmanager
def beside(peer: Peer, kind: str) -> Iterator[None]:
    command = pinned(LOAD_CORE, [sys.executable, "-m", "bench.neighbour", kind, "--url", peer.url])
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as neighbour:
        assert neighbour.stdout is not None
        try:
            if not neighbour.stdout.readline():
                raise RuntimeError(f"the neighbour ({kind}) could not begin")
            yield
        finally:
            neighbour.kill()


def stored(folder: Path) -> int:
    """Bytes of the database; its log, which is reused, left out."""
    return sum(file.stat().st_size for file in folder.glob("*.db"))


def paced(sockets: int, rate: float, seconds: float) -> Measure:
    """An open loop; and what the disk alone takes, measured just before."""

    def measure(peer: Peer) -> Result:
        median, worst = fsync_ms(peer.folder)
        how = ("--sockets", str(sockets), "--rate", str(rate), "--pattern", "circle", "--seconds", str(seconds))
        cpu, began = peer.cpu(), time.monotonic()
        result = load("open", peer, *how)
        used = (peer.cpu() - cpu) / (time.monotonic() - began)
        return {**result, "server_cpu": used, "fsync_p50_ms": median, "fsync_p99_ms": worst}

    return measure


def overload(seconds: float, overload_seconds: float) -> Measure:
    """What it carries at most, before and after, and between them twice as much for `overload_seconds`."""

    def measure(peer: Peer) -> Result:
        how = ("--sockets", "100", "--pattern", "circle")
        first = load("closed", peer, *how, "--seconds", str(seconds))
        if not first["valid"]:
            return first
        rate = first["deliveries_per_second"]
        before, watch = peer.rss(), Watch(peer)
        result = load("overload", peer, *how, "--rate", str(2 * rate), "--seconds", str(overload_seconds))
        result["peak_mb"], result["before_mb"] = watch.end() / 1e6, before / 1e6
        # Once more, with all that was stored meanwhile, on a machine whose speed changes.
        again = load("closed", peer, *how, "--seconds", str(seconds)).get("deliveries_per_second", rate)
        most = (rate + again) / 2
        return {**result, "most_per_second": most, "goodput": result.get("deliveries_per_second", 0) / most}

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


class HasMemory(Protocol):
    def rss(self) -> int: ...


def settled_memory(peer: HasMemory) -> int:
    """Resident bytes once they have stopped moving, or after SETTLE_TIMEOUT."""
    last, since, deadline = peer.rss(), time.monotonic(), time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < deadline and time.monotonic() - since < SETTLED_FOR:
        time.sleep(PACE)
        now = peer.rss()
        if abs(now - last) > last * 0.01:
            last, since = now, time.monotonic()
    return peer.rss()


def at_rest(peer: Peer) -> tuple[float, float]:
    """Wait until it has nothing more to do of its own, or SETTLE_TIMEOUT. The seconds until then, and of processor time."""
    began, first = time.monotonic(), peer.cpu()
    seconds, last = 0.0, first
    while seconds < SETTLE_TIMEOUT:
        time.sleep(AT_REST_FOR)
        now = peer.cpu()
        if now - last <= AT_REST * AT_REST_FOR:
            break
        seconds, last = time.monotonic() - began, now
    return seconds, last - first


def rotated(items: Sequence[_T], turn: int) -> Sequence[_T]:
    """The same items, beginning with another one each turn."""
    shift = turn % len(items)
    return [*items[shift:], *items[:shift]]
