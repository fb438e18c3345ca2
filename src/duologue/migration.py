"""`duologue migrate`: from a folder to a database or back, with its progress shown."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from duologue.domain.errors import StoreUnusable
from duologue.setting_texts import is_database, without_password
from duologue.store.migrate import Difference, migrate
from duologue.store.migrate.sqlite import SqliteSide

EXIT_DIFFERENT: Final = 1
EXIT_INTERRUPTED: Final = 130
"""What a shell makes of SIGINT."""

BAR: Final = 30
"""Characters of the progress bar, where the terminal is wide enough."""

BAR_SECONDS: Final = 0.1
"""Between two states of the bar."""

LINE_SECONDS: Final = 5.0
"""Between two lines of progress where there's no terminal."""


def run(source: str, target: str) -> int:
    """Bring everything from one to the other, each a data folder or a URL. Returns the exit code; raises
    `StoreUnusable`."""
    if is_database(source) == is_database(target):
        raise StoreUnusable("one of the two has to be a data folder, the other a URL like postgresql://user@host/name")
    try:
        return asyncio.run(_migrate(*(each if is_database(each) else _path(each) for each in (source, target))))
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


async def _migrate(source: str, target: str) -> int:
    reading: Any = await _opened(source, SqliteSide.source, "source")
    try:
        writing: Any = await _opened(target, SqliteSide.target, "target")
        try:
            shown = _Shown()
            checksums = await migrate(reading, writing, shown)
            shown.end()
            for table, checksum in checksums.items():
                print(f"{table:8} {checksum.rows:>13,} rows, checksum {checksum}, the same on both sides")
            print(f"done: {writing.name} is ready to be served")
        except Difference as difference:
            print(f"\nduologue: the copy differs, and is not to be used: {difference}", file=sys.stderr)
            return EXIT_DIFFERENT
        finally:
            await writing.close()
    finally:
        await reading.close()
    return 0


async def _opened(where: str, sqlite: Callable[[Path], SqliteSide], side: str) -> Any:
    if not is_database(where):
        return sqlite(Path(where))
    try:
        from duologue.store.migrate.postgres import PostgresSide
    except ModuleNotFoundError as error:
        raise StoreUnusable(f"{error.name} is not installed: pip install 'duologue[cluster]'") from error
    opened: Callable[[str, str], Awaitable[PostgresSide]] = getattr(PostgresSide, side)
    return await opened(where, without_password(where))


class _Shown:
    """Progress for people: one bar on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._what = ""
        self._began = self._last = time.monotonic()
        self._first = 0

    def __call__(self, doing: str, table: str, done: int, total: int) -> None:
        now = time.monotonic()
        what = f"{doing} {table}"
        if what != self._what:
            self.end()
            self._what, self._began, self._first = what, now, done
        elif now - self._last < (BAR_SECONDS if self._terminal else LINE_SECONDS) and done < total:
            return
        self._last = now
        share = min(1.0, done / total) if total else 1.0
        left = (now - self._began) / (done - self._first) * (total - done) if done > self._first else 0.0
        text = f"{what:18} {done:>13,} of {total:,} rows, {share:4.0%}, {left:,.0f} s left"
        if self._terminal:
            # One column is left, for a line that reaches the last one may go on to the next, which `\r` wouldn't undo.
            columns = shutil.get_terminal_size().columns - 1
            width = max(0, min(BAR, columns - len(text) - len("[] ")))
            filled = int(share * width)
            bar = f"[{'#' * filled}{' ' * (width - filled)}] {text}" if width else text[:columns]
            print(f"\r{bar}\x1b[K", end="", flush=True)
        else:
            print(text, flush=True)

    def end(self) -> None:
        """What was being done is done."""
        if self._what and self._terminal:
            print(flush=True)
