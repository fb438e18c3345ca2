"""The SQLite store's writer and a reader of it, without threads and a loop: many batches a second, the same ones for a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

from duologue.domain.model import User
from duologue.domain.ports import Clock
from duologue.store.sqlite import reader, store
from duologue.store.sqlite.files import Folder
from duologue.store.sqlite.wal import Wal
from duologue.store.sqlite.writer import Writer
from duologue.store.sqlite.young import KnownByUser, Young
from duologue.store.work import NewGuest

P = ParamSpec("P")
T = TypeVar("T")


class OneThread:
    """Raises what an open store would raise, and then holds nothing."""

    def __init__(self, folder: Path, clock: Clock, vfs: str | None = None) -> None:
        held = Folder(folder)
        connections: list[apsw.Connection] = []
        try:
            _, incarnation = store._open(held, 0.0, "FULL", vfs, connections)
            self.writing, _, self._reading, *_ = connections
            self.young = Young()
            self.wal = Wal(self.writing, clock)
            self.writer = Writer(
                self.writing, self.wal, self.young, clock, "FULL", lambda: held.write_mark(incarnation, clean=True)
            )
        except BaseException:
            _release(held, connections)
            raise
        self._held, self._connections = held, connections

    def add(self, *people: User) -> None:
        future: Any = None
        self.writer.write([NewGuest(future, each.id, each.name, each.id.encode(), 0) for each in people])

    def ask(
        self,
        user: str,
        query: Callable[Concatenate[apsw.Connection, KnownByUser, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """As `Readers.run_for`."""
        self._reading.execute("BEGIN")
        try:
            self._reading.execute(reader._SNAPSHOT).fetchall()
            return query(self._reading, {user: self.young.of(user)}, *arguments, **named)
        finally:
            self._reading.execute("COMMIT")

    def close(self) -> None:
        for connection in self._connections[1:]:
            connection.close(True)
        try:
            self.writer.close()
        finally:
            self._held.release()

    def drop(self) -> None:
        """Leaves everything as it is, as far as one process can."""
        _release(self._held, self._connections)


def _release(held: Folder, connections: list[apsw.Connection]) -> None:
    try:
        for connection in connections:
            connection.close(True)
    finally:
        held.release()
