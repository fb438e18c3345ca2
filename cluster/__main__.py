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
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from cluster.nats import NatsServer
from cluster.nginx import Nginx
from cluster.postgres import Postgres

ROOT: Final = Path(__file__).resolve().parents[1]
NODES: Final = ("one", "two", "three")
STOP_TIMEOUT: Final = 15.0


@contextmanager
def node(name: str, port: int, database: str, bus: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node of that name, with what it says in `log`."""
    command = [sys.executable, "-m", "duologue", "serve", "--host", "127.0.0.1", "--port", str(port), "--node", name]
    command += ["--database", database, "--bus", bus, "--trusted-proxy", "127.0.0.1"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="of the proxy; the nodes have the next three")
    parser.add_argument("--fresh", action="store_true", help="forget what was stored before")
    options = parser.parse_args()
    folder = ROOT / ".cluster"
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_end.set())
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(_postgres_folder(folder)))
        stack.callback(postgres.stop)
        buses: list[NatsServer] = []
        for name in NODES:
            buses.append(stack.enter_context(NatsServer(folder / f"nats-{name}", routes=list(buses))))
        bus = ",".join(each.url for each in buses)
        print(f"PostgreSQL  {postgres.url}  (psql)", flush=True)
        print(f"NATS        {bus}", flush=True)
        ports = [options.port + 1 + index for index in range(len(NODES))]
        for name, port in zip(NODES, ports, strict=True):
            process = stack.enter_context(node(name, port, postgres.url, bus, folder / f"{name}.log"))
            print(f"node {name:6} http://127.0.0.1:{port}  pid {process.pid}  log {folder / name}.log", flush=True)
        proxy = stack.enter_context(Nginx(folder / "nginx", options.port, ports))
        print(f"\nOpen {proxy.url} in a few browsers, and kill what you like. Ctrl-C ends everything.", flush=True)
        asked_to_end.wait()
        print("ending", flush=True)


def _postgres_folder(folder: Path) -> Path:
    """Beside the rest; for root where the user may come as whom PostgreSQL then runs."""
    if os.geteuid() != 0:
        return folder / "postgres"
    found = folder / "postgres"
    if not found.is_symlink():
        place = Path("/var/lib") / f"duologue-cluster-{folder.parent.name}-{folder.stat().st_ino}"
        place.mkdir(parents=True, exist_ok=True)
        found.symlink_to(place)
    return found.resolve()


if __name__ == "__main__":
    main()
