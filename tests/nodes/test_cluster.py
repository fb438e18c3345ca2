"""`make cluster`, as somebody plays with it: started, used, a node killed, ended, started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import pytest

from cluster.__main__ import forget
from cluster.proxy import is_free
from tests.support.client import ChatClient
from tests.support.process import ROOT

pytestmark = pytest.mark.timeout(120)

PATIENCE: Final = 60.0
WHO: Final = ("PostgreSQL", "NATS one", "NATS two", "NATS three", "node one", "node two", "node three", "nginx")


class Cluster:
    """A run of it, from its own word that it's ready until it has ended."""

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "cluster", "--folder", str(folder), "--port", str(port), *arguments]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._said: list[str] = []

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if line.startswith("Open "):
                break
        return self

    def __exit__(self, *_: object) -> None:
        """As Ctrl-C in its terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        self._said.append(self._process.communicate(timeout=PATIENCE)[0])
        assert self._process.returncode == 0, "".join(self._said)

    def pid(self, who: str) -> int:
        line = next(line for line in self._said if line.startswith(who))
        return int(re.findall(r" pid (\d+)", line)[0])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For root PostgreSQL's files are not in it: they go with it all the same."""
    yield tmp_path
    forget(tmp_path)


@pytest.mark.asyncio
async def test_it_starts_serves_ends_and_comes_back_with_what_was_said(folder: Path) -> None:
    port = _free_row(4)
    with Cluster(folder, port) as cluster:
        pids = [cluster.pid(who) for who in WHO]
        async with ChatClient(cluster.url, "ann") as ann, ChatClient(cluster.url, "bob") as bob:
            await ann.send(bob.user_id, "hello")
        os.kill(cluster.pid("node two"), signal.SIGKILL)
        assert bob.user_id in await _listed(cluster)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    # The nodes ended before what they stand on.
    assert "away" not in "".join(log.read_text() for log in folder.glob("*.log"))
    with Cluster(folder, port) as again:
        assert bob.user_id in await _listed(again)
    with Cluster(folder, port, "--fresh") as afresh:
        assert bob.user_id not in await _listed(afresh)


def test_a_taken_port_is_told_before_anything_starts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "cluster", "--folder", str(folder), "--port", str(taken)],
            check=False, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
    assert ended.returncode == 2
    assert f"port {taken} is taken" in ended.stderr
    assert not list(folder.iterdir())


async def _listed(cluster: Cluster) -> list[str]:
    async with ChatClient(cluster.url, "eve", guide=True) as eve:
        return [user["userID"] for user in eve.users]


def _free_row(length: int) -> int:
    """The first of so many ports in a row that are free, below those that the system gives to others."""
    for first in range(20_000, 30_000, length):
        if all(is_free(port) for port in range(first, first + length)):
            return first
    raise AssertionError("no free ports")
