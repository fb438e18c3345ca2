"""Somebody who reads nothing, floods or polls, among thousands who write to one another, by the benchmark's own load."""

from __future__ import annotations

import pytest

from bench.peers.launch import LIMITED, running
from bench.scenarios import neighbours
from bench.targets import verdicts

CROWD = 3_000
RATE = 2_000
"""Messages a second, of all of them together."""

SECONDS = 5.0
"""With each neighbour, and alone before, between and after."""

ROUNDS = 3
"""Of which the medians count: a shared machine stands still now and then."""


@pytest.mark.torture
@pytest.mark.timeout(ROUNDS * 180)
def test_nobodys_p99_doubles_beside_a_neighbour() -> None:
    measure = neighbours(CROWD, RATE, SECONDS)
    rounds = []
    for number in range(ROUNDS):
        with running(LIMITED, node="") as peer:
            rounds.append({"peer": LIMITED, "scenario": "neighbours", "round": number, **measure(peer)})
    print(rounds)
    found = verdicts(rounds)
    assert len(found) == 3
    assert all(line.startswith("met: ") for line in found), found
