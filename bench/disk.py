"""How long the disk itself takes to make a few kilobytes durable: what no durable server can be quicker than."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

SYNCS: Final = 500
BYTES: Final = 16_384
"""Of one write, about the log of a small batch."""


def fsync_ms(folder: Path) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds, of an append to a file in `folder` with fdatasync."""
    took = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix="fsync-") as file:
        block = os.urandom(BYTES)
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return took[SYNCS // 2], took[SYNCS * 99 // 100]
