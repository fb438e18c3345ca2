"""Options and fixtures for the tests of every floor.

--seed N             repeat a random run: `rng` follows from it and from the test's name
--torture            also run the tests marked `torture` (so does `-m torture`)
--soak-minutes N     how long the long soak lasts (default: 30)
--echo-command CMD   run the conformance and interoperability tests against another echo server that takes the same arguments
"""

from __future__ import annotations

import random
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.support import process
from tests.support.network import Namespace, namespace
from tests.support.process import ServerProcess

_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("duologue")
    group.addoption("--seed", type=int, default=None, help="seed of the random tests (default: a fresh one)")
    group.addoption("--torture", action="store_true", help="also run the tests marked `torture`")
    group.addoption("--soak-minutes", type=float, default=30, help="how long the long soak lasts (default: 30)")
    group.addoption("--echo-command", default=None, help="the echo server to test instead of examples/echo_server.py")


def pytest_configure(config: pytest.Config) -> None:
    # No test of properties is one of speed, and the machine may stand still in any of them.
    hypothesis.settings.register_profile(
        "duologue", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("duologue")
    seed = config.getoption("--seed")
    config.stash[_SEED] = secrets.randbits(32) if seed is None else seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[_SEED]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--torture") or "torture" in config.getoption("-m")
    for item in items:
        if not wanted and item.get_closest_marker("torture") is not None:
            item.add_marker(pytest.mark.skip(reason="long; runs with --torture"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed; printed with the captured output of a test that fails."""
    value = request.config.stash[_SEED]
    print(f"repeat with --seed {value}")
    return value


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> random.Random:
    """Random numbers that depend on the seed and the test's name alone, so in whatever order the tests run."""
    return random.Random(f"{seed} {request.node.nodeid}")


class StartServer:
    """Starts `duologue serve`: on a folder, or as a node of its own on PostgreSQL and NATS. What is one folder's there is one
    database's here."""

    def __init__(self, folder: Path, several: tuple[Postgres, NatsServer] | None = None) -> None:
        """`folder` is where a server has its data that is given no other."""
        self.one_node = several is not None
        self.servers: list[ServerProcess] = []
        self._folder = folder
        self._several = several
        self._databases: dict[Path, str] = {}
        self._stack = ExitStack()

    def __call__(
        self, *arguments: str, data: Path | None = None, env: Mapping[str, str] | None = None, module: str = "duologue"
    ) -> ServerProcess:
        """A running server with `arguments` on the folder `data` (the test's own if None); see `process.duologue`."""
        if self._several is not None:
            arguments = ("--database", self.database(data), "--bus", self._several[1].url, *arguments)
        server = process.duologue(data or self._folder, *arguments, env=env, module=module)
        self.servers.append(server)
        return server.start()

    def database(self, data: Path | None = None) -> str:
        """The URL of what stands for that folder on a node."""
        assert self._several is not None, "its data is in a folder"
        folder = data or self._folder
        if folder not in self._databases:
            self._databases[folder] = self._stack.enter_context(self._several[0].database())
        return self._databases[folder]

    def close(self) -> None:
        """End what was started, and judge its logs."""
        with self._stack:
            finish(self.servers)


def finish(servers: list[ServerProcess]) -> None:
    """Stop every server, print its log for the case that the test failed, and fail if one logged a traceback."""
    for server in servers:
        server.stop()
        print(server.report())
    if found := [line for server in servers for line in server.tracebacks()]:
        pytest.fail(f"a server logged an exception that it did not expect: {found}")


ONE_NODE = "one node"
"""The parameter of a fixture with which its servers run on PostgreSQL and NATS."""

BOTH = ("one machine", ONE_NODE)

on_both = pytest.mark.parametrize("start_server", BOTH, indirect=True)
"""For tests of promises that a node of several keeps as well."""

on_both_in_time = pytest.mark.parametrize(
    "start_server", ["one machine", pytest.param(ONE_NODE, marks=pytest.mark.torture)], indirect=True
)
"""The same for tests that take long and of which the node's half is mostly that of one machine: it runs with `--torture`."""


@pytest.fixture
def start_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Starts real `duologue serve` processes; all are stopped, and their logs judged, when the test ends."""
    start = StartServer(tmp_path / "data", several(request))
    yield start
    start.close()


def several(request: pytest.FixtureRequest) -> tuple[Postgres, NatsServer] | None:
    """What the nodes of a fixture stand on that has the parameter ONE_NODE."""
    if getattr(request, "param", "") != ONE_NODE:
        return None
    return request.getfixturevalue("postgres"), request.getfixturevalue("nats")


def echo_of(request: pytest.FixtureRequest, **times: int) -> ServerProcess:
    """The echo server that this run tests, not started; for `times` see `process.echo`."""
    return process.echo(shlex.split(request.config.getoption("--echo-command") or ""), **times)


@pytest.fixture
def start_echo(request: pytest.FixtureRequest) -> Iterator[Callable[..., ServerProcess]]:
    """Starts echo servers of the test's own, for tests that kill them or need other times."""
    servers: list[ServerProcess] = []

    def start(*, ping_interval: int = 25_000, ping_timeout: int = 20_000) -> ServerProcess:
        server = echo_of(request, ping_interval=ping_interval, ping_timeout=ping_timeout)
        servers.append(server)
        return server.start()

    yield start
    finish(servers)


@pytest.fixture(scope="session")
def shared_echo(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with echo_of(request) as server:
        yield server


@pytest.fixture
def echo_server(shared_echo: ServerProcess) -> Iterator[ServerProcess]:
    """The echo server with heartbeats every 300 ms and a time-out of 200 ms (in tests/interop slower ones), one for the whole
    run: no test may harm it."""
    mark = shared_echo.log_mark()
    yield shared_echo
    print("\n".join(shared_echo.log(mark)))
    assert shared_echo.alive, shared_echo.report()
    assert not shared_echo.tracebacks(mark), "the server logged an exception that it did not expect"


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A network namespace, with no way out yet."""
    with namespace() as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, one for the whole run: no test may harm it."""
    with TemporaryDirectory(prefix="duologue-") as folder, Postgres(Path(folder)) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may kill."""
    with TemporaryDirectory(prefix="duologue-") as folder, Postgres(Path(folder)) as server:
        yield server


@pytest.fixture
def standby_postgres(own_postgres: Postgres) -> Iterator[Postgres]:
    """A standby of `own_postgres`, asynchronous until that is told otherwise."""
    with TemporaryDirectory(prefix="duologue-") as folder, Postgres(Path(folder), standby_of=own_postgres) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    with postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[Postgres]:
    """Debian's PostgreSQL, one for the whole run: 15 in Debian 12, the oldest that is supported."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parents[1].name))
    assert found, "there is no PostgreSQL of Debian's: run scripts/setup test"
    with (
        TemporaryDirectory(prefix="duologue-") as folder,
        Postgres(Path(folder), programs=found[0].parent) as server,
    ):
        yield server


@pytest.fixture
def oldest_database(oldest_postgres: Postgres) -> Iterator[str]:
    with oldest_postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A real nats-server, one for the whole run: no test may harm it."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that the test may kill."""
    with NatsServer(tmp_path_factory.mktemp("own-nats")) as server:
        yield server
