"""Sign-ins on several nodes: people come with `sync`, stay for a moment, and come back to the next node.

Run as a process of its own by `measure`: it says in a line of its own what has been reached, and where memory is measured goes
on when it gets one. Everybody has one conversation, of which they miss two messages each time. Who comes back to a node was away
from it for longer than the grace of presence, so that each visit is written to the registry and told to whoever watches.
There are three windows: `RATE` visits a second that nobody watches; the same, each watched by `WATCHERS` of those who stay; and,
again unwatched, as many as there can be. The last one is no measure of presence, which a busy node tells late.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
import uuid
from array import array
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Final

import picows
import uvloop

from bench.client import Client
from bench.load import allow_many_files, percentiles, process_cpu
from bench.nodes_servers import Nodes, Result
from bench.peers.launch import LOAD_CORE, ROOT, pinned
from bench.scenarios import LoadEnded, said, settled_memory

FIRST: Final = 50
"""Who come before memory is measured, so that a node's first steps don't count as a connection's."""

STAYING: Final = 10
"""One of so many people stays, to watch the others."""

WATCHERS: Final = 3
"""Who stay and watch somebody, in the second window."""

RATE: Final = 50.0
"""Visits a second that leave all of them time."""

AT_ONCE: Final = 50
"""People who are coming or going at the same time."""

WARM_UP: Final = 4.0
"""Seconds of visits before they're measured: longer than the grace of presence, so that as many leave as come."""

PATIENCE: Final = 60.0
"""Seconds that any one of them may take to sign in, or to get an ack."""

DEADLINE: Final = 300.0
"""Seconds of the whole process."""


class Person(Client):
    """Signs in by the sync form, and knows afterwards how to come back."""

    def __init__(self, auth: dict[str, Any]) -> None:
        super().__init__(auth)
        self.session: dict[str, Any] = {}
        self.user_id = ""
        self.missed = 0
        """Messages of the first page."""
        self.told = 0
        """News of somebody who came or went."""
        self._ack: asyncio.Future[None] | None = None

    def on_packet(self, payload: bytes) -> None:
        if payload.startswith(b'42["sync"') and not self.ready.done():
            page = json.loads(payload[2:])[1]
            self.missed = sum(len(each["messages"]) for each in page["conversations"])
            self.session["sync"] = {"since": page["cursor"]}
            self.ready.set_result(None)
        elif payload.startswith(b'42["session"'):
            body = json.loads(payload[2:])[1]
            self.session["sessionID"], self.user_id = body["sessionID"], body["userID"]
        elif payload.startswith((b'42["user connected"', b'42["user disconnected"')):
            self.told += 1
        elif payload.startswith(b"430"):
            assert self._ack is not None
            if b'"error"' in payload:
                self._ack.set_exception(RuntimeError(payload.decode()))
            else:
                self._ack.set_result(None)
        elif payload.startswith(b"44") and not self.ready.done():
            self.ready.set_exception(RuntimeError(payload.decode()))

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        for waiting in (self.ready, self._ack):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError("closed"))

    async def ask(self, event: str, body: dict[str, Any]) -> None:
        """Returns when it's acknowledged."""
        self._ack = asyncio.get_running_loop().create_future()
        self.write(b"420" + json.dumps([event, body]).encode())
        await asyncio.wait_for(self._ack, PATIENCE)

    def leave(self) -> None:
        self.transport.disconnect(False)


class Visits:
    """Everybody, and what is counted of their coming and going."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = urls
        self.people: list[Person] = []
        self.places: list[int] = []
        """At which node each was last."""
        self.rate = RATE
        """Visits a second; 0 for as many as there can be."""
        self._due = 0.0
        self.count = 0
        self.incomplete = 0
        """Visits whose page didn't have the two messages."""
        self.took = array("q")
        """Microseconds from the connection's begin to the page."""

    async def join(self, count: int) -> None:
        first = len(self.people)
        self.places += [index % len(self.urls) for index in range(first, first + count)]
        names = ({"username": f"visitor {index:05d}", "sync": {"since": None}} for index in range(first, first + count))
        self.people += await _some_at_once(
            [self._come(auth, self.places[first + place]) for place, auth in enumerate(names)]
        )

    async def second_sockets(self, people: Sequence[int]) -> list[Person]:
        """Of the same people, on the same nodes."""
        return await _some_at_once([self._come(self.people[each].session, self.places[each]) for each in people])

    async def write_one_another(self) -> None:
        await _some_at_once([self._write(index) for index in range(len(self.people))])

    async def watch(self, staying: Sequence[int], others: Sequence[int]) -> None:
        wanted: dict[int, list[str]] = {each: [] for each in staying}
        turns = itertools.cycle(staying)
        for other in others:
            for _ in range(WATCHERS):
                wanted[next(turns)].append(self.people[other].user_id)
        await _some_at_once([self.people[each].ask("watch", {"users": users}) for each, users in wanted.items()])

    async def unwatch(self, staying: Sequence[int]) -> None:
        await _some_at_once([self.people[each].ask("watch", {"users": []}) for each in staying])

    async def go_on(self, visitors: Iterator[int]) -> None:
        while True:
            if self.rate:
                now = time.monotonic()
                self._due = max(self._due + 1 / self.rate, now)
                await asyncio.sleep(self._due - now)
            await self._visit(next(visitors))

    async def _visit(self, index: int) -> None:
        # To the next node: at the one that they have just left they still count as online.
        self.places[index] = (self.places[index] + 1) % len(self.urls)
        began = time.monotonic_ns()
        person = await self._come(self.people[index].session, self.places[index])
        self.took.append((time.monotonic_ns() - began) // 1000)
        self.incomplete += person.missed != 2
        self.count += 1
        person.leave()

    async def _write(self, index: int) -> None:
        body = {"content": "x" * 100, "to": self.people[index ^ 1].user_id, "id": str(uuid.uuid4())}
        await self.people[index].ask("private message", body)

    async def _come(self, auth: dict[str, Any], place: int) -> Person:
        person = Person(auth)
        async with asyncio.timeout(PATIENCE):
            await picows.ws_connect(lambda: person, self.urls[place], max_frame_size=10_000_000)
            await person.ready
        return person


async def _some_at_once(these: list[Any]) -> list[Any]:
    line = asyncio.Semaphore(AT_ONCE)

    async def one(each: Awaitable[Any]) -> Any:
        async with line:
            return await each

    return await asyncio.gather(*map(one, these))


async def _main(options: argparse.Namespace) -> None:
    visits = Visits(options.url)
    count = options.people // 2 * 2
    await visits.join(FIRST)
    await _say("first")
    await visits.join(count)
    await _say("users")
    seconds = await visits.second_sockets(range(FIRST, FIRST + count))
    await _say("connections")
    for each in seconds:
        each.leave()
    await visits.write_one_another()
    staying = range(0, FIRST + count, STAYING)
    others = [index for index in range(FIRST + count) if index % STAYING]
    for index in others:
        visits.people[index].leave()
    await _say("only those who stay", len(staying))
    visitors = itertools.cycle(others)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(visits.go_on(visitors)) for _ in range(AT_ONCE)]
        await _window(visits, staying, options.seconds)
        await visits.watch(staying, others)
        await _window(visits, staying, options.seconds)
        await visits.unwatch(staying)
        visits.rate = 0
        await _window(visits, staying, options.seconds)
        for task in tasks:
            task.cancel()


async def _window(visits: Visits, staying: Sequence[int], seconds: float) -> None:
    await asyncio.sleep(WARM_UP)

    def seen() -> tuple[float, float, int, int]:
        told = sum(visits.people[each].told for each in staying)
        return time.monotonic(), process_cpu(), visits.count, told

    print(json.dumps({"count": visits.count}), flush=True)
    visits.took = array("q")
    before = seen()
    await asyncio.sleep(seconds)
    took, cpu, count, told = (now - then for now, then in zip(seen(), before, strict=True))
    result = {
        "valid": not visits.incomplete, "refusal": f"{visits.incomplete} pages weren't whole" * bool(visits.incomplete),
        "count": visits.count, "sign_ins": count, "sign_ins_per_second": count / took, "told": told, "load_cpu": cpu / took,
        **percentiles(visits.took),
    }  # fmt: skip
    print(json.dumps(result), flush=True)


async def _say(what: str, count: int = 0) -> None:
    print(json.dumps({"reached": what, "count": count}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def measure(nodes: Nodes, people: int, seconds: float) -> Iterator[Result]:
    """Of the three windows; the first has the memory of connections as well."""
    urls = [part for url in nodes.urls() for part in ("--url", url)]
    command = [sys.executable, "-m", "bench.visits", *urls, "--people", str(people), "--seconds", str(seconds)]
    with subprocess.Popen(
        pinned(LOAD_CORE, command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        killer = threading.Timer(DEADLINE, load.kill)
        killer.start()
        try:
            first, users, connections = (_memory(load, nodes) for _ in range(3))
            memory = {
                "bytes_per_user": (users - first) / people,
                "bytes_per_connection": (connections - users) / people,
            }
            _wait_until_left(load, nodes)
            yield {**_measured_window(load, nodes), **memory}
            yield _measured_window(load, nodes)
            yield _measured_window(load, nodes)
        except LoadEnded as ended:
            yield {"valid": False, "refusal": str(ended)}
        finally:
            killer.cancel()
            load.kill()


def _memory(load: subprocess.Popen[str], nodes: Nodes) -> int:
    said(load)
    size = settled_memory(nodes)
    _go_on(load)
    return size


def _wait_until_left(load: subprocess.Popen[str], nodes: Nodes) -> None:
    """So many leave at once that the registry is told of the last ones seconds later."""
    if not nodes.wait_until_left(said(load)["count"]):
        raise LoadEnded("those who have left still count as online")
    _go_on(load)


def _go_on(load: subprocess.Popen[str]) -> None:
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()


def _measured_window(load: subprocess.Popen[str], nodes: Nodes) -> Result:
    begun = said(load)
    cpu, passed, wal, began = nodes.cpu(), nodes.bus(), nodes.wal(), time.monotonic()
    result = said(load)
    after, took = nodes.cpu(), time.monotonic() - began
    count = max(1, result["count"] - begun["count"])
    result |= {f"bus_{name}_per_sign_in": (now - passed[name]) / count for name, now in nodes.bus().items()}
    for name, seconds in after.items():
        result[f"{name}_cpu_ms_per_sign_in"] = (seconds - cpu[name]) / count * 1000
        result[f"{name}_cpu"] = (seconds - cpu[name]) / took
    if wal is not None and (now := nodes.wal()) is not None:
        written = now.since(wal)
        result["wal_syncs_per_sign_in"] = written.syncs / count
        result["wal_bytes_per_sign_in"] = written.bytes / count
    result["told_per_sign_in"] = result["told"] / max(1, result["sign_ins"])
    return result


def main() -> None:
    allow_many_files()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, action="append")
    parser.add_argument("--people", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
