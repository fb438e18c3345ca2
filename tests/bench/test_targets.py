"""What the report says of the web client's figures."""

from __future__ import annotations

from typing import Any

import pytest

from bench.report import summarise
from bench.targets import verdicts
from bench.web import late, spread

SCROLLED = {"long_tasks": 0, "longest_task_ms": 0, "echo_p99_ms": 40.0}
TALKED = {"heap_middle_mb": 5.0, "heap_end_mb": 5.1, "nodes_middle": 600, "nodes_end": 600}


def result(scenario: str, **figures: Any) -> dict[str, Any]:
    return {"peer": "duologue", "scenario": scenario, "round": 0, "valid": True, **figures}


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
    missed = [line for line in verdicts([result("web, whatever", **figures)]) if line.startswith("MISSED")]
    assert len(missed) == 1
    assert missed[0].endswith(seen)


def test_a_round_that_failed_has_no_verdict_but_is_shown() -> None:
    failed = {**result("web, 10 messages"), "valid": False, "refusal": "the round ended with exit code 1"}
    assert verdicts([failed]) == []
    assert "INVALID rounds | 1" in summarise({}, [failed])


def test_late_frames_and_percentiles() -> None:
    assert late([16.7, 16.7, 33.3, 16.7]) == 0.25
    assert late([]) == 0
    assert spread("echo", [float(each) for each in range(1, 101)]) == {"echo_p50_ms": 50.5, "echo_p99_ms": 100.0}
