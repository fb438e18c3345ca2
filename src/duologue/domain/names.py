"""Which usernames are accepted, and in what form they are kept."""

from __future__ import annotations

import unicodedata
from typing import Final

from duologue.domain.errors import Code, Refusal

MIN_CHARACTERS: Final = 3
MAX_CHARACTERS: Final = 32
_MAX_RAW_CHARACTERS: Final = 256
"""Longest text that is normalised at all: NFKC can turn one character into eighteen."""

_MAX_MARKS_IN_A_ROW: Final = 4
"""Combining marks stacked on one letter; living languages stay below, a tower that covers its neighbours does not."""

_INVISIBLE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_INVISIBLE_CHARACTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Shown as nothing though Unicode calls them letters, marks or symbols (Default_Ignorable_Code_Point, braille blank)."""


def normalise_username(raw: object) -> str:
    """The username in NFKC (Unicode UAX #15), without spaces around it.

    Raises `Refusal(INVALID_USERNAME)` unless it is text of 3 to 32 characters after that, none of them a control, a
    bidi or another invisible character.
    """
    if not isinstance(raw, str):
        raise Refusal(Code.INVALID_USERNAME, "it is not text")
    if len(raw) > _MAX_RAW_CHARACTERS:
        raise Refusal(Code.INVALID_USERNAME, f"it has {len(raw)} characters")
    name = unicodedata.normalize("NFKC", raw).strip(" ")
    if not MIN_CHARACTERS <= len(name) <= MAX_CHARACTERS:
        raise Refusal(
            Code.INVALID_USERNAME, f"it has {len(name)} characters, {MIN_CHARACTERS} to {MAX_CHARACTERS} are allowed"
        )
    marks = 0
    for character in name:
        category = unicodedata.category(character)
        if category in _INVISIBLE_CATEGORIES or character in _INVISIBLE_CHARACTERS or _is_variation(character):
            raise Refusal(Code.INVALID_USERNAME, f"U+{ord(character):04X} is not a visible character")
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _MAX_MARKS_IN_A_ROW:
            raise Refusal(Code.INVALID_USERNAME, f"more than {_MAX_MARKS_IN_A_ROW} marks on one letter")
    return name


def _is_variation(character: str) -> bool:
    return (
        "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or "\u180b" <= character <= "\u180f"
    )
