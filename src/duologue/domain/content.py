"""Which texts and ids a message may have."""

from __future__ import annotations

import re

from duologue.domain.errors import Code, Refusal

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}").fullmatch


def check_content(content: str, max_characters: int) -> None:
    """Raises `Refusal` unless the text can be stored and read back exactly: not empty, not too long, no NUL, no lone
    surrogate (which has no UTF-8 form, so that a message with one could never be sent to anybody)."""
    length = len(content)
    if not length:
        raise Refusal(Code.INVALID_CONTENT, "it is empty")
    if length > max_characters:
        raise Refusal(Code.TOO_LONG, f"{length} characters, at most {max_characters} are accepted")
    if "\0" in content:
        raise Refusal(Code.INVALID_CONTENT, "it has a NUL character")
    if not content.isascii():
        try:
            content.encode()
        except UnicodeEncodeError:
            raise Refusal(Code.INVALID_CONTENT, "it has a lone surrogate") from None


def check_message_id(id: str) -> None:
    """Raises `Refusal(BAD_REQUEST)` unless `id` has the text form of a UUID (RFC 9562, section 4)."""
    if _UUID(id) is None:
        raise Refusal(Code.BAD_REQUEST, "`id` is not a UUID")
