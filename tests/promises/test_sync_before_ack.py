"""F1c, by the system calls of a real run: between the arrival of a message and its ack a sync has returned."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.client import ChatClient

MESSAGES = 20

_SYNCED = re.compile(r"\bf(?:data)?sync(?:\(| resumed).*= 0$")
_CALL = re.compile(r"\b(read|recvfrom|recvmsg|write|writev|sendto|sendmsg)(?:\(| resumed)")
_ID = re.compile(r"00000000-0000-4000-8000-(\d{12})")
_ACK = re.compile(r"43\d+\[\{\\\"id\\\":\\\"00000000-0000-4000-8000-(\d{12})")


def unsynced_acks(trace: Iterable[str]) -> tuple[list[int], list[int]]:
    """From strace's lines: the numbers of the messages that were acknowledged, and of those whose ack left before a sync
    that returned after the message had been read."""
    synced: dict[int, bool] = {}
    acked: list[int] = []
    early: list[int] = []
    for line in trace:
        call = _CALL.search(line)
        if _SYNCED.search(line):
            synced = dict.fromkeys(synced, True)
        elif call is not None and call[1].startswith("r"):
            synced |= {int(number): False for number in _ID.findall(line)}
        elif call is not None:
            for number in map(int, _ACK.findall(line)):
                acked.append(number)
                if not synced.get(number, False):
                    early.append(number)
    return acked, early


READ = r'7 read(9, "POST /socket.io/ ...,\"id\":\"00000000-0000-4000-8000-%012d\"}]", 65536) = 800'
SYNC = "8 <... fdatasync resumed>) = 0"
ACK = r'7 write(9, "430[{\"id\":\"00000000-0000-4000-8000-%012d\",\"seq\":1", 80) = 80'


@pytest.mark.parametrize(
    ("trace", "early"),
    [
        ([READ % 1, SYNC, ACK % 1], []),
        ([READ % 1, READ % 2, SYNC, ACK % 1, ACK % 2], []),
        ([SYNC, READ % 1, ACK % 1], [1]),
        ([READ % 1, SYNC, READ % 2, ACK % 1, ACK % 2], [2]),
        ([READ % 1, "8 fdatasync(5 <unfinished ...>", ACK % 1, SYNC], [1]),
        ([READ % 1, "8 fdatasync(5) = -1 EIO (Input/output error)", ACK % 1], [1]),
    ],
)
def test_what_the_trace_is_judged_by(trace: list[str], early: list[int]) -> None:
    assert unsynced_acks(trace)[1] == early


@pytest.mark.asyncio
async def test_no_ack_leaves_before_its_sync(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    trace = tmp_path / "trace"
    # By polling, for a websocket's client masks what it sends, and a trace could not tell one message from another.
    async with (
        ChatClient(server.url, "alice", transport="polling") as alice,
        ChatClient(server.url, "bob") as bob,
    ):
        strace = await asyncio.create_subprocess_exec(
            "strace", "-f", "-s", "4000",
            "-e", "trace=fdatasync,fsync,read,recvfrom,recvmsg,write,writev,sendto,sendmsg",
            "-o", str(trace), "-p", str(server.pid), stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert strace.stderr is not None
        attached = await asyncio.wait_for(strace.stderr.readline(), 15)
        assert b"attached" in attached, attached
        for number in range(MESSAGES):
            await alice.send(bob.user_id, "marked", id=f"00000000-0000-4000-8000-{number:012d}")
        strace.terminate()
        await asyncio.wait_for(strace.communicate(), 15)
    acked, early = unsynced_acks(trace.read_text().splitlines())
    assert acked == list(range(MESSAGES))
    assert early == []
