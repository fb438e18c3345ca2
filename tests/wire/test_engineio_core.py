"""The Engine.IO core: payloads, frames, fragments, and the table of a session."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.wire import Limits, Violation, encode_frame
from duologue.wire.engineio import decode_payload, encode_open
from duologue.wire.frames import encode_alike, websocket_frame
from duologue.wire.messages import BINARY, CONTINUATION, TEXT, Assembler
from duologue.wire.session import TABLE, Input, State, step

LIMITS = Limits()


def test_the_handshake() -> None:
    packet = encode_open("s", ("websocket",), 25_000, 20_000, 1_000_000)
    assert packet[:1] == b"0"
    assert json.loads(packet[1:]) == {
        "sid": "s", "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000,
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 16, 17, 100, 10_000])
def test_a_payload_of_many_packets_is_whole(count: int) -> None:
    packets = decode_payload(b"\x1e".join(b"4%d" % number for number in range(count)), LIMITS)
    assert packets == [b"4%d" % number for number in range(count)]


def test_a_payload_of_text_and_binary() -> None:
    packets = decode_payload(b"4hello\x1ebAQIDBA==\x1e3", LIMITS)
    assert packets == [b"4hello", b"\x01\x02\x03\x04", b"3"]
    assert isinstance(packets, list)
    assert [type(packet) for packet in packets] == [bytes, bytearray, bytes]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"abc",
        b"7",
        b"4a\x1e",
        b"\x1e4a",
        b"4a\x1e\x1e4b",
        b"b===",
        b"bA",
        b"b\xff",
        b"bAQ ID",
        b"4\x1e" * 10_000 + b"4",
        b"4" * (LIMITS.max_payload + 1),
    ],
)
def test_bad_payloads_are_refused_whole(body: bytes) -> None:
    assert isinstance(decode_payload(body, LIMITS), Violation)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_serves_both_transports(size: int) -> None:
    packet = b"4" + b"x" * (size - 1) if size else b""
    frame = encode_frame(packet)
    assert frame.ws == websocket_frame(packet)
    assert frame.payload == packet
    assert frame.packets == 1


@pytest.mark.parametrize("size", [1, 200, 70_000])
def test_a_frame_with_attachments(size: int) -> None:
    packet = b"4" + b"x" * size
    frame = encode_frame(packet, (b"\x01\x02\x03\x04", b""))
    assert frame.ws == websocket_frame(packet) + b"\x82\x04\x01\x02\x03\x04" + b"\x82\x00"
    assert frame.payload == packet + b"\x1ebAQIDBA==\x1eb"
    assert frame.packets == 3


@given(
    st.lists(st.integers(0, 10**15), min_size=1, max_size=40), st.sampled_from([0, 1, 110, 125, 1_010, 65_525, 70_000])
)
def test_packets_that_are_alike_are_what_each_would_be(ids: list[int], size: int) -> None:
    digits, end = [b"%d" % id for id in ids], b"x" * size
    frame = encode_alike(b"43", digits, end)
    alone = [encode_frame(b"43" + middle + end) for middle in digits]
    assert frame.ws == b"".join(each.ws for each in alone)
    assert frame.payload == b"\x1e".join(each.payload for each in alone)
    assert frame.packets == len(ids)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_split_into_fragments_is_the_same_message(content: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=10)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assembler = Assembler(LIMITS)
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        received = assembler.receive(TEXT if index == 0 else CONTINUATION, last, piece)
        assert received == ((TEXT, content) if last else None)
    assert not assembler.busy


def test_fragments_out_of_order() -> None:
    assert isinstance(Assembler(LIMITS).receive(CONTINUATION, True, b"x"), Violation)
    for fin in (True, False):
        assembler = Assembler(LIMITS)
        assembler.receive(TEXT, False, b"x")
        assert isinstance(assembler.receive(BINARY, fin, b"y"), Violation)


def test_fragments_are_bounded_in_bytes_and_number() -> None:
    assembler = Assembler(Limits(max_payload=10))
    assembler.receive(TEXT, False, b"123456")
    assert isinstance(assembler.receive(CONTINUATION, False, b"123456"), Violation)
    assembler = Assembler(Limits(fragments=5))
    received = [assembler.receive(CONTINUATION if number else TEXT, False, b"") for number in range(6)]
    assert received[:5] == [None] * 5
    assert isinstance(received[5], Violation)


def test_the_upgrade_by_the_table() -> None:
    state = State.POLLING
    for what in (Input.POLL, Input.ATTACH, Input.POLL, Input.PROBE, Input.POLL, Input.UPGRADE, Input.MESSAGE):
        following = step(state, what)
        assert following is not None
        state = following
    assert state is State.WEBSOCKET
    assert step(state, Input.POLL) is None
    assert step(state, Input.ATTACH) is None


def test_every_living_state_can_be_closed_and_none_leaves_the_grave() -> None:
    for state in State:
        assert step(state, Input.CLOSE) is (None if state is State.CLOSED else State.CLOSED)
    assert not [key for key in TABLE if key[0] is State.CLOSED]
