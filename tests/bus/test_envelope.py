"""Two releases on one bus: what one can't read of the other is a lost hint, of which it knows that it was lost."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import nats as nats_py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.nats import NatsServer
from duologue.bus import envelope
from duologue.bus.envelope import FORMAT, Foreign, Malformed, Publication
from duologue.bus.nats import NatsBus

from .conftest import BOB, PATIENCE, Got, Node

OTHER = FORMAT + 1


class Mixed:
    """A node of this release, the comparisons it asked for, and another release on the same bus."""

    def __init__(self, url: str) -> None:
        self.compared = 0
        self._news = asyncio.Event()
        self.bus = NatsBus([url], secrets.token_hex(4), self._changed)
        self.node = Node(self.bus)
        self._url = url

    def _changed(self, works: bool) -> None:
        self.compared += works
        self._news.set()

    async def until_compared(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.compared < times:
                self._news.clear()
                await self._news.wait()

    async def begin(self) -> None:
        await self.bus.start()
        self.other = await nats_py.connect(self._url)

    async def end(self) -> None:
        await self.other.close()
        await self.bus.close()

    async def say(self, subject: str, *said: bytes) -> None:
        """Of the other release; returns once the bus has it."""
        for data in said:
            await self.other.publish(f"{self.bus._prefix}{subject}", data)
        await self.other.flush()


@asynccontextmanager
async def mixed(nats: NatsServer) -> AsyncIterator[Mixed]:
    made = Mixed(nats.url)
    await made.begin()
    yield made
    await made.end()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "HEED_PAUSE", 0.05)


@pytest.mark.asyncio
@pytest.mark.usefixtures("quick")
async def test_another_format_is_counted_and_has_everything_compared(
    nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with mixed(nats) as each:
        each.bus.subscribe(BOB)
        each.bus.subscribe_topic("p.*", each.node.hear)
        await each.bus.settled()
        before = each.compared
        foreign = envelope.publication(7, b"from the next release", "", False).replace(
            bytes((FORMAT,)), bytes((OTHER,)), 1
        )
        await each.say(f"u.{BOB}", foreign)
        await each.until_compared(before + 1)
        await each.say(f"t.p.{BOB}", bytes((OTHER,)))
        await each.until_compared(before + 2)
        # What this release says is understood beside it, on the same connection and in its order.
        await each.say(f"t.p.{BOB}", envelope.topic(b"known"))
        await each.say(f"u.{BOB}", envelope.publication(8, b"known", "", False))
        assert await each.node.until_got(1) == [Got(BOB, 8, b"known")]
        assert each.node.topics == [(f"p.{BOB}", b"known")]
        assert (each.bus.foreign, each.bus.malformed) == (2, 0)
        assert each.bus.healthy
    assert caplog.text.count("another format") == 1
    assert f"(the latest {OTHER})" in caplog.text


@pytest.mark.asyncio
async def test_a_flood_of_another_format_costs_one_comparison_and_one_more_after_the_last(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "HEED_PAUSE", 0.5)
    async with mixed(nats) as each:
        each.bus.subscribe(BOB)
        await each.bus.settled()
        before = each.compared
        await each.say(f"u.{BOB}", bytes((OTHER,)))
        await each.until_compared(before + 1)
        await each.say(f"u.{BOB}", *[bytes((OTHER,))] * 5000)
        await each.until_compared(before + 2)
        await each.say(f"u.{BOB}", envelope.publication(1, b"the end", "", False))
        await each.node.until_got(1)
        assert each.bus.foreign == 5001
        assert each.compared <= before + 3


@pytest.mark.asyncio
@pytest.mark.usefixtures("quick")
async def test_the_log_is_told_once_in_a_while_with_how_many(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with mixed(nats) as each:
        each.bus.subscribe(BOB)
        await each.bus.settled()
        with caplog.at_level(logging.WARNING, logger="duologue.bus.envelope"):
            for number in range(3):
                before = each.compared
                await each.say(f"u.{BOB}", b"\0foreign")
                await each.until_compared(before + 1)
                assert caplog.text.count("another format") == 1, number
            monkeypatch.setattr(envelope, "TELL_PAUSE", 0.0)
            before = each.compared
            await each.say(f"u.{BOB}", b"\0foreign")
            await each.until_compared(before + 1)
    assert "1 messages on the bus had another format" in caplog.text
    assert "3 messages on the bus had another format" in caplog.text


said = st.builds(
    Publication,
    version=st.integers(0, 2**64 - 1),
    packet=st.binary(max_size=50),
    exclude=st.text(st.characters(max_codepoint=127), max_size=255),
    announcement=st.booleans(),
    is_notice=st.just(False),
)


@given(said, st.binary(max_size=50))
def test_what_is_put_into_an_envelope_comes_out_again(each: Publication, data: bytes) -> None:
    assert envelope.read_publication(envelope.publication(*each[:4])) == each
    assert envelope.read_publication(envelope.notice(data)) == Publication(0, data, "", False, True)
    assert envelope.read_topic(envelope.topic(data)) == data


@given(st.binary(max_size=300))
def test_whatever_is_read_is_understood_foreign_or_malformed(data: bytes) -> None:
    kinds = {b"": Malformed, bytes((FORMAT,)): Malformed}
    for read in (envelope.read_publication, envelope.read_topic):
        with suppress(kinds.get(data[:1], Foreign)):
            read(data)
            assert data[:1] == bytes((FORMAT,))
