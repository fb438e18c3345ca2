"""`duologue doctor` on real servers, well and ill."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from duologue import cli
from duologue.store.postgres import PostgresStore
from duologue.store.postgres.connection import Connection, connect
from duologue.store.sqlite import SqliteStore
from tests.support.clock import SetClock


class Doctor:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.code = 0
        self.findings: dict[str, tuple[str, str]] = {}

    def look(self, *arguments: str) -> None:
        self.code = cli.main(["doctor", *arguments])
        lines = self._capsys.readouterr().out.splitlines()
        split = [line.split(maxsplit=1) for line in lines[:-2]]
        self.findings = {rest[:12].strip(): (level, rest[12:].strip()) for level, rest in split}

    def said(self, subject: str) -> tuple[str, str]:
        return self.findings[subject]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(capsys)


def test_a_new_installation(doctor: Doctor, tmp_path: Path, database: str, nats: NatsServer) -> None:
    doctor.look("--data", str(tmp_path / "data"))
    assert (doctor.code, doctor.said("data")[0]) == (0, "ok")
    assert not (tmp_path / "data").exists()
    doctor.look("--database", database, "--bus", nats.url)
    assert doctor.code == 0
    assert {subject: level for subject, (level, _) in doctor.findings.items()} == {
        "database": "ok", "schema": "ok", "durability": "ok", "failover": "WARNING", "sessions": "ok", "connections": "ok",
        "clock": "ok", "bus 1": "ok",
    }  # fmt: skip
    assert "no synchronous standby" in doctor.said("failover")[1]


def test_a_folder_in_use_damaged_and_newer(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "data"

    async def look_while_open() -> None:
        store = await SqliteStore.open(folder, SetClock(), lambda batch: None, lambda error: None)
        await asyncio.to_thread(doctor.look, "--data", str(folder))
        await store.close()

    asyncio.run(look_while_open())
    assert doctor.said("data")[0] == "ok"
    assert "is in use by process" in doctor.said("data")[1]
    doctor.look("--data", str(folder))
    assert "no damage found" in doctor.said("data")[1]
    database = folder / "messages.db"
    before = {path.name: path.stat().st_ctime_ns for path in folder.iterdir()}
    doctor.look("--data", str(folder))
    assert {path.name: path.stat().st_ctime_ns for path in folder.iterdir()} == before
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    doctor.look("--data", str(folder))
    assert (doctor.code, doctor.said("data")[0]) == (1, "PROBLEM")


def test_what_a_failover_would_cost(doctor: Doctor, own_postgres: Postgres, standby_postgres: Postgres) -> None:
    own_postgres.set(synchronous_standby_names="*")
    doctor.look("--database", own_postgres.url)
    assert doctor.said("failover")[0] == "ok"
    assert doctor.said("bus")[0] == "WARNING"
    doctor.look("--database", standby_postgres.url)
    assert (doctor.code, doctor.said("database")[0]) == (1, "PROBLEM")
    own_postgres.set(fsync="off")
    standby_postgres.stop()
    doctor.look("--database", own_postgres.url)
    assert doctor.code == 1
    assert "nothing can be acknowledged" in doctor.said("failover")[1]
    assert "fsync is off" in doctor.said("durability")[1]


def test_an_ordinary_database_user(doctor: Doctor, own_postgres: Postgres, standby_postgres: Postgres) -> None:
    """They don't see the state of standbys, which is no alarm; the sessions of others they see as everybody does."""
    own_postgres.set(synchronous_standby_names="*")
    for statement in ("CREATE ROLE app LOGIN", 'CREATE ROLE "my app" LOGIN', "GRANT pg_monitor TO app"):
        own_postgres.sql(statement)
    for role in ("app", '"my app"'):
        own_postgres.sql(f"GRANT CREATE ON DATABASE duologue TO {role}")
    with others_connected(own_postgres.url, 4):
        doctor.look("--database", own_postgres.url)
        room = doctor.said("connections")
        assert room[1].startswith("5 of ")
        doctor.look("--database", own_postgres.url.replace("duologue@", "my%20app@"))
        assert doctor.code == 0
        level, words = doctor.said("failover")
        assert level == "WARNING"
        assert words.endswith('GRANT pg_monitor TO "my app"')
        assert doctor.said("connections") == room
        doctor.look("--database", own_postgres.url.replace("duologue@", "app@"))
        assert doctor.said("failover")[0] == "ok"
    standby_postgres.stop()
    doctor.look("--database", own_postgres.url.replace("duologue@", "my%20app@"))
    assert doctor.code == 1
    assert "nothing can be acknowledged" in doctor.said("failover")[1]


@contextmanager
def others_connected(url: str, count: int) -> Iterator[None]:
    async def open_all() -> list[Connection]:
        return [await connect(url) for _ in range(count)]

    with asyncio.Runner() as runner:
        connections = runner.run(open_all())
        try:
            yield
        finally:
            for each in connections:
                each.terminate()


def test_what_cannot_be_reached(doctor: Doctor, database: str, own_nats: NatsServer) -> None:
    own_nats.kill()
    doctor.look(
        "--database", "postgresql://me:secret@127.0.0.1:1/x", "--bus", f"{own_nats.url},nats://me:secret@127.0.0.1:1"
    )
    assert doctor.code == 1
    assert {level for level, _ in doctor.findings.values()} == {"PROBLEM"}
    assert "secret" not in str(doctor.findings)


def test_a_schema_too_new(doctor: Doctor, database: str, postgres: Postgres) -> None:
    async def make() -> None:
        store = await PostgresStore.open(database, SetClock(), lambda batch: None, lambda error: None)
        await store.close()

    asyncio.run(make())
    postgres.sql("UPDATE duologue.meta SET value = '99' WHERE name = 'oldest_reader'", database.rpartition("/")[2])
    doctor.look("--database", database)
    assert (doctor.code, doctor.said("schema")[0]) == (1, "PROBLEM")
