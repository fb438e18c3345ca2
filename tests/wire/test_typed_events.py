"""`typed`: the short cut takes what fits, and never says anything else than the general decoder would."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.wire import Event, Limits, Namespaces, Refused, Refuser, Schemas, TypedEvent, Violation
from duologue.wire.namespaces import Input
from duologue.wire.socketio import decode


class Note(msgspec.Struct):
    text: str
    count: int | None = None


LIMITS = Limits(ack_digits=6, nesting=4)
SCHEMAS = Schemas({"note": Note, "a note": Note}, LIMITS)

GOOD = [
    (b'42["note",{"text":"hi"}]', TypedEvent("note", Note("hi"), None)),
    (b'427["a note",{"text":"hi","count":3}]', TypedEvent("a note", Note("hi", 3), 7)),
    (b'42000007["note", {"count":null,"text":"gr\xc3\xbc\xc3\x9fe"} ]', TypedEvent("note", Note("grüße"), 7)),
    (b'420["note",{"text":"[{[{[["}]', TypedEvent("note", Note("[{[{[["), 0)),
]

DECLINED = [
    b"4", b"42", b"42[]", b'42["note"]', b'42["note",1]', b'42["note",{"text":1}]', b'42["note",{}]',
    b'42["other",{"text":"x"}]',
    b'42["note",{"text":"x"},1]', b'42["note",{"text":"x"}', b'42["note",{"text":"x"}]]', b'42[note",{"text":"x"}]',
    b'42["n\\u006fte",{"text":"x"}]', b'42/n,["note",{"text":"x"}]', b'42-1["note",{"text":"x"}]', b'42+1["note",{"text":"x"}]',
    b'42 1["note",{"text":"x"}]', b'421_0["note",{"text":"x"}]', b'421234567["note",{"text":"x"}]', b'43["note",{"text":"x"}]',
    b'451-["note",{"text":"x"}]', b'42["note",{"text":"\xff"}]', b'42["note",{"text":"x","y":"\xff"}]',
    b'42["note",{"text":"\\ud800"}]', b'42["note",{"text":"x","y":[[[[]]]]}]', b'42["note",{"text":"x","y":1}]',
    b'42["note",{"text":"x","y":NaN}]',
]  # fmt: skip


def same(typed: TypedEvent | Refused | None, expected: TypedEvent) -> bool:
    """Compared by their fields, for the argument is of a subclass of its type."""
    return isinstance(typed, TypedEvent) and msgspec.to_builtins(typed) == msgspec.to_builtins(expected)


@pytest.mark.parametrize(("packet", "expected"), GOOD, ids=repr)
def test_what_fits(packet: bytes, expected: TypedEvent) -> None:
    assert same(SCHEMAS.decode(packet), expected)


@pytest.mark.parametrize("packet", DECLINED, ids=repr)
def test_what_does_not_fit_is_left_to_the_general_decoder(packet: bytes) -> None:
    assert SCHEMAS.decode(packet) is None


@st.composite
def harmed(draw: st.DrawFn) -> bytes:
    """A packet with a few bytes replaced, inserted or removed."""
    packet = bytearray(draw(st.sampled_from([packet for packet, _ in GOOD] + DECLINED)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(packet)))
        packet[at : at + draw(st.integers(0, 2))] = draw(
            st.one_of(
                st.binary(max_size=2),
                st.sampled_from([b'"', b"[", b"]", b"{", b"}", b"\\", b",", b" ", b"1", b"\\u0000"]),
            )
        )
    return bytes(packet)


@given(harmed())
def test_both_decoders_agree(packet: bytes) -> None:
    typed = SCHEMAS.decode(packet)
    assert not isinstance(typed, bytes)
    if typed is not None:
        general = decode(packet, LIMITS)
        assert isinstance(general, Event)
        assert (general.name, general.ack_id, general.namespace) == (typed.name, typed.ack_id, "/")
        (argument,) = general.args
        assert msgspec.to_builtins(msgspec.json.decode(argument, type=Note)) == msgspec.to_builtins(typed.argument)


def asked(namespaces: Namespaces) -> bool:
    """Whether the next message may be a typed event."""
    return namespaces.open


def test_only_a_connected_peer_gets_that_far() -> None:
    packet, _ = GOOD[0]
    namespaces = Namespaces(LIMITS)
    assert not asked(namespaces)
    assert namespaces.receive_text(packet) == Violation("event outside a namespace")
    namespaces = Namespaces(LIMITS)
    namespaces.receive_text(b"40/other,")
    namespaces.apply("/other", Input.ACCEPT)
    namespaces.receive_text(b"40")
    assert not asked(namespaces)
    assert namespaces.apply("/", Input.ACCEPT)
    assert asked(namespaces)
    namespaces.receive_text(b"41/other,")
    assert asked(namespaces)
    namespaces.apply("/", Input.DISCONNECT)
    assert not asked(namespaces)
    assert namespaces.receive_text(packet) is None


def test_no_event_comes_between_a_packet_and_its_attachment() -> None:
    namespaces = Namespaces(LIMITS)
    namespaces.receive_text(b"40")
    namespaces.apply("/", Input.ACCEPT)
    announcement = b'451-["x",{"_placeholder":true,"num":0}]'
    namespaces.receive_text(announcement)
    assert not asked(namespaces)
    assert isinstance(namespaces.receive_binary(b"1"), Event)
    assert asked(namespaces)
    namespaces.receive_text(announcement)
    packet, _ = GOOD[0]
    assert namespaces.receive_text(packet) == Violation("text packet where an attachment was due")


def acks(decoded: object) -> list[bytes]:
    assert isinstance(decoded, Refused)
    return [packet for frame in decoded.frames() for packet in frame.payload.split(b"\x1e")]


def test_what_is_refused_is_answered_unread() -> None:
    answers: Iterator[str | None] = iter(["not now"] * 4 + [None])
    refuser = Refuser(["note"], lambda: next(answers), lambda reason: msgspec.json.encode([reason]))
    schemas = Schemas({"note": Note, "a note": Note}, LIMITS, refuser)
    for content in (b'{"text":"hi"}', b'{"text":1}', b"\xff", b""):
        assert acks(schemas.decode(b'427["note",' + content + b"]")) == [b'437["not now"]']
    # The ack has the id as it came, so one that isn't a number's shortest form is left to the general decoder.
    assert same(schemas.decode(b'4207["note",{"text":"hi"}]'), TypedEvent("note", Note("hi"), 7))
    assert same(schemas.decode(b'427["note",{"text":"hi"}]'), TypedEvent("note", Note("hi"), 7))
    assert same(schemas.decode(b'427["a note",{"text":"hi"}]'), TypedEvent("a note", Note("hi"), 7))
    # Who wants no ack may have to be told more than that.
    assert same(schemas.decode(b'42["note",{"text":"hi"}]'), TypedEvent("note", Note("hi"), None))
    assert schemas.decode(b'427["other",{"text":"hi"}]') is None
    assert list(answers) == []


def test_what_is_refused_together_is_asked_for_once_and_answered_in_order() -> None:
    answers = iter(["not now"])
    schemas = Schemas({"note": Note, "other": Note}, LIMITS, Refuser(["note"], lambda: next(answers), lambda _: b"[1]"))
    refused = schemas.decode(b'427["note",{"text":"a"}]')
    assert isinstance(refused, Refused)
    ids = [*range(8, 12), 3, *range(998, 1_030), 2]
    for id in ids:
        assert schemas.decode(b'42%d["note",{"text":"b"}]' % id, refused) is refused
        assert isinstance(schemas.decode(b'42%d["other",{"text":"c"}]' % id, refused), TypedEvent)
    assert acks(refused) == [b"43%d[1]" % id for id in (7, *ids)]
    assert max(frame.packets for frame in refused.frames()) == LIMITS.poll_packets


def test_without_any_types_everything_is_declined() -> None:
    schemas = Schemas({}, LIMITS)
    assert [schemas.decode(packet) for packet in (b'42[""]', b'42["note",{}]', b"42[]")] == [None] * 3
