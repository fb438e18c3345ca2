"""`python -m tests.support.watched serve ...`: the `duologue` command as it is, which also tells what it holds.

On SIGUSR1 the server prints a line `holds {...}` (see `Holding`), on SIGUSR2 it collects its garbage before. Nothing is counted
before that, and nothing that the server does goes through here but the making of its `SocketServer`, which is remembered. SQLite
counts its memory, as it does by default in other builds than apsw's. Caches whose bound would take days to fill have a small
one: what grows once they're full isn't theirs.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import re
import signal
import sys
import tempfile
from types import FrameType
from typing import Any, Final

import apsw
import msgspec
from uvloop.loop import TimerHandle  # type: ignore[attr-defined]

import duologue.main
from duologue.cli import main
from duologue.server.transport import SocketServer
from duologue.store.ledger import Ledger
from duologue.store.sqlite import connection
from tests.support.process import ServerProcess


class Holding(msgspec.Struct, frozen=True):
    """What a running server holds."""

    connections: int
    tasks: int
    timers: int
    """Of the event loop, that are still to come."""
    deadlines: int
    """On the transport's wheel: heartbeats, handshakes, polls."""
    blocks: int
    """Of memory that Python has given to its objects, each at most 512 bytes."""
    arenas: int
    """Bytes that Python has from the system for those blocks."""
    malloc: int
    """Bytes that everything else in the process has from malloc: larger objects, extensions, SQLite."""
    malloc_free: int
    """Bytes that malloc has got from the system and nobody has now."""
    sqlite: int
    """Bytes that SQLite has for its pages and statements; the caches have their own limits (store/sqlite/connection.py)."""


SMALL_CACHE: Final = 2_000_000
"""Bytes of pages that SQLite keeps for the writer, and for each reader."""

REMEMBERED: Final = 200
"""People whom the ledger remembers, and conversations."""


def what_it_holds(server: ServerProcess, collect: bool = False) -> Holding:
    """Ask a server that runs here in this way; with `collect` it collects its garbage before."""
    mark = server.log_mark()
    server.ask_what_it_holds(collect)
    return msgspec.json.decode(server.wait_for_log("^holds (.*)", since=mark)[1], type=Holding)


_servers: list[SocketServer] = []


class _Remembered(SocketServer):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _servers.append(self)


def _asked(number: int, frame: FrameType | None) -> None:
    # Not in the handler: it may have interrupted anything.
    loop = asyncio.get_running_loop()
    loop.call_soon_threadsafe(_tell, loop, number == signal.SIGUSR2)


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3), over all arenas."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


_libc = ctypes.CDLL(None)
_libc.mallinfo2.restype = _MallInfo


def _arenas() -> int:
    """Python tells the size of its arenas in words on stderr alone."""
    with tempfile.TemporaryFile() as words:
        stderr = os.dup(2)
        os.dup2(words.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        words.seek(0)
        found = re.search(rb"(\d+) arenas \* (\d+) bytes/arena", words.read())
    return int(found[1]) * int(found[2]) if found else 0


def _tell(loop: asyncio.AbstractEventLoop, collect: bool) -> None:
    if collect:
        gc.collect()
    now = loop.time()
    heap = _libc.mallinfo2()
    holding = Holding(
        connections=sum(server.counters.connections for server in _servers),
        tasks=len(asyncio.all_tasks(loop)),
        timers=sum(
            type(each) is TimerHandle and not each.cancelled() and each.when() > now for each in gc.get_objects()
        ),
        deadlines=sum(len(server._engine.wheel) for server in _servers),
        blocks=sys.getallocatedblocks(),
        arenas=_arenas(),
        malloc=heap.uordblks + heap.hblkhd,
        malloc_free=heap.fordblks,
        sqlite=apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0],
    )
    print("holds", msgspec.json.encode(holding).decode(), flush=True)


def _lower_bounds() -> None:
    connection.WRITER_CACHE = connection.READER_CACHE = SMALL_CACHE
    Ledger.__init__.__defaults__ = (REMEMBERED, REMEMBERED)


if __name__ == "__main__":
    _lower_bounds()
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, True)
    apsw.initialize()
    duologue.main.SocketServer = _Remembered  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR1, _asked)
    signal.signal(signal.SIGUSR2, _asked)
    sys.exit(main())
