from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.conftest import finish
from tests.interop.conftest import start_puppet
from tests.nodes.fleet import Fleet

__all__ = ["start_puppet"]


@pytest.fixture
def fleet(
    tmp_path: Path, rng: random.Random, database: str, own_postgres: Postgres, own_nats: NatsServer
) -> Iterator[Fleet]:
    """No nodes yet; those that are added are stopped, and their logs judged, when the test ends, before their servers."""
    made = Fleet(tmp_path, rng)
    yield made
    finish(made.nodes)


@pytest.fixture
def three(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    """Three nodes on the servers that all tests share."""
    for _ in range(3):
        fleet.add(database, nats.url)
    return fleet.start()
