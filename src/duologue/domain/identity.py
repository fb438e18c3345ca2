"""The ids of people and conversations, and the secrets that prove who somebody is."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from typing import Final, TypeGuard

from duologue.domain.errors import Code, Refusal

USER_ID_LENGTH: Final = 16

_USER_ID = re.compile(r"[0-9a-f]{16}").fullmatch
_TOKEN = re.compile(r"[0-9a-f]{64}").fullmatch


def new_user_id() -> str:
    return secrets.token_hex(8)


def new_message_id() -> str:
    return str(uuid.uuid4())


def new_token() -> str:
    """A session's secret: 256 random bits as 64 hex digits."""
    return secrets.token_hex(32)


def is_token(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _TOKEN(text) is not None


def token_hash(token: str) -> bytes:
    """What is stored of a token.

    A plain SHA-256 is enough for a secret of 256 random bits. Looking a session up by the hash also leaves nothing to
    learn from the time it takes: nobody can choose a hash that shares its beginning with a stored one.
    """
    return hashlib.sha256(token.encode()).digest()


def is_user_id(text: str) -> bool:
    return _USER_ID(text) is not None


def check_user_id(id: str) -> None:
    """Raises `Refusal(UNKNOWN_USER)` for a text that can't be anybody's id."""
    if not is_user_id(id):
        raise Refusal(Code.UNKNOWN_USER)
