"""More than a server can carry, by the benchmark's own load: it refuses in time and with a hint, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.targets import CALM_MS, GOODPUT, OVERLOAD_MB, WAIT_MS
from tests.support.process import ROOT, ServerProcess, duologue

FLOOD = 1.8
"""Times what the server carries when the load waits for it."""

SECONDS = 60
"""Of twice the load, of the long test."""

MINUTES = 3
"""How often."""

UNLIMITED = [
    part for name in ("message-rate", "message-burst", "connect-rate", "connect-burst") for part in (f"--{name}", "1e9")
]


def load(server: ServerProcess, scenario: str, *flags: str) -> dict[str, Any]:
    url = f"{server.url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket"
    command = [sys.executable, "-m", "bench.load", scenario, "--url", url, "--acks", "--pattern", "circle", *flags]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=SECONDS + 120, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(scenario, result)
    return result


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started meanwhile stays on that core, so that the load takes nothing from the server. No-op on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core} & allowed or allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def judge(result: dict[str, Any], server: ServerProcess) -> None:
    """Each message was delivered and acknowledged once, in its order, or refused with a hint."""
    assert result["valid"], result
    assert result["acknowledged"] == result["delivered"]
    assert result["refused"] > 0
    assert "overloaded" in result["refusal"]
    assert result["refused_when_calm"] == 0, "it still refuses two seconds later"
    assert server.peak() <= OVERLOAD_MB * 1e6
    assert server.tracebacks() == []


def test_a_flood_is_refused_in_part_and_loses_nothing(tmp_path: Path) -> None:
    with pinned(0):
        server = duologue(tmp_path / "data", *UNLIMITED).start()
    with server, pinned(1):
        most = load(server, "closed", "--seconds", "1", "--warm-up", "1")["deliveries_per_second"]
        for times in (
            FLOOD,
            2 * FLOOD,
            4 * FLOOD,
        ):  # where other tests run beside this one the most was more than it could show
            result = load(server, "overload", "--rate", str(times * most), "--seconds", "2", "--warm-up", "1")
            if result["refused"] and not result["refused_when_calm"]:  # nor would that, if the machine stood still then
                break
        judge(result, server)
        assert result["deliveries_per_second"] > 0


@pytest.mark.torture
@pytest.mark.timeout(MINUTES * (SECONDS + 180))
def test_twice_the_load_for_a_minute(tmp_path: Path) -> None:
    """Some minutes, each judged by what the server carried just before and after it, and the median of them: the speed of a
    shared machine moves by a third within one."""
    with pinned(0):
        server = duologue(tmp_path / "data", *UNLIMITED).start()
    shares: list[float] = []
    waits: list[float] = []
    calm: list[float] = []
    with server, pinned(1):
        before = load(server, "closed", "--seconds", "5")["deliveries_per_second"]
        for _ in range(MINUTES):
            result = load(server, "overload", "--rate", str(2 * before), "--seconds", str(SECONDS))
            judge(result, server)
            after = load(server, "closed", "--seconds", "5")["deliveries_per_second"]
            shares.append(result["deliveries_per_second"] / ((before + after) / 2))
            waits.append(max(result["p99_ms"], result["refusal_p99_ms"]))
            calm.append(result["calm_p99_ms"])
            before = after
    print(f"of the most {shares}, p99 {waits} ms, when calm {calm} ms")
    assert statistics.median(shares) >= GOODPUT
    assert statistics.median(waits) <= WAIT_MS
    assert statistics.median(calm) <= CALM_MS
