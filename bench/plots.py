"""The figures of a run as SVG, for the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.medians import Results, median, values
from bench.peers.launch import PEERS

COLOURS: Final = {"duologue": "#2f6f5e", "node": "#d08a2e", "python-socketio": "#8a8fa3"}

PLOTS: Final = (
    ("throughput", "throughput", "deliveries_per_second", "deliveries a second"),
    ("two-cores", "two cores", "deliveries_per_second", "deliveries a second"),
    ("latency", "open loop", "p99_ms", "p99 of a delivery, ms"),
    ("memory", "idle", "bytes_per_connection", "bytes per idle connection"),
)
"""Name of the file, how the scenarios' names begin, the figure, and what it is."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Bars of the medians, with the range of the rounds, for each of `PLOTS` whose scenarios were run; the files made."""
    return [file for plot in PLOTS if (file := _bars(results, folder, *plot)) is not None]


def draw_nodes(results: Results, folder: Path) -> Path | None:
    """The same of several nodes: the deliveries a second of each number of them."""
    named = [{**each, "scenario": f"{each['scenario']}, {each['nodes']} nodes"} for each in results]
    named.sort(key=lambda each: each["scenario"])
    return _bars(named, folder, "nodes", "throughput", "deliveries_per_second", "deliveries a second")


def _bars(results: Results, folder: Path, name: str, beginning: str, measure: str, title: str) -> Path | None:
    import matplotlib as mpl  # it takes a second, and only this needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "duologue"  # the same figures make the same file
    from matplotlib import pyplot as plt

    scenarios = list(dict.fromkeys(each["scenario"] for each in results if each["scenario"].startswith(beginning)))
    peers = [peer for peer in PEERS if any(values(results, each, peer, measure) for each in scenarios)]
    if not peers:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.28 * len(scenarios) * (len(peers) + 1)))
    for place, peer in enumerate(peers):
        _row(axes, results, scenarios, peer, measure, place, len(peers))
    axes.set_yticks([number + (len(peers) - 1) / (2 * (len(peers) + 1)) for number in range(len(scenarios))], scenarios)
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    file = folder / f"{name}.svg"
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return file


def _row(axes: Any, results: Results, scenarios: list[str], peer: str, measure: str, place: int, of: int) -> None:
    for number, scenario in enumerate(scenarios):
        middle = median(results, scenario, peer, measure)
        if middle is None:
            continue
        found = values(results, scenario, peer, measure)
        spread = [[middle - min(found)], [max(found) - middle]]
        label = peer if number == 0 else None
        at = number + place / (of + 1)
        axes.barh(at, middle, height=0.9 / (of + 1), color=COLOURS[peer], label=label, xerr=spread, ecolor="#555555")
        axes.text(max(found), at, f" {middle:,.0f}" if middle >= 100 else f" {middle:.2f}", va="center", fontsize=8)
