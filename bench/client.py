"""A Socket.IO client for loads that aren't the hot one (that is bench/load.py's): it signs in, answers heartbeats, and hands on
every other packet."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from bench.frames import masked


class Client(WSListener):
    """One socket. Whoever inherits says what to do `on_packet`, and when it is `ready`."""

    transport: WSTransport

    def __init__(self, auth: dict[str, Any]) -> None:
        self.auth = auth
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_packet(self, payload: bytes) -> None:
        """A whole Engine.IO text packet."""
        raise NotImplementedError

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.TEXT:
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b"0"):
            self.write(b"40" + json.dumps(self.auth).encode())
        elif payload == b"2":
            self.write(b"3")
        else:
            self.on_packet(payload)

    def write(self, *payloads: bytes) -> None:
        self.transport.underlying_transport.write(b"".join(map(masked, payloads)))
