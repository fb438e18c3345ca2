"""A name server for tests: it knows a few names, and says of all others that they don't exist."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, cast

HOST: Final = "127.0.0.53"
"""An address of this machine like any other of 127.0.0.0/8."""

_IPV4: Final = 1
_NO_SUCH_NAME: Final = 3
_ANSWER: Final = 0x8180
"""The flags of an answer of a server that would ask others."""


class NameServer(asyncio.DatagramProtocol):
    """`addresses` has the IPv4 addresses of each name, without the dot at its end."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self._addresses = addresses
        self._transport: asyncio.DatagramTransport | None = None
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        assert self._transport is not None, "not started"
        return f"{HOST}:{self._transport.get_extra_info('sockname')[1]}"

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(HOST, 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """RFC 1035: a header of 12 bytes, then the question: labels, each after its length, the type and the class."""
        labels, place = [], 12
        while length := data[place]:
            labels.append(data[place + 1 : place + 1 + length].decode())
            place += 1 + length
        question = data[12 : place + 5]
        (kind,) = struct.unpack_from(">H", data, place + 1)
        name = ".".join(labels)
        self.asked.append(name)
        known = self._addresses.get(name)
        found = list(known or ()) if kind == _IPV4 else []
        flags = _ANSWER | (0 if known is not None else _NO_SUCH_NAME)
        # Each record points back to the name in the question; it may be kept for a second.
        records = [struct.pack(">HHHIH", 0xC00C, _IPV4, 1, 1, 4) + socket.inet_aton(each) for each in found]
        answer = data[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)
        assert self._transport is not None
        self._transport.sendto(answer, addr)
