"""The data folder: who may use it, what is in it, and whether it is the one that this server left behind.

    messages.db         the database (with its -wal and -shm while it is open)
    lock                held while a server uses the folder; has its process id
    incarnation         the twin of the database's own mark, see `Mark`

Permissions: the folder is made 0700 and every file 0600, whatever the umask.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

import msgspec

from duologue.domain.errors import StoreUnusable

DATABASE = "messages.db"
LOCK = "lock"
MARK = "incarnation"

_log = logging.getLogger(__name__)


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file `incarnation` says of the database beside it.

    Every start draws a new `incarnation` and writes it into the database first, then here, with the inode number of the
    database file. A clean stop adds the change time (ctime, ns) of the closed file. A database that was put back from
    elsewhere has another incarnation, or the same with another change time, which no copying program can set.
    """

    incarnation: str
    inode: int
    changed: int | None

    @property
    def clean(self) -> bool:
        return self.changed is not None


class Folder:
    """A data folder that this process holds. Raises `StoreUnusable` if it can't be had; then nothing was touched.

    Until `claim` nothing in it is changed, so that a folder whose content is refused stays as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / DATABASE
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnusable(f"the data folder {path} can't be made: {error.strerror}") from error
        self._claimed = False
        self._lock, self._made_lock = self._take_lock()
        _warn_if_open_to_others(path)
        _warn_if_open_to_others(self.database)

    def make_database_file(self) -> bool:
        """Make the empty database file with its permissions before SQLite opens it. True if it wasn't there."""
        try:
            os.close(os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreUnusable(f"the data folder {self.path} can't be written: {error.strerror}") from error
        self._sync()
        return True

    def read_mark(self) -> Mark | None:
        """The mark, or None if there is none or it can't be understood."""
        try:
            return msgspec.json.decode((self.path / MARK).read_bytes(), type=Mark)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("%s can't be read (%s): treated as a folder of unknown origin", self.path / MARK, error)
            return None

    def is_left_as(self, mark: Mark | None, incarnation: str) -> bool:
        """Whether the database file is the very one that the server which wrote `mark` left here."""
        if mark is None or mark.incarnation != incarnation:
            return False
        now = self.database.stat()
        return mark.inode == now.st_ino and mark.changed in (None, now.st_ctime_ns)

    def write_mark(self, incarnation: str, *, clean: bool) -> None:
        """Replace the mark, durably. `clean` only after the database was closed."""
        now = self.database.stat()
        mark = Mark(incarnation, now.st_ino, now.st_ctime_ns if clean else None)
        new = self.path / (MARK + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(mark))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / MARK)
        self._sync()

    def claim(self) -> None:
        """Write down who holds the folder, for whoever is refused meanwhile."""
        self._claimed = True
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others have the folder. One that was never claimed is left as it was found."""
        if self._made_lock and not self._claimed:
            (self.path / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def _take_lock(self) -> tuple[int, bool]:
        """The descriptor of the locked file, and whether the file was made for it."""
        path = self.path / LOCK
        while True:
            made = not path.exists()
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StoreUnusable(f"the data folder {self.path} can't be written: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise StoreUnusable(f"the data folder {self.path} is in use by process {holder}") from None
                raise StoreUnusable(f"the data folder {self.path} can't be locked: {error.strerror}") from error
            if os.fstat(descriptor).st_nlink:
                return descriptor, made
            # Whoever made the file left the folder as it was, and so removed it: a third may lock one of the same name.
            os.close(descriptor)

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _warn_if_open_to_others(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("%s can be read by others (mode %o): private messages are in it", path, stat.S_IMODE(mode))
