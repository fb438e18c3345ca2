"""The benchmark's hand-made frames say what a Socket.IO client would say, and read back what they said."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from bench import frames

USER = "0123456789abcdef"


def unmasked(frame: bytes) -> bytes:
    """The payload of a client's frame, read as RFC 6455 section 5.2 says."""
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    size, at = frame[1] & 0x7F, 2
    if size == 126:
        size, at = int.from_bytes(frame[2:4], "big"), 4
        assert size >= 126
    key, payload = frame[at : at + 4], frame[at + 4 :]
    assert len(payload) == size
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 255, 256, 65_535])
def test_a_frame_carries_its_payload(size: int) -> None:
    payload = bytes(place % 251 for place in range(size))
    assert unmasked(frames.masked(payload)) == payload


@pytest.mark.parametrize("acks", [False, True])
@pytest.mark.parametrize("index", [0, frames.MAX_SENDER])
@pytest.mark.parametrize("number", [1, frames.MAX_NUMBER])
def test_a_message_is_an_event_of_the_guide(acks: bool, index: int, number: int) -> None:
    to = frames.address(USER)
    payload = unmasked(frames.Sender(index, acks, len(to)).frame(number, 1_234_567, to)).decode()
    match = re.fullmatch(r"42(\d*)(\[.*\])", payload)
    assert match is not None
    name, message = json.loads(match[2])
    assert name == "private message"
    assert message["to"] == USER
    assert len(message["content"]) == frames.CONTENT_BYTES
    assert bool(match[1]) == acks
    assert set(message) == ({"content", "to", "id"} if acks else {"content", "to"})
    if acks:
        assert str(uuid.UUID(message["id"])) == message["id"]


def test_ids_and_acks_tell_messages_apart() -> None:
    to = frames.address(USER)
    made = {frames.Sender(index, True, len(to)).frame(number, 0, to) for index in (1, 2) for number in (1, 2)}
    assert len({json.loads(unmasked(frame)[11:])[1]["id"] for frame in made}) == 4
    assert len({unmasked(frame)[:11] for frame in made}) == 2


# The length goes into a % template, where 37 is the percent sign.
@pytest.mark.parametrize("length", range(1, 200))
def test_every_length_of_a_frame_survives_the_template(length: int) -> None:
    to = b"y" * length
    assert unmasked(frames.Sender(7, False, length).frame(1, 0, to)).endswith(to + b'"}]')


def test_a_delivery_reads_back() -> None:
    to = frames.address(USER)
    sent = unmasked(frames.Sender(42, False, len(to)).frame(9, 1_234_567, to))
    assert frames.delivery(sent) == (b"00042", b"000000009", 1_234_567)
    assert frames.delivery(sent).number < b"000000010"
