"""What the model asks for at the peak of a day keeps to what it says of itself."""

from __future__ import annotations

import random

import pytest

from bench.days import CONNECTIONS_A_NODE, DATABASE_CORES, DATABASE_SHARE, NODE_SHARE, Day, Habits
from tests.bench.made_up import COSTS


@pytest.mark.parametrize("people", [1_000, 10_000, 300_000, 1_000_000, 3_000_000])
def test_nobody_is_fuller_than_chosen(people: int, rng: random.Random) -> None:
    day = Day(people, Habits(), COSTS, rng)
    figures = day.figures
    assert figures["cores that the nodes use"] <= NODE_SHARE * day.nodes
    assert figures["cores that PostgreSQL uses"] <= DATABASE_CORES * DATABASE_SHARE * day.databases
    assert figures["connections"] <= CONNECTIONS_A_NODE * day.nodes
    assert figures["commits a second"] <= min(day.writes, day.nodes / (COSTS.all.batch + COSTS.sync))


def test_few_messages_are_committed_one_by_one_and_many_together(rng: random.Random) -> None:
    quiet, loud = (
        Day(10_000, Habits(messages=messages), COSTS, rng).figures["messages and receipts a commit"]
        for messages in (1, 10_000)
    )
    assert quiet == pytest.approx(1, abs=0.01)
    assert loud > 5


def test_where_there_is_one_node_nobody_comes_from_another(rng: random.Random) -> None:
    one, two = (Day(people, Habits(), COSTS, rng).figures for people in (10_000, 20_000))
    assert not [name for name in one if name.startswith("a node dies")]
    assert two["a node dies, its people come back: sign-ins"] == int(20_000 * 0.12 * 1.3 / 2)


def test_the_return_of_everybody_takes_as_long_as_the_spread_it_needs(rng: random.Random) -> None:
    figures = Day(1_000_000, Habits(), COSTS, rng).figures
    needed = figures["everything restarts: the spread that it would need, s"]
    assert figures["everything restarts, of their own accord: all signed in after, s"] == pytest.approx(needed, rel=0.1)
    calm = Day(1_000_000, Habits(spread=2 * needed), COSTS, rng).figures
    assert next(value for name, value in calm.items() if "spread over" in name and "longest" in name) < 1
