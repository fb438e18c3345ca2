"""`duologue doctor`: looks at what the settings name and says what is well, what is at risk, and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from duologue.domain.findings import Finding, Level
from duologue.settings import Settings
from duologue.store.sqlite.doctor import examine as examine_folder

_INSTALL = "is not installed: pip install 'duologue[cluster]'"


def run(settings: Settings) -> int:
    """Print what was found. Returns 1 if anything is a problem, else 0."""
    found = asyncio.run(_examine(settings))
    for level, subject, words in found:
        print(f"{level.upper() if level is not Level.OK else level:8} {subject:12} {words}")
    counts = {level: sum(each.level is level for each in found) for level in Level}
    print(f"\n{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings")
    return 1 if counts[Level.PROBLEM] else 0


async def _examine(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    if not settings.database:
        found += examine_folder(Path(settings.data))
    else:
        try:
            from duologue.store.postgres.doctor import examine as examine_database
        except ModuleNotFoundError as error:
            found.append(Finding(Level.PROBLEM, "database", f"{error.name} {_INSTALL}"))
        else:
            found += await examine_database(settings.database)
    if settings.bus:
        try:
            from duologue.bus.doctor import examine as examine_bus
        except ModuleNotFoundError as error:
            found.append(Finding(Level.PROBLEM, "bus", f"{error.name} {_INSTALL}"))
        else:
            found += await examine_bus(settings.bus.split(","))
    elif settings.database:
        words = "none: this node has to be the only one; others would hear of its messages late"
        found.append(Finding(Level.WARNING, "bus", words))
    return found
