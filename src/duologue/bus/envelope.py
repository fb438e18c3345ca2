"""What nodes put around what they say to each other over NATS: first a byte that tells the format of the rest, so that two
releases that run side by side during an upgrade know what they can't read of each other.

What has another format is a lost hint and nothing else: the store has what it was about.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

FORMAT: Final = 1
"""Of the head below, and of the data of notices and topics (`server.shares`, `server.reach`, `server.elsewhere`). To be raised
with every change that a node of the release before would take for something else (docs/decisions/bus-nats.md)."""

HEED_PAUSE: Final = 1.0
"""Seconds, at least, between two comparisons with the store for the sake of what has another format."""

TELL_PAUSE: Final = 60.0
"""Seconds, at least, between two lines of the log about it."""

_HEAD = struct.Struct("!BQBB")
"""Format, version, flags, length of the socket's id that is excluded. The id and then the packet follow."""

_MARK: Final = bytes((FORMAT,))

_ANNOUNCEMENT: Final = 1

_NOTICE: Final = 2
"""Not for the user's sockets but for their nodes."""

_log = logging.getLogger(__name__)


class Malformed(Exception):
    """No node of any release can have written this."""


class Foreign(Exception):
    """This has another format; `args` is its number."""


class Publication(NamedTuple):
    """The arguments of `Bus.publish` without the user. With `is_notice` set `packet` is the data of `Bus.notify`."""

    version: int
    packet: bytes
    exclude: str
    announcement: bool
    is_notice: bool


def publication(version: int, packet: bytes, exclude: str, announcement: bool) -> bytes:
    key = exclude.encode()
    return _HEAD.pack(FORMAT, version, _ANNOUNCEMENT if announcement else 0, len(key)) + key + packet


def notice(data: bytes) -> bytes:
    return _HEAD.pack(FORMAT, 0, _NOTICE, 0) + data


def topic(data: bytes) -> bytes:
    return _MARK + data


def read_publication(data: bytes) -> Publication:
    """What `publication` or `notice` made. Raises `Foreign` and `Malformed`."""
    _check(data)
    if len(data) < _HEAD.size:
        raise Malformed
    _, version, flags, length = _HEAD.unpack_from(data)
    start = _HEAD.size + length
    exclude = data[_HEAD.size : start]
    if flags > _NOTICE or len(exclude) < length or not exclude.isascii():
        raise Malformed
    return Publication(version, data[start:], exclude.decode(), flags == _ANNOUNCEMENT, flags == _NOTICE)


def read_topic(data: bytes) -> bytes:
    """What `topic` was given. Raises `Foreign` and `Malformed`."""
    _check(data)
    return data[1:]


def _check(data: bytes) -> None:
    if not data:
        raise Malformed
    if data[0] != FORMAT:
        raise Foreign(data[0])


class Foreigners:
    """What has another format: counted, told to the log now and then, and made up for by `heed`."""

    def __init__(self, heed: Callable[[], None]) -> None:
        """`heed` has everything compared with the store."""
        self.count = 0
        self._heed = heed
        self._heard = asyncio.Event()
        self._format = FORMAT
        """Of the latest."""
        self._told_at = -math.inf
        self._told_count = 0

    def note(self, foreign: Foreign) -> None:
        (self._format,) = foreign.args
        self.count += 1
        self._heard.set()

    async def run(self) -> None:
        """Heed what was noted, at once and then at most every `HEED_PAUSE` seconds, so that the last of them isn't left out."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            self._tell()
            self._heed()
            await asyncio.sleep(HEED_PAUSE)

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at < TELL_PAUSE:
            return
        _log.warning(
            "%d messages on the bus had another format than %d (the latest %d): nodes of another release are running, and the "
            "store is read for what they say",
            self.count - self._told_count,
            FORMAT,
            self._format,
        )
        self._told_at, self._told_count = now, self.count
