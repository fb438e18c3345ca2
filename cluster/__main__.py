"""`make cluster`: three nodes, PostgreSQL, three NATS servers and nginx on this machine, for people to play with.

Everything lives in .cluster/ of the clone, is the same after a restart, and ends with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cluster.nats import NatsFailed, NatsServer
from cluster.ports import HOST
from cluster.postgres import Postgres, PostgresFailed
from cluster.proxy import PACE, Nginx, ProxyFailed, is_free, listens

ROOT: Final = Path(__file__).resolve().parents[1]
NODES: Final = ("one", "two", "three")
START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 15.0


class NodeFailed(Exception):
    """A node ended, or did not listen in time. The message has its log."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="of the proxy; the nodes have the next three")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cluster", help="where everything is kept")
    parser.add_argument("--fresh", action="store_true", help="forget what was stored before")
    options = parser.parse_args()
    ports = [options.port + place for place in range(1 + len(NODES))]
    for port in ports:
        if not is_free(port):
            parser.error(f"port {port} is taken: name others by --port, which takes {len(ports)} in a row")
    if options.fresh:
        forget(options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_end.set())
    try:
        run(options.folder.resolve(), ports, asked_to_end)
    except (PostgresFailed, NatsFailed, NodeFailed, ProxyFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(folder: Path, ports: Sequence[int], asked_to_end: threading.Event) -> None:
    """Start everything, wait, and end it in the opposite order."""
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(_postgres_folder(folder)))
        stack.callback(postgres.stop)
        print(f"PostgreSQL  {postgres.url}  pid {postgres.pid}", flush=True)
        buses: list[NatsServer] = []
        for name in NODES:
            buses.append(stack.enter_context(NatsServer(folder / f"nats-{name}", routes=list(buses))))
            print(f"NATS {name:6} {buses[-1].url}  pid {buses[-1].pid}", flush=True)
        bus = ",".join(each.url for each in buses)
        nodes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, nodes)
        for name, port in zip(NODES, ports[1:], strict=True):
            nodes.append(_start_node(name, port, postgres.url, bus, folder / f"{name}.log"))
        for name, port, process in zip(NODES, ports[1:], nodes, strict=True):
            log = folder / f"{name}.log"
            _wait_for(process, port, log)
            print(f"node {name:6} http://{HOST}:{port}  pid {process.pid}  log {log}", flush=True)
        proxy = stack.enter_context(Nginx(folder / "nginx", ports[0], ports[1:]))
        print(f"nginx       {proxy.url}  pid {proxy.pid}", flush=True)
        print(f"\nOpen {proxy.url} in a few browsers, and kill what you like. Ctrl-C ends everything.", flush=True)
        asked_to_end.wait()
        print("ending", flush=True)


def _start_node(name: str, port: int, database: str, bus: str, log: Path) -> subprocess.Popen[bytes]:
    """A node of that name, with what it says in `log`; it may not listen yet."""
    command = [sys.executable, "-m", "duologue", "serve", "--host", HOST, "--port", str(port), "--node", name]
    command += ["--database", database, "--bus", bus, "--trusted-proxy", HOST]
    with log.open("ab") as file:
        # In a session of its own, as everything here: Ctrl-C is for us, and we end one after the other.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)


def _end(nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    """All together, for each takes a moment to say goodbye."""
    for node in nodes:
        node.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    for node in nodes:
        try:
            node.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until the node listens, for a proxy that is faster finds nobody and says so."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if listens(port):
            return
        time.sleep(PACE)
    raise NodeFailed(f"nothing listens on port {port}:\n{log.read_text(errors='replace')}")


def forget(folder: Path) -> None:
    """Remove what is stored; logs stay."""
    found = folder / "postgres"
    shutil.rmtree(found.resolve(), ignore_errors=True)
    found.unlink(missing_ok=True)


def _postgres_folder(folder: Path) -> Path:
    """Beside the rest; for root where the user may come as whom PostgreSQL then runs, with a link beside the rest."""
    found = folder / "postgres"
    if os.geteuid() == 0 and not found.is_symlink():
        found.symlink_to(tempfile.mkdtemp(prefix="duologue-cluster-", dir="/var/lib"))
    return found.resolve()


if __name__ == "__main__":
    sys.exit(main())
