"""Has SQLite sync a database file to disk when SQLite itself sees no need to.

By the methods of the connection's own file (https://www.sqlite.org/c3ref/io_methods.html), for a descriptor of ours is no
choice: to close it would release all locks that this process has on the file (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import ctypes
from typing import Final

import apsw

_SYNC: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class _Methods(ctypes.Structure):
    """The beginning of `sqlite3_io_methods`."""

    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("xClose", ctypes.c_void_p),
        ("xRead", ctypes.c_void_p),
        ("xWrite", ctypes.c_void_p),
        ("xTruncate", ctypes.c_void_p),
        ("xSync", _SYNC),
    )


class _File(ctypes.Structure):
    """`sqlite3_file`."""

    _fields_ = (("pMethods", ctypes.POINTER(_Methods)),)


def sync_database(connection: apsw.Connection) -> None:
    """Returns when what this process has written to the main database file is on disk. The interpreter lock is free meanwhile.
    Raises `apsw.IOError`."""
    pointer = ctypes.c_void_p()
    connection.file_control("main", apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(pointer))
    file = ctypes.cast(pointer, ctypes.POINTER(_File)).contents
    result = file.pMethods.contents.xSync(pointer, apsw.SQLITE_SYNC_NORMAL)
    if result != apsw.SQLITE_OK:
        raise apsw.IOError(f"the database file can't be synced (SQLite's error {result})")
