"""Whether NATS can be reached, and what it's like."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import nats

from duologue.bus.nats_link import CONNECT_TIMEOUT
from duologue.domain.findings import Finding, Level

TIMEOUT: Final = 5.0
"""Seconds for everything that is asked of one server."""

SMALLEST_PAYLOAD: Final = 262_144
"""Bytes that the longest message with all its escapes may need by default."""


async def examine(servers: list[str]) -> list[Finding]:
    return [await _examine(server, place) for place, server in enumerate(servers, 1)]


async def _examine(server: str, place: int) -> Finding:
    subject = f"bus {place}"
    try:
        async with asyncio.timeout(TIMEOUT):
            client = await nats.connect(server, allow_reconnect=False, connect_timeout=CONNECT_TIMEOUT, error_cb=_quiet)
            try:
                began = time.perf_counter()
                await client.flush()
                took = time.perf_counter() - began
                version, largest = client.connected_server_version, client.max_payload
            finally:
                await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        return Finding(Level.PROBLEM, subject, f"can't be reached: {error or type(error).__name__}")
    if largest < SMALLEST_PAYLOAD:
        return Finding(
            Level.WARNING,
            subject,
            f"max_payload is {largest:,}: long messages arrive late; raise it to {SMALLEST_PAYLOAD:,}",
        )
    return Finding(
        Level.OK, subject, f"NATS {version.major}.{version.minor}.{version.patch}, {took * 1000:.1f} ms away"
    )


async def _quiet(_: Exception) -> None:
    """What goes wrong is in the exception."""
