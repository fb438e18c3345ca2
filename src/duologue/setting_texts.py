"""How the texts among the settings have to look, and how those with a secret are shown."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def is_host(text: str) -> bool:
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_network(text: str) -> bool:
    """One address too; none with bits beyond its prefix, for what was meant is unclear then."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def is_node(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9-]{1,32}", text) is not None


def is_database(text: str) -> bool:
    return _is_url(text, ("postgresql", "postgres"))


def is_bus(text: str) -> bool:
    return _is_url(text, ("nats", "tls"))


def is_allowed_origin(text: str) -> bool:
    """`*`, or an origin as a browser writes it (RFC 6454 section 6.2): scheme, host in lower case, port; nothing after them."""
    if text == "*":
        return True
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host:
        return False
    shown = f"[{host}]" if ":" in host else host
    return text == f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def without_password(text: str) -> str:
    """URLs as they may be shown and logged. A user without a password may be a token, as NATS has them."""
    text = re.sub(r"(//[^/@,:]*):[^/@,]*@", r"\1:***@", text)
    text = re.sub(r"(nats|tls)://[^/@,:]+@", r"\1://***@", text)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", text)


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    """Of PostgreSQL's URLs several hosts may be named, so the host isn't looked into."""
    scheme, separator, rest = text.partition("://")
    return scheme in schemes and bool(separator) and bool(rest.strip("/"))
