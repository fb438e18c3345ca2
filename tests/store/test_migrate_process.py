"""`duologue migrate` as a process on a terminal: killed in the middle, and what it shows."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from duologue.cli import EXIT_UNUSABLE
from duologue.store.migrate.rows import TABLES
from tests.support.process import ROOT

from .test_migrate import everything, fill

TIMEOUT: Final = 60.0
COLUMNS: Final = 80
KILLED_AT: Final = ("dialog", "dialog", "message", "message")
"""Tables in the middle of which it's killed."""

SMALL_BATCHES: Final = """
import sys
from duologue import cli, migration
from duologue.store.migrate import copying
copying.BATCH = 1
migration.BAR_SECONDS = 0
sys.exit(cli.main(["migrate", *sys.argv[1:]]))
"""
"""The command, with one row in a transaction, each of them shown."""


class Ended(NamedTuple):
    code: int
    shown: str

    @property
    def first(self) -> tuple[int, int]:
        """Where it began: the table's place in their order, and how many rows it had."""
        found = re.search(r"copying (\w+) +([\d,]+) of", self.shown)
        assert found, self.shown
        return TABLES.index(found[1]), int(found[2].replace(",", ""))


def migrate(source: str, target: str, kill_at: tuple[str, int] | None = None) -> Ended:
    """Run the command on a terminal. With `kill_at` it gets SIGKILL when that text is shown for the given time."""
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", SMALL_BATCHES, source, target],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**environment, "PYTHONPATH": str(ROOT / "src")},
    )
    os.close(follower)
    shown, deadline = b"", time.monotonic() + TIMEOUT
    try:
        while True:
            ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"it stands still: {shown!r}"
            try:
                shown += os.read(leader, 65_536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if kill_at is not None and shown.count(kill_at[0].encode()) >= kill_at[1]:
                process.kill()
        return Ended(process.wait(TIMEOUT), shown.decode())
    finally:
        os.close(leader)
        process.kill()
        process.wait(TIMEOUT)


def migrate_soon(source: str, target: str, kill_at: tuple[str, int] | None = None) -> Ended:
    """The database may notice only a moment later that the one before is dead."""
    deadline = time.monotonic() + TIMEOUT
    while (ended := migrate(source, target, kill_at)).code == EXIT_UNUSABLE:
        assert "in use" in ended.shown, ended.shown
        assert time.monotonic() < deadline
    return ended


@pytest.mark.parametrize("to", ["postgres", "sqlite"])
def test_a_killed_one_goes_on(to: str, database: str, tmp_path: Path, rng: random.Random) -> None:
    folder = tmp_path / "data"
    source: Path | str
    target: Path | str
    source, target = (folder, database) if to == "postgres" else (database, folder)
    users = asyncio.run(fill(source, rng))
    before = asyncio.run(everything(source, users))
    began = [(0, 0)]
    for table in KILLED_AT:
        ended = migrate_soon(str(source), str(target), (f"copying {table}", rng.randrange(1, 25)))
        assert ended.code == -signal.SIGKILL, ended.shown
        began.append(ended.first)
    ended = migrate_soon(str(source), str(target))
    assert ended.code == 0, ended.shown
    began.append(ended.first)
    assert began == sorted(began)
    assert began[-1] > (TABLES.index("message"), 0)
    assert asyncio.run(everything(target, users)) == before


def test_what_a_terminal_shows(database: str, tmp_path: Path, rng: random.Random) -> None:
    """A bar of its own for each table, rewritten in its line, which it never leaves; then the checksums."""
    folder = tmp_path / "data"
    asyncio.run(fill(folder, rng))
    ended = migrate(str(folder), database)
    assert ended.code == 0, ended.shown
    lines = ended.shown.split("\r\n")
    bars = [line.removeprefix("\r").split("\r") for line in lines if line.startswith("\r[")]
    doing = [f"{what} {table}" for what in ("copying", "comparing") for table in TABLES]
    for states in bars:
        assert all(state.endswith("\x1b[K") for state in states)
        plain = [state.removesuffix("\x1b[K") for state in states]
        assert max(map(len, plain)) < COLUMNS
        shares = [int(found[1]) for state in plain if (found := re.search(r"(\d+)%", state))]
        assert shares == sorted(shares)
        assert shares[-1] == 100
        last = re.match(r"\[(#*)( *)\]", plain[-1])
        assert last
        assert len(last[1]) >= 10
        assert not last[2]
    shown = [re.search(r"(copying|comparing) (\w+)", states[-1]) for states in bars]
    assert [found[0] for found in shown if found] == doing
    assert [line.split()[0] for line in lines if "the same on both sides" in line] == list(TABLES)
    assert lines[-2].startswith("done: ")
