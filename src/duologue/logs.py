"""Logs on standard error: one line an event, whatever a peer put into a name or a header, and however often."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)},
}
"""Control and bidi characters: an attacker's new line or terminal escape must not forge a line of the log."""

MAX_LINE: Final = 4_000
"""Characters of one message."""

MAX_TRACEBACK: Final = 40_000
"""Characters of one traceback."""

FLOOD_LINES: Final = 50
FLOOD_SECONDS: Final = 60.0
"""So many lines of one kind are logged in so long a time. Whoever breaks the protocol ten thousand times must neither
fill the disk nor bury what others do."""

_MAX_KINDS: Final = 1_000
_KIND_CHARACTERS: Final = 200


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class FloodFilter(logging.Filter):
    """Leaves out what comes too often; the next line of that kind says how many it stands for.

    Of one kind are lines of one logger, level and template. A template with room for different reasons gives them as
    `extra={"kind": reason}`, so that one doesn't hide another. Debug lines are what somebody asked for, and critical
    ones are few: both always pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # By kind: since when, and how many.
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if not logging.DEBUG < record.levelno < logging.CRITICAL:
            return True
        kind = f"{record.name} {record.levelno} {record.__dict__.get('kind', '')} {record.msg}"[:_KIND_CHARACTERS]
        now = self._clock()
        since, count = self._kinds.pop(kind, (now, 0))
        if now - since >= FLOOD_SECONDS:
            if count > FLOOD_LINES:
                record.left_out = count - FLOOD_LINES
            since, count = now, 0
        self._kinds[kind] = (since, count + 1)
        if len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        return count < FLOOD_LINES


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        record.message = _message(record)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # the name is logging's
        """Indented: an error's own words may have new lines, which must not look like lines of the log."""
        lines = super().formatException(ei)[:MAX_TRACEBACK].split("\n")
        return "\n".join("  " + line.translate(_ESCAPES) for line in lines)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": round(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)[:MAX_TRACEBACK]
        return json.dumps(entry)


def configure(level: str, format: str) -> None:
    """`level` is a name of logging's, `format` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.addFilter(FloodFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("uvicorn.error", "asyncio", "picows"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _message(record: logging.LogRecord) -> str:
    line = record.getMessage()[:MAX_LINE].translate(_ESCAPES)
    left_out = record.__dict__.get("left_out")
    return line if left_out is None else f"{line} ({left_out} more like this were left out)"
