"""What needs messages, or people, stored before: coming back to a short and to a long history, and the herd."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import herd
from bench.peers.launch import ROOT, running
from bench.scenarios import Result, load, rotated

FILL_TIMEOUT = 3_600.0


@dataclass(frozen=True)
class History:
    name: str
    messages: int
    people: int = 200
    partners: int = 5
    """Conversations that each person begins; as many are begun with them."""
    times: int = 10
    """How often each person comes back."""


def reconnects(node: str, histories: Sequence[History], rounds: int) -> Iterator[Result]:
    """Syncs after one missed message, taking turns."""
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as temporary:
        folder = Path(temporary)
        for each in histories:
            fill(folder, each)
        for turn in range(rounds):
            for each in rotated(histories, turn):
                sessions = folder / f"{each.name}.json"
                count = len(json.loads(sessions.read_text()))
                with running("duologue", node, folder / each.name) as peer:
                    cpu = peer.cpu()
                    result = load("reconnect", peer, "--sockets", "50", "--sessions", str(sessions))
                    result["server_cpu_ms"] = (peer.cpu() - cpu) / count * 1000
                yield {"peer": "duologue", "scenario": f"reconnect, {each.name}", "round": turn, **result}


def fill(folder: Path, history: History) -> None:
    """Make the data folder `name` and the list of sessions `name.json`."""
    command = [sys.executable, "-m", "bench.fill", str(folder / history.name), str(folder / f"{history.name}.json")]
    for name in ("messages", "people", "partners", "times"):
        command += [f"--{name}", str(getattr(history, name))]
    subprocess.run(command, cwd=ROOT, check=True, timeout=FILL_TIMEOUT)


def returns(node: str, sockets: int, rounds: int) -> Iterator[Result]:
    for turn in range(rounds):
        result = herd.measure(node, sockets)
        yield {"peer": "duologue", "scenario": f"herd, {sockets:,} sockets", "round": turn, **result}
