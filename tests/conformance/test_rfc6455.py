"""RFC 6455 as far as a server that speaks Socket.IO can show it; the cases follow the sections of the RFC."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.raw_websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, RawWebsocket, encode
from tests.support.process import ServerProcess

pytestmark = pytest.mark.asyncio

ASK = b'42["message","hello"]'
ANSWER = b'42["message-back","hello"]'

PROTOCOL_ERROR = 1002
INVALID_TEXT = 1007
TOO_BIG = 1009


@pytest_asyncio.fixture
async def wire(echo_server: ServerProcess) -> AsyncIterator[RawWebsocket]:
    """A websocket in the main namespace of the echo server."""
    websocket = await RawWebsocket.open(echo_server.url)
    opening = await websocket.message()
    assert opening is not None
    assert opening.startswith(b"0")
    websocket.write(encode(TEXT, b"40"))
    connected = await websocket.message()
    assert connected is not None
    assert connected.startswith(b"40")
    assert await websocket.message() == b'42["auth",{}]'
    yield websocket
    await websocket.close()


async def control(wire: RawWebsocket, opcode: int) -> Frame:
    """The next frame of that opcode; Engine.IO heartbeats may come before it."""
    while (frame := await wire.frame()) is not None:
        if frame.opcode == opcode:
            return frame
        assert frame.payload == b"2", frame
    raise AssertionError("the connection ended")


async def assert_lives(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, ASK))
    assert await wire.message() == ANSWER


async def assert_fails(wire: RawWebsocket, *codes: int) -> None:
    """The connection ends; a close frame on the way has one of the codes (section 7.1.7: sending one is a SHOULD)."""
    close = await wire.ended()
    if close is not None:
        assert close.close_code in codes


# -- 4: opening handshake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": ""},
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Upgrade": "h2c"},
        {"Connection": "keep-alive"},
    ],
    ids=str,
)
async def test_a_wrong_opening_handshake_is_refused(echo_server: ServerProcess, headers: dict[str, str]) -> None:
    websocket, status = await RawWebsocket.handshake(echo_server.url, headers)
    await websocket.close()
    assert 400 <= status < 500


async def test_an_extension_that_the_server_does_not_know_is_ignored(echo_server: ServerProcess) -> None:
    websocket = await RawWebsocket.open(echo_server.url, {"Sec-WebSocket-Extensions": "x-unknown; a=1"})
    assert await websocket.message() is not None
    await websocket.close()


# -- 5.1, 5.2: masking, reserved bits, opcodes ----------------------------------------------------------------------


async def test_an_unmasked_frame_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, ASK, masked=False))
    await assert_fails(wire, PROTOCOL_ERROR)


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
async def test_reserved_bits_fail_the_connection(wire: RawWebsocket, reserved: int, opcode: int) -> None:
    wire.write(encode(opcode, ASK, reserved=reserved))
    await assert_fails(wire, PROTOCOL_ERROR)


@pytest.mark.parametrize("opcode", [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF])
async def test_reserved_opcodes_fail_the_connection(wire: RawWebsocket, opcode: int) -> None:
    wire.write(encode(opcode, b"x"))
    await assert_fails(wire, PROTOCOL_ERROR)


@pytest.mark.parametrize("size", [0, 1, 100, 125, 126, 127, 128, 65_000, 65_535, 65_536, 65_537, 300_000])
async def test_every_form_of_the_length_is_read_and_written(wire: RawWebsocket, size: int) -> None:
    wire.write(encode(TEXT, b'42["message","%s"]' % (b"x" * size)))
    assert await wire.message() == b'42["message-back","%s"]' % (b"x" * size)


async def test_a_length_with_the_top_bit_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0")
    await assert_fails(wire, PROTOCOL_ERROR, TOO_BIG)


async def test_an_announced_length_over_the_limit_fails_before_the_bytes_come(wire: RawWebsocket) -> None:
    wire.write(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
    await assert_fails(wire, PROTOCOL_ERROR, TOO_BIG)


# -- 5.4: fragmentation ---------------------------------------------------------------------------------------------


async def test_a_message_in_two_fragments(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, ASK[:5], fin=False), encode(CONTINUATION, ASK[5:]))
    assert await wire.message() == ANSWER


async def test_a_message_in_fragments_of_a_byte_and_of_none(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, b"", fin=False))
    wire.write(*(encode(CONTINUATION, ASK[index : index + 1], fin=False) for index in range(len(ASK))))
    wire.write(encode(CONTINUATION, b""))
    assert await wire.message() == ANSWER


async def test_a_binary_message_in_fragments(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, b'451-["message",{"_placeholder":true,"num":0}]'))
    wire.write(
        encode(BINARY, b"\x01", fin=False), encode(CONTINUATION, b"\x02", fin=False), encode(CONTINUATION, b"\x03")
    )
    assert await wire.message() == b'451-["message-back",{"_placeholder":true,"num":0}]'
    assert await wire.message() == b"\x01\x02\x03"


async def test_control_frames_may_stand_between_fragments(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, ASK[:5], fin=False), encode(PING, b"between"))
    assert (await control(wire, PONG)).payload == b"between"
    wire.write(encode(PONG, b"unasked"), encode(CONTINUATION, ASK[5:]))
    assert await wire.message() == ANSWER


async def test_a_continuation_without_a_start_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(CONTINUATION, b"x"))
    await assert_fails(wire, PROTOCOL_ERROR)


async def test_a_continuation_after_the_end_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, b'42["none"', fin=False), encode(CONTINUATION, b"]"), encode(CONTINUATION, b"x"))
    await assert_fails(wire, PROTOCOL_ERROR)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_second_message_between_fragments_fails_the_connection(wire: RawWebsocket, opcode: int) -> None:
    wire.write(encode(TEXT, ASK[:5], fin=False), encode(opcode, ASK))
    await assert_fails(wire, PROTOCOL_ERROR)


async def test_fragments_over_the_limit_fail_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(TEXT, b"4" * 600_000, fin=False), encode(CONTINUATION, b"4" * 600_000))
    await assert_fails(wire, TOO_BIG, PROTOCOL_ERROR)


# -- 5.5: control frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125)), b"\x00\xff\xfe" * 20], ids=len)
async def test_a_ping_is_answered_by_a_pong_with_its_payload(wire: RawWebsocket, payload: bytes) -> None:
    wire.write(encode(PING, payload))
    assert (await control(wire, PONG)).payload == payload
    await assert_lives(wire)


async def test_ten_pings_in_a_row_are_answered_in_order(wire: RawWebsocket) -> None:
    wire.write(b"".join(encode(PING, b"%d" % number) for number in range(10)))
    assert [(await control(wire, PONG)).payload for _ in range(10)] == [b"%d" % number for number in range(10)]


async def test_an_unasked_pong_is_ignored(wire: RawWebsocket) -> None:
    wire.write(encode(PONG, b"unasked"))
    await assert_lives(wire)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_a_control_frame_over_125_bytes_fails_the_connection(wire: RawWebsocket, opcode: int) -> None:
    wire.write(encode(opcode, b"\x03\xe8" + b"x" * 124))
    await assert_fails(wire, PROTOCOL_ERROR)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_a_fragmented_control_frame_fails_the_connection(wire: RawWebsocket, opcode: int) -> None:
    wire.write(encode(opcode, b"", fin=False))
    await assert_fails(wire, PROTOCOL_ERROR)


# -- 5.5.1, 7.4: closing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
async def test_a_close_frame_is_answered_with_its_code(wire: RawWebsocket, code: int) -> None:
    wire.write(encode(CLOSE, code.to_bytes(2, "big") + b"bye"))
    close = await wire.ended()
    assert close is not None
    assert close.close_code in (code, 1000)


async def test_a_close_frame_without_a_code_is_answered(wire: RawWebsocket) -> None:
    wire.write(encode(CLOSE))
    close = await wire.ended()
    assert close is not None
    assert close.close_code in (None, 1000)


async def test_nothing_is_taken_after_a_close_frame(wire: RawWebsocket) -> None:
    wire.write(encode(CLOSE, b"\x03\xe8") + encode(TEXT, ASK))
    close = await wire.ended()
    assert close is not None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535])
async def test_a_close_frame_with_an_invalid_code_fails_the_connection(wire: RawWebsocket, code: int) -> None:
    wire.write(encode(CLOSE, code.to_bytes(2, "big")))
    await assert_fails(wire, PROTOCOL_ERROR)


async def test_a_close_frame_with_half_a_code_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(CLOSE, b"\x03"))
    await assert_fails(wire, PROTOCOL_ERROR)


async def test_a_close_reason_that_is_not_utf_8_fails_the_connection(wire: RawWebsocket) -> None:
    wire.write(encode(CLOSE, b"\x03\xe8\xff\xfe"))
    await assert_fails(wire, PROTOCOL_ERROR, INVALID_TEXT)


# -- 8.1: UTF-8 -----------------------------------------------------------------------------------------------------

NOT_UTF_8 = {
    "a lone byte": b"\xff",
    "a lone continuation": b"\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "beyond the last code point": b"\xf4\x90\x80\x80",
    "a sequence cut short": b"\xe2\x82",
}


@pytest.mark.parametrize("text", NOT_UTF_8.values(), ids=NOT_UTF_8)
async def test_text_that_is_not_utf_8_fails_the_connection(wire: RawWebsocket, text: bytes) -> None:
    wire.write(encode(TEXT, b'42["message","%s"]' % text))
    await assert_fails(wire, INVALID_TEXT, PROTOCOL_ERROR)


async def test_a_code_point_may_be_cut_by_a_fragment(wire: RawWebsocket) -> None:
    text = '42["message","🦜"]'.encode()
    cut = text.index(b"\xf0") + 2
    wire.write(encode(TEXT, text[:cut], fin=False), encode(CONTINUATION, text[cut:]))
    assert await wire.message() == '42["message-back","🦜"]'.encode()


# -- the stream below -----------------------------------------------------------------------------------------------


async def test_frames_may_come_byte_by_byte(wire: RawWebsocket) -> None:
    await wire.write_singly(encode(TEXT, ASK))
    assert await wire.message() == ANSWER


async def test_frames_may_come_all_at_once(wire: RawWebsocket) -> None:
    wire.write(b"".join(encode(TEXT, b'42["message",%d]' % number) for number in range(200)))
    assert [await wire.message() for _ in range(200)] == [b'42["message-back",%d]' % number for number in range(200)]


async def test_a_break_in_the_middle_of_a_frame_harms_nobody(wire: RawWebsocket, echo_server: ServerProcess) -> None:
    for cut in (1, 3, 8):
        other = await RawWebsocket.open(echo_server.url)
        other.write(encode(TEXT, ASK)[:cut])
        await other.close()
    await assert_lives(wire)
