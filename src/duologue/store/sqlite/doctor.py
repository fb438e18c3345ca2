"""Whether a data folder can keep the promises that are made on it. Only looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import apsw

from duologue.domain.errors import StoreUnusable
from duologue.domain.findings import Finding, Level
from duologue.store.sqlite import schema
from duologue.store.sqlite.connection import open_to_look
from duologue.store.sqlite.files import DATABASE, Folder

LITTLE_SPACE: Final = 1_000_000_000
"""Bytes."""

_SHARED_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph", "afs", "lustre"}
)
"""On which SQLite's log, shared memory and locks don't work, or not reliably (sqlite.org, "Write-Ahead Logging")."""


def examine(path: Path) -> list[Finding]:
    if not path.exists():
        return [Finding(Level.OK, "data", f"{path} doesn't exist yet: the first start makes it")]
    if not os.access(path, os.W_OK | os.X_OK):
        return [Finding(Level.PROBLEM, "data", f"{path} can't be written by this user")]
    return [_database(path), _file_system(path), _space(path)]


def _database(path: Path) -> Finding:
    if not (path / DATABASE).exists():
        return Finding(Level.OK, "data", f"{path} has no database yet: the first start makes it")
    try:
        folder = Folder(path)
    except StoreUnusable as refused:
        # In use, most likely: then the server itself has looked.
        return Finding(Level.OK, "data", f"{refused}: not looked into")
    try:
        connection = open_to_look(folder.database, 2.0)
        try:
            version = schema.check(connection)
            verdict = connection.execute("PRAGMA quick_check(1)").get if version else "ok"
        finally:
            connection.close()
    except (StoreUnusable, apsw.Error) as error:
        return Finding(Level.PROBLEM, "data", str(error))
    finally:
        folder.release()
    if verdict != "ok":
        return Finding(Level.PROBLEM, "data", f"{path} is damaged ({verdict}): restore a backup")
    return Finding(Level.OK, "data", f"{path}, schema version {version}, no damage found")


def _file_system(path: Path) -> Finding:
    kind = _kind_of(path)
    if kind in _SHARED_FILE_SYSTEMS:
        return Finding(Level.PROBLEM, "file system", f"{kind}: SQLite needs a local one; move the folder")
    return Finding(Level.OK, "file system", kind or "unknown")


def _kind_of(path: Path) -> str:
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    place = str(path.resolve())
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _space(path: Path) -> Finding:
    free = shutil.disk_usage(path).free
    words = f"{free / 1e9:.1f} GB free"
    if free < LITTLE_SPACE:
        return Finding(Level.WARNING, "space", f"{words}: when it's full nothing can be sent until there is some again")
    return Finding(Level.OK, "space", words)
