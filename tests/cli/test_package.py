"""What is shipped: the wheel and the sdist of this tree, built without a network, and a server from the wheel's files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Final

import pytest

from cluster.ports import HOST
from duologue import __version__
from tests.support.process import ROOT, ServerProcess

BUILD_TIMEOUT: Final = 100.0


def build(tree: Path, target: str, into: Path, path: str | None = None) -> Path:
    """Build a `wheel` or an `sdist` as pip would, in this environment. `path` is the PATH to build with."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    environment = {**os.environ, "PATH": os.environ["PATH"] if path is None else path}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suffix = {"wheel": "*.whl", "sdist": "*.tar.gz"}[target]
    (made,) = into.glob(suffix)
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, int]:
    """The names of the package's files, and their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if entry.filename.startswith("duologue/")}


def test_the_wheel_has_everything_that_runs(wheel: Path) -> None:
    package = ROOT / "src" / "duologue"
    wanted = {
        f"duologue/{path.relative_to(package).as_posix()}"
        for pattern in ("**/*.py", "**/*.sql", "py.typed", "web/index.html", "web/assets/*")
        for path in package.glob(pattern)
    }
    assert any(name.endswith(".sql") for name in wanted)
    assert any(re.fullmatch(r"duologue/web/assets/.+\.js", name) for name in wanted)
    assert wanted <= contents(wheel).keys()


@pytest.fixture(scope="module")
def sdist_tree(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist's files. After the wheel, which has the client built."""
    folder = tmp_path_factory.mktemp("sdist")
    sdist = build(ROOT, "sdist", folder)
    subprocess.run(["tar", "-xzf", sdist, "-C", folder], check=True, timeout=BUILD_TIMEOUT)
    return folder / f"duologue-{__version__}"


def test_every_link_of_the_sdists_pages_leads_to_a_file_of_it(sdist_tree: Path) -> None:
    pages = sorted(sdist_tree.rglob("*.md"))
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) > 20
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_an_sdist_makes_the_same_wheel_without_node(wheel: Path, sdist_tree: Path, tmp_path: Path) -> None:
    tree = sdist_tree
    assert not (tree / "client").exists()
    again = build(tree, "wheel", tmp_path / "again", path=str(tmp_path / "no programs here"))
    assert contents(again) == contents(wheel)


def test_a_server_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    where = [sys.executable, "-c", "import duologue; print(duologue.__file__)"]
    found = subprocess.run(
        where, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip().startswith(str(tmp_path / "site"))
    command = [sys.executable, "-m", "duologue", "serve", "--host", HOST, "--data", str(tmp_path / "data")]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with ServerProcess(command, env=environment) as server, opener.open(server.url, timeout=30) as answer:
        page = answer.read().decode()
        script = re.search(r'src="(/assets/[^"]+\.js)"', page)
        assert script, page
        with opener.open(server.url + script[1], timeout=30) as asset:
            assert asset.status == 200


def test_what_is_locked_covers_what_is_declared() -> None:
    """requirements/run.in and pyproject.toml name the same packages, and no lock file says where from."""
    declared = re.search(r"(?ms)^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text())
    assert declared
    names = set(re.findall(r'^\s*"([a-z0-9-]+)', declared[1], re.MULTILINE))
    wanted = (ROOT / "requirements" / "run.in").read_text()
    assert names == {re.split(r"[<>=]", line)[0] for line in wanted.splitlines() if line and not line.startswith("#")}
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=" in text
        assert "://" not in text, lock
