"""`python -m bench --profile`: where a Python peer's time goes under the throughput load, by py-spy.

py-spy stops the process for a moment at each sample and shares the load's core, so the rate of such a run is no figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from bench.peers.launch import LOAD_CORE, ROOT, Peer, pinned
from bench.scenarios import LOAD_TIMEOUT, load_command

SAMPLES_PER_SECOND: Final = 200
START_UP: Final = 2
"""Seconds that py-spy may need before its first sample; the load goes on for as much longer."""

TOP: Final = 25

IDLE: Final = frozenset(
    {
        "_worker (concurrent/futures/thread.py)",
        "Condition.wait (threading.py)",
        "Readers._share (duologue/store/sqlite/readers.py)",
    }
)
"""Functions that wait for work in C, where py-spy takes them for busy."""


def profile(peer: Peer, folder: Path, sockets: int, window: int, pattern: str, seconds: int) -> str:
    """Record stacks into `folder`, collapsed as flame graph tools read them, and return the top functions as text.

    Raises `subprocess.CalledProcessError` if py-spy can't read the process (it has to be root or may ptrace)."""
    folder.mkdir(parents=True, exist_ok=True)
    stacks = folder / f"{peer.name}-{sockets}-{pattern}.stacks"
    flags = [
        "--sockets",
        str(sockets),
        "--window",
        str(window),
        "--pattern",
        pattern,
        "--seconds",
        str(seconds + START_UP),
    ]
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(peer.process.pid), "--format", "raw"]
    how = ["--threads", "--rate", str(SAMPLES_PER_SECOND), "--duration", str(seconds), "--output", str(stacks)]
    with subprocess.Popen(load_command("closed", peer, *flags), cwd=ROOT, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        load.stdout.readline()  # everybody is signed in
        subprocess.run(
            pinned(LOAD_CORE, [*spy, *how]), check=True, timeout=LOAD_TIMEOUT, capture_output=True, text=True
        )
        result = json.loads(load.communicate(timeout=LOAD_TIMEOUT)[0].splitlines()[-1])
    rate = result["deliveries_per_second"]
    heading = f"{peer.name}, {sockets:,} sockets, {pattern}: {rate:,.0f} deliveries a second while watched; stacks in {stacks}"
    return f"{heading}\n\n{top_functions(stacks.read_text(), TOP)}"


def top_functions(collapsed: str, count: int) -> str:
    """Two tables from lines of `thread;frame;frame;... samples`: each thread's share of all samples, waits left out, and
    each function's share, alone and with what it calls. A function that waits for the disk counts as well."""
    threads: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for line in collapsed.splitlines():
        stack, _, digits = line.rpartition(" ")
        thread, *functions = (_without_line(frame) for frame in stack.split(";"))
        if not functions or functions[-1] in IDLE:
            continue
        samples = int(digits)
        threads[thread] += samples
        alone[functions[-1]] += samples
        inside.update(dict.fromkeys(functions, samples))
    total = max(1, threads.total())
    rows = [f"{samples / total:7.1%}  {thread}" for thread, samples in threads.most_common()]
    rows += ["", "  alone  inside  function"]
    rows += [f"{own / total:7.1%} {inside[each] / total:7.1%}  {each}" for each, own in alone.most_common(count)]
    return "\n".join(rows)


def _without_line(frame: str) -> str:
    """`name (file:123)` as `name (file)`."""
    name, colon, line = frame.rpartition(":")
    return f"{name})" if colon and line.rstrip(")").isdigit() else frame
