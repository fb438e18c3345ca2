"""What a message may say, and what its id looks like (attacks.md rows 4 and 23)."""

from __future__ import annotations

import uuid

import pytest

from duologue.domain.content import check_content, check_message_id
from duologue.domain.errors import Code, Refusal


@pytest.mark.parametrize("text", ["x", "x" * 8000, "😀" * 8000, "\r\n", "\u2028", "\x01", "<script>"])
def test_text_is_accepted(text: str) -> None:
    check_content(text, 8000)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.INVALID_CONTENT),
        ("x" * 8001, Code.TOO_LONG),
        ("a\0b", Code.INVALID_CONTENT),
        ("\ud800", Code.INVALID_CONTENT),
        ("a\udfffb", Code.INVALID_CONTENT),
    ],
)
def test_text_is_refused(text: str, code: Code) -> None:
    with pytest.raises(Refusal) as refusal:
        check_content(text, 8000)
    assert refusal.value.code is code


def test_a_uuid_in_either_case_is_an_id() -> None:
    id = str(uuid.uuid4())
    check_message_id(id)
    check_message_id(id.upper())


@pytest.mark.parametrize("id", ["", "1", "x" * 36, str(uuid.uuid4()) + "\n", uuid.uuid4().hex, '","a":"' + "0" * 29])
def test_other_texts_are_not(id: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check_message_id(id)
    assert refusal.value.code is Code.BAD_REQUEST
