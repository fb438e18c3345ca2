"""What the rounds of a run say of one figure."""

from __future__ import annotations

import statistics
from typing import Any

Results = list[dict[str, Any]]


def values(results: Results, scenario: str, peer: str, measure: str) -> list[float]:
    return [
        each[measure]
        for each in results
        if each["scenario"] == scenario and each["peer"] == peer and each.get("valid") and measure in each
    ]


def worst(results: Results, scenario: str, peer: str, measure: str) -> float | None:
    return max(values(results, scenario, peer, measure), default=None)


def median(results: Results, scenario: str, peer: str, measure: str) -> float | None:
    found = values(results, scenario, peer, measure)
    return statistics.median(found) if found else None
