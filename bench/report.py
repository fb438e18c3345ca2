"""From the results of all rounds to a table of medians and spreads, and to the targets."""

from __future__ import annotations

import statistics
from typing import Any

from bench.peers.launch import PEERS, RELAY

Results = list[dict[str, Any]]

MEASURES = (
    ("deliveries_per_second", "deliveries/s", "{:,.0f}"),
    ("p50_ms", "p50 ms", "{:.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("server_cpu", "server CPU", "{:.0%}"),
    ("load_cpu", "load CPU", "{:.0%}"),
    ("bytes_written_per_message", "bytes to disk a message", "{:,.0f}"),
    ("bytes_per_connection", "bytes a connection", "{:,.0f}"),
    ("connects_per_second", "connects/s", "{:,.0f}"),
    ("server_cpu_ms", "server CPU ms a reconnect", "{:.3f}"),
    ("ms_per_reconnect", "ms a reconnect", "{:.3f}"),
    ("reconnects_per_second", "reconnects/s", "{:,.0f}"),
    ("bytes_per_reconnect", "bytes a reconnect", "{:,.0f}"),
)


def values(results: Results, scenario: str, peer: str, measure: str) -> list[float]:
    return [
        each[measure]
        for each in results
        if each["scenario"] == scenario and each["peer"] == peer and each.get("valid") and measure in each
    ]


def median(results: Results, scenario: str, peer: str, measure: str) -> float | None:
    found = values(results, scenario, peer, measure)
    return statistics.median(found) if found else None


def summarise(facts: dict[str, Any], results: Results) -> str:
    """Markdown: the facts of the run, a table per scenario (median, and the range of the rounds), the targets."""
    lines = ["# Results", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    for scenario in dict.fromkeys(each["scenario"] for each in results):
        lines += _table(results, scenario)
    lines += ["## Targets", "", *(f"- {line}" for line in targets(results)), ""]
    return "\n".join(lines)


def _table(results: Results, scenario: str) -> list[str]:
    present = {each["peer"] for each in results if each["scenario"] == scenario}
    peers = [peer for peer in (*PEERS, RELAY) if peer in present]
    lines = [f"## {scenario}", "", "| | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for measure, title, form in MEASURES:
        cells = [_cell(values(results, scenario, peer, measure), form) for peer in peers]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cell or "-" for cell in cells) + " |")
    invalid = [each for each in results if each["scenario"] == scenario and not each.get("valid")]
    lines += [f"| INVALID rounds | {len(invalid)} |"] if invalid else []
    return [*lines, ""]


def _cell(found: list[float], form: str) -> str:
    if not found:
        return ""
    middle = form.format(statistics.median(found))
    return middle if len(found) == 1 else f"{middle} ({form.format(min(found))} to {form.format(max(found))})"


def targets(results: Results) -> list[str]:
    """The targets of issue 2, section 6, each with the ratio that decides; for throughput one per number of sockets and
    pattern of recipients."""
    names = list(dict.fromkeys(each["scenario"] for each in results))
    lines = []
    for name in names:
        for peer, factor in (("node", 1.0), ("python-socketio", 4.0)):
            ours, theirs = (median(results, name, each, "deliveries_per_second") for each in ("duologue", peer))
            if name.startswith("throughput") and ours is not None and theirs:
                lines.append(_verdict(f"{name}: at least {factor:g} x {peer}", ours / theirs, ours >= factor * theirs))
        ours, theirs = (median(results, name, each, "bytes_per_connection") for each in ("duologue", "node"))
        if ours is not None and theirs:
            lines.append(_verdict(f"{name}: memory per connection not above node's", ours / theirs, ours <= theirs))
    reconnect = sorted((name for name in names if name.startswith("reconnect")), key=len)
    if len(reconnect) == 2:
        for measure, what in (("server_cpu_ms", "server's CPU"), ("ms_per_reconnect", "time")):
            short, long = (median(results, name, "duologue", measure) for name in reconnect)
            if short and long:
                lines.append(
                    _verdict(f"reconnect: {what} with the long history within 20%", long / short, long <= 1.2 * short)
                )
    return lines


def _verdict(target: str, ratio: float, met: bool) -> str:
    return f"{'met' if met else 'MISSED'}: {target} ({ratio:.2f})"
