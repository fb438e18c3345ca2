"""A conversation longer than what the page shows of it at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import WAIT, Newcomer, Person
from tests.support.client import ChatClient
from tests.support.process import ServerProcess

LINES: Final = 320
"""More than twice what the page shows, and not a whole number of its steps."""


class Ben:
    """Writes by a socket, which is quicker than a page."""

    def __init__(self, url: str, to: str) -> None:
        self._url = url
        self._to = to
        self._session: str | None = None

    def write(self, *lines: str) -> None:
        # In a thread of its own, for Playwright has an event loop running in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._write(lines)).result(4 * WAIT / 1_000)

    async def _write(self, lines: tuple[str, ...]) -> None:
        client = await ChatClient(self._url, "Ben", session_id=self._session).connect()
        self._session = client.session_id
        for line in lines:
            await client.send(self._to, line)
        await client.close()


@pytest.fixture
def both(newcomer: Newcomer, server: ServerProcess) -> tuple[Person, Ben]:
    """Ada, who reads what Ben wrote, and Ben."""
    ada = newcomer("Ada Lovelace")
    identity: dict[str, Any] = ada.page.evaluate("JSON.parse(localStorage['duologue:identity'])")
    ben = Ben(server.url, identity["userID"])
    ben.write(*(f"line {number}" for number in range(1, LINES + 1)))
    ada.page.get_by_role("navigation").get_by_role("link").filter(has_text="Ben").click()
    expect(ada.bubbles.last).to_have_text(f"line {LINES}")
    return ada, ben


def go_up(ada: Person) -> None:
    """To the very top again and again, until the first line is there. What was first stays in sight each time."""
    for _ in range(LINES):
        first = ada.bubbles.first.inner_text()
        if first == "line 1":
            return
        ada.log.evaluate("box => box.scrollTo(0, 0)")
        expect(ada.bubbles.first).not_to_have_text(first)
        expect(ada.bubbles.get_by_text(first, exact=True)).to_be_in_viewport()


def test_whoever_reaches_the_top_goes_on_from_there(both: tuple[Person, Ben]) -> None:
    ada, _ = both
    go_up(ada)
    expect(ada.page.get_by_text("This is the beginning of your conversation.")).to_be_attached()
    assert ada.bubbles.first.inner_text() == "line 1"


def test_what_comes_while_one_reads_far_up_is_counted_and_nothing_else(both: tuple[Person, Ben]) -> None:
    ada, writer = both
    go_up(ada)
    expect(ada.page.get_by_role("button", name="Latest")).to_be_visible()
    writer.write("one more", "and another")
    ada.page.get_by_role("button", name="2 new").click()
    expect(ada.bubbles.last).to_have_text("and another")
    expect(ada.bubbles.last).to_be_in_viewport()


def test_whoever_writes_while_far_up_sees_what_was_written(both: tuple[Person, Ben]) -> None:
    ada, _ = both
    go_up(ada)
    ada.say("from far up")
    expect(ada.bubbles.last).to_have_text("from far up")
    expect(ada.bubbles.last).to_be_in_viewport()


def test_an_open_conversation_keeps_a_bounded_part_and_brings_the_rest_again(both: tuple[Person, Ben]) -> None:
    ada, writer = both
    for count in range(250, 1_251, 250):
        writer.write(*(f"more {number}" for number in range(count - 249, count + 1)))
        expect(ada.bubbles.last).to_have_text(f"more {count}")
    held = ada.page.evaluate(
        """() => {
            const { $pinia } = document.querySelector('#app').__vue_app__.config.globalProperties
            const { all, open } = $pinia.state.value.conversations
            return all.get(open).messages.length
        }"""
    )
    assert 500 <= held <= 1_000
    go_up(ada)
    assert ada.bubbles.first.inner_text() == "line 1"
