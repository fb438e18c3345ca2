"""Many rows in one statement, for a statement a row would cost the event loop's lock a thousand times a batch.

SQLite is given a list of `VALUES` with a place for each column of each row. That is a quarter faster than one JSON text
read by `json_each` (docs/decisions/store-sqlite.md). The lists come in a few sizes only, so that each is prepared once;
places that are left over are NULL, and a row whose first column is NULL is passed over.

A conflict takes the whole transaction with it (`OR ROLLBACK`), which is what the writer wants of it: to undo the one
statement alone SQLite would copy each page before it is first changed, a quarter of the time of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import apsw

SIZES = (512, 64, 8)
"""Rows of one statement. A longer text than that of 512 rows isn't kept in apsw's cache of statements (16 kB)."""


class BulkInsert:
    """`INSERT INTO` some columns of a table, with `tail` for an upsert clause. The first column is never NULL."""

    def __init__(self, table: str, columns: Sequence[str], tail: str = "") -> None:
        self._width = len(columns)
        row = "(" + ",".join("?" * self._width) + ")"
        self._texts = {
            size: f"INSERT OR ROLLBACK INTO {table} ({', '.join(columns)}) "
            f"SELECT * FROM (VALUES {','.join([row] * size)}) WHERE column1 IS NOT NULL {tail}"
            for size in SIZES
        }

    def run(self, connection: apsw.Connection, rows: Sequence[tuple[int | str | bytes, ...]]) -> None:
        """Insert the rows, in their order. All of it belongs to the caller's transaction."""
        done = 0
        while done < len(rows):
            left = len(rows) - done
            # The smallest statement that takes all that is left, or the largest.
            size = next((size for size in reversed(SIZES) if size >= left), SIZES[0])
            flat: list[int | str | bytes | None] = list(itertools.chain.from_iterable(rows[done : done + size]))
            flat += [None] * (size * self._width - len(flat))
            connection.execute(self._texts[size], flat)
            done += size
