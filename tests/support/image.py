"""The files of a store as they lie at one instant, and how to put them back: a crash of the process, without one."""

from __future__ import annotations

from pathlib import Path

Image = dict[str, bytes]

_LOCK = "lock"


def take(folder: Path) -> Image:
    """What SIGKILL at this instant would leave, though the store may be writing.

    The log may grow while it is read; its torn end is one that a crash leaves as well. But with a database file that a
    checkpoint wrote to meanwhile it would be no state that ever was, so that is read again.
    """
    while True:
        image = {}
        # The database before its log: what a checkpoint moves is in the file first.
        for path in sorted(folder.iterdir()):
            if path.name not in (_LOCK, "incarnation.new"):
                image[path.name] = path.read_bytes()
        if (folder / "messages.db").read_bytes() == image["messages.db"]:
            return image


def put_back(folder: Path, image: Image) -> None:
    """Make the folder's files what they were, in place: to the store they're the files that it left."""
    for path in folder.iterdir():
        if path.name not in image and path.name != _LOCK:
            path.unlink()
    for name, content in image.items():
        (folder / name).touch(0o600)
        (folder / name).write_bytes(content)
