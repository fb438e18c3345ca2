"""Fuzz every parser for a while: `python -m tests.fuzz.run --seconds 60 [--target NAME] [--keep FOLDER]`.

The time is shared by the targets, one after the other. Each starts from its corpus in tests/fuzz/corpus/TARGET, which is
never written to. The exit code is 0 if nothing was found; a finding is printed with the input that shows it, and belongs
into the corpus once it's repaired.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS

ROOT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"

START_TIME: Final = 60
"""Seconds beside the fuzzing itself that a target may take before it counts as hanging."""
INPUT_TIME: Final = 5
"""Seconds after which one input counts as a hang."""
INPUT_BYTES: Final = 20_000
MEMORY_MB: Final = 1_024


def fuzz(name: str, seconds: int, folder: Path) -> bool:
    """Fuzz one target; True if it held."""
    found = folder / name
    found.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "tests.fuzz.harness", name, str(found), str(CORPUS / name),
        f"-max_total_time={seconds}", f"-timeout={INPUT_TIME}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={INPUT_BYTES}",
        f"-artifact_prefix={found}/finding-", "-verbosity=0", "-print_final_stats=1",
    ]  # fmt: skip
    print(f"{name}: {seconds} s", flush=True)
    try:
        run = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            timeout=seconds + START_TIME,
            capture_output=True,
            text=True,
            errors="backslashreplace",
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: did not end", flush=True)
        return False
    output = run.stdout + run.stderr
    if run.returncode == 0:
        executed = [line for line in output.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: held {executed[0].split()[-1] if executed else '?'} inputs", flush=True)
        return True
    print(output[-10_000:])
    for finding in sorted(found.glob("finding-*")):
        print(f"{name}: {finding.name}: {finding.read_bytes()!r}", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--keep", type=Path, help="keep what was found here")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="duologue-fuzz-"))
    try:
        held = [fuzz(name, max(1, options.seconds // len(names)), folder) for name in names]
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
