"""Every setting, once: its name, type, default, range and meaning.

Flags, environment variables, TOML keys, `duologue config` and docs/settings.md all follow from the class `Settings`.
A value comes from the first of these that has it: a flag, the environment, the TOML file, the default.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

import platformdirs

from duologue import setting_texts as texts

ENVIRONMENT_PREFIX: Final = "DUOLOGUE_"

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


class BadSetting(Exception):
    """A setting that can't be used. The message is one line: which one, from where, its value, what is allowed."""


def _setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `duologue serve` needs to know."""

    host: str = _setting(
        "localhost",
        "Name or address to listen on. `localhost` is both 127.0.0.1 and ::1. Others need `allow_guests`.",
        unit="a host name or an IP address",
    )
    port: int = _setting(3000, "TCP port to listen on; 0 takes any free one and prints it.", low=0, high=65_535)
    data: str = _setting(
        "",
        "Folder that holds everything; made if missing. Default: the platform's folder for users' data.",
        unit="a path",
    )
    database: str = _setting(
        "",
        "PostgreSQL for several nodes, as postgresql://user:password@host/name; without it SQLite in `data`.",
        unit="a URL",
    )
    bus: str = _setting(
        "",
        "NATS between the nodes of one `database`, as nats://host:4222, several by commas; without it this node is alone.",
        unit="URLs",
    )
    node: str = _setting(
        "",
        "This node's name, which its sessions' ids begin with, so that a proxy can route long-polling by it.",
        unit="up to 32 letters, digits and hyphens",
    )
    trusted_proxy: tuple[str, ...] = _setting(
        (), "The reverse proxies whose X-Forwarded-For is believed.", unit="IP addresses or networks like 10.0.0.0/8"
    )
    allow_origin: tuple[str, ...] = _setting(
        (),
        "Origins of other web pages that may connect, as https://chat.example; `*` allows all. Same-origin always may.",
    )
    allow_guests: bool = _setting(
        False, "Let anybody who reaches a non-loopback address sign in with just a name. Needed for such a `host`."
    )
    announce_people: int = _setting(
        1000,
        "Up to so many people everybody is told of everybody; beyond, of those they have a conversation with.",
        unit="people",
        low=0,
    )
    roster_people: int = _setting(
        10_000,
        "Latest conversations whose people a client that doesn't sync is told of, where it isn't told of everybody.",
        unit="people",
        low=1,
        high=1_000_000,
    )
    roster_messages: int = _setting(
        1000,
        "Latest messages of each conversation for a client that doesn't sync.",
        unit="messages",
        low=0,
        high=100_000,
    )
    roster_total: int = _setting(
        10_000, "Messages in all for a client that doesn't sync.", unit="messages", low=0, high=1_000_000
    )
    page: int = _setting(
        50, "Messages, conversations or people in a page when the client doesn't say.", unit="items", low=1, high=1000
    )
    max_page: int = _setting(200, "The most a client may ask for in one page.", unit="items", low=1, high=1000)
    max_content: int = _setting(8000, "Longest text of a message.", unit="characters", low=1, high=200_000)
    presence_grace: float = _setting(
        3.0,
        "After a user's last connection ended: how long until the others are told.",
        unit="seconds",
        low=0,
        high=3600,
    )
    presence_lease: float = _setting(
        30.0,
        "Several nodes: without a sign of life for so long the users of a node count as gone; noticed within another third.",
        unit="seconds",
        low=0.5,
        high=3600,
    )
    message_rate: float = _setting(1000.0, "Events that a user may send in the long run.", unit="per second", low=0.001)
    message_burst: float = _setting(5000.0, "Events that a user may send at once.", unit="events", low=1)
    connect_rate: float = _setting(500.0, "Connections from one address in the long run.", unit="per second", low=0.001)
    connect_burst: float = _setting(20_000.0, "Connections from one address at once.", unit="connections", low=1)
    request_limit: int = _setting(
        16, "Reading requests that one connection may have under way.", unit="requests", low=1, high=10_000
    )
    max_watch: int = _setting(200, "People whose presence one connection may watch.", unit="people", low=1, high=10_000)
    ping_interval: float = _setting(
        25.0, "Between two heartbeats of a connection.", unit="seconds", low=0.05, high=3600
    )
    ping_timeout: float = _setting(
        20.0, "How long a client may take to answer a heartbeat.", unit="seconds", low=0.05, high=3600
    )
    connect_timeout: float = _setting(
        45.0, "How long a connection may take to sign in.", unit="seconds", low=0.05, high=3600
    )
    max_payload: int = _setting(
        1_000_000, "Largest frame or polling body taken from a client.", unit="bytes", low=1000, high=100_000_000
    )
    max_unsent: int = _setting(
        8_000_000,
        "What may wait for one client; one that falls further behind is closed and syncs later.",
        unit="bytes",
        low=10_000,
        high=1_000_000_000,
    )
    max_connections: int = _setting(100_000, "Connections in all.", unit="connections", low=1, high=10_000_000)
    max_user_connections: int = _setting(
        200, "Connections of one user, each of which gets all that is theirs.", unit="connections", low=1, high=100_000
    )
    drain_timeout: float = _setting(
        8.0, "How long SIGTERM lets what was accepted finish.", unit="seconds", low=0.1, high=600
    )
    typing_repeat: float = _setting(
        3.0, "How often a client says that its user is typing.", unit="seconds", low=0.1, high=60
    )
    typing_expires: float = _setting(
        6.0, "How long that is shown to the other side.", unit="seconds", low=0.1, high=120
    )
    log_level: str = _setting("info", "How much is logged, on standard error.", choices=LOG_LEVELS)
    log_format: str = _setting("text", "As lines for people or as JSON for programs.", choices=LOG_FORMATS)


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each value came from."""

    settings: Settings
    sources: Mapping[str, str]


def fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Settings)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def default_config_file() -> Path:
    return Path(platformdirs.user_config_dir("duologue", appauthor=False)) / "duologue.toml"


def default(field: dataclasses.Field[Any]) -> Any:
    """The value that a setting has when nobody sets it."""
    return platformdirs.user_data_dir("duologue", appauthor=False) if field.name == "data" else field.default


def load(flags: Mapping[str, Any], environment: Mapping[str, str], config: str | None = None) -> Loaded:
    """Settings from all sources. `flags` holds those that were given; `config` names the TOML file.

    Raises `BadSetting`. Reads the file and nothing else; touches nothing.
    """
    file, from_file = _read_file(config or environment.get(variable("config")))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for field in fields():
        name = field.name
        if name in flags:
            raw, source = flags[name], flag(name)
        elif variable(name) in environment:
            raw, source = environment[variable(name)], variable(name)
        elif name in from_file:
            raw, source = from_file[name], f"{file}"
        else:
            values[name], sources[name] = default(field), "default"
            continue
        values[name], sources[name] = _convert(field, raw, source), source
    values["data"] = os.path.abspath(os.path.expanduser(values["data"]))
    settings = Settings(**values)
    _check_texts(settings, sources)
    _check_together(settings, sources)
    return Loaded(settings, sources)


def _read_file(name: str | None) -> tuple[Path, Mapping[str, Any]]:
    path = Path(name) if name else default_config_file()
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        if name:
            raise BadSetting(f"config file {path}: there is no such file") from None
        return path, {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"config file {path}: {' '.join(str(error).split())}") from None
    known = {field.name for field in fields()}
    for key in content:
        if key not in known:
            raise BadSetting(f"config file {path}: there is no setting {key!r}; `duologue config` lists them all")
    return path, content


def _convert(field: dataclasses.Field[Any], raw: Any, source: str) -> Any:
    kind = get_type_hints(Settings)[field.name]
    try:
        if kind is bool:
            value: Any = _to_bool(raw)
        elif kind is int:
            value = int(raw) if isinstance(raw, str) else _exactly(raw, int)
        elif kind is float:
            value = float(raw) if isinstance(raw, str) else float(_exactly(raw, int, float))
        elif kind is str:
            value = _printable(_exactly(raw, str))
        else:
            value = tuple(raw.split(",")) if isinstance(raw, str) else tuple(_exactly(each, str) for each in raw)
            value = tuple(each.strip() for each in value if each.strip())
    except (TypeError, ValueError):
        raise _bad(field, raw, source) from None
    low, high, choices = field.metadata["low"], field.metadata["high"], field.metadata["choices"]
    if choices and value not in choices:
        raise _bad(field, raw, source)
    # Written so that NaN, which compares with nothing, is refused.
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise _bad(field, raw, source)
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise _bad(field, raw, source)
    return value


def _exactly(raw: Any, *types: type) -> Any:
    if type(raw) not in types:
        raise TypeError
    return raw


def _printable(text: str) -> str:
    """`text`, if it isn't empty. No path or host name needs a control character; the system's calls stop at NUL."""
    if not text or not text.isprintable():
        raise ValueError
    return text


def _to_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    word = _exactly(raw, str).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _bad(field: dataclasses.Field[Any], raw: Any, source: str) -> BadSetting:
    return BadSetting(f"{field.name} is {raw!r} (from {source}), but has to be {allowed(field)}")


def allowed(field: dataclasses.Field[Any]) -> str:
    """What values a setting takes, in words."""
    kind, unit = get_type_hints(Settings)[field.name], field.metadata["unit"]
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        return f"{noun}, {span(field)}" + (f" ({unit})" if unit else "")
    if kind is bool:
        return "true or false"
    if kind is str:
        return span(field) or str(unit)
    return f"a list of {unit or 'origins'}"


def span(field: dataclasses.Field[Any]) -> str:
    """The range or the choices of a setting; empty if it has neither."""
    low, high, choices = field.metadata["low"], field.metadata["high"], field.metadata["choices"]
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if low is None:
        return ""
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"


def _check_texts(settings: Settings, sources: Mapping[str, str]) -> None:
    """Each text by itself."""
    for field in fields():
        looks_right, wanted = _TEXTS.get(field.name, (None, ""))
        value = getattr(settings, field.name)
        if looks_right is None or not value:
            continue
        for text in value if isinstance(value, tuple) else value.split(",") if field.name == "bus" else (value,):
            if not looks_right(text):
                raise _not(field.name, text, sources, f"has to be {wanted}")


def _check_together(settings: Settings, sources: Mapping[str, str]) -> None:
    """What settings mean to one another."""
    if settings.bus and not settings.database:
        raise _not("bus", settings.bus, sources, "nodes share a database: set `database` as well")
    if settings.page > settings.max_page:
        name = "page" if sources["page"] != "default" else "max_page"
        wanted = f"page ({settings.page}) may not be above max_page ({settings.max_page})"
        raise _not(name, getattr(settings, name), sources, wanted)
    if not settings.allow_guests and not texts.is_loopback(settings.host):
        wanted = (
            "others could sign in there without a password: add --allow-guests if you want that, or listen on localhost"
        )
        raise _not("host", settings.host, sources, wanted)


def _not(name: str, value: Any, sources: Mapping[str, str], wanted: str) -> BadSetting:
    shown = texts.without_password(value) if isinstance(value, str) else value
    return BadSetting(f"{name} is {shown!r} (from {sources[name]}), but {wanted}")


_TEXTS: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "host": (texts.is_host, "a host name or an IP address"),
    "database": (texts.is_database, "a URL like postgresql://user:password@host/name"),
    "bus": (texts.is_bus, "a URL like nats://host:4222"),
    "node": (texts.is_node, "up to 32 letters, digits and hyphens"),
    "trusted_proxy": (texts.is_network, "an IP address or a network like 10.0.0.0/8"),
    "allow_origin": (texts.is_allowed_origin, "`*` or an origin like https://chat.example"),
}


def environment() -> Mapping[str, str]:
    return os.environ
