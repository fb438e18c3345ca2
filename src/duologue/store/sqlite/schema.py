"""Brings a database to this version's schema: one numbered file of `schema/`, and the code that goes with it, in one
transaction each.

`meta` holds one row of each: `schema_version` (the last file that ran), `oldest_reader` (the oldest schema version
whose code can still use the data), `epoch` and `incarnation`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib import resources

import apsw

from duologue.domain.errors import StoreUnusable

APPLICATION_ID = 0x44554F4C
"""`DUOL`, in the header of the file: tells our database from somebody else's."""

OLDEST_READERS = {1: 1, 2: 2, 3: 3}
"""For each schema version the oldest version of this code's schema that can still read and write it."""

VERSION = max(OLDEST_READERS)

_META = "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID"


def check(connection: apsw.Connection, *, unfinished: bool = False) -> int:
    """The schema version of the data, 0 for an empty file. Writes nothing. Raises `StoreUnusable`, also for the target of
    an `unfinished` migration unless that is asked for."""
    application = connection.pragma("application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if not tables:
        return 0
    if application != APPLICATION_ID:
        raise StoreUnusable(f"{connection.filename} is a database of another program")
    version, oldest = (int(str(read(connection, name))) for name in ("schema_version", "oldest_reader"))
    if oldest > VERSION:
        raise StoreUnusable(
            f"{connection.filename} was written by a newer Duologue (schema {version}, this one knows {VERSION}); "
            f"start that version, or restore a backup of an older one"
        )
    if not unfinished and read(connection, "migration") is not None:
        raise StoreUnusable(
            f"a migration into {connection.filename} isn't finished: run the same `duologue migrate` again to go on with it"
        )
    return version


def migrate(connection: apsw.Connection, version: int, code: Mapping[int, Callable[[apsw.Connection], None]]) -> None:
    """Run what is missing above `version`. Each file with its `code` and its new version is one transaction: all of it or
    nothing."""
    for number, text in _files():
        if number <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            if number == 1:
                connection.execute(_META)
                connection.pragma("application_id", APPLICATION_ID)
                write(connection, "epoch", new_token())
            connection.execute(text)
            if number in code:
                code[number](connection)
            write(connection, "schema_version", number)
            write(connection, "oldest_reader", OLDEST_READERS[number])
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def read(connection: apsw.Connection, name: str) -> object:
    return connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).get


def write(connection: apsw.Connection, name: str, value: str | int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def new_token() -> str:
    """An epoch or an incarnation: 64 random bits."""
    return secrets.token_hex(8)


def _files() -> list[tuple[int, str]]:
    folder = resources.files(__package__) / "schema"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )
