"""The client without a browser: its pure core, its size, and what its lock file says."""

from __future__ import annotations

import subprocess
from typing import Final

import hatch_build

SCRIPT_LIMIT: Final = 170 * 1024
"""Bytes of gzipped script at the first load."""


def test_the_core_keeps_its_promises() -> None:
    vitest = hatch_build.SOURCES / "node_modules" / "vitest" / "vitest.mjs"
    node = hatch_build.find_node()[0] if vitest.is_file() else hatch_build.install()
    done = subprocess.run(
        [node, vitest, "run", "--no-color"],
        cwd=hatch_build.SOURCES,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_script_is_small() -> None:
    assert not hatch_build.build_client(), "the built client is not that of these sources: python hatch_build.py"
    sizes = {path.name: path.stat().st_size for path in hatch_build.WEB.glob("assets/*.js.gz")}
    assert 0 < sum(sizes.values()) <= SCRIPT_LIMIT, sizes


def test_the_lock_file_names_no_address() -> None:
    assert '"resolved"' not in (hatch_build.SOURCES / "package-lock.json").read_text()
