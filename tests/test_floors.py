"""Who may import whom (design, section 4), read from every file's syntax tree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

SOURCE: Final = Path(__file__).resolve().parent.parent / "src" / "duologue"
PACKAGE: Final = "duologue"


class Floor(NamedTuple):
    """What the modules of a floor may import: floors of ours, packages of others, and what of the standard library not."""

    ours: frozenset[str]
    others: frozenset[str]
    banned: frozenset[str] = frozenset()


def floor(ours: str = "", others: str = "", banned: str = "") -> Floor:
    return Floor(frozenset(ours.split()), frozenset(others.split()), frozenset(banned.split()))


# No loop, no clock, no wire and no disk: what is here can be tested as a function.
PURE: Final = "asyncio concurrent http multiprocessing sched select selectors socket ssl subprocess threading time"

FLOORS: Final = {
    "wire": floor(others="msgspec", banned=f"{PURE} logging random secrets"),
    "domain": floor(others="msgspec", banned=f"{PURE} logging sqlite3"),
    "actions": floor(ours="domain", others="msgspec", banned=f"{PURE.replace('asyncio ', '')} sqlite3"),
    "store": floor(ours="domain", others="apsw asyncpg bitarray msgspec", banned="sqlite3"),
    "bus": floor(ours="domain", others="msgspec nats"),
    "server": floor(ours="wire domain actions", others="httptools msgspec picows starlette uvicorn"),
    "settings": floor(ours="setting_texts", others="platformdirs"),
    "setting_texts": floor(),
    "logs": floor(),
    "main": floor(
        ours="wire domain actions store bus server settings logs backends",
        others="uvicorn uvloop",
    ),
    "backends": floor(ours="domain store bus settings setting_texts"),
    "migration": floor(ours="domain store setting_texts"),
    "doctor": floor(ours="domain store bus settings"),
    "cli": floor(ours="settings setting_texts main migration doctor"),
    "__init__": floor(),
    "__main__": floor(ours="cli"),
}

INNER: Final = {"server/transport": frozenset({"wire", "server"})}
"""Floors within a floor. The transports serve any Socket.IO application, so they know no chat."""


class Import(NamedTuple):
    line: int
    module: str


def imports(text: str, module: str) -> Iterator[Import]:
    """Every module that a text imports anywhere, also within functions and under TYPE_CHECKING, by its full name.

    `module` is the full name of the package that relative imports start from.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from duologue import store` and `from duologue.server import transport` import modules as well.
            yield from (Import(node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(source: Path) -> list[str]:
    """One line for each import that the floors don't allow."""
    found = []
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        name = relative.parts[0].removesuffix(".py")
        if name not in FLOORS:
            found.append(f"{relative}: {name} is on no floor")
            continue
        package = ".".join([PACKAGE, *relative.parts[:-1]])
        for line, module in imports(path.read_text(encoding="utf-8"), package):
            if why := _refused(relative, name, module):
                found.append(f"{relative}:{line}: {why}")
    return found


def _refused(relative: Path, name: str, module: str) -> str | None:
    own = FLOORS[name]
    top, *rest = module.split(".")
    if top != PACKAGE:
        if top in sys.stdlib_module_names:
            return f"{name} may not use {top}" if top in own.banned else None
        return None if top in own.others else f"{name} may not use the package {top}"
    target = rest[0] if rest and rest[0] in FLOORS else "__init__"
    for inner, allowed in INNER.items():
        within = relative.as_posix().startswith(f"{inner}/")
        if within and target not in allowed | {"__init__"}:
            return f"{inner} may not import {module}"
        if within and target == name and not module.startswith(f"{PACKAGE}.{inner.replace('/', '.')}"):
            return f"{inner} may not import {module}"
    if target in (name, "__init__") or target in own.ours:
        return None
    return f"{name} may not import {module}"


def test_every_import_is_allowed() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("wire/codec.py", "import asyncio"),
        ("wire/codec.py", "from time import monotonic"),
        ("wire/codec.py", "from duologue.domain.errors import Code"),
        ("wire/codec.py", "from ..domain import errors"),
        ("domain/model.py", "import starlette"),
        ("domain/model.py", "from duologue.actions import send"),
        ("actions/send.py", "from duologue.store.sqlite import SqliteStore"),
        ("actions/send.py", "from duologue.wire import Limits"),
        ("store/sqlite/store.py", "import sqlite3"),
        ("store/sqlite/store.py", "from duologue.bus.local import LocalBus"),
        ("store/sqlite/store.py", "from duologue.settings import Settings"),
        ("bus/local.py", "from duologue.store import committer"),
        ("server/hub.py", "from duologue import store"),
        ("server/hub.py", "def late():\n    from duologue.bus.local import LocalBus"),
        ("server/hub.py", "import duologue.main"),
        ("server/transport/polling.py", "from duologue.domain.errors import Code"),
        ("server/transport/polling.py", "from duologue.server.hub import Hub"),
        ("server/transport/polling.py", "from ..hub import Hub"),
        ("settings.py", "import msgspec"),
        ("cli.py", "from duologue.store.sqlite import SqliteStore"),
        ("cli.py", "from duologue.domain.errors import StoreUnusable"),
        ("attic/new.py", "import os"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, line: str) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f"from __future__ import annotations\n{line}\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("wire/codec.py", "from duologue.wire.limits import Limits\nimport msgspec, struct"),
        ("wire/codec.py", "from .limits import Limits"),
        ("server/transport/polling.py", "from duologue.wire import Limits\nfrom .config import TransportConfig"),
        ("server/hub.py", "from duologue.server.transport import Socket\nfrom duologue.actions import send"),
        ("main.py", "from duologue.store.sqlite import SqliteStore\nimport uvloop"),
        ("cli.py", "from duologue import __version__, main, settings"),
    ],
)
def test_what_the_floors_allow_passes(tmp_path: Path, path: str, line: str) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f"from __future__ import annotations\n{line}\n")
    assert violations(tmp_path) == []
