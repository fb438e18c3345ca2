"""Debian's nginx before a few nodes, with the configuration of deploy/nginx.conf, for tests and `make cluster`."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

HOST: Final = "127.0.0.1"
TIMEOUT: Final = 10.0
PACE: Final = 0.02
CONFIGURATION: Final = Path(__file__).resolve().parents[1] / "deploy" / "nginx.conf"
PORT: Final = 3000
"""The proxy's port in the configuration; the nodes' follow it."""


class NginxFailed(Exception):
    """It did not start or did not end. The message has its log."""


class Nginx:
    """Listens on `port` and leads to the nodes on `node_ports`, which are named one, two and three."""

    def __init__(self, folder: Path, port: int, node_ports: Sequence[int]) -> None:
        self.folder = folder
        self.port = port
        self._node_ports = node_ports
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.read_text()
        # All at once, for a port that was put in may be one that is still to be replaced.
        for place in range(1 + len(self._node_ports)):
            text = text.replace(f"{HOST}:{PORT + place};", f"{HOST}:<{place}>;")
        for place, port in enumerate((self.port, *self._node_ports)):
            text = text.replace(f"<{place}>", str(port))
        (self.folder / "nginx.conf").write_text(text)
        log = self.folder / "log"
        settings = f"daemon off; pid {self.folder}/pid; error_log {log};"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-g", settings],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                time.sleep(PACE)
            else:
                return self
        raise NginxFailed(f"nginx does not listen on port {self.port}:\n{log.read_text()}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
