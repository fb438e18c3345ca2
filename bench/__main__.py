"""`make bench`: Duologue beside its peers, in rounds that take turns, and at the end which targets are met; then several nodes
(`bench.nodes`).

The server runs on core 0, all its threads, the load on core 1. One round measures every peer once, each started anew,
in an order that moves by one from round to round, so that whatever disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import hatch_build
from bench import archive, nodes
from bench.facts import facts
from bench.histories import History, lengths, reconnects, returns
from bench.peers.launch import running
from bench.plots import draw
from bench.profiling import profile
from bench.scenarios import Result, rotated, scenarios
from bench.web import Size as WebSize
from bench.web import long_history, traffic

BESIDE: Final = 10.0
"""Seconds at least with each neighbour: the p99 of few messages is chance."""


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def measure_all(options: argparse.Namespace, node: str) -> Iterator[Result]:
    web = WebSize(rounds=1, messages=1_000, echoes=30, traffic=600, rate=100, talks=3)
    size = Size(
        2, 1.5, overload=5, idle=500, herd=500, history=600_000, conversations=20, crowd=200, beside=1.5, web=web
    )
    if not options.quick:
        web = WebSize(min(options.rounds, 3), 10_000, 300, options.traffic, 100, 20)
        beside = max(BESIDE, options.seconds)
        size = Size(options.rounds, options.seconds, 60, 15_000, 10_000, options.history, 500, 3_000, beside, web)

    for scenario in scenarios(size.rounds, size.seconds, size.idle, size.overload, size.crowd, size.beside):
        if not wanted(options, scenario.name):
            continue
        for turn in range(scenario.rounds):
            say(f"{scenario.name}: round {turn + 1} of {scenario.rounds}")
            for name in rotated(scenario.peers, turn):
                with running(name, node, None, scenario.cores, 0, *scenario.flags) as peer:
                    figures = scenario.measure(peer)
                result = {"peer": name, "scenario": scenario.name, "round": turn, **figures}
                say(f"  {headline(result)}")
                yield result
    for name, results in histories(node, size).items():
        if wanted(options, name):
            say(f"{name}; storing messages first")
            for result in results:
                say(f"  {result['scenario']}: {headline(result)}")
                yield result


def wanted(options: argparse.Namespace, name: str) -> bool:
    return not options.only or any(text in name for text in options.only)


class Size(NamedTuple):
    rounds: int
    seconds: float
    overload: float
    idle: int
    herd: int
    history: int
    conversations: int
    """That each of the people with many conversations begins."""
    crowd: int
    """Who write to one another with somebody beside them ..."""
    beside: float
    """... for so many seconds each."""
    web: WebSize


def histories(node: str, size: Size) -> dict[str, Iterator[Result]]:
    """Nothing of it happens before it's iterated over."""
    short, middle, long = (History(f"{count:,} stored", count) for count in (1_000, size.history // 10, size.history))
    many = 2 * size.conversations
    wide = History(f"{many:,} conversations each", (many + 1) * size.conversations, many + 1, size.conversations, 3)
    return {
        "reconnect, pages, appends, size": lengths(node, short, middle, long, size.rounds, size.seconds),
        f"reconnect, {wide.name}": reconnects(node, [wide], size.rounds),
        "herd": returns(node, size.herd, 1),
        "web, long history": long_history(node, size.web),
        "web, traffic": traffic(node, size.web),
    }


def headline(result: Result) -> str:
    peer = f"{result['peer']:16}"
    if not result["valid"]:
        return f"{peer} INVALID: {result}"
    if "deliveries_per_second" in result:
        return (
            f"{peer} {result['deliveries_per_second']:>9,.0f} a second, p50 {result['p50_ms']:.2f} ms, "
            f"p99 {result['p99_ms']:.2f} ms, the load used {result['load_cpu']:.0%} of its core"
        )
    if "synced_within_s" in result:
        memory = f"memory at most {result['peak_of_idle_memory']:.2f} of idle"
        return f"{peer} all synced within {result['synced_within_s']:.1f} s, {memory}"
    if "alone_p99_ms" in result:
        return f"{peer} " + ", ".join(f"{name} {value}" for name, value in result.items() if name.endswith("p99_ms"))
    if "pages_per_second" in result:
        return f"{peer} {result['pages_per_second']:,.0f} pages a second, p99 {result['page_p99_ms']:.2f} ms"
    if result["scenario"].startswith("size"):
        stored, written = result["bytes_stored_per_message"], result["bytes_written_per_message"]
        return f"{peer} {stored:,.0f} bytes a message stored, {written:,.0f} written"
    if "echo_p99_ms" in result:
        echo = f"a key press and its echo: p50 {result['echo_p50_ms']:.0f} ms, p99 {result['echo_p99_ms']:.0f} ms"
        return f"{peer} {result['late_frames']:.1%} of frames late, {result['long_tasks']} long tasks; {echo}"
    if "heap_end_mb" in result:
        return f"{peer} " + ", ".join(
            f"{name} {value:.1f}" for name, value in result.items() if name.startswith("heap")
        )
    if "bytes_per_connection" in result:
        memory = f"{result['bytes_per_connection']:,.0f} bytes a connection"
        return f"{peer} {memory}, {result['connects_per_second']:,.0f} connects a second"
    return (
        f"{peer} {result['server_cpu_ms']:.3f} ms of CPU a reconnect, {result['reconnects_per_second']:,.0f} a second"
    )


def measure_and_keep(options: argparse.Namespace, node: str, described: dict[str, Any]) -> None:
    """What was measured before a peer failed to start, or somebody lost patience, is kept as well, but never in the documents."""
    results: list[Result] = []
    folder = archive.ASIDE
    try:
        for result in measure_all(options, node):
            results.append(result)  # noqa: PERF402 -- extend doesn't promise to keep what came before a failure
        folder = options.out
    finally:
        if results:
            found = archive.of(described, results)
            if options.merge and folder == options.out:
                found = archive.merged(archive.read(folder), found)
            print(archive.write(found, folder))
            draw(found.results, folder)
            say(f"in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="two short, small rounds, to see that everything runs")
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="scenarios whose name contains this; may be given again for more",
    )
    parser.add_argument("--without-nodes", action="store_true", help="leave out the several nodes at the end")
    parser.add_argument("--history", type=int, default=10_000_000, help="messages of the long history")
    parser.add_argument("--traffic", type=int, default=3_600, help="messages of the traffic that the web client gets")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the JSON, the table and the plots (docs/benchmarks; with --quick or --only build/benchmarks)",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="with --only: these scenarios take their place among the results in --out, docs/benchmarks if there's none",
    )
    parser.add_argument(
        "--profile", action="store_true", help="instead: py-spy on one peer under load, stacks in --out"
    )
    parser.add_argument("--peer", choices=("duologue", "python-socketio"), default="duologue", help="whom to profile")
    parser.add_argument("--sockets", type=int, default=100, help="for --profile")
    parser.add_argument("--window", type=int, default=20, help="for --profile: messages under way per socket")
    parser.add_argument("--pattern", choices=("random", "circle", "pairs"), default="random", help="for --profile")
    options = parser.parse_args()
    whole = not options.quick and not options.only
    if options.out is None:
        options.out = archive.DOCUMENTS if options.merge or (whole and not options.profile) else archive.ASIDE
    if options.merge and not (options.out / archive.FILE).exists():
        parser.error(f"nothing to merge with: there is no {options.out / archive.FILE}")
    node = str(hatch_build.find_node()[0])
    if options.profile:
        with running(options.peer, node) as peer:
            print(profile(peer, options.out, options.sockets, options.window, options.pattern, int(options.seconds)))
        return
    described = facts(node, "bench")
    if not described["bufferutil is native"]:
        say("the Node server runs without bufferutil's native addon: its figures are too low")
    measure_and_keep(options, node, described)
    if not options.without_nodes and wanted(options, "several nodes"):
        print(nodes.run(nodes.QUICK if options.quick else nodes.FULL, options.out, node, described))


if __name__ == "__main__":
    main()
