"""`python -m tests.support.watched serve ...`: the `duologue` command as it is, which also tells what it holds.

On SIGUSR1 the server prints a line `holds {...}` (see `Holding`), on SIGUSR2 it collects its garbage before. Nothing is counted
before that, and nothing that the server does goes through here but the making of its `SocketServer`, which is remembered. SQLite
counts its memory, as it does by default in other builds than apsw's.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from types import FrameType
from typing import Any

import apsw
import msgspec
from uvloop.loop import TimerHandle  # type: ignore[attr-defined]

import duologue.main
from duologue.cli import main
from duologue.server.transport import SocketServer
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
    sqlite: int
    """Bytes that SQLite has for its pages and statements; the caches have their own limits (store/sqlite/connection.py)."""


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


def _tell(loop: asyncio.AbstractEventLoop, collect: bool) -> None:
    if collect:
        gc.collect()
    now = loop.time()
    holding = Holding(
        connections=sum(server.counters.connections for server in _servers),
        tasks=len(asyncio.all_tasks(loop)),
        timers=sum(
            type(each) is TimerHandle and not each.cancelled() and each.when() > now for each in gc.get_objects()
        ),
        deadlines=sum(len(server._engine.wheel) for server in _servers),
        blocks=sys.getallocatedblocks(),
        sqlite=apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0],
    )
    print("holds", msgspec.json.encode(holding).decode(), flush=True)


if __name__ == "__main__":
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, True)
    apsw.initialize()
    duologue.main.SocketServer = _Remembered  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR1, _asked)
    signal.signal(signal.SIGUSR2, _asked)
    sys.exit(main())
