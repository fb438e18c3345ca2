"""Which pages may connect (attacks.md row 18), and that a name that merely resolves to us is not ours (DNS rebinding)."""

from __future__ import annotations

import pytest

from duologue.server.transport.handshake import OriginPolicy


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "localhost:3000", True),  # not a browser
        ("http://localhost:3000", "localhost:3000", True),
        ("http://127.0.0.1:3000", "127.0.0.1:3000", True),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://evil.example:3000", "localhost:3000", False),
        ("http://evil.example:3000", "evil.example:3000", False),  # its name was made to resolve to us
        ("http://localhost.evil.example:3000", "localhost.evil.example:3000", False),
        ("https://chat.example", "chat.example", True),  # named by the operator, who has a proxy there
        ("https://chat.example.evil.example", "chat.example", False),
        ("null", "localhost:3000", False),
        ("http://localhost:3000", None, False),
    ],
)
def test_with_own_hosts(origin: str | None, host: str | None, allowed: bool) -> None:
    policy = OriginPolicy(["https://chat.example"], ["localhost", "127.0.0.1", "::1"])
    assert policy.allows(origin, host) is allowed


def test_without_own_hosts_the_host_header_decides() -> None:
    policy = OriginPolicy([])
    assert policy.allows("https://chat.example", "chat.example")
    assert not policy.allows("https://evil.example", "chat.example")
