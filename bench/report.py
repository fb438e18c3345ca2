"""From the results of all rounds to a table of medians and spreads."""

from __future__ import annotations

import statistics
from typing import Any

from bench.medians import Results, values
from bench.peers.launch import LIMITED, PEERS, RELAY
from bench.targets import verdicts

MEASURES = (
    ("deliveries_per_second", "deliveries/s", "{:,.0f}"),
    ("p50_ms", "p50 ms", "{:.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("p99.9_ms", "p99.9 ms", "{:.2f}"),
    ("server_cpu", "server CPU", "{:.0%}"),
    ("load_cpu", "load CPU", "{:.0%}"),
    ("late_p50_ms", "p50 ms that the load itself was late", "{:.3f}"),
    ("late_p99_ms", "p99 ms of the same", "{:.3f}"),
    ("bytes_written_per_message", "bytes to disk a message", "{:,.0f}"),
    ("bytes_stored_per_message", "bytes stored a message", "{:,.0f}"),
    ("fsync_p50_ms", "p50 ms of the disk's sync alone", "{:.2f}"),
    ("fsync_p99_ms", "p99 ms of the disk's sync alone", "{:.2f}"),
    ("most_per_second", "the most that it carries, deliveries/s", "{:,.0f}"),
    ("goodput", "deliveries under twice that, of the most", "{:.2f}"),
    ("refused_per_second", "refused/s", "{:,.0f}"),
    ("refusal_p99_ms", "p99 ms until a refusal", "{:.0f}"),
    ("calm_p99_ms", "p99 ms from 2 s after, at a quarter of the most", "{:.2f}"),
    ("refused_when_calm", "refused from 2 s after", "{:,.0f}"),
    ("alone_p99_ms", "p99 ms alone, before, between and after", "{:.2f}"),
    ("alone_worst_p99_ms", "the worst of these", "{:.2f}"),
    ("slow-reader_p99_ms", "p99 ms beside a slow reader", "{:.2f}"),
    ("flooder_p99_ms", "p99 ms beside a flooding sender", "{:.2f}"),
    ("poller_p99_ms", "p99 ms beside a polling client", "{:.2f}"),
    ("before_mb", "memory before, MB", "{:,.0f}"),
    ("peak_mb", "memory at most, MB", "{:,.0f}"),
    ("synced_within_s", "all synced within s", "{:.1f}"),
    ("refused_once", "refused or cut at least once", "{:,.0f}"),
    ("refused_twice", "refused or cut twice", "{:,.0f}"),
    ("restart_s", "s until it listened again", "{:.2f}"),
    ("peak_of_idle_memory", "memory at most, of idle", "{:.2f}"),
    ("bytes_per_connection", "bytes a connection", "{:,.0f}"),
    ("connects_per_second", "connects/s", "{:,.0f}"),
    ("server_cpu_ms", "server CPU ms a reconnect", "{:.3f}"),
    ("ms_per_reconnect", "ms a reconnect", "{:.3f}"),
    ("reconnects_per_second", "reconnects/s", "{:,.0f}"),
    ("bytes_per_reconnect", "bytes a reconnect", "{:,.0f}"),
    ("pages_per_second", "pages of 50 a second", "{:,.0f}"),
    ("bytes_from_disk_per_second", "bytes a second for them that weren't in the system's page cache", "{:,.0f}"),
    ("page_p50_ms", "p50 ms of a page", "{:.2f}"),
    ("page_p99_ms", "p99 ms of a page", "{:.2f}"),
    ("late_frames_at_rest", "frames over 25 ms at rest", "{:.1%}"),
    ("late_frames", "frames over 25 ms while scrolling", "{:.1%}"),
    ("longest_frame_ms", "longest frame, ms", "{:.0f}"),
    ("long_tasks", "tasks over 50 ms while scrolling", "{:.0f}"),
    ("longest_task_ms", "the longest of them, ms", "{:.0f}"),
    ("scroll_s", "s until the first message was reached", "{:.0f}"),
    ("heap_before_mb", "JavaScript heap before scrolling, MB", "{:.1f}"),
    ("heap_of_history_mb", "JavaScript heap with the whole history, MB", "{:.1f}"),
    ("echo_p50_ms", "p50 ms from the key to the echo", "{:.0f}"),
    ("echo_p99_ms", "p99 ms from the key to the echo", "{:.0f}"),
    ("sent_p50_ms", "p50 ms from the key to the tick", "{:.0f}"),
    ("sent_p99_ms", "p99 ms from the key to the tick", "{:.0f}"),
    ("traffic_per_second", "messages/s to the page", "{:,.0f}"),
    ("heap_start_mb", "JavaScript heap at the start, MB", "{:.2f}"),
    ("heap_middle_mb", "JavaScript heap in the middle, MB", "{:.2f}"),
    ("heap_end_mb", "JavaScript heap at the end, MB", "{:.2f}"),
    ("nodes_middle", "DOM nodes in the middle", "{:,.0f}"),
    ("nodes_end", "DOM nodes at the end", "{:,.0f}"),
)


def summarise(runs: list[dict[str, Any]], results: Results) -> str:
    """Markdown: the facts of the runs, a table per scenario (median, and the range of the rounds), the targets."""
    lines = ["# Results", "", *_facts(runs, results), ""]
    for scenario in dict.fromkeys(each["scenario"] for each in results):
        lines += _table(results, scenario)
    lines += ["## Targets", "", *(f"- {line}" for line in verdicts(results)), ""]
    return "\n".join(lines)


def _facts(runs: list[dict[str, Any]], results: Results) -> list[str]:
    """What all runs have in common, and then each by itself, with its scenarios."""
    first, *others = runs
    common = {name for name in first if all(each.get(name) == first[name] for each in others)}
    lines = [f"- {name}: {first[name]}" for name in first if name in common]
    for number, run in enumerate(runs if others else ()):
        lines += ["", f"Run {number + 1}", "", *(f"- {name}: {run[name]}" for name in run if name not in common)]
        scenarios = dict.fromkeys(each["scenario"] for each in results if each["run"] == number)
        lines.append(f"- of it: {'; '.join(scenarios)}")
    return lines


def _table(results: Results, scenario: str) -> list[str]:
    present = {each["peer"] for each in results if each["scenario"] == scenario}
    peers = [peer for peer in (*PEERS, LIMITED, RELAY) if peer in present]
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
