"""What several attacks share: raw websockets to a chat server."""

from __future__ import annotations

import json

from tests.conformance.raw_websocket import TEXT, RawWebsocket, encode
from tests.support.process import ServerProcess


async def open_websocket(server: ServerProcess) -> RawWebsocket:
    """A websocket whose Engine.IO handshake is done."""
    websocket = await RawWebsocket.open(server.url)
    opening = await websocket.message()
    assert opening is not None
    assert opening.startswith(b"0")
    return websocket


async def sign_in(server: ServerProcess, name: str = "mallory") -> RawWebsocket:
    """A guest in the sync form, past their first page."""
    websocket = await open_websocket(server)
    websocket.write(encode(TEXT, b"40" + json.dumps({"username": name, "sync": {"since": None}}).encode()))
    try:
        for expected in (b"40", b'42["session"', b'42["sync"'):
            packet = await websocket.message()
            assert packet is not None
            assert packet.startswith(expected), packet
    except BaseException:
        await websocket.close()
        raise
    return websocket
