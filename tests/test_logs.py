"""Row 34: no line of the log can be forged, and no flood of them fills the disk."""

from __future__ import annotations

import io
import json
import logging

import pytest

from duologue.logs import FLOOD_LINES, FLOOD_SECONDS, MAX_LINE, MAX_TRACEBACK, FloodFilter, JsonFormatter, TextFormatter

FORGED = "x\n2026-01-01 CRITICAL duologue: forged\r\x1b[2J\x1b]0;title\x07\x9b31m\u2028\u202e"
RAW = "\r\x1b\x07\x9b\u2028\u202e"


class Log:
    """A logger of its own with the program's formatter and filter, and what it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.now = 0.0
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(formatter)
        handler.addFilter(FloodFilter(lambda: self.now))
        self.logger = logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - one that nobody else has
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        """What was written since the last call."""
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return text.split("\n")[:-1]


@pytest.fixture(params=[TextFormatter, JsonFormatter])
def log(request: pytest.FixtureRequest) -> Log:
    return Log(request.param())


def test_what_a_peer_says_stays_in_its_line(log: Log) -> None:
    log.logger.warning("from %s", FORGED)
    (line,) = log.lines()
    assert not set(RAW) & set(line)
    assert "forged" in line


def test_a_line_has_an_end(log: Log) -> None:
    log.logger.warning("from %s", "x" * 1_000_000)
    (line,) = log.lines()
    assert len(line) < MAX_LINE + 200


def test_the_words_of_an_error_are_no_lines_of_their_own(log: Log) -> None:
    try:
        raise ValueError(FORGED + "x" * 1_000_000)
    except ValueError:
        log.logger.exception("failed")
    first, *others = log.lines()
    assert "failed" in first
    assert all(line.startswith("  ") for line in others)
    assert not set(RAW) & set("".join([first, *others]))
    assert sum(map(len, [first, *others])) < MAX_TRACEBACK + 2_000


def test_a_flood_is_cut_short_and_counted(log: Log) -> None:
    for number in range(10_000):
        log.logger.warning("closed %d", number)
    assert len(log.lines()) == FLOOD_LINES
    log.now = FLOOD_SECONDS
    log.logger.warning("closed %d", -1)
    (line,) = log.lines()
    assert f"closed -1 ({10_000 - FLOOD_LINES} more like this were left out)" in line
    log.now += FLOOD_SECONDS
    log.logger.warning("closed %d", -2)
    (line,) = log.lines()
    assert "left out" not in line


def test_a_flood_hides_nothing_else(log: Log) -> None:
    for _ in range(1_000):
        log.logger.warning("closed: %s", "bad frame", extra={"kind": "bad frame"})
    log.lines()
    log.logger.warning("closed: %s", "slow reader", extra={"kind": "slow reader"})
    log.logger.error("closed: %s", "bad frame", extra={"kind": "bad frame"})
    log.logger.warning("another thing")
    assert len(log.lines()) == 3


def test_many_kinds_are_no_flood_of_memory(log: Log) -> None:
    for number in range(5_000):
        log.logger.warning(f"a message of its own {number}")  # noqa: G004 - as some libraries do
    (handler,) = log.logger.handlers
    (flood,) = handler.filters
    assert isinstance(flood, FloodFilter)
    assert len(flood._kinds) == 1_000


def test_debug_and_critical_lines_always_pass(log: Log) -> None:
    for _ in range(1_000):
        log.logger.debug("asked for")
        log.logger.critical("stopping")
    assert len(log.lines()) == 2_000


def test_a_line_as_json() -> None:
    log = Log(JsonFormatter())
    log.logger.warning("one %d", 1)
    (line,) = log.lines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "test", "one 1")
