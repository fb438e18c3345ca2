"""Other releases of the product beside this one: copies of its source with the changes that a release may bring."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from duologue.bus.envelope import FORMAT
from duologue.store.postgres.schema import OLDEST_READERS, VERSION
from tests.support.process import ROOT

_SCHEMA: Final = "store/postgres/schema"


class Release:
    """A later release, its source in `folder`: with so many more `steps` of PostgreSQL's schema, each of which the release before
    can still read and write, or with another `format` on the bus."""

    def __init__(self, folder: Path, steps: int = 0, format: int = FORMAT) -> None:
        self._folder = folder
        self._source = folder / "duologue"
        shutil.copytree(ROOT / "src" / "duologue", self._source, ignore=shutil.ignore_patterns("__pycache__", "web"))
        self.schema = VERSION + steps
        """The version of PostgreSQL's schema."""
        for number in range(VERSION + 1, self.schema + 1):
            self._write(
                f"{_SCHEMA}/{number:04}.sql", f"ALTER TABLE duologue.message ADD COLUMN step_{number} bigint;\n"
            )
        readers = OLDEST_READERS | {number: number - 1 for number in range(VERSION + 1, self.schema + 1)}
        self._change(f"{_SCHEMA}.py", r"^(OLDEST_READERS: Final = ).*$", rf"\g<1>{readers}")
        self._change("bus/envelope.py", r"^(FORMAT: Final = ).*$", rf"\g<1>{format}")

    @property
    def environment(self) -> Mapping[str, str]:
        """What has a process run this release."""
        return {"PYTHONPATH": os.pathsep.join([str(self._folder), str(ROOT)])}

    def _write(self, path: str, text: str) -> None:
        (self._source / path).write_text(text, encoding="utf-8")

    def _change(self, path: str, line: str, into: str) -> None:
        text, count = re.subn(line, into, (self._source / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1, f"{line} is not in {path}"
        self._write(path, text)
