"""The load: many Socket.IO clients in one process, on picows, with frames made by hand (bench/frames.py).

The window counts deliveries for every peer, acknowledged or not: a sender sends its next message when one of its own was
seen by its recipient. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import random
import resource
import sys
import time
from array import array
from collections.abc import Iterator
from typing import Any, Final

import picows
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from bench import frames
from bench.frames import EVENT, masked

CONNECT_TIMEOUT: Final = 120.0
MAX_FRAME: Final = 100_000_000
"""The guide's `users` grows with people and messages."""

SILENCE: Final = 20.0
"""Seconds without any delivery after which a run has failed."""

CALM: Final = 2.0
"""Seconds after which a server that was overloaded has to be calm again."""

NAP: Final = 0.001
"""Seconds between two looks at what is due, where others want the load's core as well, or a millisecond doesn't matter."""

RECIPIENTS: Final = 256
"""Recipients drawn ahead for each sender, then used in turn: drawing costs more than sending."""

CIRCLE: Final = 10
"""Partners of each sender in the pattern `circle`."""


class Client(WSListener):
    """One socket. Signs in, answers heartbeats, and tells the load about each delivery."""

    transport: WSTransport

    def __init__(self, load: Load, index: int, auth: dict[str, Any]) -> None:
        self.load = load
        self.index = index
        self.auth = auth
        self.user_id = ""
        self.page_bytes = 0
        self.partners: list[str] = []
        """With whom the first page says that they have written, if it's that of `sync`."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sender: frames.Sender | None = None
        self.recipients: Iterator[bytes] = iter(())
        self.out: list[bytes] = []
        self.sent = 0
        self.due = array("q")
        """When each message was due, in microseconds; only in the scenario `overload`."""
        self.seen: dict[bytes, bytes] = {}
        """The last number seen of each sender."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.write = transport.underlying_transport.write

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.TEXT:
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(EVENT):
            self.load.delivered(self, payload)
        elif payload.startswith(b"43"):
            self.load.acked(self, payload)
        elif payload == b"2":
            self.write(masked(b"3"))
        elif not self.ready.done():
            self.signing_in(payload)

    def signing_in(self, payload: bytes) -> None:
        if payload.startswith(b"0"):
            self.write(masked(b"40" + json.dumps(self.auth).encode()))
        elif payload.startswith(b'42["session"'):
            self.user_id = json.loads(payload[2:])[1]["userID"]
        elif payload.startswith((b'42["users"', b'42["sync"')):
            self.page_bytes = len(payload)
            if self.load.among_acquaintances:
                page = json.loads(payload[2:])[1]
                self.user_id = page["me"]["userID"]
                self.partners = [each["with"]["userID"] for each in page["conversations"]]
            self.ready.set_result(None)
        elif payload.startswith(b"44"):
            self.ready.set_exception(RuntimeError(payload.decode()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("closed at sign-in"))
        elif not self.load.leaving:
            self.load.lost_sockets += 1


class Load:
    """All clients, what they have sent and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.clients: list[Client] = []
        self.by_name: dict[bytes, Client] = {}
        self.dirty: list[Client] = []
        self.leaving = self.measuring = self.keep_sending = False
        self.among_acquaintances = False
        """Everybody writes to those with whom their first page says that they have written."""
        self.lost_sockets = 0
        self.deliveries = self.acknowledged = self.refused = self.disordered = self.in_flight = 0
        self.refusal = ""
        self.latencies = array("q")
        """Microseconds."""
        self.refusals = array("q")
        """Microseconds until a message was refused; only in the scenario `overload`."""
        self.late = array("q")
        """Microseconds after which each message was sent that was due; not the server's fault, but in its latency."""
        self.hinted = 0
        """Refusals that said when to try again."""

    async def connect(self, auths: list[dict[str, Any]], at_once: int) -> float:
        """Sign everybody in, `at_once` at a time. Returns the seconds it took."""
        line = asyncio.Semaphore(at_once)
        began = time.monotonic()

        async def one(client: Client) -> None:
            async with line:
                await picows.ws_connect(
                    lambda: client,
                    self.options.url[client.index % len(self.options.url)],
                    websocket_handshake_timeout=CONNECT_TIMEOUT,
                    max_frame_size=MAX_FRAME,
                )
                await asyncio.wait_for(client.ready, CONNECT_TIMEOUT)

        self.clients = [Client(self, index, auth) for index, auth in enumerate(auths)]
        await asyncio.gather(*map(one, self.clients))
        return time.monotonic() - began

    def prepare(self) -> None:
        """Decide who writes to whom. From here on nothing is made that refers to itself, so the collector may rest."""
        chosen = random.Random(self.options.seed)
        addresses = [frames.address(client.user_id) for client in self.clients]
        for client in self.clients:
            client.sender = frames.Sender(client.index, self.options.acks, len(addresses[0]), self.options.seed)
            recipients = [addresses[to] for to in self._recipients(client.index, chosen)]
            if client.partners:
                recipients = [frames.address(each) for each in chosen.choices(client.partners, k=RECIPIENTS)]
            client.recipients = itertools.cycle(recipients)
            self.by_name[b"%05d" % client.index] = client
        gc.freeze()
        gc.disable()

    def _recipients(self, index: int, chosen: random.Random) -> list[int]:
        count = len(self.clients)
        if self.options.pattern == "pairs":
            return [index ^ 1]
        if self.options.pattern == "circle":
            partners = [(index + step) % count for step in range(-(CIRCLE // 2), CIRCLE // 2 + 1) if step]
            return chosen.choices(partners, k=RECIPIENTS)
        return [(index + chosen.randrange(1, count)) % count for _ in range(RECIPIENTS)]

    # The hot path

    def say(self, client: Client, sent_at: int) -> None:
        assert client.sender is not None
        client.sent = number = client.sent + 1
        out = client.out
        if not out:
            if not self.dirty:
                asyncio.get_running_loop().call_soon(self.flush)
            self.dirty.append(client)
        out.append(client.sender.frame(number, sent_at, next(client.recipients)))
        self.in_flight += 1

    def flush(self) -> None:
        dirty, self.dirty = self.dirty, []
        for client in dirty:
            client.write(b"".join(client.out))
            client.out.clear()

    def delivered(self, recipient: Client, payload: bytes) -> None:
        sender, number, sent_at = frames.delivery(payload)
        if number <= recipient.seen.get(sender, b""):
            self.disordered += 1
        recipient.seen[sender] = number
        self.in_flight -= 1
        self.deliveries += 1
        now = _now()
        if self.measuring:
            self.latencies.append(now - sent_at)
        if self.keep_sending:
            self.say(self.by_name[sender], now)

    def acked(self, sender: Client, payload: bytes) -> None:
        if b'"error"' in payload:
            self.refused += 1
            self.in_flight -= 1
            self.refusal = payload.decode()
            self.hinted += b'"retryAfter"' in payload
            if self.measuring and sender.due:
                self.refusals.append(_now() - sender.due[frames.acked_number(payload) - 1])
        else:
            self.acknowledged += 1

    # Scenarios

    async def closed_loop(self) -> dict[str, Any]:
        """Every socket keeps `window` messages under way."""
        self.keep_sending = True
        now = _now()
        for client in self.clients:
            for _ in range(self.options.window):
                self.say(client, now)
        await asyncio.sleep(self.options.warm_up)
        return await self.measure()

    async def open_loop(self) -> dict[str, Any]:
        """`rate` messages a second, whatever the server does; latency counts from the time that a message was due. Takes all of
        its core: else most of what it measured at 1,000 a second was its own clock (docs/decisions/latency.md)."""
        pace = asyncio.create_task(self.pace(nap=0))
        await asyncio.sleep(self.options.warm_up)
        result = await self.measure()
        pace.cancel()
        return {**result, **{f"late_{name}": value for name, value in percentiles(self.late).items()}}

    async def overload(self) -> dict[str, Any]:
        """`rate` messages a second for a while, more than the server can carry; then, after CALM seconds, an eighth of that."""
        pace = asyncio.create_task(self.pace(note=True))
        await asyncio.sleep(self.options.warm_up)
        result = await self.measure()
        pace.cancel()
        refusals = {f"refusal_{name}": value for name, value in percentiles(self.refusals).items()}
        result |= {**refusals, "refused_per_second": len(self.refusals) / self.options.seconds}
        refused = self.refused
        self.latencies, self.options.rate = array("q"), self.options.rate / 8
        # Noted too: what was sent before may still be refused.
        pace = asyncio.create_task(self.pace(note=True))
        await asyncio.sleep(CALM)
        still, after = self.refused - refused, self.refused
        calm = await self.measure()
        pace.cancel()
        return {
            **result,
            "refused_in_the_first_moment_after": still,
            "refused_when_calm": self.refused - after,
            "calm_p50_ms": calm.get("p50_ms"),
            "calm_p99_ms": calm.get("p99_ms"),
        }

    async def windows(self) -> dict[str, Any]:
        """`rate` messages a second as long as standard input lasts; measures once for each line of it, and prints that."""
        pace = asyncio.create_task(self.pace())
        while await asyncio.to_thread(sys.stdin.readline):
            await asyncio.sleep(self.options.warm_up)
            self.latencies = array("q")
            print(json.dumps(await self.measure()), flush=True)
        pace.cancel()
        return {}

    async def pace(self, note: bool = False, nap: float = NAP) -> None:
        began, interval, sent = _now(), 1e6 / self.options.rate, 0
        senders = itertools.cycle(self.clients)
        while True:
            while (due := began + int(sent * interval)) <= (now := _now()):
                sender = next(senders)
                if self.measuring:
                    self.late.append(now - due)
                if note:
                    sender.due.append(due)
                self.say(sender, due)
                sent += 1
            await asyncio.sleep(nap)

    async def measure(self) -> dict[str, Any]:
        before, cpu, began = self.deliveries, process_cpu(), time.monotonic()
        from_ms = time.time_ns() // 1_000_000
        self.measuring = True
        await asyncio.sleep(self.options.seconds)
        until_ms = time.time_ns() // 1_000_000
        took = time.monotonic() - began
        count, used = self.deliveries - before, process_cpu() - cpu
        self.measuring = self.keep_sending = False
        return {
            "deliveries_per_second": count / took,
            "load_cpu": used / took,
            "from_ms": from_ms,
            "until_ms": until_ms,
            **percentiles(self.latencies),
        }

    async def settle(self) -> dict[str, Any]:
        """Wait until all that was sent has been delivered (and acknowledged), then judge the run.

        Each sender's numbers have to grow at each recipient, so no delivery counts twice; and as many arrived as were
        sent, so none is missing."""
        last, since = -1, time.monotonic()
        acks = self.options.acks
        while self.in_flight or (acks and self.acknowledged + self.refused < self.deliveries):
            if self.deliveries + self.acknowledged != last:
                last, since = self.deliveries + self.acknowledged, time.monotonic()
            if time.monotonic() - since > SILENCE:
                break
            await asyncio.sleep(0.05)
        sent = sum(client.sent for client in self.clients)
        valid = not (self.in_flight or self.disordered or self.lost_sockets)
        # Overloaded, it has to say with each refusal when to try again; else there's no reason for any.
        excused = self.hinted if self.options.scenario == "overload" else 0
        valid = valid and self.refused == excused
        if acks:
            valid = valid and self.acknowledged + self.refused == sent
        return {
            "valid": valid, "sent": sent, "delivered": self.deliveries, "acknowledged": self.acknowledged,
            "refused": self.refused, "disordered": self.disordered, "lost_sockets": self.lost_sockets,
            "refusal": self.refusal,
        }  # fmt: skip

    def leave(self) -> None:
        self.leaving = True
        for client in self.clients:
            client.transport.disconnect(False)


def _now() -> int:
    """Microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1000


def process_cpu() -> float:
    """Seconds of processor time that this process has had."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentiles(latencies: array[int]) -> dict[str, float]:
    """The share of messages that took at most so many milliseconds (nearest rank)."""
    ordered = sorted(latencies)
    if not ordered:
        return {}
    return {
        f"p{share:g}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] / 1000
        for share in (50, 99, 99.9)
    }


def _guests(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.sessions:
        with open(options.sessions) as file:
            sessions = json.load(file)[: options.sockets]
        return [{**auth, "sync": {"since": None}} for auth in sessions]
    form: dict[str, Any] = {"sync": {"since": None}} if options.sync else {}
    return [{"username": f"user {index:05d}", **form} for index in range(options.sockets)]


async def _talk(options: argparse.Namespace) -> dict[str, Any]:
    load = Load(options)
    load.among_acquaintances = bool(options.sessions)
    result: dict[str, Any] = {"connect_seconds": await load.connect(_guests(options), options.at_once)}
    load.prepare()
    await asyncio.sleep(options.pause)
    print(json.dumps(result), flush=True)  # so that a profiler knows when to begin
    scenarios = {
        "open": load.open_loop,
        "closed": load.closed_loop,
        "overload": load.overload,
        "windows": load.windows,
    }
    result |= await scenarios[options.scenario]()
    result |= await load.settle()
    load.leave()
    return result


async def _stay(options: argparse.Namespace) -> None:
    """Connect, say so, and stay until told to go."""
    load, cpu = Load(options), process_cpu()
    result = {"connect_seconds": await load.connect(_guests(options), options.at_once)}
    print(json.dumps({**result, "load_cpu_seconds": process_cpu() - cpu}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    load.leave()


async def _reconnect(options: argparse.Namespace) -> dict[str, Any]:
    with open(options.sessions) as file:
        sessions = json.load(file)
    began, cpu, size = time.monotonic(), process_cpu(), 0
    for start in range(0, len(sessions), options.sockets):
        load = Load(options)
        await load.connect(sessions[start : start + options.sockets], options.at_once)
        size += sum(client.page_bytes for client in load.clients)
        load.leave()
    took = time.monotonic() - began
    return {
        "valid": True,
        "reconnects_per_second": len(sessions) / took,
        "ms_per_reconnect": took / len(sessions) * 1000,
        "bytes_per_reconnect": size / len(sessions),
        "load_cpu_seconds": process_cpu() - cpu,
    }


async def _main(options: argparse.Namespace) -> None:
    if options.scenario == "idle":
        await _stay(options)
        return
    result = await (_reconnect(options) if options.scenario == "reconnect" else _talk(options))
    print(json.dumps({"sockets": options.sockets, **result}), flush=True)


def allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    allow_many_files()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=("closed", "open", "overload", "windows", "idle", "reconnect"))
    parser.add_argument("--url", required=True, action="append", help="of several nodes, the sockets take turns")
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=50, help="sockets that sign in at the same time")
    parser.add_argument("--window", type=int, default=20, help="messages under way per socket (closed)")
    parser.add_argument("--rate", type=float, default=1000, help="messages a second (open, overload, windows)")
    parser.add_argument("--pattern", choices=("random", "circle", "pairs"), default="random")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--pause", type=float, default=0, help="seconds from the sign-ins to the first message")
    parser.add_argument("--warm-up", type=float, default=2)
    parser.add_argument("--acks", action="store_true", help="every message with an id and an ack")
    parser.add_argument("--sync", action="store_true", help="sign in by the sync form")
    parser.add_argument("--sessions", help="JSON list of auth payloads (reconnect; closed, among themselves)")
    parser.add_argument("--seed", type=int, default=1, help="of who writes to whom, and in the ids (at most 65,535)")
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
