"""The pages about how far it goes are what the committed measurements say, and what wasn't measured is an error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.measured import PACED, Measured, MissingMeasurement, costs
from bench.simulate import MEASURED, SCALING, SEED, SIMULATION, Simulation, fill
from tests.bench.made_up import COSTS, results


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(Measured(MEASURED), SEED)


def test_the_simulation_is_that_of_the_committed_measurements(simulation: Simulation) -> None:
    assert SIMULATION.read_text() == simulation.report(), "run `python -m bench.simulate`"


def test_the_figures_of_the_page_are_those_of_the_measurements(simulation: Simulation) -> None:
    page = SCALING.read_text()
    assert page.count("<!--") > 20
    assert fill(page, simulation.figures()) == page, "run `python -m bench.simulate`"


def test_every_comment_of_the_page_names_a_figure(simulation: Simulation) -> None:
    assert set(re.findall(r"<!--(.+?)-->", SCALING.read_text())) <= simulation.figures().keys()


def test_a_figure_is_replaced_and_nothing_else() -> None:
    page = "Costs 1,234.5<!--cost--> µs, of 7; off by -3<!--misfit-->%."
    assert fill(page, {"cost": "38", "misfit": "+12"}) == "Costs 38<!--cost--> µs, of 7; off by +12<!--misfit-->%."
    with pytest.raises(KeyError):
        fill(page, {"cost": "38"})


def written(folder: Path, found: list[dict[str, Any]]) -> Path:
    path = folder / "nodes.json"
    path.write_text(json.dumps({"results": found}))
    return path


def test_costs_are_told_apart_by_the_size_of_the_batches(tmp_path: Path) -> None:
    found = costs(Measured(written(tmp_path, results())))
    for name in COSTS.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(COSTS, name)), name


def test_what_is_not_measured_is_no_guess(tmp_path: Path) -> None:
    found = results()
    for each in found:
        if each["scenario"] == PACED:
            del each["wal_sync_ms"]
    with pytest.raises(MissingMeasurement, match=rf"no valid `wal_sync_ms` of '{PACED}' with 2 nodes: run"):
        costs(Measured(written(tmp_path, found)))


def test_a_round_that_failed_does_not_count(tmp_path: Path) -> None:
    bad = [{**each, "valid": False, "batch_mean": 1.0, "wal_sync_ms": 99.0} for each in results()]
    assert costs(Measured(written(tmp_path, [*results(), *bad]))).sync == pytest.approx(COSTS.sync)
    with pytest.raises(MissingMeasurement, match="no valid results"):
        costs(Measured(written(tmp_path, bad)))


def test_the_program_says_what_to_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.simulate", "--measured", str(written(tmp_path, results()[1:]))]
    out, page = tmp_path / "out.md", tmp_path / "page.md"
    ended = subprocess.run(
        [*command, "--out", str(out), "--page", str(page)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "`batch_mean` of 'throughput' with 2 nodes: run `python -m bench.nodes`" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not out.exists()
