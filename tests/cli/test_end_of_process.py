"""The process ends although a writer is still inside its database, and with what it has said and its own code."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = """
import threading, time
from duologue.main import _end_past_threads
from duologue.store.committer import WRITER_THREAD
threading.Thread(target=time.sleep, args=(600,), name={name}).start()
print("goodbye")
_end_past_threads(7)
print("it went on", flush=True)
"""

PATIENCE = 30.0


def run(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(name=name)], stdout=subprocess.PIPE, text=True)


def test_it_does_not_wait_for_a_writer() -> None:
    began = time.monotonic()
    with run("WRITER_THREAD") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert said == "goodbye\n"
    assert process.returncode == 7
    assert time.monotonic() - began < PATIENCE


def test_it_leaves_everything_else_to_the_interpreter() -> None:
    with run("'another'") as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == ["goodbye\n", "it went on\n"]
        assert process.poll() is None  # it waits for its thread, as ever
        process.kill()
