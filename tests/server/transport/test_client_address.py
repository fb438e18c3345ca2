"""Whose address counts when proxies stand between."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from duologue.server.transport.handshake import client_address

PROXY, FRONT, CLIENT = "10.0.0.1", "10.0.0.2", "192.0.2.7"
INGRESS = "fd00::7"
TRUSTED = [ip_network(each) for each in (PROXY, FRONT, "FD00:0::/64")]


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
        (INGRESS, [CLIENT], CLIENT),
        (INGRESS, [f"{CLIENT}, {PROXY}, fd00::8"], CLIENT),
        ("fd00:1::7", [CLIENT], "fd00:1::7"),
        ("", [CLIENT], ""),
    ],
)
def test_the_last_address_that_is_no_trusted_proxys(peer: str, forwarded: list[str], address: str) -> None:
    assert client_address(peer, forwarded, TRUSTED) == address


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address(PROXY, [CLIENT], []) == PROXY
