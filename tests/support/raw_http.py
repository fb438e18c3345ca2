"""HTTP written byte by byte, for requests that no library would send."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

PATIENCE: Final = 10.0

HOST: Final = b"Host: 127.0.0.1\r\n"


@dataclass(frozen=True)
class Response:
    """`headers` have their names in lower case; of a repeated one the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawHttp:
    """One connection. `async with` opens and aborts it."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    @property
    def reader(self) -> asyncio.StreamReader:
        assert self._reader is not None
        return self._reader

    @property
    def writer(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    def write(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def response(self, *, head: bool = False) -> Response:
        """The next response; to a HEAD request it has no body."""
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            size = 0 if head else int(headers.get("content-length", "0"))
            return Response(int(lines[0].split(" ")[1]), headers, await self.reader.readexactly(size))

    async def ended(self, patience: float = PATIENCE) -> bytes:
        """Whatever comes until the server closes or resets the connection."""
        received = b""
        async with asyncio.timeout(patience):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65_536):
                    received += data
        return received


async def exchange(url: str, *request: bytes, head: bool = False) -> Response:
    """One request on a connection of its own."""
    async with RawHttp(url) as http:
        http.write(*request)
        return await http.response(head=head)
