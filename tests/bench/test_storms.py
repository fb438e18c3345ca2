"""Storms of sign-ins and the news of them, against what can be worked out by hand."""

from __future__ import annotations

import dataclasses
import random

import pytest

from bench.measured import Costs, Cpu
from bench.storms import Servers, fan_out, poisson, storm
from duologue.server.elsewhere import AT_ONCE
from tests.bench.made_up import COSTS

COST = Cpu(nodes=0.002, postgresql=0.001, nats=0.0001)


def test_at_one_node_they_are_served_one_after_another(rng: random.Random) -> None:
    found = storm([0.0] * 1_000, COST, Servers(1, 1.0, 8.0, 4.0), rng)
    assert found.last == pytest.approx(1_000 * 0.002 + 0.001 / 8 + 0.0001 / 4)
    assert found.longest == found.last
    assert found.done == sorted(found.done)


def test_half_a_core_left_takes_twice_as_long(rng: random.Random) -> None:
    whole, half = (storm([0.0] * 1_000, COST, Servers(1, core, 1_000.0, 1_000.0), rng).last for core in (1.0, 0.5))
    assert half == pytest.approx(2 * whole, rel=0.001)


def test_however_many_nodes_there_are_they_meet_one_database(rng: random.Random) -> None:
    found = storm([0.0] * 10_000, COST, Servers(1_000, 1.0, 2.0, 1_000.0), rng)
    assert found.last == pytest.approx(10_000 * 0.001 / 2, rel=0.01)


def test_spread_widely_enough_nobody_waits(rng: random.Random) -> None:
    moments = [rng.uniform(0, 100) for _ in range(1_000)]
    found = storm(moments, COST, Servers(4, 1.0, 8.0, 4.0), rng)
    assert found.longest < 0.02
    assert found.last < 101


def test_news_crosses_the_bus_only_to_nodes_where_somebody_watches(costs: Costs, rng: random.Random) -> None:
    moments = poisson(100, 5, rng)
    alone = fan_out(moments, 1, 3, 0, costs, rng)
    assert (alone.bus_messages, alone.told) == (len(moments), 3 * len(moments))
    many = fan_out(moments, 100_000, 3, 20, costs, rng)
    assert many.bus_messages == pytest.approx((1 + 20 + 3) * len(moments), rel=0.001)
    # Each at a node that had nothing else to do.
    assert many.look_ups == pytest.approx(3 * len(moments), rel=0.001)
    assert many.p99 == pytest.approx(costs.look_up)


def test_what_is_heard_during_a_look_up_is_looked_up_together(costs: Costs, rng: random.Random) -> None:
    found = fan_out([0.0] * (3 * AT_ONCE), 1, 1, 0, costs, rng)
    assert found.look_ups == 3
    assert found.p99 == pytest.approx(3 * costs.look_up)


@pytest.fixture
def costs() -> Costs:
    return dataclasses.replace(COSTS, look_up=0.002)
