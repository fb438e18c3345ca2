"""Engine.IO v4: opening a session, and what is refused (protocol document, "Handshake"; error table of the reference)."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.conformance.peer import MAX_PAYLOAD, PING_INTERVAL, PING_TIMEOUT, Peer

pytestmark = pytest.mark.asyncio

OPEN_KEYS: Final = {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}

UNKNOWN_TRANSPORT: Final = (0, "Transport unknown")
UNKNOWN_SESSION: Final = (1, "Session ID unknown")
BAD_METHOD: Final = (2, "Bad handshake method")
BAD_REQUEST: Final = (3, "Bad request")
UNSUPPORTED_VERSION: Final = (5, "Unsupported protocol version")

WRONG_QUERIES: Final = {
    "no version": ("transport={}", UNSUPPORTED_VERSION),
    "version no number": ("EIO=abc&transport={}", UNSUPPORTED_VERSION),
    "version 3": ("EIO=3&transport={}", UNSUPPORTED_VERSION),
    "version 5": ("EIO=5&transport={}", UNSUPPORTED_VERSION),
    "unknown session": ("EIO=4&transport={}&sid=AAAAAAAAAAAAAAAAAAAA", UNKNOWN_SESSION),
    "session named as a property": ("EIO=4&transport={}&sid=__proto__", UNKNOWN_SESSION),
    "session with a path": ("EIO=4&transport={}&sid=..%2F..%2Fetc", UNKNOWN_SESSION),
}

WRONG_TRANSPORTS: Final = {
    "no transport": "EIO=4",
    "unknown transport": "EIO=4&transport=abc",
    "empty transport": "EIO=4&transport=",
    "transport named as a property": "EIO=4&transport=__proto__",
    "transport named as a method": "EIO=4&transport=constructor",
    "transport in capitals": "EIO=4&transport=POLLING",
}


def assert_open(packet: str, upgrades: list[str]) -> None:
    assert packet[0] == "0"
    value: dict[str, Any] = json.loads(packet[1:])
    assert set(value) == OPEN_KEYS
    assert isinstance(value["sid"], str)
    assert len(value["sid"]) >= 16, "a session id is a secret, so it has to be long"
    assert value["upgrades"] == upgrades
    assert value["pingInterval"] == PING_INTERVAL * 1000
    assert value["pingTimeout"] == PING_TIMEOUT * 1000
    assert value["maxPayload"] == MAX_PAYLOAD


async def test_polling_opens_a_session(peer: Peer) -> None:
    answer = await peer.request(query="EIO=4&transport=polling")
    assert answer.status == 200
    assert answer.headers["Content-Type"].lower().startswith("text/plain")
    assert_open(answer.text, ["websocket"])


async def test_websocket_opens_a_session(peer: Peer) -> None:
    websocket = await peer.websocket()
    assert_open(await websocket.text(), [])


async def test_every_session_has_its_own_id(peer: Peer) -> None:
    sids = [(await peer.open_polling()).sid for _ in range(10)]
    assert len(set(sids)) == 10


async def test_a_polling_handshake_may_carry_a_cache_buster(peer: Peer) -> None:
    answer = await peer.request(query="EIO=4&transport=polling&t=P8d2kQx&b64=1")
    assert_open(answer.text, ["websocket"])


@pytest.mark.parametrize("query", WRONG_TRANSPORTS.values(), ids=WRONG_TRANSPORTS)
async def test_polling_refuses_a_wrong_transport(peer: Peer, query: str) -> None:
    answer = await peer.request(query=query)
    assert answer.status == 400
    code, message = UNKNOWN_TRANSPORT
    assert answer.json() == {"code": code, "message": message}


@pytest.mark.parametrize("query", WRONG_TRANSPORTS.values(), ids=WRONG_TRANSPORTS)
async def test_websocket_refuses_a_wrong_transport(peer: Peer, query: str) -> None:
    assert await peer.refused_websocket(query) in (400, None)


@pytest.mark.parametrize(("query", "error"), WRONG_QUERIES.values(), ids=WRONG_QUERIES)
async def test_polling_refuses_a_wrong_query(peer: Peer, query: str, error: tuple[int, str]) -> None:
    answer = await peer.request(query=query.format("polling"))
    assert answer.status == 400
    assert answer.json() == {"code": error[0], "message": error[1]}


async def test_a_session_id_of_10_kb_is_refused(peer: Peer) -> None:
    answer = await peer.request(query="EIO=4&transport=polling&sid=" + "A" * 10_000)
    assert answer.status == 400
    assert answer.json()["code"] in (UNKNOWN_SESSION[0], BAD_REQUEST[0])


@pytest.mark.parametrize("query", [query for query, _ in WRONG_QUERIES.values()], ids=WRONG_QUERIES)
async def test_websocket_refuses_a_wrong_query(peer: Peer, query: str) -> None:
    assert await peer.refused_websocket(query.format("websocket")) in (400, None)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_session_is_opened_by_get_only(peer: Peer, method: str) -> None:
    answer = await peer.request(method, "EIO=4&transport=polling")
    assert answer.status == 400
    assert answer.json() == {"code": BAD_METHOD[0], "message": BAD_METHOD[1]}


async def test_a_websocket_handshake_needs_the_upgrade_headers(peer: Peer) -> None:
    answer = await peer.request(query="EIO=4&transport=websocket")
    assert answer.status == 400
    assert answer.json() == {"code": BAD_REQUEST[0], "message": BAD_REQUEST[1]}


async def test_pages_of_other_origins_may_read_the_answers(peer: Peer) -> None:
    """The echo server allows every origin; a page must be able to read errors as well."""
    for query, status in (("EIO=4&transport=polling", 200), ("EIO=4&transport=abc", 400)):
        answer = await peer.request(query=query, headers={"Origin": "http://elsewhere.example"})
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "http://elsewhere.example")


async def test_preflight_is_answered(peer: Peer) -> None:
    headers = {
        "Origin": "http://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = await peer.request("OPTIONS", "EIO=4&transport=polling", headers=headers)
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "http://elsewhere.example")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers.get("Access-Control-Allow-Headers", "").lower() in ("*", "content-type")


async def test_a_websocket_from_another_origin_is_allowed(peer: Peer) -> None:
    websocket = await peer.websocket(headers={"Origin": "http://elsewhere.example"})
    assert_open(await websocket.text(), [])
