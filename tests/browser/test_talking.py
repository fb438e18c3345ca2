"""Two people, their marks and their ticks, and what is waiting for somebody who comes back."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import WAIT, Newcomer


def test_two_people_talk(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    ada.say("Hello Grace")
    grace.open(ada)
    grace.say("Hello Ada")
    grace.say("How is the engine?")
    for person in (ada, grace):
        person.sees("Hello Grace", "Hello Ada", "How is the engine?")


def test_ticks_go_from_sent_to_delivered_to_read(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    address = grace.page.url
    grace.page.goto("about:blank")
    ada.say("Are you there?")
    ada.sees_state("Are you there?", "Sent")
    grace.page.goto(address)
    ada.sees_state("Are you there?", "Delivered")
    grace.sees_unread(ada, 1)
    grace.open(ada)
    ada.sees_state("Are you there?", "Read")
    grace.sees_unread(ada, 0)


def test_an_offline_recipient_finds_everything_later(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    address = grace.page.url
    grace.page.goto("about:blank")
    texts = [f"message {number}" for number in range(1, 61)]
    for text in texts:
        ada.say(text)
    ada.sees_state(texts[-1], "Sent")
    grace.page.goto(address)
    grace.sees_unread(ada, len(texts))
    expect(grace.page).to_have_title(f"({len(texts)}) Duologue")
    grace.open(ada)
    expect(grace.bubbles.last).to_have_text(texts[-1])
    # More than a page was missed: the rest comes as one scrolls up.
    grace.log.evaluate("box => box.scrollTo(0, 0)")
    grace.sees(*texts)
    expect(grace.page.get_by_text("New messages", exact=True)).to_have_count(1)


def test_a_reload_shows_what_was_held_without_a_server(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    ada.say("Keep this")
    ada.sees_state("Keep this", "Delivered")
    with ada.outage():
        ada.page.route("**/socket.io/**", lambda route: route.abort("connectionrefused"))
        ada.page.route_web_socket("**/socket.io/**", lambda socket: socket.close())
        ada.page.reload()
        ada.sees("Keep this")
        expect(ada.page.get_by_text("Offline – messages are kept and sent later")).to_be_visible(timeout=WAIT)
        ada.page.unroute_all()
        ada.page.goto("about:blank")
        ada.page = ada.new_tab()


def test_typing_shows_and_goes(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    grace.open(ada)
    status = grace.page.get_by_role("main").get_by_text("typing…")
    ada.page.get_by_role("textbox", name="Message to Grace Hopper").press_sequentially("Hel")
    expect(status).to_be_visible(timeout=WAIT)
    ada.page.get_by_role("button", name="Send").click()
    expect(status).to_have_count(0, timeout=WAIT)
    grace.sees("Hel")


def test_presence_follows_the_other_side(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    status = ada.page.get_by_role("main").locator("header .status")
    expect(status).to_have_text("Online", timeout=WAIT)
    grace.page.goto("about:blank")
    expect(status).to_have_text(re.compile("^Last seen"), timeout=WAIT)


def test_a_draft_survives_a_reload_and_a_change_of_conversation(newcomer: Newcomer) -> None:
    ada, grace, alan = newcomer("Ada Lovelace"), newcomer("Grace Hopper"), newcomer("Alan Turing")
    ada.open(grace)
    ada.page.get_by_role("textbox", name="Message to Grace Hopper").fill("unfinished")
    ada.open(alan)
    expect(ada.page.get_by_role("textbox", name="Message to Alan Turing")).to_have_value("")
    ada.open(grace)
    ada.page.reload()
    expect(ada.page.get_by_role("textbox", name="Message to Grace Hopper")).to_have_value("unfinished")


def test_a_message_to_oneself(newcomer: Newcomer) -> None:
    ada = newcomer("Ada Lovelace")
    ada.open(ada)
    ada.say("Buy cards for the loom")
    ada.sees("Buy cards for the loom")
    ada.page.reload()
    ada.sees("Buy cards for the loom")
    ada.sees_unread(ada, 0)


def test_a_name_that_will_not_do_is_refused_kindly(newcomer: Newcomer) -> None:
    somebody = newcomer()
    refusal = somebody.page.get_by_role("alert").filter(has_text="That name will not do")
    for name in ("ab", "x" * 33, "\u202e\u202e\u202e"):
        expect(refusal).to_have_count(0)
        somebody.page.get_by_label("Your name").fill(name)
        somebody.page.get_by_role("button", name="Start").click()
        expect(refusal).to_be_visible(timeout=WAIT)
        somebody.page.reload()
    somebody.enter("Ada Lovelace")
