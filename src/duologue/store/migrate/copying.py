"""The migration itself: batch by batch, each with its progress in one transaction, and at the end everything is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from duologue.domain.errors import StoreUnusable
from duologue.store.migrate.rows import TABLES, Checksum, Progress, Source, Target

BATCH: Final = 5_000
"""Rows of one transaction."""

Report = Callable[[str, str, int, int], None]
"""Told of progress: what is being done ("copying", "comparing"), the table, rows so far, rows in all."""


class Difference(Exception):
    """What was read back isn't what was written. The target stays unusable; the message says where."""


async def migrate(source: Source, target: Target, report: Report) -> dict[str, Checksum]:
    """Bring everything over, going on where an earlier attempt stopped, and let servers use the target.

    Returns the checksum of each table. Raises `StoreUnusable` if the target holds the beginning of another migration, and
    `Difference`. Whoever interrupts it can call it again.
    """
    identity = f"{type(source).__name__} {source.epoch}"
    done = await target.progress()
    if done is not None and done.source != identity:
        raise StoreUnusable(f"{target.name} holds the beginning of a migration from elsewhere")
    for table in TABLES:
        if done is not None and TABLES.index(table) < TABLES.index(done.table):
            continue
        await _copy(source, target, table, identity, done if done is not None and done.table == table else None, report)
    checksums = {}
    for table in TABLES:
        ours, theirs = await _sums(source, target, table, report)
        if (ours.rows, str(ours)) != (theirs.rows, str(theirs)):
            raise Difference(
                f"{table}: {ours.rows:,} rows ({ours}) in {source.name}, {theirs.rows:,} rows ({theirs}) in {target.name}"
            )
        checksums[table] = ours
    await target.finish(source.epoch)
    return checksums


async def _copy(
    source: Source, target: Target, table: str, identity: str, done: Progress | None, report: Report
) -> None:
    total = await source.count(table)
    copied = await target.count(table) if done is not None else 0
    cursor = done.cursor if done is not None else None
    report("copying", table, copied, total)
    while True:
        rows, cursor = await source.read(table, cursor, BATCH)
        if not rows:
            return
        await target.write(table, rows, Progress(identity, table, cursor))
        copied += len(rows)
        report("copying", table, copied, total)


async def _sums(source: Source, target: Target, table: str, report: Report) -> tuple[Checksum, Checksum]:
    """Of both sides. The rows of both count, so that the progress goes forward only."""
    total = await source.count(table) + await target.count(table)
    report("comparing", table, 0, total)
    ours = await _sum(source, table, lambda rows: report("comparing", table, rows, total))
    theirs = await _sum(target, table, lambda rows: report("comparing", table, ours.rows + rows, total))
    return ours, theirs


async def _sum(side: Source, table: str, report: Callable[[int], None]) -> Checksum:
    checksum, cursor = Checksum(), None
    while True:
        rows, cursor = await side.read(table, cursor, BATCH)
        if not rows:
            return checksum
        checksum.add(rows)
        report(checksum.rows)
