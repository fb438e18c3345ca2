"""A herd: everybody was signed in, the server is restarted, and all of them come back at once.

Run as a process of its own by `measure`: it signs everybody in and has each write to another, says so, waits for a line that the
server is up again, and then everybody connects with the cursor of before these messages, which the sync has to bring: at the
moment that Duologue's own client would choose by what the server had told it (`returnWithin`), or, as others do, at once.
Whoever is refused or cut tries again, as clients do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import picows
import uvloop
from picows import WSFrame, WSTransport

from bench.load import CONNECT_TIMEOUT, Client, Load, allow_many_files
from bench.peers.launch import LOAD_CORE, ROOT, Watch, pinned, running
from bench.scenarios import settled_memory

PAUSE: Final = 0.5
RANDOMIZED: Final = (0.5, 1.5)
"""Of the client (`client/src/api/connection.ts`): seconds before an attempt, and what the library makes of it."""

RETRY: Final = (0.5, 1.5)
"""Seconds before another attempt: the stock client's first pause with its randomization."""

DEADLINE: Final = 120.0


CONTENT: Final = b'"content":"'
"""As often as a page of a sync has this, so many messages are in it."""

MISSED: Final = 2
"""That each sync has to bring: their own and their partner's, both younger than the cursor."""


class Leaving(Client):
    """Keeps what it needs to come back."""

    session = ""
    cursor: str | None = None
    within = 0
    """Milliseconds in which it should come back."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b'42["server"'):
            self.within = json.loads(payload[2:])[1]["returnWithin"]
        super().on_ws_frame(transport, frame)

    def signing_in(self, payload: bytes) -> None:
        if payload.startswith(b'42["session"'):
            self.session = json.loads(payload[2:])[1]["sessionID"]
        elif payload.startswith(b'42["sync"'):
            page = json.loads(payload[2:])[1]
            self.cursor, self.within = page["cursor"], page["server"]["returnWithin"]
        super().signing_in(payload)

    def pause(self) -> float:
        """Seconds until it comes back."""
        return (PAUSE + random.random() * self.within / 1000) * random.uniform(*RANDOMIZED)


class Returning(Client):
    """Looks at what its sync brings."""

    missed = 0
    """Messages."""

    def signing_in(self, payload: bytes) -> None:
        if payload.startswith(b'42["sync"'):
            self.missed = payload.count(CONTENT)
        super().signing_in(payload)


async def _connect(load: Load, client: Client) -> None:
    await picows.ws_connect(lambda: client, load.options.url[0], websocket_handshake_timeout=CONNECT_TIMEOUT)
    await asyncio.wait_for(client.ready, CONNECT_TIMEOUT)


async def _come_back(load: Load, index: int, auth: dict[str, Any], pause: float) -> tuple[int, float, int]:
    """How often it was refused or cut, when it was synced, and how many messages that brought."""
    refusals = 0
    await asyncio.sleep(pause)
    while True:
        client = Returning(load, index, auth)
        try:
            await _connect(load, client)
        except (OSError, RuntimeError, picows.WSError, TimeoutError):
            refusals += 1
            await asyncio.sleep(random.uniform(*RETRY))
        else:
            return refusals, time.monotonic(), client.missed


async def _write_to_each_other(load: Load) -> None:
    """Everybody once, in pairs; returns when all of it is on disk."""
    load.prepare()
    for client in load.clients:
        load.say(client, 0)
    async with asyncio.timeout(DEADLINE):
        while load.acknowledged < len(load.clients) or load.in_flight:
            await asyncio.sleep(0.05)


async def _main(options: argparse.Namespace) -> None:
    load = Load(options)
    load.leaving = True  # nobody is missed when the server goes
    line = asyncio.Semaphore(50)
    clients: list[Leaving] = [
        Leaving(load, index, {"username": f"user {index:05d}", "sync": {"since": None}})
        for index in range(options.sockets)
    ]

    async def first(client: Client) -> None:
        async with line:
            await _connect(load, client)

    await asyncio.gather(*map(first, clients))
    load.clients = [*clients]
    await _write_to_each_other(load)
    print("here", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    auths = [{"sessionID": each.session, "sync": {"since": each.cursor}} for each in clients]
    pauses = [each.pause() if options.spread else 0.0 for each in clients]
    clients.clear()
    load.clients.clear()
    load.by_name.clear()
    began = time.monotonic()
    ends = await asyncio.gather(*(_come_back(load, index, auth, pauses[index]) for index, auth in enumerate(auths)))
    times = sorted(end - began for _, end, _ in ends)
    result = {
        "valid": all(missed == MISSED for _, _, missed in ends),
        "synced_within_s": times[-1],
        "synced_p50_s": times[len(times) // 2],
        "refused_once": sum(refusals > 0 for refusals, _, _ in ends),
        "refused_twice": sum(refusals > 1 for refusals, _, _ in ends),
    }
    print(json.dumps(result), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def measure(node: str, sockets: int, spread: bool) -> dict[str, Any]:
    """Idle memory with everybody there, then kill -9, a restart, and the return of all, `spread` as they were told or at once."""
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as temporary:
        folder = Path(temporary) / "data"
        with running("duologue", node, folder) as peer:
            command = [sys.executable, "-m", "bench.herd", "--url", peer.url, "--sockets", str(sockets)]
            command += ["--spread"] if spread else []
            herd = subprocess.Popen(
                pinned(LOAD_CORE, command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert herd.stdout is not None
            assert herd.stdin is not None
            if not herd.stdout.readline():
                return {"valid": False, "refusal": "not everybody could sign in"}
            idle, port = settled_memory(peer), peer.port
            peer.process.send_signal(signal.SIGKILL)
            peer.process.wait()
        began = time.monotonic()
        with running("duologue", node, folder, port=port) as peer:
            up, watch = time.monotonic() - began, Watch(peer)
            herd.stdin.write("up\n")
            herd.stdin.flush()
            timer = threading.Timer(DEADLINE, herd.kill)
            timer.start()
            line = herd.stdout.readline()
            timer.cancel()
            peak = watch.end()
            herd.communicate("\n")
    if not line:
        return {"valid": False, "refusal": f"not everybody was back within {DEADLINE:g} s"}
    return {**json.loads(line), "restart_s": up, "peak_of_idle_memory": peak / idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, action="append")
    parser.add_argument("--sockets", type=int, required=True)
    parser.set_defaults(acks=True, pattern="pairs", seed=1)  # of the load
    parser.add_argument("--spread", action="store_true", help="come back as the server said, not at once")
    allow_many_files()
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
