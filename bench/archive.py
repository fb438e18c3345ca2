"""What was measured, as a folder keeps it: results.json, and the table made of it.

A run of some scenarios may take the place of these in the results of other runs. Every figure names its run, and so the
moment, the command and the commit that it's of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.medians import Results
from bench.peers.launch import ROOT
from bench.report import summarise

DOCUMENTS: Final = ROOT / "docs/benchmarks"
"""What the documents quote: whole runs, and what was measured anew to take its place among them."""

ASIDE: Final = ROOT / "build/benchmarks"
"""Where other runs leave what they find."""

FILE: Final = "results.json"


class Archive(NamedTuple):
    runs: list[dict[str, Any]]
    """The facts of each."""
    results: Results
    """Each with the number of its run."""


def of(run: dict[str, Any], results: Results) -> Archive:
    return Archive([run], [{**each, "run": 0} for each in results])


def merged(before: Archive, new: Archive) -> Archive:
    """`new`'s scenarios in the place of `before`'s, where there are such, or at the end. A run of which nothing is left goes."""
    scenarios = list(dict.fromkeys(each["scenario"] for each in (*before.results, *new.results)))
    replaced = {each["scenario"] for each in new.results}
    runs = [*before.runs, *new.runs]
    left = [each for each in before.results if each["scenario"] not in replaced]
    left += [{**each, "run": each["run"] + len(before.runs)} for each in new.results]
    left.sort(key=lambda each: scenarios.index(each["scenario"]))
    numbers = {old: now for now, old in enumerate(sorted({each["run"] for each in left}))}
    return Archive([runs[old] for old in numbers], [{**each, "run": numbers[each["run"]]} for each in left])


def read(folder: Path) -> Archive:
    found = json.loads((folder / FILE).read_text())
    return Archive(found["runs"], found["results"])


def write(found: Archive, folder: Path) -> str:
    """Returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = summarise(*found)
    (folder / FILE).write_text(json.dumps(found._asdict(), indent=1) + "\n")
    (folder / "results.md").write_text(table)
    return table
