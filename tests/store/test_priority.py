"""The priority of the threads that write."""

from __future__ import annotations

import subprocess
import sys

YIELDING = """
import os, threading
from duologue.store.committer import yield_to_the_loop
os.nice(5)
if os.getuid() == 0:
    os.setuid(65534)
def show():
    yield_to_the_loop()
    print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
thread = threading.Thread(target=show)
thread.start()
thread.join()
"""


def test_a_process_of_low_priority_keeps_it() -> None:
    """Only the administrator may raise one."""
    done = subprocess.run([sys.executable, "-c", YIELDING], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("5\n", "")
