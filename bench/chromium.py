"""Debian's Chromium, as the browser's tests and the benchmark start it: Playwright's own can't be had everywhere."""

from __future__ import annotations

import os
import shutil
from typing import Final

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""As root, and without asking anybody outside for anything."""

MISSING: Final = "Chromium is needed: apt-get install chromium, or set CHROMIUM to its path"


def path() -> str | None:
    """Where it is, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")
