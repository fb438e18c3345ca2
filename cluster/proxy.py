"""Debian's nginx or Caddy before a few nodes, with the configuration of deploy/, for tests and `make cluster`."""

from __future__ import annotations

import abc
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from cluster.ports import HOST

DEPLOY: Final = Path(__file__).resolve().parents[1] / "deploy"
PORT: Final = 3000
"""The proxy's port in the configurations; the nodes' follow it."""

TIMEOUT: Final = 10.0
"""Seconds to start and to stop."""

PACE: Final = 0.02
"""Seconds between two looks whether it listens."""

_ADDRESS: Final = re.compile(rf"\b{re.escape(HOST)}:(\d+)\b")


class ProxyFailed(Exception):
    """It did not start. The message says why."""


class Proxy(abc.ABC):
    """Listens on `port` and leads to the nodes on `node_ports`, which are named one, two and three."""

    CONFIGURATION: ClassVar[str]

    def __init__(self, folder: Path, port: int, node_ports: Sequence[int]) -> None:
        self.folder = folder
        self.port = port
        self._ports = (port, *node_ports)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @abc.abstractmethod
    def _adapt(self, text: str) -> str:
        """The configuration as it runs here, but for the ports."""

    @abc.abstractmethod
    def _command(self, configuration: Path) -> Sequence[str]: ...

    def __enter__(self) -> Self:
        # Whoever has the port already would answer in our stead when we look whether it's open.
        if not is_free(self.port):
            raise ProxyFailed(f"port {self.port} is taken")
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self._adapt((DEPLOY / self.CONFIGURATION).read_text())
        configuration = self.folder / self.CONFIGURATION
        configuration.write_text(_ADDRESS.sub(lambda found: f"{HOST}:{self._ports[int(found[1]) - PORT]}", text))
        log = self.folder / "log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command(configuration),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                # Caddy keeps its certificates at home.
                env={**os.environ, "HOME": str(self.folder)},
            )
        deadline = time.monotonic() + TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            if listens(self.port):
                return self
            time.sleep(PACE)
        self.stop()
        raise ProxyFailed(f"nothing listens on port {self.port}:\n{log.read_text(errors='replace')}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Nginx(Proxy):
    CONFIGURATION = "nginx.conf"

    def _adapt(self, text: str) -> str:
        if os.geteuid() == 0:
            return text
        # Debian's folders for what is too long for memory belong to root.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        return text.replace("http {", "http {\n" + "".join(f"    {kind}_temp_path {kind};\n" for kind in kinds), 1)

    def _command(self, configuration: Path) -> Sequence[str]:
        settings = f"daemon off; pid {self.folder}/pid; error_log {self.folder}/log;"
        # The first -e: where it writes before it has read anything.
        return ["nginx", "-e", "stderr", "-p", str(self.folder), "-c", str(configuration), "-g", settings]


class Caddy(Proxy):
    CONFIGURATION = "Caddyfile"

    def _adapt(self, text: str) -> str:
        """No name to get a certificate for, and no port to be told anything by."""
        return "{\n\tadmin off\n}\n" + text.replace("chat.example {", f"http://{HOST}:{PORT} {{", 1)

    def _command(self, configuration: Path) -> Sequence[str]:
        return ["caddy", "run", "--config", str(configuration), "--adapter", "caddyfile"]


def is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
