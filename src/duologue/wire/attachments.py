"""Binary attachments: the placeholders in an event's JSON and the bytes that belong there.

Source: the Socket.IO protocol, revision 5: `{"_placeholder": true, "num": n}` stands for the n-th attachment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from duologue.wire.violation import Violation

_PLACEHOLDER_KEYS = {"_placeholder", "num"}


def resolve_attachments(args: Sequence[Raw], attachments: Sequence[bytes]) -> list[Any] | Violation:
    """The arguments as Python values, each placeholder replaced by its bytes.

    Each attachment must be asked for exactly once, by an integer in range. The arguments come from the core, which has
    bounded their depth; so recursion is safe.
    """
    unused = dict(enumerate(attachments))
    try:
        values = [_fill(msgspec.json.decode(arg), unused) for arg in args]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Violation("arguments of a binary event can't be decoded")
    except _PlaceholderError:
        return Violation("bad placeholder")
    return Violation("attachment without a placeholder") if unused else values


def extract_attachments(values: Sequence[Any]) -> tuple[list[bytes], list[bytes]]:
    """The opposite: JSON texts with placeholders, and the attachments in order. Tuples become arrays.

    Raises TypeError (msgspec's) for what JSON can't hold.
    """
    attachments: list[bytes] = []
    return [msgspec.json.encode(_empty(value, attachments)) for value in values], attachments


class _PlaceholderError(Exception):
    pass


def _fill(value: Any, unused: dict[int, bytes]) -> Any:
    if isinstance(value, list):
        return [_fill(item, unused) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            number = value.get("num")
            if type(number) is not int or value.keys() != _PLACEHOLDER_KEYS or number not in unused:
                raise _PlaceholderError
            return unused.pop(number)
        return {key: _fill(item, unused) for key, item in value.items()}
    return value


def _empty(value: Any, attachments: list[bytes]) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, (list, tuple)):
        return [_empty(item, attachments) for item in value]
    if isinstance(value, dict):
        return {key: _empty(item, attachments) for key, item in value.items()}
    return value
