"""The benchmark's messages as a simulation: nodes that share one core, or two, gather messages into batches and commit them.

What makes a message wait:

- the loop of a node does in one turn what has come since the last one: receives messages, delivers what is committed;
- a node writes one batch at a time, beside the loop; what is received meanwhile gathers (store/committer.py);
- whoever has work gets an equal share of the cores, as the system's scheduler gives it in slices of some milliseconds. So what
  is under way at the same time all takes longer, and each ends late;
- a batch locks the rows of its people after the first of its five round trips, and waits for another node's batch that holds one;
- then its log has to be synced, which takes no core;
- where each delivery makes its sender send again, the load answers one after another, on a core of its own.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bench.measured import Costs
from duologue.store.committer import MAX_BATCH

BEFORE_LOCKS: Final = 1 / 5
"""Of what a batch takes whatever is in it: to begin, to lock, to read, to write, to commit (store/postgres/writer.py)."""

RECEIVING: Final = 1 / 2
"""Of what a message takes the loop; the rest is its delivery (docs/decisions/throughput.md)."""

INSTANT: Final = 1e-9
"""Seconds of work that count as none: rounding may leave some."""

SOCKETS: Final = 100
"""Of the benchmark. In pairs, at the nodes in turn; the paced ones send one after another."""

WARM_UP: Final = 2.0


class Seen(NamedTuple):
    per_second: float
    p50: float
    p99: float
    """Seconds from when a message was due until its delivery."""
    batch_mean: float


Message = tuple[float, int]
"""When it was due, and its sender."""


@dataclass(eq=False)
class _Loop:
    due: deque[Message] = field(default_factory=deque)
    """Sent, or to be sent, in order."""
    committed: list[list[Message]] = field(default_factory=list)
    receiving: list[Message] = field(default_factory=list)
    delivering: list[list[Message]] = field(default_factory=list)
    work: float = 0.0
    """Seconds of a core until the turn ends."""


@dataclass(eq=False)
class _Writer:
    waiting: deque[Message] = field(default_factory=deque)
    batch: list[Message] = field(default_factory=list)
    people: frozenset[int] = frozenset()
    work: float = 0.0
    """Seconds of a core until the next step."""
    locked: bool = False
    synced_at: float | None = None


@dataclass
class _Node:
    loop: _Loop = field(default_factory=_Loop)
    writer: _Writer = field(default_factory=_Writer)


def paced(costs: Costs, nodes: int, rate: float, seconds: float, cores: float = 1.0) -> Seen:
    """`rate` messages a second, whatever becomes of them."""
    run = _Run(costs, nodes, cores)
    for number in range(int(rate * (WARM_UP + seconds))):
        run.send(number / rate, number % SOCKETS)
    return run.until(WARM_UP + seconds)


def busy(costs: Costs, nodes: int, window: int, seconds: float, cores: float = 1.0) -> Seen:
    """Each socket keeps `window` messages under way."""
    run = _Run(costs, nodes, cores)
    run.again = True
    for number in range(window * SOCKETS):
        run.send(number * costs.load, number % SOCKETS)
    return run.until(WARM_UP + seconds)


class _Run:
    def __init__(self, costs: Costs, nodes: int, cores: float) -> None:
        self._costs = costs
        self._cores = cores
        self._nodes = [_Node() for _ in range(nodes)]
        self._queue: deque[_Writer] = deque()
        """Those who wait for locks, in order."""
        self._now = 0.0
        self._latencies: list[float] = []
        self._batches = 0
        self.again = False
        """Whether what is delivered makes its sender send the next one."""
        self._load_free = 0.0

    def send(self, due: float, sender: int) -> None:
        self._nodes[sender % len(self._nodes)].loop.due.append((due, sender))

    def until(self, end: float) -> Seen:
        while (moment := self._next()) < end:
            self._work_until(moment)
            for node in self._nodes:
                self._turn(node)
                self._write(node)
        ordered = sorted(self._latencies)
        return Seen(
            len(ordered) / (end - WARM_UP),
            ordered[len(ordered) // 2],
            ordered[int(len(ordered) * 0.99)],
            len(ordered) / self._batches,
        )

    def _working(self) -> list[_Loop | _Writer]:
        return [each for node in self._nodes for each in (node.loop, node.writer) if each.work]

    def _next(self) -> float:
        working = self._working()
        moments = [node.writer.synced_at for node in self._nodes if node.writer.synced_at is not None]
        if working:
            moments.append(self._now + min(each.work for each in working) / min(1.0, self._cores / len(working)))
        # Of a loop that is in a turn nobody takes notice before its end.
        moments += [node.loop.due[0][0] for node in self._nodes if node.loop.due and not node.loop.work]
        return min(moments, default=math.inf)

    def _work_until(self, moment: float) -> None:
        working = self._working()
        if working:
            done = (moment - self._now) * min(1.0, self._cores / len(working))
            for each in working:
                each.work = each.work - done if each.work - done > INSTANT else 0.0
        self._now = max(self._now, moment)

    def _turn(self, node: _Node) -> None:
        """End a turn of the loop whose work is done, and begin the next one."""
        loop = node.loop
        if loop.work:
            return
        node.writer.waiting += loop.receiving
        for batch in loop.delivering:
            self._batches += self._now >= WARM_UP
            for due, sender in batch:
                if self._now >= WARM_UP:
                    self._latencies.append(self._now - due)
                if self.again:
                    self._load_free = max(self._load_free, self._now) + self._costs.load
                    self.send(self._load_free, sender)
        loop.receiving = []
        while loop.due and loop.due[0][0] <= self._now:
            loop.receiving.append(loop.due.popleft())
        loop.delivering, loop.committed = loop.committed, []
        costs = self._costs
        loop.work = len(loop.receiving) * costs.loops.message * RECEIVING
        delivering = costs.loops.message * (1 - RECEIVING) + costs.nats.message
        loop.work += math.fsum(
            len(batch) * delivering + costs.loops.batch + costs.nats.batch for batch in loop.delivering
        )

    def _write(self, node: _Node) -> None:
        """Bring a batch to its next step, if it's time for that."""
        writer = node.writer
        if writer.synced_at is not None and writer.synced_at <= self._now:
            node.loop.committed.append(writer.batch)
            writer.batch, writer.locked, writer.synced_at = [], False, None
            self._let_others_lock()
            self._turn(node)
        if not writer.batch and writer.waiting:
            writer.batch = [writer.waiting.popleft() for _ in range(min(len(writer.waiting), MAX_BATCH))]
            writer.people = frozenset(person for _, sender in writer.batch for person in (sender, sender ^ 1))
            writer.work = (self._costs.writers.batch + self._costs.postgresql.batch) * BEFORE_LOCKS
        elif writer.batch and not writer.work and writer.synced_at is None and writer not in self._queue:
            if writer.locked:
                writer.synced_at = self._now + self._costs.sync
            else:
                self._queue.append(writer)
                self._let_others_lock()

    def _let_others_lock(self) -> None:
        for writer in [*self._queue]:
            holders = [node.writer for node in self._nodes if node.writer.locked]
            if not any(each.people & writer.people for each in holders):
                self._queue.remove(writer)
                writer.locked = True
                costs = (self._costs.writers, self._costs.postgresql)
                writer.work = math.fsum(
                    each.batch * (1 - BEFORE_LOCKS) + each.message * len(writer.batch) for each in costs
                )
