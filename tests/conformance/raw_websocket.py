"""A websocket written byte by byte (RFC 6455 section 5), for frames that no library would send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

PATIENCE: Final = 5.0

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

MASK: Final = b"\x12\x34\x56\x78"


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    reserved: int = 0

    @property
    def close_code(self) -> int | None:
        return int.from_bytes(self.payload[:2], "big") if self.opcode == CLOSE and self.payload else None


def encode(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A client's frame; `reserved` are the bits RSV1 to RSV3 as a number (0..7)."""
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask_bit | len(payload)])
    elif len(payload) < 0x10000:
        head += bytes([mask_bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", len(payload))
    if not masked:
        return head + payload
    # As one number each: byte by byte a megabyte takes so long that its writer misses a heartbeat.
    mask = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    return head + MASK + (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(len(payload))


class RawWebsocket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, headers: dict[str, str] | None = None) -> Self:
        """Connect to the Socket.IO path; the handshake has to succeed."""
        websocket, status = await cls.handshake(url, headers)
        assert status == 101, status
        return websocket

    @classmethod
    async def handshake(cls, url: str, headers: dict[str, str] | None = None) -> tuple[Self, int]:
        """Send the opening handshake with `headers` over the usual ones (an empty value leaves one out)."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        lines = {
            "Host": address.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **(headers or {}),
        }
        request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
        request += "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        writer.write(request.encode() + b"\r\n")
        response = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        return cls(reader, writer), int(response.split(b" ", 2)[1])

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)

    async def write_singly(self, data: bytes) -> None:
        """Every byte in a segment of its own, as far as the system lets us."""
        for byte in data:
            self._writer.write(bytes([byte]))
            await self._writer.drain()
            await asyncio.sleep(0)

    async def chunk(self) -> bytes:
        """What one read brings: one frame, several, or a part of one."""
        return await asyncio.wait_for(self._reader.read(65536), PATIENCE)

    async def frame(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        try:
            async with asyncio.timeout(PATIENCE):
                first, second = await self._reader.readexactly(2)
                assert not second & 0x80, "a server must not mask (RFC 6455 section 5.1)"
                size = second & 0x7F
                if size == 126:
                    size = int.from_bytes(await self._reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self._reader.readexactly(8), "big")
                payload = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7)

    async def message(self) -> bytes | None:
        """The next data frame that isn't an Engine.IO heartbeat (those are answered), None at the end."""
        async with asyncio.timeout(PATIENCE):
            while (frame := await self.frame()) is not None:
                if frame.opcode in (TEXT, BINARY) and frame.payload != b"2":
                    return frame.payload
                if frame.payload == b"2":
                    self.write(encode(TEXT, b"3"))
        return None

    async def ended(self) -> Frame | None:
        """Wait for the end of the connection; the close frame that came before it, if one did."""
        close: Frame | None = None
        async with asyncio.timeout(PATIENCE):
            while (frame := await self.frame()) is not None:
                assert close is None, f"{frame} after a close frame"
                if frame.opcode == CLOSE:
                    close = frame
                    # The closing handshake: the side that began closes the connection when it has the answer.
                    self.write(encode(CLOSE, frame.payload[:2]))
                else:
                    assert frame.payload == b"2" or frame.opcode == PONG, (
                        f"the connection should have ended, not sent {frame}"
                    )
        return close

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
