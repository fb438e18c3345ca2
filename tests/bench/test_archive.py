"""The results of several runs in one place, and the documents made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import archive
from bench.nodes_report import table
from bench.report import summarise


def measured(run: dict[str, Any], *scenarios: str) -> archive.Archive:
    results = [{"peer": "duologue", "scenario": each, "round": 0, "valid": True, **run} for each in scenarios]
    return archive.of({"when": run["of"]}, results)


def seen(found: archive.Archive) -> list[tuple[str, str, str]]:
    """The scenarios in their order, by which run they are, and by which run they say they are."""
    return [(each["scenario"], each["of"], found.runs[each["run"]]["when"]) for each in found.results]


def test_what_was_measured_anew_takes_its_place_and_names_its_run() -> None:
    before = measured({"of": "monday"}, "a", "b", "c")
    found = archive.merged(before, measured({"of": "tuesday"}, "b", "d"))
    assert seen(found) == [
        ("a", "monday", "monday"), ("b", "tuesday", "tuesday"), ("c", "monday", "monday"), ("d", "tuesday", "tuesday"),
    ]  # fmt: skip


def test_a_run_of_which_nothing_is_left_goes() -> None:
    found = archive.merged(measured({"of": "monday"}, "a", "b"), measured({"of": "tuesday"}, "b"))
    found = archive.merged(found, measured({"of": "wednesday"}, "a"))
    assert [run["when"] for run in found.runs] == ["tuesday", "wednesday"]
    assert seen(found) == [("a", "wednesday", "wednesday"), ("b", "tuesday", "tuesday")]


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    found = measured({"of": "monday"}, "a")
    archive.write(found, tmp_path)
    assert archive.read(tmp_path) == found


def test_the_table_says_what_runs_have_in_common_once_and_whose_scenarios_are_whose() -> None:
    before = archive.of(
        {"machine": "this one", "when": "monday"}, [{"peer": "duologue", "scenario": "a", "valid": True}]
    )
    after = archive.of(
        {"machine": "this one", "when": "tuesday"}, [{"peer": "duologue", "scenario": "b", "valid": True}]
    )
    page = summarise(*archive.merged(before, after))
    assert page.count("this one") == 1
    assert page.index("- when: monday\n- of it: a\n") < page.index("- when: tuesday\n- of it: b\n")


def test_the_documents_tables_are_of_their_figures() -> None:
    assert (archive.DOCUMENTS / "results.md").read_text() == summarise(*archive.read(archive.DOCUMENTS))
    nodes = json.loads((archive.DOCUMENTS / "nodes.json").read_text())
    assert (archive.DOCUMENTS / "nodes.md").read_text() == table(nodes["facts"], nodes["results"])
