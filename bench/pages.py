"""Readers of old pages, as a process of its own: people who sign in and look into their conversations at random places.

Each asks for the next page when it has the last one. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from array import array
from typing import Any, Final

import picows
import uvloop

from bench.client import Client
from bench.load import allow_many_files, percentiles

PAGE: Final = 50
"""Messages of a page."""

CONNECT_TIMEOUT: Final = 60.0


class Reader(Client):
    """One socket."""

    def __init__(self, auth: dict[str, Any], chosen: random.Random) -> None:
        super().__init__(auth)
        self.chosen = chosen
        self.conversations: list[tuple[str, int]] = []
        """Peer and last seq of each."""
        self.reading = False
        self.asked_at = 0.0
        self.took = array("q")
        """Microseconds until each page was here."""
        self.empty = 0

    def on_packet(self, payload: bytes) -> None:
        if payload.startswith(b"43"):
            self.took.append(round((time.monotonic() - self.asked_at) * 1e6))
            self.empty += b'"seq"' not in payload
            if self.reading:
                self.ask()
        elif payload.startswith(b'42["sync"'):
            page = json.loads(payload[2:])[1]
            self.conversations = [(each["with"]["userID"], each["seq"]) for each in page["conversations"]]
            self.ready.set_result(None)

    def ask(self) -> None:
        peer, last = self.chosen.choice(self.conversations)
        # Before the first messages there'd be less to read, and that oftener the shorter conversations are.
        full = min(PAGE, last) + 1
        asked = {"with": peer, "before": self.chosen.randrange(full, last + 2), "limit": PAGE}
        self.asked_at = time.monotonic()
        self.write(b"421" + json.dumps(["history", asked]).encode())


async def measure(url: str, sessions: list[dict[str, Any]], seconds: float, seed: int) -> dict[str, Any]:
    chosen = random.Random(seed)
    readers = [Reader({**auth, "sync": {"since": None}}, chosen) for auth in sessions]
    for reader in readers:
        await picows.ws_connect(lambda reader=reader: reader, url, max_frame_size=10_000_000)
        await asyncio.wait_for(reader.ready, CONNECT_TIMEOUT)
    for reader in readers:
        reader.reading = True
        reader.ask()
    await asyncio.sleep(seconds)
    took = array("q")
    for reader in readers:
        reader.reading = False
        took.extend(reader.took)
        reader.transport.disconnect(False)
    return {
        "valid": not any(reader.empty for reader in readers),
        "pages_per_second": len(took) / seconds,
        **{f"page_{name}": value for name, value in percentiles(took).items()},
    }


def main() -> None:
    allow_many_files()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--sessions", required=True, help="JSON list of auth payloads")
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with open(options.sessions) as file:
        sessions = json.load(file)[: options.readers]
    print(json.dumps(uvloop.run(measure(options.url, sessions, options.seconds, options.seed))))


if __name__ == "__main__":
    main()
