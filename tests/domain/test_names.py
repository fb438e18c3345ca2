"""Usernames: what is kept, and what is refused (attacks.md row 13)."""

from __future__ import annotations

import pytest

from duologue.domain.errors import Code, Refusal
from duologue.domain.names import normalise_username


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("ada", "ada"),
        ("  ada  ", "ada"),
        ("ａｄａ", "ada"),  # full width
        ("Ⅷ Henry", "VIII Henry"),
        ("e\u0301va", "\u00e9va"),  # composed by NFKC
        ("😀😀😀", "😀😀😀"),
        ("<b>ada</b>", "<b>ada</b>"),  # text stays text; the page escapes
        ("../../etc", "../../etc"),
        ("x" * 32, "x" * 32),
        ("Аня", "Аня"),
    ],
)
def test_accepted(raw: str, kept: str) -> None:
    assert normalise_username(raw) == kept


@pytest.mark.parametrize(
    "raw",
    [
        None,
        7,
        ["ada"],
        "",
        "ab",
        "a  ",
        "x" * 33,
        "x" * 100_000,
        "\ufdfa" * 3,  # NFKC makes 54 characters of it
        "ad\u200ba",  # zero width space
        "ad\u202ea",  # right-to-left override
        "ad\u2066a",  # isolate
        "ad\ufeffa",
        "ad\x00a",
        "ad\na",
        "ad\x1b[31ma",
        "ad\u2028a",
        "ad\ud800a",
        "ad\ue000a",  # private use
        "ad\u3164a",  # Hangul filler, a letter that shows nothing
        "ad\u2800a",  # braille blank
        "ada\ufe0f",
        "a" + "\u0335" * 20 + "da",  # a tower of marks
        "\u3164" * 5,
    ],
)
def test_refused(raw: object) -> None:
    with pytest.raises(Refusal) as refusal:
        normalise_username(raw)
    assert refusal.value.code is Code.INVALID_USERNAME
