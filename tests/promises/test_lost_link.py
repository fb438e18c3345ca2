"""F24: the link between clients and server goes down and up again, as a cable does: nothing is refused or reset, packets
just vanish. (Resets and delays: test_bad_wire.py.)"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

MESSAGES = 60
"""Of each of the four people."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


@dataclass(frozen=True)
class Link:
    """A network of two: this machine on one end, a network namespace with the server on the other."""

    name: str
    network: str

    @property
    def server(self) -> str:
        return f"{self.network}.2"

    def up(self) -> None:
        ip("link", "set", self.name, "up")

    def down(self) -> None:
        ip("link", "set", self.name, "down")


@pytest.fixture
def link() -> Iterator[Link]:
    """Needs root, as CI has."""
    number = os.getpid() % 250
    made = Link(f"duo{number}", f"10.213.{number}")
    ip("netns", "add", made.name)
    try:
        ip("link", "add", made.name, "type", "veth", "peer", "name", "eth0", "netns", made.name)
        ip("address", "add", f"{made.network}.1/24", "dev", made.name)
        ip("-n", made.name, "address", "add", f"{made.server}/24", "dev", "eth0")
        ip("-n", made.name, "link", "set", "lo", "up")
        ip("-n", made.name, "link", "set", "eth0", "up")
        made.up()
        yield made
    finally:
        ip("netns", "del", made.name)


@pytest.mark.timeout(120)
async def test_the_link_goes_down_under_load(link: Link, tmp_path: Path, rng: random.Random) -> None:
    server = ServerProcess(
        [
            "ip", "netns", "exec", link.name, sys.executable, "-m", "duologue", "serve", "--host", link.server, "--allow-guests",
            "--data", str(tmp_path / "data"), "--ping-interval", "0.5", "--ping-timeout", "0.5", "--log-level", "debug",
        ]
    )  # fmt: skip
    with server:
        record = Record()
        url = f"http://{link.server}:{server.port}"
        people = [await ChatClient(url, f"person {number}", record).connect() for number in range(4)]

        async def speak(person: ChatClient) -> None:
            for number in range(MESSAGES):
                await person.send_surely(rng.choice(people).user_id, f"{person.device} says {number}")

        talking = asyncio.gather(*(speak(person) for person in people))
        for part, outage in ((1, "short"), (2, "long"), (3, "long")):
            await record.until_acknowledged(len(people) * MESSAGES * part // 5)
            mark = server.log_mark()
            link.down()
            if outage == "long":
                await asyncio.to_thread(server.wait_for_log, "ping timeout", since=mark)
            link.up()
        await talking
        assert len(await judge(record, *people)) == len(people) * MESSAGES
        for person in people:
            await person.close()
        assert not server.tracebacks()
