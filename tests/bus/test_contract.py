"""What every bus has to do, whatever it is made of. `here` publishes; `there` is another node, or the same one where there
is only one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from duologue.bus.local import LocalBus
from duologue.bus.nats import NatsBus

from .conftest import ANN, BOB, Got, Node

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=["local", "nats"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Node, Node]]:
    """Each implementation of the port joins here by its name."""
    if request.param == "local":
        node = Node(LocalBus())
        yield node, node
        return
    server, namespace = request.getfixturevalue("nats"), secrets.token_hex(4)
    pair = Node(NatsBus([server.url], namespace)), Node(NatsBus([server.url], namespace))
    for node in pair:
        await node.bus.start()
    yield pair
    for node in pair:
        await node.bus.close()


async def test_a_publication_reaches_the_node_of_the_user_whole(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.bus.subscribe(BOB)
    await there.bus.settled()
    here.bus.publish(BOB, 2**40, b"\x00any bytes\r\n\xff", "socket-1", announcement=True)
    here.bus.publish(BOB, 0, b"")
    assert await there.until_got(2) == [Got(BOB, 2**40, b"\x00any bytes\r\n\xff", "socket-1", True), Got(BOB, 0, b"")]


async def test_the_publications_of_one_node_keep_their_order(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for user in (ANN, BOB):
        there.bus.subscribe(user)
    await there.bus.settled()
    sent = [Got((ANN, BOB)[version % 2], version, b"x" * (version % 700)) for version in range(1, 2001)]
    for each in sent:
        here.bus.publish(*each)
    assert await there.until_got(len(sent)) == sent


async def test_only_who_is_subscribed_for_hears_and_as_long_as_one_socket_is_there(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.bus.subscribe(BOB)
    there.bus.subscribe(BOB)
    await there.bus.settled()
    here.bus.publish(ANN, 1, b"for nobody")
    here.bus.publish(BOB, 1, b"two sockets, one delivery")
    await there.until_got(1)
    there.bus.unsubscribe(BOB)
    await there.bus.settled()
    here.bus.publish(BOB, 2, b"one is left")
    await there.until_got(2)
    there.bus.unsubscribe(BOB)
    there.bus.subscribe(ANN)
    await there.bus.settled()
    here.bus.publish(BOB, 3, b"none is left")
    here.bus.publish(ANN, 1, b"the end")
    await there.until_got(3)
    assert [got.packet for got in there.got] == [b"two sockets, one delivery", b"one is left", b"the end"]


async def test_who_comes_back_at_once_is_heard_of(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for _ in range(50):
        there.bus.subscribe(BOB)
        there.bus.unsubscribe(BOB)
    there.bus.subscribe(BOB)
    await there.bus.settled()
    here.bus.publish(BOB, 1, b"x")
    assert await there.until_got(1) == [Got(BOB, 1, b"x")]


async def test_somebody_who_may_be_connected_is_wanted(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.bus.subscribe(BOB)
    assert here.bus.wanted(BOB)
    there.bus.subscribe(BOB)
    assert here.bus.wanted(BOB, 1)


async def test_topics_reach_every_subscribed_node_by_name_and_by_pattern(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.bus.subscribe_topic("p.ann", there.hear)
    there.bus.subscribe_topic("g.*", there.hear)
    await there.bus.settled()
    here.bus.publish_topic("p.ann", b"1")
    here.bus.publish_topic("p.bob", b"2")
    here.bus.publish_topic("g.bob", b"3")
    await there.until(lambda: len(there.topics) >= 2)
    there.bus.unsubscribe_topic("p.ann")
    await there.bus.settled()
    here.bus.publish_topic("p.ann", b"4")
    here.bus.publish_topic("g.cat", b"")
    await there.until(lambda: len(there.topics) >= 3)
    assert there.topics == [("p.ann", b"1"), ("g.bob", b"3"), ("g.cat", b"")]


async def test_a_notice_is_for_other_nodes_where_the_user_is(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    here.bus.subscribe(BOB)
    there.bus.subscribe(BOB)
    there.bus.subscribe_topic("the.end", there.hear)
    await there.bus.settled()
    here.bus.notify(BOB, b"\x00any bytes\xff")
    here.bus.notify(ANN, b"nobody is here")
    here.bus.publish_topic("the.end", b"")
    await there.until(lambda: ("the.end", b"") in there.topics)
    assert there.topics == ([] if here is there else [(BOB, b"\x00any bytes\xff")]) + [("the.end", b"")]
    assert (here.got, there.got) == ([], [])


async def test_a_node_hears_its_own_publications_once(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    here.bus.subscribe(BOB)
    here.bus.subscribe_topic("p.*", here.hear)
    await here.bus.settled()
    here.bus.publish(BOB, 1, b"x")
    here.bus.publish_topic("p.ann", b"y")
    assert here.got == [Got(BOB, 1, b"x")]
    assert here.topics == [("p.ann", b"y")]
    await here.bus.settled()
    assert (len(here.got), len(here.topics)) == (1, 1)
