"""F25, what browsers do to a page: a tab dies in the middle of sending, storage is cleared, somebody goes back."""

from __future__ import annotations

import contextlib

from playwright.sync_api import Error, Page, expect

from tests.browser.conftest import WAIT, Newcomer

CLEAR_DATABASES = """async () => {
  for (const { name } of await indexedDB.databases()) {
    await new Promise((resolve, reject) => {
      const request = indexedDB.deleteDatabase(name)
      request.onsuccess = request.onblocked = resolve
      request.onerror = reject
    })
  }
}"""


def crash(page: Page) -> None:
    """The tab's process is gone: no handler runs, nothing is written any more."""
    with page.expect_event("crash"), contextlib.suppress(Error):
        page.goto("chrome://crash")  # never arrives
    page.close()


def test_a_tab_dies_in_mid_send(newcomer: Newcomer) -> None:
    """What was said is sent by the next tab, once; only what was typed in the last moment may be missing."""
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    grace.open(ada)
    texts = [f"number {number}" for number in range(1, 16)]
    ada.say(texts[0])
    ada.sees_state(texts[0], "Read")
    for text in texts[1:]:
        ada.say(text)
    crash(ada.page)
    ada.page = ada.new_tab()
    ada.wait_online()
    ada.open(grace)
    ada.say("the end")
    ada.sees_state("the end", "Read")
    shown = ada.bubbles.all_text_contents()
    assert shown[-1] == "the end"
    assert shown[:-1] == texts[: len(shown) - 1]
    grace.sees(*shown)


def test_cleared_databases_come_back_from_the_server(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    for text in ("one", "two"):
        ada.say(text)
    ada.sees_state("two", "Delivered")
    ada.page.evaluate(CLEAR_DATABASES)
    ada.page.reload()
    ada.wait_online()
    ada.sees("one", "two")
    ada.say("three")
    grace.open(ada)
    grace.sees("one", "two", "three")


def test_cleared_storage_is_a_new_beginning(newcomer: Newcomer) -> None:
    """A guest's only key was there. The page says nothing wrong: it asks for a name, and the old person stays as they were."""
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    ada.say("before")
    ada.sees_state("before", "Delivered")
    ada.page.evaluate(CLEAR_DATABASES)
    ada.page.evaluate("() => localStorage.clear()")
    ada.page.reload()
    ada.enter("Ada Byron")
    ada.open(grace)
    ada.sees()
    ada.say("after")
    grace.open(ada)
    grace.sees("after")


def test_back_and_forward(newcomer: Newcomer) -> None:
    ada, grace, alan = newcomer("Ada Lovelace"), newcomer("Grace Hopper"), newcomer("Alan Turing")
    ada.open(grace)
    ada.say("to Grace")
    ada.open(alan)
    ada.say("to Alan")
    ada.page.go_back()
    expect(ada.page.get_by_role("heading", name="Grace Hopper", level=1)).to_be_visible(timeout=WAIT)
    ada.sees("to Grace")
    grace.open(ada)
    grace.say("from Grace")
    ada.sees("to Grace", "from Grace")
    ada.page.go_forward()
    ada.sees("to Alan")
    ada.page.go_back()
    ada.sees("to Grace", "from Grace")
    ada.say("once")
    grace.sees("to Grace", "from Grace", "once")
