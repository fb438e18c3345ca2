"""What runs when several nodes are measured, and what is read from it: processor time and memory by component, bytes on the
bus, and the database's own statistics."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import psutil

from bench.disk import fsync_ms
from bench.peers.launch import PACE, ROOT, UNLIMITED, pinned, serve_command, stop, wait_until_listening
from cluster.nats import NatsServer
from cluster.ports import free_port
from cluster.postgres import Postgres

TRANSACTIONS: Final = 40
"""Of which one sees what the database alone takes."""

IDLE_RATE: Final = 20
"""Messages a second of a system that has nothing to do: each finds everybody waiting."""

_BATCHES: Final = """
    SELECT count(*), coalesce(avg(size), 0), coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY size), 0),
        coalesce(max(size), 0)
    FROM (SELECT count(*) AS size FROM duologue.message WHERE at >= {} AND at < {} GROUP BY xmin::text) AS batch
"""
"""A batch is a transaction, and each row has the number of that which wrote it."""

_WAL: Final = """
    SELECT (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'duologue.message'::regclass),
        sum(writes), sum(write_bytes), sum(fsyncs), sum(fsync_time)
    FROM pg_stat_io WHERE object = 'wal' AND context = 'normal'
"""
"""Of PostgreSQL 18. What makes a new file of the log (16 MB of zeros) is another context."""

_PRESENT: Final = "SELECT count(*) FROM duologue.presence"

LEFT_WITHIN: Final = 60.0
"""Seconds."""

_STORED: Final = "SELECT count(*), pg_total_relation_size('duologue.message') FROM duologue.message"

Result = dict[str, Any]


class Wal(NamedTuple):
    """What has been written to the database's log so far. A backend says so once a second at most, of all that it has done
    together: so the messages and what they cost are those of the same moment, though a late one."""

    messages: int
    writes: int
    bytes: int
    syncs: int
    sync_ms: float

    def since(self, before: Wal) -> Wal:
        writes, size, syncs = self.writes - before.writes, self.bytes - before.bytes, self.syncs - before.syncs
        return Wal(self.messages - before.messages, writes, size, syncs, self.sync_ms - before.sync_ms)


class Nodes:
    """What runs: the nodes' URLs, all processes, what has gone through what connects them, and the database, if it's one that
    has batches."""

    def __init__(self, bus: Callable[[], dict[str, int]], postgres: Postgres | None = None) -> None:
        self.ports: list[int] = []
        self.processes: dict[str, list[psutil.Process]] = {}
        self.bus = bus
        """Bytes of content so far, and messages where they're counted, in and out."""
        self._postgres = postgres

    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket" for port in self.ports]

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far, by component; of the nodes also that of the threads which run their loops."""
        used = {name: sum(map(_cpu, processes)) for name, processes in self.processes.items()}
        loops = sum(map(_main_thread_cpu, self.processes["nodes"]))
        return {**used, "loops": loops, "other_threads": used["nodes"] - loops}

    def rss(self) -> int:
        """Resident bytes of the nodes together."""
        return sum(int(each.memory_info().rss) for each in self.processes["nodes"])

    def alone(self) -> Result:
        """What a transaction takes the database alone, and a sync its disk, while nothing else happens."""
        if self._postgres is None:
            return {}
        median, slow = fsync_ms(self._postgres.folder)
        transaction = asyncio.run(_transaction_ms(self._postgres.url))
        return {"database_p50_ms": transaction, "fsync_p50_ms": median, "fsync_p99_ms": slow}

    def wal(self) -> Wal | None:
        if self._postgres is None:
            return None
        messages, writes, size, syncs, took = self._postgres.sql(_WAL).split("|")
        return Wal(int(messages), int(writes), int(size), int(syncs), float(took))

    def wait_until_left(self, staying: int) -> bool:
        """Wait until the registry knows of no more than those: who has left counts as online for a while, and is announced when
        it's over. False if that takes longer than LEFT_WITHIN."""
        deadline = time.monotonic() + LEFT_WITHIN
        while self._postgres is not None and int(self._postgres.sql(_PRESENT)) != staying:
            if time.monotonic() > deadline:
                return False
            time.sleep(PACE)
        return True

    def batches(self, from_ms: int, until_ms: int) -> Result:
        """The messages of a batch, and batches a second, of those that were written in this time; and what a message of all
        that there are takes on disk, indexes included."""
        if self._postgres is None:
            return {}
        count, mean, median, most = self._postgres.sql(_BATCHES.format(from_ms, until_ms)).split("|")
        messages, size = map(int, self._postgres.sql(_STORED).split("|"))
        return {
            "batch_mean": float(mean), "batch_p50": int(median), "batch_max": int(most),
            "commits_per_second": int(count) / (until_ms - from_ms) * 1000,
            "bytes_stored_per_message": size / max(1, messages),
        }  # fmt: skip


async def _transaction_ms(url: str) -> float:
    """Median milliseconds of a transaction that goes to the database as often as that of a batch: to begin, to lock, to read,
    to write and to commit. One at a time, at the pace of IDLE_RATE: what rests between two is slower than what runs."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE bench_row AS SELECT 1 AS id, '' AS content")
        took = []
        for _ in range(TRANSACTIONS):
            await asyncio.sleep(1 / IDLE_RATE)
            began = time.perf_counter()
            async with connection.transaction():
                await connection.fetch("SELECT id FROM bench_row WHERE id = $1 FOR NO KEY UPDATE", 1)
                await connection.fetch("SELECT content FROM bench_row WHERE id = $1", 1)
                await connection.execute("UPDATE bench_row SET content = $2 WHERE id = $1", 1, "x" * 100)
            took.append((time.perf_counter() - began) * 1000)
        await connection.execute("DROP TABLE bench_row")
    finally:
        await connection.close()
    return statistics.median(took)


def _main_thread_cpu(process: psutil.Process) -> float:
    return sum((each.user_time + each.system_time for each in process.threads() if each.id == process.pid), 0.0)


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def _cores(cores: str) -> Iterator[None]:
    """What is started meanwhile, with all its threads, stays on these."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def duologue(count: int, cores: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        # PostgreSQL gets one of its own, into which it lets nobody else.
        folder, own = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duologue-bench-"))) for _ in range(2)
        )
        monitor = free_port()
        with _cores(cores):
            postgres = stack.enter_context(Postgres(own, {"track_wal_io_timing": "on"}))
            nats = stack.enter_context(NatsServer(folder, ("-m", str(monitor))))
        nodes = Nodes(lambda: _nats(monitor), postgres)
        nodes.processes = {"postgresql": [psutil.Process(postgres.pid)], "nats": [psutil.Process(nats.pid)]}
        shared = ["--database", postgres.url, "--bus", nats.url]
        _start(stack, nodes, count, cores, lambda port: serve_command(port, folder / "unused", *UNLIMITED, *shared))
        yield nodes


@contextmanager
def guide(count: int, cores: str, node: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        port = free_port()
        # The guide's Redis keeps nothing on disk.
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = stack.enter_context(_running(pinned(cores, redis), port))
        nodes = Nodes(lambda: _redis(port))
        nodes.processes = {"redis": [psutil.Process(process.pid)]}
        script = str(ROOT / "bench/peers/node/cluster.js")
        _start(stack, nodes, count, cores, lambda own: [node, script, str(own), str(port)])
        yield nodes


def _start(stack: ExitStack, nodes: Nodes, count: int, cores: str, command: Callable[[int], list[str]]) -> None:
    nodes.processes["nodes"] = []
    for _ in range(count):
        port = free_port()
        process = stack.enter_context(_running(pinned(cores, command(port)), port))
        nodes.ports.append(port)
        nodes.processes["nodes"].append(psutil.Process(process.pid))


@contextmanager
def _running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "NODE_ENV": "production"}
    )
    try:
        wait_until_listening(process, port)
        yield process
    finally:
        stop(process)


def _nats(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=10) as answer:
        state = json.load(answer)
    return {"bytes": state["in_bytes"] + state["out_bytes"], "messages": state["in_msgs"] + state["out_msgs"]}


def redis_version() -> str:
    asked = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True, timeout=10)
    return asked.stdout.strip()


def _redis(port: int) -> dict[str, int]:
    info = subprocess.run(
        ["redis-cli", "-p", str(port), "info", "stats"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    lines = dict(line.strip().split(":", 1) for line in info.splitlines() if ":" in line)
    return {"bytes": int(lines["total_net_input_bytes"]) + int(lines["total_net_output_bytes"])}
