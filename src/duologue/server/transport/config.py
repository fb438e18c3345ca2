"""What a server of this package can be told; the peers' limits are in `duologue.wire.Limits`."""

from __future__ import annotations

import msgspec


class TransportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds, sizes bytes."""

    path: str = "/socket.io/"
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    connect_timeout: float = 45.0
    """How long a session may be in no namespace."""
    upgrade_timeout: float = 10.0
    """How long a websocket may take from its handshake to the end of the upgrade."""
    body_timeout: float = 30.0
    """How long the body of a POST may take."""
    header_timeout: float = 10.0
    """How long a request's headers may take: from the connection, the first byte, or the answer to the last request."""
    proxy_idle_timeout: float = 620.0
    """How long the connection of a trusted proxy may lie unused between two requests, instead of `header_timeout` at most. Longer
    than the proxy keeps it (Caddy 2 minutes, Google's load balancer 10): else a request may meet our close, and what isn't
    safe to send twice, as the POST of a poll, becomes a 502."""
    write_timeout: float = 30.0
    """How long an HTTP answer may wait until its peer reads on."""
    close_timeout: float = 2.0
    """How long a peer may take to answer a close frame, and all of them together to go at a drain."""
    max_header_bytes: int = 32_768
    """Bytes of a request that aren't its body: headers, chunk framing (8 times the body may come on top), trailers."""
    max_pipelined: int = 8
    """Requests that wait behind the one being answered, on one HTTP connection."""
    max_unsent: int = 4_000_000
    """Bytes that wait for one peer, the socket's own buffer included. A peer that falls further behind is closed."""
    max_connections: int = 100_000
    allowed_origins: tuple[str, ...] = ()
    """Origins of pages on other hosts, as `https://chat.example`; "*" allows all. A page of the host that it connects
    to is always allowed, and so is a peer that names no origin, for it isn't a browser."""
    own_hosts: tuple[str, ...] = ()
    """The only host names whose pages count as our own. Empty: any, as the Host header says. A server that trusts whoever
    reaches it, as one on a loopback address may, needs them: else a foreign page makes its own name resolve to that
    address (DNS rebinding), and origin and Host agree."""
    node: str = ""
    """What every session's id begins with, and a dot, if there are several nodes: a proxy that reads it can bring each
    request of a long-polling session to the node that holds it."""
    other_nodes: bool = False
    """Whether there are other nodes, so that a session which is unknown here may be one of theirs."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or networks as `10.0.0.0/8`, of the reverse proxies whose X-Forwarded-For says where a request comes from."""
    keep_headers: tuple[str, ...] = ("origin", "user-agent", "cookie", "authorization")
    """Headers of the handshake, in lower case, that the application wants to see. They cost memory per connection."""
