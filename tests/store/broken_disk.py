"""Disks that lose power, fill up or fail, as SQLite VFSs over the real one."""

from __future__ import annotations

import shutil
import threading
import uuid
from pathlib import Path

import apsw


class BrokenDisk(apsw.VFS):
    """Does what the real disk does until `fail` names an operation (`write`, `sync`), which then raises `error`.

    It also remembers, for each file, how to undo what was written since the file's last sync.
    """

    def __init__(self) -> None:
        self.name = f"broken-{uuid.uuid4().hex}"
        self.fail: set[str] = set()
        self.error: int = apsw.SQLITE_IOERR_FSYNC
        self.syncs = 0
        self.lock = threading.Lock()
        self.undo: dict[str, list[tuple[int, bytes, int]]] = {}
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's names
        return _File(self, name, flags)

    def check(self, operation: str) -> None:
        if operation in self.fail:
            error = apsw.FullError if self.error == apsw.SQLITE_FULL else apsw.IOError
            raised = error("this disk is broken on purpose")
            raised.extendedresult = self.error  # type: ignore[attr-defined]
            raise raised

    def forgets(self, name: str) -> bool:
        """Whether a sync of that file fails as on Linux: what was written since the last one is lost, and taken for clean."""
        return False

    def lose_power(self, folder: Path, survivor: Path) -> None:
        """Copy to `survivor` what of `folder` a loss of power at this instant would have left."""
        with self.lock:
            self.copy(folder, survivor)

    def copy(self, folder: Path, survivor: Path, *, power_lost: bool = True) -> None:
        """As `lose_power`, or what a killed process leaves. The caller holds the lock, or is asked in `check`."""
        survivor.mkdir()
        for file in folder.iterdir():
            if file.name.endswith("-shm"):
                continue
            shutil.copy(file, survivor / file.name)
            with open(survivor / file.name, "r+b") as copy:
                for offset, before, size in reversed(self.undo.get(str(file), []) if power_lost else []):
                    copy.seek(offset)
                    copy.write(before)
                    copy.truncate(size)


class FailsAfter(BrokenDisk):
    """Works for so many operations, and never again."""

    def __init__(self, operations: int) -> None:
        super().__init__()
        self.left = operations
        self.error = apsw.SQLITE_IOERR_WRITE

    def check(self, operation: str) -> None:
        self.left -= 1
        if self.left <= 0:
            self.fail = {"write", "sync"}
        super().check(operation)


class _File(apsw.VFSFile):
    def __init__(self, disk: BrokenDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's names
        with self._disk.lock:
            self._disk.check("write")
            size = self.xFileSize()
            before = super().xRead(min(len(data), size - offset), offset) if offset < size else b""
            self._disk.undo.setdefault(self._name, []).append((offset, before, size))
            super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - apsw's names
        with self._disk.lock:
            now = self.xFileSize()
            before = super().xRead(now - size, size) if size < now else b""
            self._disk.undo.setdefault(self._name, []).append((size, before, now))
            super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's names
        with self._disk.lock:
            self._disk.check("sync")
            if self._disk.forgets(self._name):
                self._forget()
            super().xSync(flags)
            self._disk.syncs += 1
            self._disk.undo.pop(self._name, None)

    def _forget(self) -> None:
        for offset, before, size in reversed(self._disk.undo.pop(self._name, [])):
            if before:
                super().xWrite(before, offset)
            super().xTruncate(size)
        failed = apsw.IOError("what was written is lost")
        failed.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
        raise failed
