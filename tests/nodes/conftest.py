from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.nats import NatsServer
from tests.conftest import finish
from tests.interop.conftest import start_puppet
from tests.nodes.fleet import Fleet

__all__ = ["start_puppet"]


@pytest.fixture
def fleet(tmp_path: Path, rng: random.Random, database: str) -> Iterator[Fleet]:
    """No nodes yet; those that are added are stopped, and their logs judged, when the test ends. A test that has servers of
    its own names them before the fleet, so that they end after it."""
    made = Fleet(tmp_path, rng)
    yield made
    finish(made.nodes)


@pytest.fixture
def three(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    """Three nodes on the servers that all tests share."""
    for _ in range(3):
        fleet.add(database, nats.url)
    return fleet.start()
