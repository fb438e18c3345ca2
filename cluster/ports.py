"""Ports for servers that are started, killed and started again."""

from __future__ import annotations

import itertools
import random
import socket
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"

RANGE: Final = 16_000
"""So many ports are handed out before one is handed out again."""

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""ip(7). Without it the default of Linux holds, or a lower one does."""


def free_port() -> int:
    """A port of this machine that nobody uses, and that nobody gets who lets the system choose: it stays free while its server
    is down. A process gets each at most once in `RANGE`, and others most likely get others."""
    for _ in range(RANGE):
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port below the system's own, which begin at {_first_ephemeral()}")


def _first_ephemeral() -> int:
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except OSError:
        return 32_768


def _round() -> itertools.cycle[int]:
    end = _first_ephemeral()
    ports = list(range(max(1_024, end - RANGE), end))
    start = random.SystemRandom().randrange(len(ports))
    return itertools.cycle(ports[start:] + ports[:start])


_ports = _round()
