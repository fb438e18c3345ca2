"""Rows 11, 12 and 36: a session's token is made by the server, known to its owner, and found nowhere else."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from duologue.domain.identity import token_hash
from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient, Refused
from tests.support.raw_http import HOST, exchange

pytestmark = pytest.mark.asyncio

UNKNOWN = "ab" * 32
"""A token as the server makes them, but not one of its own."""


class Proposing(ChatClient):
    """Gives a name as well, so that a token which the server doesn't know makes a new guest."""

    def _auth(self) -> dict[str, Any]:
        return {"username": self.username, **super()._auth()}


async def kept(start_server: StartServer, folder: Path) -> dict[str, bytes]:
    """All that is kept of people: the folder's files, or the rows of the database's tables as text, bytes in hexadecimal."""
    if not start_server.one_node:
        return {path.name: path.read_bytes() for path in folder.iterdir()}
    connection = await asyncpg.connect(start_server.database())
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'duologue'")
        rows = {name: await connection.fetch(f"SELECT t::text FROM duologue.{name} t") for (name,) in names}
    finally:
        connection.terminate()
    return {name: "\n".join(row for (row,) in found).encode() for name, found in rows.items()}


@on_both
@pytest.mark.parametrize("format", ["text", "json"])
async def test_a_token_is_in_no_log_and_nothing_that_is_kept(
    start_server: StartServer, tmp_path: Path, format: str
) -> None:
    server = start_server("--log-level", "debug", "--log-format", format)
    async with (
        ChatClient(server.url, "alice") as alice,
        ChatClient(server.url, "bob", guide=True, transport="polling") as bob,
    ):
        assert alice.session_id
        assert bob.session_id
        tokens = {alice.session_id, bob.session_id, UNKNOWN}
        for token in sorted(tokens):
            async with Proposing(server.url, "again", session_id=token) as again:
                await again.send(alice.user_id, "hello")
                for argument in ({"with": token}, {"sessionID": token}, [token], token):
                    with pytest.raises(Refused):
                        await again.request("history", argument)
            with pytest.raises(Refused, match="invalid username"):
                await ChatClient(server.url, token, session_id=f"{token} ").connect()
        while_it_runs = await kept(start_server, tmp_path / "data")
    assert server.terminate() == 0
    at_rest = await kept(start_server, tmp_path / "data")
    log = "\n".join(server.log())
    assert "refused" in log, "nothing was logged, so this test shows nothing"
    for token in tokens:
        assert token not in log
        for form in (token.encode(), bytes.fromhex(token)):
            for places in (while_it_runs, at_rest):
                assert not [place for place, content in places.items() if form in content]
    known_by = token_hash(alice.session_id)
    forms = (known_by, known_by.hex().encode())
    assert any(form in content for content in at_rest.values() for form in forms), (
        "it's looked for where nothing is kept"
    )


async def test_the_files_are_closed_to_others(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    async with ChatClient(server.url, "alice") as alice:
        await alice.send(alice.user_id, "hello")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@on_both
async def test_only_the_whole_token_of_a_session_is_its_user(start_server: StartServer) -> None:
    server = start_server()
    async with ChatClient(server.url, "alice") as alice:
        token = alice.session_id
        assert token
        changed = token[:-1] + ("0" if token[-1] != "0" else "1")
        hashed = (UNKNOWN, alice.user_id, alice.user_id * 4, "0" * 64, "%" * 64)
        for wrong in (token[:-1], token[:32], token.upper() + " ", f" {token}", f"{token}0", changed, *hashed):
            async with Proposing(server.url, "mallory", session_id=wrong) as mallory:
                assert mallory.user_id != alice.user_id
                assert mallory.session_id not in (wrong, token), "a token that the client chose was adopted"
        async with ChatClient(server.url, "mallory", session_id=token) as rightful:
            assert rightful.user_id == alice.user_id


@on_both
async def test_a_token_in_an_address_signs_nobody_in(start_server: StartServer) -> None:
    """Addresses end up in logs of proxies and in histories, so a token there must be worth nothing."""
    server = start_server("--log-level", "debug")
    async with ChatClient(server.url, "alice") as alice:
        token = (alice.session_id or "").encode()
        assert token
        for name in (b"sessionID", b"token", b"auth", b"sid"):
            query = b"GET /socket.io/?EIO=4&transport=polling&" + name + b"=" + token
            answer = await exchange(server.url, query + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert token not in answer.body
            assert alice.user_id.encode() not in answer.body
            assert "set-cookie" not in answer.headers
            assert answer.status == (400 if name == b"sid" else 200)
    assert token.decode() not in "\n".join(server.log())


async def test_a_world_readable_file_is_reported(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    assert server.terminate() == 0
    (tmp_path / "data" / "messages.db").chmod(0o644)
    server.start()
    server.wait_for_log("can be read by others")
