"""F24: the link between clients and server goes down and up again, as a cable does: nothing is refused or reset, packets
just vanish. (Resets and delays: test_bad_wire.py.)"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.network import Namespace
from tests.support.process import ServerProcess
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

MESSAGES = 60
"""Of each of the four people."""


@pytest.mark.timeout(120)
async def test_the_link_goes_down_under_load(network: Namespace, tmp_path: Path, rng: random.Random) -> None:
    link = network.link()
    server = ServerProcess(
        [
            *network.command, sys.executable, "-m", "duologue", "serve", "--host", link.there, "--allow-guests",
            "--data", str(tmp_path / "data"), "--ping-interval", "0.5", "--ping-timeout", "0.5", "--log-level", "debug",
        ],
        host=link.there,
    )  # fmt: skip
    with server:
        record = Record()
        url = server.url
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
