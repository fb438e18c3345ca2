"""Which targets a run's figures meet, and what the report says of them."""

from __future__ import annotations

from typing import Any

import pytest

from bench.peers.launch import LIMITED
from bench.report import summarise
from bench.targets import verdicts
from bench.web import late, spread

SCROLLED: dict[str, Any] = {"long_tasks": 0, "longest_task_ms": 0, "echo_p99_ms": 40.0}
TALKED: dict[str, Any] = {"heap_middle_mb": 5.0, "heap_end_mb": 5.1, "nodes_middle": 600, "nodes_end": 600}


SHED: dict[str, Any] = {
    "goodput": 0.85, "p99_ms": 900.0, "refusal_p99_ms": 200.0, "peak_mb": 150.0, "refused_when_calm": 0, "calm_p99_ms": 9.0,
}  # fmt: skip
BACK: dict[str, Any] = {"synced_within_s": 7.9, "peak_of_idle_memory": 1.2, "refused_twice": 0}
BESIDE: dict[str, Any] = {"alone_p99_ms": 3.0, "slow-reader_p99_ms": 5.0, "flooder_p99_ms": 5.0, "poller_p99_ms": 4.0}


def result(scenario: str, peer: str = "duologue", **figures: Any) -> dict[str, Any]:
    return {"peer": peer, "scenario": scenario, "round": 0, "run": 0, "valid": True, **figures}


def beside_a_peer(scenario: str, measure: str, ours: float, theirs: float, **more: Any) -> list[dict[str, Any]]:
    of_ours: dict[str, Any] = {measure: ours, **more}
    of_theirs: dict[str, Any] = {measure: theirs, **more}
    return [result(scenario, **of_ours), result(scenario, "node", **of_theirs)]


def two(name: str, shares: dict[str, float], short: str, long: str) -> list[dict[str, Any]]:
    """Figures with a short and with a long history, these `shares` of the others."""
    of_short: dict[str, Any] = dict.fromkeys(shares, 100.0)
    of_long: dict[str, Any] = {measure: 100.0 * share for measure, share in shares.items()}
    return [result(f"{name}, {short}", **of_short), result(f"{name}, {long}", **of_long)]


def missed(results: list[dict[str, Any]]) -> list[str]:
    return [line for line in verdicts(results) if not line.startswith("met")]


def test_a_good_page_meets_every_target() -> None:
    found = verdicts([result("web, 10 messages", **SCROLLED), result("web, traffic of 10 messages", **TALKED)])
    assert len(found) == 4
    assert all(line.startswith("met: web, ") for line in found)


@pytest.mark.parametrize(
    ("figures", "seen"),
    [
        ({**SCROLLED, "long_tasks": 2, "longest_task_ms": 81.0}, "(2, the longest 81 ms)"),
        ({**SCROLLED, "echo_p99_ms": 101.0}, "(101 ms)"),
        ({**TALKED, "heap_end_mb": 6.0}, "(1.20)"),
        ({**TALKED, "nodes_end": 900}, "(1.50)"),
    ],
)
def test_a_bad_figure_misses_one_target_and_says_by_how_much(figures: dict[str, Any], seen: str) -> None:
    [line] = missed([result("web, whatever", **figures)])
    assert line.startswith("MISSED")
    assert line.endswith(seen)


def test_a_round_that_failed_has_no_verdict_but_is_shown() -> None:
    failed = {**result("web, 10 messages"), "valid": False, "refusal": "the round ended with exit code 1"}
    assert verdicts([failed]) == ["NOT MEASURED: web, 10 messages, for no round of duologue was valid"]
    assert verdicts([failed, result("web, 10 messages")]) == []
    assert "INVALID rounds | 1" in summarise([{}], [failed])


@pytest.mark.parametrize(
    ("results", "count"),
    [
        (beside_a_peer("throughput, 100 sockets, pairs", "deliveries_per_second", 150.0, 100.0), 1),
        (beside_a_peer("two cores, 100 sockets, circle", "deliveries_per_second", 200.0, 100.0), 1),
        (beside_a_peer("open loop, 1,000 a second", "p99_ms", 1.5, 1.0, fsync_p99_ms=0.5), 1),
        (beside_a_peer("idle, 15,000 sockets", "bytes_per_connection", 12_000.0, 16_000.0), 1),
        ([result("reconnect, 1,000 conversations each", reconnects_per_second=2_000.0)], 1),
        (two("reconnect", {"server_cpu_ms": 1.1, "bytes_per_reconnect": 1.1}, "1,000 stored", "10,000,000 stored"), 2),
        (two("pages", {"pages_per_second": 0.9}, "1,000,000 stored", "10,000,000 stored"), 1),
        (two("appends", {"deliveries_per_second": 0.9}, "1,000,000 stored", "10,000,000 stored"), 1),
        ([result("herd, 10,000 sockets, all at once", **BACK)], 1),
        ([result("overload", **SHED)], 5),
        ([result("neighbours, 3,000 sockets, 2,000 a second", LIMITED, **BESIDE)], 3),
    ],
)
def test_what_is_just_enough_meets_its_targets(results: list[dict[str, Any]], count: int) -> None:
    assert len(verdicts(results)) == count
    assert missed(results) == []


@pytest.mark.parametrize(
    ("results", "seen"),
    [
        (beside_a_peer("throughput, 100 sockets, pairs", "deliveries_per_second", 149.0, 100.0), "(1.49)"),
        (beside_a_peer("two cores, 100 sockets, circle", "deliveries_per_second", 199.0, 100.0), "(1.99)"),
        (beside_a_peer("open loop, 1,000 a second", "p99_ms", 1.6, 1.0, fsync_p99_ms=0.5), "(1.60 of 1.50 ms)"),
        (beside_a_peer("idle, 15,000 sockets", "bytes_per_connection", 12_001.0, 20_000.0), "(0.60, 12,001 bytes)"),
        (beside_a_peer("idle, 15,000 sockets", "bytes_per_connection", 8_000.0, 10_000.0), "(0.80, 8,000 bytes)"),
        ([result("reconnect, 1,000 conversations each", reconnects_per_second=1_999.0)], "(1,999)"),
        (two("reconnect", {"server_cpu_ms": 1.2, "bytes_per_reconnect": 1.0}, "1 stored", "10 stored"), "(1.20)"),
        (two("reconnect", {"server_cpu_ms": 1.0, "bytes_per_reconnect": 1.2}, "1 stored", "10 stored"), "(1.20)"),
        (two("pages", {"pages_per_second": 0.89}, "1 stored", "10 stored"), "(0.89)"),
        (two("appends", {"deliveries_per_second": 0.89}, "1 stored", "10 stored"), "(0.89)"),
        ([result("herd", **{**BACK, "synced_within_s": 10.1})], "(10.1 s, 1.20, 0)"),
        ([result("herd", **{**BACK, "peak_of_idle_memory": 2.0})], "(7.9 s, 2.00, 0)"),
        ([result("herd", **{**BACK, "refused_twice": 1})], "(7.9 s, 1.20, 1)"),
        ([result("overload", **{**SHED, "goodput": 0.79})], "(0.79)"),
        ([result("overload", **{**SHED, "p99_ms": 2_001.0})], "(2,001 and 200 ms)"),
        ([result("overload", **{**SHED, "refusal_p99_ms": 2_001.0})], "(900 and 2,001 ms)"),
        ([result("overload", **{**SHED, "peak_mb": 301.0})], "(301 MB)"),
        ([result("overload", **{**SHED, "calm_p99_ms": 400.0})], "(400.0 ms)"),
        ([result("overload", **SHED), result("overload", **SHED), result("overload", **{**SHED, "refused_when_calm": 1})], "(1)"),
        ([result("neighbours", LIMITED, **{**BESIDE, "poller_p99_ms": 6.1})], "(6.10 of 6.00 ms)"),
    ],
)  # fmt: skip
def test_what_isnt_enough_misses_one(results: list[dict[str, Any]], seen: str) -> None:
    [line] = missed(results)
    assert line.startswith("MISSED")
    assert line.endswith(seen)


def test_late_frames_and_percentiles() -> None:
    assert late([16.7, 16.7, 33.3, 16.7]) == 0.25
    assert late([]) == 0
    assert spread("echo", [float(each) for each in range(1, 101)]) == {"echo_p50_ms": 50.5, "echo_p99_ms": 100.0}
