"""Every refusal that a peer can see, in one table.

    DuologueError
     +-- Refusal            a request was refused; carries a code of the table
     +-- StoreFailed        the store can't be trusted any more; the process has to stop
     +-- StoreUnusable      the store can't be opened (in use, newer, damaged, unwritable); nothing was touched

A code is stable and is what programs compare; the sentence is for people and may change.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class _Meaning(NamedTuple):
    sentence: str
    retry: bool


class Code(enum.StrEnum):
    """The stable codes. `sentence` explains one to a person, `retry` says whether the same request can succeed later."""

    INVALID_USERNAME = "invalid username"
    BAD_REQUEST = "bad request"
    UNKNOWN_EVENT = "unknown event"
    UNKNOWN_USER = "unknown user"
    UNKNOWN_CURSOR = "unknown cursor"
    INVALID_CONTENT = "invalid content"
    TOO_LONG = "too long"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate limited"
    OVERLOADED = "overloaded"
    STORAGE_FULL = "storage full"
    UNAVAILABLE = "unavailable"

    sentence: str
    retry: bool


_MEANINGS = {
    Code.INVALID_USERNAME: _Meaning(
        "A username has 3 to 32 characters, none of them invisible; choose another one.", retry=False
    ),
    Code.BAD_REQUEST: _Meaning("The request lacks a field or has one of the wrong type.", retry=False),
    Code.UNKNOWN_EVENT: _Meaning("This server knows no event of that name.", retry=False),
    Code.UNKNOWN_USER: _Meaning("There is nobody of that id.", retry=False),
    Code.UNKNOWN_CURSOR: _Meaning(
        "That position is not one this server gave out; sync again from the start.", retry=False
    ),
    Code.INVALID_CONTENT: _Meaning(
        "A message is text of at least one character, without NUL or lone surrogates.", retry=False
    ),
    Code.TOO_LONG: _Meaning("The message has more characters than this server accepts.", retry=False),
    Code.CONFLICT: _Meaning("A message of that id with another text was sent before.", retry=False),
    Code.RATE_LIMITED: _Meaning("Too many requests; try again after the given number of seconds.", retry=True),
    Code.OVERLOADED: _Meaning("The server has more work than it can carry; try again soon.", retry=True),
    Code.STORAGE_FULL: _Meaning("The server's disk is full; the message was not stored, try again later.", retry=True),
    Code.UNAVAILABLE: _Meaning("The server can't do this right now; try again soon.", retry=True),
}

for _code, _meaning in _MEANINGS.items():
    # Attributes, for a server that is overloaded looks them up more often than anything else.
    _code.sentence, _code.retry = _meaning.sentence, _meaning.retry


class DuologueError(Exception):
    """Base of every error that Duologue raises on purpose."""


class Refusal(DuologueError):
    """A request that was refused. `retry_after` is in seconds, given only where a retry can help."""

    def __init__(self, code: Code, detail: str = "", retry_after: float | None = None) -> None:
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code.value}: {self.detail or self.code.sentence}"

    def __repr__(self) -> str:
        return f"Refusal({str(self)!r})"


class StoreFailed(DuologueError):
    """A write or a sync to disk failed in a way after which no later commit could be trusted."""


class StoreUnusable(DuologueError):
    """The data folder can't be used; the message says what is wrong and what to do, in one line."""
