"""F1, at its worst moment: the server dies when a message is on disk and nobody has been told."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.promises.judge import judge
from tests.support.client import ChatClient, ConnectionLost
from tests.support.process import ServerProcess
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

LIVES = 5


@contextlib.asynccontextmanager
async def killed_after_its_next_commit(server: ServerProcess, trace: Path) -> AsyncIterator[None]:
    """The process gets SIGKILL as the writer's thread is about to wake the event loop, its commit and sync done.

    That waking is the only plain `write` of a thread other than the first: SQLite uses `pwrite64`, and readers, which wake
    the loop too, have nothing to do. So strace can tell the moment, and the server needs no hook for it.
    """
    threads = sorted(int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir())
    targets = [argument for thread in threads if thread != server.pid for argument in ("-p", str(thread))]
    strace = await asyncio.create_subprocess_exec(
        "strace", "-o", str(trace), "-e", "trace=write,fdatasync,fsync", "-e", "inject=write:signal=SIGKILL:when=1",
        *targets, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert strace.stderr is not None
    for _ in range(len(targets) // 2):
        line = await asyncio.wait_for(strace.stderr.readline(), 15)
        assert b"attached" in line, line
    try:
        yield
    finally:
        if strace.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                strace.terminate()
        await asyncio.wait_for(strace.communicate(), 15)


async def test_killed_between_the_commit_and_the_ack(start_server: StartServer, tmp_path: Path) -> None:
    """The message is there for its recipient after the restart, and the sender's retry gets the ack that was lost."""
    server = start_server()
    record = Record()
    alice, bob = ChatClient(server.url, "alice", record), ChatClient(server.url, "bob", record)
    await alice.connect()
    await bob.connect()
    for life in range(LIVES):
        id, text, trace = str(uuid.uuid4()), f"in life {life}", tmp_path / f"trace {life}"
        async with killed_after_its_next_commit(server, trace):
            with pytest.raises(ConnectionLost):
                await alice.send(bob.user_id, text, id=id)
        assert server.wait() == -9
        assert "fdatasync" in trace.read_text().split("write", 1)[0], "killed before its commit was synced"
        await bob.wait_ended()
        server.start()
        await bob.connect()
        page = await bob.history(alice.user_id)
        assert [message["content"] for message in page["messages"]] == [f"in life {each}" for each in range(life + 1)]
        await alice.connect()
        answer = await alice.send(bob.user_id, text, id=id)
        stored = page["messages"][-1]
        assert (answer["id"], answer["seq"], answer["at"]) == (id, stored["seq"], stored["at"])
    assert len(await judge(record, alice, bob)) == LIVES
    await alice.close()
    await bob.close()
