"""Server processes as the tests use them: started on a free port, killed without a warning, restarted on the same data.

Nothing here sleeps: a start waits for the address that the server prints (or, with a silent server, for its port), an end
waits for the process. All calls block the caller for as long as they say, so an async test under load calls them by
`asyncio.to_thread`.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from cluster.ports import HOST, free_port

ROOT: Final = Path(__file__).resolve().parents[2]

START_TIMEOUT: Final = 20.0
EXIT_TIMEOUT: Final = 15.0
LOG_LINES: Final = 20_000
CONNECT_PACE: Final = 0.02
"""Seconds between two looks at the port of a silent server."""

_ADDRESS = re.compile(r"http://[^\s/]+:(\d+)")


class ServerFailed(AssertionError):
    """A server did not start, did not end or ended otherwise than the test demands. The message carries its log."""


_CONNECTED: Final = ("01", "08")
"""TCP_ESTABLISHED and TCP_CLOSE_WAIT (linux/include/net/tcp_states.h), as /proc/net/tcp has them."""


class ServerProcess:
    """A server under test.

    `command` gets `--port N` appended: `port` at the first start, 0 being what the system chooses, or one that is free; and
    the same again at every later one. A server that isn't `silent` says its address when it's there. Standard output and
    error are gathered into one log. `host` is where others reach it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        silent: bool = False,
        env: Mapping[str, str] | None = None,
        host: str = HOST,
        port: int | None = None,
    ) -> None:
        self._command = list(command)
        self._silent = silent
        self._host = host
        # The server of this work tree, whatever is installed.
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        self._env = {
            **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **(env or {}),
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._line_count = 0
        self._output_ended = False
        self.port = free_port() if port is None else port

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, timeout: float = START_TIMEOUT) -> Self:
        """Start and wait until the server is there. Raises `ServerFailed` if it isn't within `timeout`."""
        if self.alive:
            raise RuntimeError("the server is running")
        mark = self.log_mark()
        self._output_ended = False
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)],
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._gather, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        if self._silent:
            self._wait_for_port(timeout)
        else:
            self.port = int(self.wait_for_log(_ADDRESS, since=mark, timeout=timeout).group(1))
        return self

    def kill(self) -> None:
        """SIGKILL: no handler runs, no buffer is flushed by the program."""
        self._signal(signal.SIGKILL)
        self.wait()

    def ask_to_leave(self) -> None:
        """SIGTERM, and no wait: the drain begins."""
        self._signal(signal.SIGTERM)

    def terminate(self, timeout: float = EXIT_TIMEOUT) -> int:
        """SIGTERM; returns the exit code."""
        self.ask_to_leave()
        return self.wait(timeout)

    def suspend(self) -> None:
        """SIGSTOP: the server stalls, its sockets stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def ask_what_it_holds(self, collect: bool = False) -> None:
        """SIGUSR1 or, to have it collect its garbage before, SIGUSR2, which only `tests.support.watched` understands; the answer
        is a line of the log."""
        self._signal(signal.SIGUSR2 if collect else signal.SIGUSR1)

    def wait(self, timeout: float = EXIT_TIMEOUT) -> int:
        """Wait for the end; returns the exit code, negative for a signal. Raises `ServerFailed` after `timeout`."""
        process = self._running()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"still running after {timeout} s\n{self.report()}") from None
        if self._reader is not None:
            self._reader.join(timeout)
        return code

    def restart(self, timeout: float = START_TIMEOUT) -> Self:
        """Kill if need be and start again, same port, same arguments."""
        if self.alive:
            self.kill()
        return self.start(timeout)

    def stop(self) -> None:
        """End the process by whatever it takes; for cleaning up."""
        if self.alive:
            self.resume()
            self.kill()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def rss(self) -> int:
        """Resident memory in bytes, as Linux counts it."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def forget_peak(self) -> None:
        """Let `peak` count from now (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most resident memory in bytes since the start or the last `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self) -> int:
        """Its sockets at its own port, as the system has them; there may be more at any time to its database and its bus."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(local.endswith(f":{self.port:04X}") and state in _CONNECTED for _, local, _, state, *_ in rows)

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    # -- log --------------------------------------------------------------------------------------------------------

    def log_mark(self) -> int:
        """A place in the log, for `since`."""
        with self._news:
            return self._line_count

    def log(self, since: int = 0) -> list[str]:
        """The lines after `since` that are still held (the last `LOG_LINES`)."""
        with self._news:
            return self._log(since)

    def wait_for_log(
        self, pattern: str | re.Pattern[str], *, since: int = 0, timeout: float = EXIT_TIMEOUT
    ) -> re.Match[str]:
        """The first match of a line after `since`. Raises `ServerFailed` if the process ends or `timeout` passes before."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for line in self._log(since):
                    if found := wanted.search(line):
                        return found
                left = deadline - time.monotonic()
                if self._output_ended or left <= 0:
                    why = "ended" if self._output_ended else f"after {timeout} s"
                    raise ServerFailed(f"{wanted.pattern!r} was not logged, {why}\n{self.report()}")
                self._news.wait(left)

    def tracebacks(self, since: int = 0) -> list[str]:
        """Lines that begin a Python traceback or tell of a task's lost exception: a healthy server never logs one."""
        signs = ("Traceback (most recent call last)", "Task exception was never retrieved", "Fatal Python error")
        return [line for line in self.log(since) if any(sign in line for sign in signs)]

    def report(self) -> str:
        """Command, state and the end of the log, for the message of a failed test."""
        state = "not started" if self._process is None else f"exit code {self._process.poll()}"
        with self._news:
            tail = "\n".join(self._log(self._line_count - 100))
        return f"$ {' '.join(self._command)}  ({state})\n{tail}"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _log(self, since: int) -> list[str]:
        first = self._line_count - len(self._lines)
        return [line for number, line in enumerate(self._lines, first) if number >= since]

    def _wait_for_port(self, timeout: float) -> None:
        process = self._running()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, self.port), CONNECT_PACE).close()
                return
            except OSError:
                pass
            try:
                process.wait(CONNECT_PACE)
            except subprocess.TimeoutExpired:
                continue
            raise ServerFailed(f"ended before it listened\n{self.report()}")
        raise ServerFailed(f"not listening after {timeout} s\n{self.report()}")

    def _gather(self, output: IO[str]) -> None:
        for line in output:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._line_count += 1
                self._news.notify_all()
        with self._news:
            self._output_ended = True
            self._news.notify_all()
        output.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        process = self._running()
        if process.poll() is not None:
            raise ServerFailed(f"not running any more\n{self.report()}")
        process.send_signal(number)

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(self.report(), file=sys.stderr)


def duologue(
    data: Path, *arguments: str, env: Mapping[str, str] | None = None, module: str = "duologue"
) -> ServerProcess:
    """`duologue serve` on the folder `data`, or what `module` makes of it; not started yet."""
    command = [sys.executable, "-m", module, "serve", "--host", HOST, "--data", str(data), *arguments]
    return ServerProcess(command, env=env)


def echo(command: Sequence[str] | None = None, *, ping_interval: int = 300, ping_timeout: int = 1_000) -> ServerProcess:
    """The example echo server, or another one with the same arguments (see `--echo-command`). Times in milliseconds."""
    start = list(command) if command else [sys.executable, str(ROOT / "examples" / "echo_server.py")]
    return ServerProcess(
        [*start, "--ping-interval", str(ping_interval), "--ping-timeout", str(ping_timeout)], silent=True
    )
