"""Whose address counts when proxies stand between."""

from __future__ import annotations

import pytest

from duologue.server.transport.handshake import client_address

PROXY, FRONT, CLIENT = "10.0.0.1", "10.0.0.2", "192.0.2.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (CLIENT, [], CLIENT),
        (CLIENT, ["203.0.113.1"], CLIENT),
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"203.0.113.1, {CLIENT}"], CLIENT),
        (PROXY, ["203.0.113.1", CLIENT], CLIENT),
        (PROXY, [f"203.0.113.1, {CLIENT}, {FRONT}"], CLIENT),
        (PROXY, [f"{CLIENT}, unknown"], PROXY),
        (PROXY, [f"unknown, {FRONT}"], FRONT),
        (PROXY, [""], PROXY),
        (PROXY, ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_the_last_address_that_is_no_trusted_proxys(peer: str, forwarded: list[str], address: str) -> None:
    assert client_address(peer, forwarded, (PROXY, FRONT)) == address
