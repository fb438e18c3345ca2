"""The command as a person meets it: what it prints, what it refuses, and how it ends. Real processes, real folders."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.ports import HOST, free_port
from duologue import __version__
from tests.conftest import StartServer
from tests.support.process import ROOT, ServerProcess

RUN_TIMEOUT: Final = 30.0
DRAIN: Final = 10.0
"""Seconds that SIGTERM may take."""


class Shell:
    """Runs the command in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("DUOLOGUE_")}
        self.environment |= {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "share"),
            "COLUMNS": "120",
        }

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "duologue", *arguments],
            env={**self.environment, **variables},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
            check=False,
        )

    def refused(self, *arguments: str, **variables: str) -> str:
        """The one line of a refusal: exit code 2, nothing on standard output, nothing changed in this home."""
        before = tree(self.home)
        done = self(*arguments, **variables)
        assert (done.returncode, done.stdout) == (2, ""), done
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("duologue: ")
        assert tree(self.home) == before
        return lines[0]


def tree(folder: Path) -> Mapping[str, Any]:
    """Everything under a folder: permissions, and of files the time of change and the content.

    Left out is what only tells who had the folder open: the lock file and SQLite's side files, which are empty then.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        if path.name == "messages.db-wal":
            assert about.st_size == 0
        if path.name not in ("lock", "messages.db-wal", "messages.db-shm"):
            content = (about.st_mtime_ns, path.read_bytes()) if path.is_file() else None
            found[str(path.relative_to(folder))] = (about.st_mode, content)
    return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def fetch(url: str) -> int:
    """The status of a page; straight, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=RUN_TIMEOUT) as answer:
        return int(answer.status)


# -- what it prints -------------------------------------------------------------------------------------------------


def test_its_version(shell: Shell) -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"duologue {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["config", "--help"]])
def test_its_help(shell: Shell, arguments: list[str]) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    if arguments[0] == "serve":
        assert all(flag in done.stdout for flag in ("--host", "--port", "--data", "--allow-origin", "--config"))


def test_every_setting_as_json(shell: Shell) -> None:
    done = shell("config", "--json", "--port", "4000", DUOLOGUE_PAGE="20")
    told = json.loads(done.stdout)
    port = told["port"]
    assert (port["value"], port["default"], port["from"]) == (4000, 3000, "--port")
    assert (told["page"]["value"], told["page"]["from"]) == (20, "DUOLOGUE_PAGE")
    assert told["data"]["value"] == told["data"]["default"] == str(shell.home / "share" / "duologue")
    assert all(each["meaning"] and each["allowed"] and each["flag"] and each["environment"] for each in told.values())


def test_every_setting_as_a_table(shell: Shell) -> None:
    told = json.loads(shell("config", "--json").stdout)
    done = shell("config", "--port", "4000", "--data", "/srv/duologue")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 120
    rows = {line.split()[0]: line.split() for line in lines if line and not line.startswith(" ")}
    assert told.keys() <= rows.keys()
    assert rows["port"][1:4] == ["4000", "3000", "--port"]


def test_a_reader_that_leaves_early_is_no_error(shell: Shell) -> None:
    command = [sys.executable, "-m", "duologue", "config"]
    with subprocess.Popen(command, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


# -- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serve", "--port", "http"], "port is 'http' (from --port), but has to be a whole number, 0 to 65,535"),
        (["serve", "--ping-interval", "0"], "ping_interval is '0' (from --ping-interval)"),
        (["serve", "--allow-origin", "*", "--allow-origin", "x"], "allow_origin is 'x'"),
        (["serve", "--host", "0.0.0.0"], "add --allow-guests"),
        (["serve", "--host", "::"], "add --allow-guests"),
        (["serve", "--config", "none.toml"], "none.toml: there is no such file"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["serve", "--por", "1"], "unrecognized arguments: --por 1"),
        (["serve", "--port"], "--port: expected one argument"),
        (["config", "--page", "1000"], "max_page (200)"),
        (["server"], "'server'"),
        ([], "COMMAND"),
    ],
)
def test_a_bad_flag_or_setting(shell: Shell, arguments: list[str], part: str) -> None:
    assert part in shell.refused(*arguments)


def test_a_bad_variable(shell: Shell) -> None:
    assert "port is 'x\\ny' (from DUOLOGUE_PORT)" in shell.refused("serve", DUOLOGUE_PORT="x\ny")


def test_a_bad_file(shell: Shell) -> None:
    file = shell.home / "a.toml"
    file.write_text('host = "localhost\n')
    assert f"config file {file}: " in shell.refused("serve", DUOLOGUE_CONFIG=str(file))


def test_a_port_in_use(shell: Shell) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        line = shell.refused("serve", "--port", str(port), "--data", str(shell.home / "data"))
    assert f"port {port}" in line
    assert "in use" in line


def test_a_host_that_is_not_ours(shell: Shell) -> None:
    line = shell.refused("serve", "--host", "192.0.2.1", "--allow-guests", "--port", "0")  # RFC 5737: nobody's
    assert "can't listen on 192.0.2.1" in line


@pytest.mark.parametrize("where", ["file", "file/below", "/proc", "/proc/below"])
def test_a_folder_that_cannot_be_written(shell: Shell, where: str) -> None:
    (shell.home / "file").write_text("in the way")
    assert str(shell.home / where) in shell.refused("serve", "--port", "0", "--data", str(shell.home / where))


def served_once(start_server: StartServer, data: Path) -> None:
    """Make a data folder by serving it and stopping."""
    server = start_server(data=data)
    assert fetch(server.url) == 200
    assert server.terminate() == 0


def test_a_newer_data_folder(shell: Shell, start_server: StartServer) -> None:
    data = shell.home / "data"
    served_once(start_server, data)
    with sqlite3.connect(data / "messages.db") as database:
        database.execute("UPDATE meta SET value = 1000 WHERE name IN ('schema_version', 'oldest_reader')")
    database.close()
    assert "newer" in shell.refused("serve", "--port", "0", "--data", str(data))


def test_a_database_of_another_program(shell: Shell) -> None:
    data = shell.home / "data"
    data.mkdir(mode=0o700)
    with sqlite3.connect(data / "messages.db") as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    (data / "messages.db").chmod(0o600)
    assert "another program" in shell.refused("serve", "--port", "0", "--data", str(data))


def test_a_second_server_on_the_same_folder(shell: Shell, start_server: StartServer, tmp_path: Path) -> None:
    data = tmp_path / "elsewhere" / "data"
    first = start_server(data=data)
    home = tmp_path / "home"
    home.mkdir()
    line = Shell(home).refused("serve", "--port", "0", "--data", str(data))
    assert str(data) in line
    assert first.alive
    assert fetch(first.url) == 200


# -- how it serves and ends -----------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    """Starts `duologue serve` with exactly these arguments but for the port, which is chosen by the system."""
    servers: list[ServerProcess] = []

    def start(*arguments: str, env: Mapping[str, str] | None = None) -> ServerProcess:
        command = [sys.executable, "-m", "duologue", "serve", "--data", str(tmp_path / "data"), *arguments]
        servers.append(ServerProcess(command, env=env, port=0))
        return servers[-1].start()

    yield start
    for each in servers:
        each.stop()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_localhost_is_both_addresses_and_port_0_is_told(serve: Any) -> None:
    server = serve()
    assert server.port > 0
    assert fetch(f"http://127.0.0.1:{server.port}/") == 200
    if has_ipv6():
        assert fetch(f"http://[::1]:{server.port}/") == 200


def test_a_port_that_only_the_other_family_has_taken(shell: Shell) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        assert f"port {port}" in shell.refused("serve", "--port", str(port), "--data", str(shell.home / "data"))


def test_the_address_is_the_first_line(serve: Any, tmp_path: Path) -> None:
    port = free_port()
    server = serve("--host", "127.0.0.1", env={"DUOLOGUE_PORT": str(port)})
    assert server.log()[0].startswith(f"Duologue serves http://127.0.0.1:{server.port} ")
    assert str(tmp_path / "data") in server.log()[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_when_asked(serve: Any, number: signal.Signals) -> None:
    server = serve()
    assert fetch(server.url) == 200
    with socket.create_connection((HOST, server.port)) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n")  # a request that never ends
        began = time.monotonic()
        os.kill(server.pid, number)
        assert server.wait() == 0, server.report()
        assert time.monotonic() - began < DRAIN
    assert not server.tracebacks()


def test_the_soft_limit_of_open_files_is_raised(start_server: StartServer) -> None:
    """A login shell's 1,024 would be the end of the thousandth connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start_server()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_more_connections_than_files_are_refused_with_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duologue", "serve", "--host", HOST, "--data", str(tmp_path / "data")]
    command += ["--log-level", "debug"]
    with ServerProcess(["prlimit", "--nofile=110:110", *command]) as server:
        statuses = []
        for _ in range(12):
            try:
                with urllib.request.urlopen(f"{server.url}/socket.io/?EIO=4&transport=polling", timeout=10) as answer:
                    statuses.append(answer.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
        assert statuses == [200] * 10 + [503] * 2
        assert any("the system allows 110 open files: at most 10 connections" in line for line in server.log())


def test_a_file_of_settings_is_obeyed(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('log_format = "json"\nhost = "127.0.0.1"\n')
    (tmp_path / "data").mkdir(mode=0o755)  # which is worth a warning
    server = serve("--config", str(file))
    assert fetch(server.url) == 200
    assert server.terminate() == 0
    logged = [json.loads(line) for line in server.log() if line.startswith("{")]
    assert [entry["level"] for entry in logged if "read by others" in entry["message"]] == ["warning"]


def test_the_installed_command_is_this_one(shell: Shell) -> None:
    beside = shutil.which("duologue", path=str(Path(sys.executable).parent))
    assert beside, "set up by scripts/setup"
    done = subprocess.run([beside, "--version"], capture_output=True, text=True, timeout=RUN_TIMEOUT, check=True)
    assert done.stdout == f"duologue {__version__}\n"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["duologue"] == "duologue.cli:main"
