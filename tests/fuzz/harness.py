"""One target under atheris, in a process of its own: `python -m tests.fuzz.harness TARGET [libFuzzer arguments]`.

Run by `tests.fuzz.run`. An exception that the target lets out is a finding: libFuzzer prints it, keeps the input, and the
process ends with a non-zero code.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["duologue"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *arguments = sys.argv[1:]
    atheris.Setup([name, *arguments], atheris.instrument_func(TARGETS[name]))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
