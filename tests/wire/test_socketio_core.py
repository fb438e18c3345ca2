"""The Socket.IO core: bytes in, values out. What's refused here never reaches an application."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.wire import (
    Ack,
    Connect,
    Disconnect,
    Event,
    Limits,
    Namespaces,
    Violation,
    encode_ack,
    encode_connect,
    encode_connect_error,
    encode_disconnect,
    encode_event,
    extract_attachments,
    resolve_attachments,
)
from duologue.wire.namespaces import Input
from duologue.wire.socketio import RESERVED_EVENTS

LIMITS = Limits()


def connected(*namespaces: str, limits: Limits = LIMITS) -> Namespaces:
    core = Namespaces(limits)
    for namespace in namespaces or ("/",):
        assert isinstance(core.receive_text(b"40" if namespace == "/" else b"40" + namespace.encode() + b","), Connect)
        assert core.apply(namespace, Input.ACCEPT)
    return core


def event(packet: bytes) -> Event:
    received = connected("/", "/custom").receive_text(packet)
    assert isinstance(received, Event), received
    return received


@pytest.mark.parametrize(
    ("packet", "namespace", "name", "args", "ack_id"),
    [
        (b'42["a"]', "/", "a", [], None),
        (b'42["private message",{"to":"x"}]', "/", "private message", [b'{"to":"x"}'], None),
        (b'4217["a",1,"2",{"3":[true]}]', "/", "a", [b"1", b'"2"', b'{"3":[true]}'], 17),
        (b'420["a",null]', "/", "a", [b"null"], 0),
        (b'42/custom,["a"]', "/custom", "a", [], None),
        (b'42/custom,12["a"]', "/custom", "a", [], 12),
        (b'42[ "a" , 1 ]', "/", "a", [b"1"], None),
        ('42["ä","é"]'.encode(), "/", "ä", ['"é"'.encode()], None),
        (b'42["__proto__"]', "/", "__proto__", [], None),
        (b'42["constructor"]', "/", "constructor", [], None),
        (b'42[""]', "/", "", [], None),
        (b'42["a",' + b"9" * 10_000 + b"]", "/", "a", [b"9" * 10_000], None),
        (b'42["a","\\ud83d\\ude00"]', "/", "a", [b'"\\ud83d\\ude00"'], None),
    ],
)
def test_events(packet: bytes, namespace: str, name: str, args: list[bytes], ack_id: int | None) -> None:
    received = event(packet)
    assert (received.namespace, received.name, received.ack_id, received.attachments) == (namespace, name, ack_id, ())
    assert [bytes(arg) for arg in received.args] == args


def test_a_lone_surrogate_stays_in_its_argument_and_ends_nothing() -> None:
    received = event(b'42["a","\\ud800",["\\\\ud800 \\ud83d\\ude00\\udfff", 1] , "\\ufffd"]')
    assert [bytes(arg) for arg in received.args] == [
        b'"\\ud800"',
        b'["\\\\ud800 \\ud83d\\ude00\\udfff", 1]',
        b'"\\ufffd"',
    ]


@pytest.mark.parametrize(
    "packet",
    [
        b"4",
        b"42",
        b"42{}",
        b"42[]",
        b"42[1]",
        b"4abc",
        b"47",
        b"49[1]",
        b'44{"message":"x"}',
        b"42null",
        b'42["a"',
        b'42["a"]]',
        b'42["a"],["b"]',
        b'42["a",NaN]',
        b'42["a",Infinity]',
        b'42["a",-Infinity]',
        b'42["a",01]',
        b'42["a","\x00"]',
        b'42["a","\xff"]',
        b'42["\xff"]',
        b'42["\\ud800"]',
        b'42abc["a"]',
        b'42-1["a"]',
        b'421e5["a"]',
        b'42+1["a"]',
        b"42" + b"1" * 16 + b'["a"]',
        b"42" + b"1" * 30 + b'["a"]',
        "42²[".encode() + b'"a"]',
        b'42/custom["a"]',
        b'42/nowhere,["a"]',
        b'42/custom?x=1,["a"]',
        b"42/" + b"n" * 200 + b',["a"]',
        b'42/\xff,["a"]',
        b'42/a\nb,["a"]',
        b'42["connect"]',
        b'42["connect_error"]',
        b'42["disconnect"]',
        b'42["disconnecting"]',
        b'42["newListener"]',
        b'42["removeListener"]',
        b'42["' + b"x" * 10_000 + b'"]',
        b'42["a",' + b"[" * 100 + b"]" * 100 + b"]",
        b'42["a",' + b"[" * 10_000 + b"]" * 10_000 + b"]",
        b'42["a",' + b"[" * 100_000 + b"]" * 100_000 + b"]",
        b'42["a",' + b"[" * 1_000_000,
        b'42["a",' + b'{"a":' * 100_000,
        b'42["a","' + b'\\"' * 400_000 + b"[" * 100,
        b"43[1]",
        b"431",
        b"43x[1]",
        b"41x",
        b"40[]",
        b"40{",
        b'40{"a":1}{"b":2}',
        b'40{"a":1},{"b":2}',
        b'45["a"]',
        b'45-["a"]',
        b'451000000-["a"]',
        b'45-1-["a"]',
        b'45x-["a"]',
        b'451-["connect",{"_placeholder":true,"num":0}]',
        b"40",  # a second CONNECT
    ],
)
def test_malformed_packets_are_violations_and_never_exceptions(packet: bytes) -> None:
    received = connected("/", "/custom").receive_text(packet)
    assert isinstance(received, Violation)
    assert received.reason


def test_depth_is_counted_outside_of_strings() -> None:
    assert isinstance(connected().receive_text(b'42["a","' + b"[{" * 500 + b'"]'), Event)
    deepest = b'42["a",' + b"[" * (LIMITS.nesting - 1) + b"]" * (LIMITS.nesting - 1) + b"]"
    assert isinstance(connected().receive_text(deepest), Event)
    assert isinstance(connected().receive_text(b'42["a",[' + deepest[7:-1] + b"]]"), Violation)


class TestNamespaces:
    @pytest.mark.parametrize("packet", [b'42["a"]', b"431[]", b"41", b'451-["a",{"_placeholder":true,"num":0}]'])
    def test_nothing_before_connect_or_before_its_answer(self, packet: bytes) -> None:
        core = Namespaces(LIMITS)
        assert isinstance(core.receive_text(packet), Violation)
        core = Namespaces(LIMITS)
        core.receive_text(b"40")
        if packet != b"41":
            assert isinstance(core.receive_text(packet), Violation)

    def test_binary_before_connect(self) -> None:
        assert isinstance(Namespaces(LIMITS).receive_binary(b"x"), Violation)

    def test_disconnect_and_then_events(self) -> None:
        core = connected()
        assert core.receive_text(b"41") == Disconnect("/")
        assert isinstance(core.receive_text(b'42["a"]'), Violation)

    def test_what_was_on_its_way_when_the_server_disconnected_is_dropped(self) -> None:
        core = connected()
        assert core.apply("/", Input.DISCONNECT)
        assert core.receive_text(b'42["a"]') is None
        assert not core.occupied
        assert isinstance(core.receive_text(b"40"), Connect)

    def test_at_most_so_many_namespaces(self) -> None:
        core = Namespaces(LIMITS)
        for number in range(LIMITS.namespaces):
            assert isinstance(core.receive_text(b"40/%d," % number), Connect)
        assert core.receive_text(b"40/one-more,") == Violation("too many namespaces")

    def test_a_refused_namespace_is_left(self) -> None:
        core = Namespaces(LIMITS)
        core.receive_text(b'40/x,{"token":1}')
        assert core.apply("/x", Input.REFUSE)
        assert not core.apply("/x", Input.ACCEPT)
        assert not core.occupied

    def test_the_old_query_of_a_namespace_is_no_part_of_it(self) -> None:
        assert Namespaces(LIMITS).receive_text(b"40/x?token=1,") == Connect("/x", None)


PLACEHOLDER = b'{"_placeholder":true,"num":%d}'


class TestAttachments:
    def test_an_event_waits_for_its_attachments(self) -> None:
        core = connected()
        packet = b'452-7["a",' + PLACEHOLDER % 1 + b',{"x":[' + PLACEHOLDER % 0 + b"]}]"
        assert core.receive_text(packet) is None
        assert core.receive_binary(b"zero") is None
        received = core.receive_binary(b"one")
        assert isinstance(received, Event)
        assert received.ack_id == 7
        assert resolve_attachments(received.args, received.attachments) == [b"one", {"x": [b"zero"]}]

    def test_binary_acks(self) -> None:
        core = connected("/custom")
        assert core.receive_text(b"461-/custom,3[" + PLACEHOLDER % 0 + b"]") is None
        received = core.receive_binary(b"x")
        assert isinstance(received, Ack)
        assert (received.ack_id, received.attachments) == (3, (b"x",))

    def test_text_where_an_attachment_is_due(self) -> None:
        core = connected()
        core.receive_text(b'451-["a",' + PLACEHOLDER % 0 + b"]")
        assert isinstance(core.receive_text(b'42["b"]'), Violation)

    def test_none_announced_and_then_one_sent(self) -> None:
        core = connected()
        assert isinstance(core.receive_text(b'450-["x"]'), Event)
        assert isinstance(core.receive_binary(b"x"), Violation)

    def test_one_more_than_announced(self) -> None:
        core = connected()
        core.receive_text(b'451-["a",' + PLACEHOLDER % 0 + b"]")
        assert isinstance(core.receive_binary(b"x"), Event)
        assert isinstance(core.receive_binary(b"y"), Violation)

    def test_too_large_together(self) -> None:
        core = connected(limits=Limits(attachment_bytes=10))
        core.receive_text(b'452-["a",' + PLACEHOLDER % 0 + b"," + PLACEHOLDER % 1 + b"]")
        assert core.receive_binary(b"123456") is None
        assert isinstance(core.receive_binary(b"123456"), Violation)

    @pytest.mark.parametrize(
        "argument",
        [
            PLACEHOLDER % 1,
            b'{"_placeholder":true,"num":-1}',
            b'{"_placeholder":true,"num":"0"}',
            b'{"_placeholder":true,"num":0.0}',
            b'{"_placeholder":true,"num":true}',
            b'{"_placeholder":true,"num":null}',
            b'{"_placeholder":true,"num":"splice"}',
            b'{"_placeholder":true,"num":' + PLACEHOLDER % 0 + b"}",
            b'{"_placeholder":true,"num":' + b"9" * 10_000 + b"}",
            b'{"_placeholder":true}',
            b'{"_placeholder":true,"num":0,"x":1}',
            b"[" + PLACEHOLDER % 0 + b"," + PLACEHOLDER % 0 + b"]",
            b"1",
            b'{"_placeholder":false,"num":0}',
        ],
    )
    def test_bad_placeholders(self, argument: bytes) -> None:
        core = connected()
        assert core.receive_text(b'451-["a",' + argument + b"]") is None
        assert isinstance(core.receive_binary(b"x"), Violation)

    def test_extracting_is_the_opposite_of_resolving(self) -> None:
        values = [1, b"x", {"a": [b"", "t"]}]
        texts, attachments = extract_attachments(values)
        assert attachments == [b"x", b""]
        assert resolve_attachments([msgspec.Raw(text) for text in texts], attachments) == values


def test_what_the_server_sends() -> None:
    assert encode_event("a b", b"1", b"{}") == b'42["a b",1,{}]'
    assert encode_event("a", namespace="/x", ack_id=3, attachments=2) == b'452-/x,3["a"]'
    assert encode_ack(0) == b"430[]"
    assert encode_ack(12, b"1", namespace="/x") == b"43/x,12[1]"
    assert encode_ack(12, b"1", attachments=1) == b"461-12[1]"
    assert encode_connect("s", "/x") == b'40/x,{"sid":"s"}'
    assert encode_connect_error("no", b'{"a":1}') == b'44{"message":"no","data":{"a":1}}'
    assert encode_connect_error("Invalid namespace", namespace="/x") == b'44/x,{"message":"Invalid namespace"}'
    assert encode_disconnect("/x") == b"41/x,"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.text(max_size=50).filter(lambda name: name not in RESERVED_EVENTS)


@given(NAMES, st.lists(JSON, max_size=4), st.none() | st.integers(0, 10**15 - 1))
def test_every_event_comes_back_as_it_was(name: str, values: list[object], ack_id: int | None) -> None:
    texts = [msgspec.json.encode(value) for value in values]
    received = event(encode_event(name, *texts, ack_id=ack_id))
    assert (received.name, [bytes(arg) for arg in received.args], received.ack_id) == (name, texts, ack_id)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=12))
def test_nothing_that_a_peer_sends_raises(messages: list[tuple[bool, bytes]]) -> None:
    core = connected()
    for is_text, content in messages:
        received = core.receive_text(b"4" + content) if is_text else core.receive_binary(content)
        if isinstance(received, Violation):
            return


@given(st.text(alphabet='0123456789-/,[]{}"\\ud8a_placeholdernum:true', max_size=60))
def test_nothing_that_resembles_a_packet_raises(text: str) -> None:
    connected().receive_text(b"4" + text.encode())
