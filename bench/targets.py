"""The targets, and by which figure each of a run was met. A scenario that was not run has none; of one that was run and has
no valid round it's said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.load import CALM
from bench.medians import Results, median, worst
from bench.neighbour import KINDS
from bench.peers.launch import LIMITED

SHARES: Final = (("throughput", "node", 1.5), ("throughput", "python-socketio", 8.0), ("two cores", "node", 2.0))
"""Of a peer's deliveries a second, by how the scenario's name begins."""

MEMORY_SHARE: Final = 0.75
MEMORY: Final = 12_000
"""Bytes per idle connection."""

SYNCS: Final = 2_000
"""Connects with sync a second, each with 1,000 conversations."""

HISTORY: Final = 1.1
"""What coming back to a long history may cost of what it costs with a short one."""

KEPT: Final = 0.9
"""Of the speed with a tenth of the messages, with all of them: of pages and of new messages."""

HERD_SECONDS: Final = 10.0
HERD_MEMORY: Final = 2.0
GOODPUT: Final = 0.8
"""Of the most that it carries, under twice that load."""

NEIGHBOUR: Final = 2.0
WAIT_MS: Final = 2_000.0
"""For a delivery or a refusal under twice the load, at p99: what accepted writes may wait for (store/committer.py), the rest of
the way, and as much again."""

OVERLOAD_MB: Final = 300.0
"""Resident memory at most: some 100 MB as it's when busy, and what may wait (store/committer.py) or be unsent at most, about."""

CALM_MS: Final = 50.0
"""For a delivery then, at p99: what's called calm."""

LONG_TASKS: Final = 0
"""Tasks of more than 50 ms while somebody scrolls."""

ECHO_MS: Final = 100.0
"""From a key press to its echo at p99: what people still feel as at once (Nielsen, Usability Engineering, 1993)."""

HEAP_GROWTH: Final = 1.1
"""Of the page's JavaScript heap, and of its DOM nodes, from the middle of the traffic to its end. Code that is compiled on the
way takes some; if each of 1,800 messages were kept, at the 400 bytes that one of the long history takes, it would be more."""

Verdict = tuple[str, str, bool]
"""What is wanted, what was seen, and whether that is enough."""


def verdicts(results: Results) -> list[str]:
    found = [
        *_shares(results),
        *_latencies(results),
        *_memory(results),
        *_returns(results),
        *_kept(results),
        *_herd(results),
        *_overload(results),
        *_neighbours(results),
        *_web(results),
    ]
    lines = [f"{'met' if met else 'MISSED'}: {wanted} ({seen})" for wanted, seen, met in found]
    return [*lines, *(f"NOT MEASURED: {name}, for no round of {peer} was valid" for name, peer in _failed(results))]


def _failed(results: Results) -> Iterator[tuple[str, str]]:
    for name, peer in dict.fromkeys((each["scenario"], each["peer"]) for each in results):
        if not any(each["valid"] for each in results if (each["scenario"], each["peer"]) == (name, peer)):
            yield name, peer


def _names(results: Results, beginning: str) -> list[str]:
    return list(dict.fromkeys(each["scenario"] for each in results if each["scenario"].startswith(beginning)))


def _shares(results: Results) -> Iterator[Verdict]:
    for beginning, peer, share in SHARES:
        for name in _names(results, beginning):
            ours, theirs = (median(results, name, each, "deliveries_per_second") for each in ("duologue", peer))
            if ours and theirs:
                yield f"{name}: at least {share:g} x {peer}", f"{ours / theirs:.2f}", ours >= share * theirs


def _latencies(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "open loop"):
        ours, theirs = (median(results, name, each, "p99_ms") for each in ("duologue", "node"))
        sync = median(results, name, "duologue", "fsync_p99_ms")
        if ours is not None and theirs is not None and sync is not None:
            bound = theirs + sync
            yield f"{name}: p99 at most Node's and the disk's sync", f"{ours:.2f} of {bound:.2f} ms", ours <= bound


def _memory(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "idle"):
        ours, theirs = (median(results, name, each, "bytes_per_connection") for each in ("duologue", "node"))
        if ours and theirs:
            yield (
                f"{name}: memory per connection at most {MEMORY_SHARE} of Node's and {MEMORY:,} bytes",
                f"{ours / theirs:.2f}, {ours:,.0f} bytes",
                ours <= MEMORY_SHARE * theirs and ours <= MEMORY,
            )


def _returns(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "reconnect"):
        speed = median(results, name, "duologue", "reconnects_per_second")
        if speed and name.endswith("conversations each"):
            yield f"{name}: at least {SYNCS:,} connects with sync a second", f"{speed:,.0f}", speed >= SYNCS
    lengths = sorted((name for name in _names(results, "reconnect") if name.endswith("stored")), key=len)
    if len(lengths) == 2:
        for measure, what in (("server_cpu_ms", "processor time"), ("bytes_per_reconnect", "bytes")):
            short, long = (median(results, name, "duologue", measure) for name in lengths)
            if short and long:
                wanted = f"{lengths[1]}: {what} within {HISTORY - 1:.0%} of that with the short history"
                yield wanted, f"{long / short:.2f}", long <= HISTORY * short


def _kept(results: Results) -> Iterator[Verdict]:
    for what, measure in (("pages", "pages_per_second"), ("appends", "deliveries_per_second")):
        names = sorted(_names(results, f"{what}, "), key=len)
        if len(names) == 2:
            short, long = (median(results, name, "duologue", measure) for name in names)
            if short and long:
                yield (
                    f"{names[1]}: at least {KEPT} of the speed with a tenth of the messages",
                    f"{long / short:.2f}",
                    long >= KEPT * short,
                )


def _herd(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "herd"):
        measures = ("synced_within_s", "peak_of_idle_memory", "refused_twice")
        seconds, memory, twice = (median(results, name, "duologue", each) for each in measures)
        if seconds is not None and memory is not None and twice is not None:
            yield (
                f"{name}: all synced within {HERD_SECONDS:g} s, memory below {HERD_MEMORY:g} x idle, nobody refused twice",
                f"{seconds:.1f} s, {memory:.2f}, {twice:.0f}",
                seconds <= HERD_SECONDS and memory < HERD_MEMORY and not twice,
            )


def _neighbours(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "neighbours"):
        alone = median(results, name, LIMITED, "alone_p99_ms")
        for kind in KINDS:
            beside = median(results, name, LIMITED, f"{kind}_p99_ms")
            if alone is not None and beside is not None:
                most = NEIGHBOUR * alone
                wanted = f"{name}: p99 beside a {kind} at most {NEIGHBOUR:g} x alone"
                yield wanted, f"{beside:.2f} of {most:.2f} ms", beside <= most


def _overload(results: Results) -> Iterator[Verdict]:
    for name in _names(results, "overload"):
        measures = ("goodput", "p99_ms", "refusal_p99_ms", "calm_p99_ms")
        goodput, wait, refusal, calm = (median(results, name, "duologue", each) for each in measures)
        memory, late = (worst(results, name, "duologue", each) for each in ("peak_mb", "refused_when_calm"))
        if goodput is not None:
            yield f"{name}: goodput at least {GOODPUT} of the most", f"{goodput:.2f}", goodput >= GOODPUT
        if wait is not None and refusal is not None:
            wanted = f"{name}: p99 of deliveries and of refusals at most {WAIT_MS:,.0f} ms"
            yield wanted, f"{wait:,.0f} and {refusal:,.0f} ms", max(wait, refusal) <= WAIT_MS
        if memory is not None:
            yield f"{name}: memory at most {OVERLOAD_MB:g} MB", f"{memory:.0f} MB", memory <= OVERLOAD_MB
        if late is not None:
            yield f"{name}: nothing refused from {CALM:g} s after it", f"{late:.0f}", not late
        if calm is not None:
            wanted = f"{name}: p99 at a quarter of the most from {CALM:g} s after it at most {CALM_MS:g} ms"
            yield wanted, f"{calm:.1f} ms", calm <= CALM_MS


def _web(results: Results) -> Iterator[Verdict]:
    def figure(measure: str) -> float | None:
        return median(results, name, "duologue", measure)

    for name in _names(results, "web"):
        tasks, longest, echo = figure("long_tasks"), figure("longest_task_ms"), figure("echo_p99_ms")
        if tasks is not None and longest is not None:
            seen = f"{tasks:.0f}, the longest {longest:.0f} ms" if tasks else "none"
            yield f"{name}: no task over 50 ms while scrolling", seen, tasks <= LONG_TASKS
        if echo is not None:
            yield f"{name}: p99 from a key press to its echo at most {ECHO_MS:g} ms", f"{echo:.0f} ms", echo <= ECHO_MS
        for measure, what in (("heap_{}_mb", "JavaScript heap"), ("nodes_{}", "DOM nodes")):
            middle, end = figure(measure.format("middle")), figure(measure.format("end"))
            if middle and end:
                wanted = f"{name}: the {what} at the end at most {HEAP_GROWTH:g} x the middle's"
                yield wanted, f"{end / middle:.2f}", end <= HEAP_GROWTH * middle
