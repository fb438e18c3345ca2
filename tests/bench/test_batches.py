"""The simulation of batches keeps the rules that it's made of."""

from __future__ import annotations

import dataclasses

import pytest

from bench.batches import busy, paced
from bench.measured import Cost
from tests.bench.made_up import COSTS


def test_a_message_alone_takes_its_own_steps_and_no_more() -> None:
    found = paced(COSTS, nodes=2, rate=10, seconds=10)
    assert found.batch_mean == 1
    assert found.p50 == pytest.approx(COSTS.all.batch + COSTS.all.message + COSTS.sync)
    assert found.p99 == pytest.approx(found.p50)


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("cores", [1.0, 1.5])
def test_no_more_is_done_than_the_cores_can_do_and_with_enough_nodes_hardly_less(nodes: int, cores: float) -> None:
    found = busy(COSTS, nodes, window=20, seconds=2, cores=cores)
    used = found.per_second * COSTS.all.of_message(found.batch_mean)
    assert used < cores * 1.02
    if nodes >= 4:
        assert used > cores * 0.95


def test_batches_that_share_a_core_all_take_longer() -> None:
    """Eight nodes that are never idle have a turn of the core each: a batch takes eight times as long as alone."""
    costs = dataclasses.replace(COSTS, sync=0.0)
    few, many = (paced(costs, nodes, rate=1_000, seconds=2).p50 for nodes in (2, 8))
    assert many > 3 * few


def test_who_writes_for_the_same_people_waits() -> None:
    """The two of a pair are at two nodes, and with all pairs in every batch these two take turns. Four nodes are twice that."""
    costs = dataclasses.replace(
        COSTS, loops=Cost(1e-7, 1e-7), writers=Cost(0, 1e-5), postgresql=Cost(0, 0), nats=Cost(0, 0), load=1e-7, sync=0.05
    )  # fmt: skip
    for nodes, pairs in ((2, 1), (4, 2), (8, 4)):
        found = busy(costs, nodes, window=2, seconds=2)
        commits = found.per_second / found.batch_mean
        assert commits <= pairs / costs.sync * 1.05
        assert commits >= pairs / costs.sync * 0.9
