"""Starts each peer as a process of its own on one core, and reads what the system says of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SERVER_CORE = "0"
LOAD_CORE = "1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

PACE = 0.1
"""Seconds between two looks at what nobody tells of."""

PEERS = ("duologue", "node", "python-socketio")
RELAY = "relay"
"""No peer: a yardstick for the load itself (bench/peers/relay.py)."""


@dataclass
class Peer:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    """Where Duologue keeps its data."""

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/socket.io/?EIO=4&transport=websocket"

    def rss(self) -> int:
        """Resident bytes of the process and its children."""
        process = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))

    def cpu(self) -> float:
        """Seconds of processor time so far, of all threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def read(self) -> int:
        """Bytes that the process has had read from disk: what the system's page cache hadn't."""
        return int(psutil.Process(self.process.pid).io_counters().read_bytes)

    def written(self) -> int:
        """Bytes that the process has had written to disk."""
        return int(psutil.Process(self.process.pid).io_counters().write_bytes)


class Watch:
    """The largest resident size of a peer until `end`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._over = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, self._peer.rss())

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self.peak


def node_command(node: str) -> list[str]:
    return [node, str(ROOT / "bench/peers/node/server.js")]


def pinned(cores: str, command: list[str]) -> list[str]:
    return ["taskset", "-c", cores, *command]


LIMITED = "duologue with its limits"
"""As it comes; `duologue` alone has no rates, for the load is a handful of very busy users from one address, and the peers
have no such limits."""

UNLIMITED = ("--message-rate", "1e9", "--message-burst", "1e9", "--connect-rate", "1e9", "--connect-burst", "1e9")


def serve_command(port: int, data: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "duologue", "serve", "--host", "127.0.0.1", "--port", str(port), "--data", str(data), *flags,
        "--log-level", "warning",
    ]  # fmt: skip


@contextmanager
def running(
    name: str, node: str, data: Path | None = None, cores: str = SERVER_CORE, port: int = 0, *flags: str
) -> Iterator[Peer]:
    """A fresh peer with nothing stored, or Duologue on the folder `data`. It may use `cores`, as taskset names them, and
    gets `flags` after its port."""
    port = port or free_port()
    folder = data or Path(tempfile.mkdtemp(prefix="duologue-bench-"))
    commands = {
        "duologue": serve_command(port, folder, *UNLIMITED),
        LIMITED: serve_command(port, folder),
        "node": [*node_command(node), str(port), *flags],
        RELAY: [sys.executable, "-m", "bench.peers.relay", str(port)],
        "python-socketio": [sys.executable, str(ROOT / "bench/peers/python_socketio_server.py"), str(port)],
    }  # fmt: skip
    process = subprocess.Popen(
        pinned(cores, commands[name]), stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "NODE_ENV": "production"}
    )
    try:
        wait_until_listening(process, port)
        yield Peer(name, port, process, folder)
    finally:
        stop(process)
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM; by SIGKILL if it takes longer than STOP_TIMEOUT."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended at once with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(PACE)
        else:
            return
    raise RuntimeError(f"the peer does not listen on port {port} after {START_TIMEOUT:g} s")
