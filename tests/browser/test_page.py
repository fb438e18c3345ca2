"""What people send stays text, and the page fits the screen that it is shown on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect

from tests.browser.conftest import Newcomer
from tests.support.process import ROOT

XSS: Final = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg/onload=window.pwned=1>",
    "<iframe srcdoc='<script>parent.pwned = 1</script>'></iframe>",
    "<a href='javascript:window.pwned=1'>click</a>",
    "javascript:window.pwned=1",
    "data:text/html,<script>window.pwned=1</script>",
    "{{ constructor.constructor('window.pwned = 1')() }}",
    "${window.pwned = 1}",
    '"><script>window.pwned = 1</script>',
    "</textarea><script>window.pwned = 1</script>",
    "<math><mtext><style><img src=x onerror=window.pwned=1></style></mtext></math>",
    'https://example.test/" onmouseover="window.pwned=1',
    "https://user:word@example.test/",
    "\u202egnp.exe https://example.test/\u202efdp.exe",
)

PHONE: Final = {"width": 320, "height": 568}


def test_mark_up_stays_text(newcomer: Newcomer) -> None:
    ada, mallory = newcomer("Ada Lovelace"), newcomer("<img src=x onerror=pwned=1>")
    mallory.open(ada)
    for text in XSS:
        mallory.say(text)
    ada.open(mallory)
    for person in (ada, mallory):
        person.sees(*XSS)
        assert person.page.evaluate("() => window.pwned") is None
        assert person.log.locator("script, img, iframe, math, svg:not(.tick svg)").count() == 0
        addresses = person.log.locator("a").evaluate_all("links => links.map((link) => link.protocol)")
        assert set(addresses) <= {"http:", "https:"}


def test_links_lead_where_they_say(newcomer: Newcomer) -> None:
    ada = newcomer("Ada Lovelace")
    ada.open(ada)
    ada.say("See https://example.test/a_(b), or http://xn--pple-43d.test/!")
    links = ada.log.get_by_role("link")
    expect(links).to_have_text(["https://example.test/a_(b)", "http://xn--pple-43d.test/"])
    expect(links.first).to_have_attribute("rel", "noopener noreferrer nofollow")


def test_a_phone_shows_list_and_conversation_without_sideways_scroll(newcomer: Newcomer) -> None:
    grace = newcomer("Grace Hopper")
    ada = newcomer(viewport=PHONE, has_touch=True)
    fits(ada.page)
    ada.enter("Ada Lovelace-Byron, Countess")
    fits(ada.page)
    ada.open(grace)
    ada.say("unbreakable" * 40)
    ada.say("A short one")
    ada.sees_state("A short one", "Delivered")
    fits(ada.page)
    expect(ada.page.get_by_role("navigation")).to_be_hidden()
    ada.page.get_by_role("link", name="Back to the list").click()
    expect(ada.page.get_by_role("navigation")).to_be_visible()
    fits(ada.page)


def fits(page: Page) -> None:
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} pixels wide"


def test_a_conversation_by_keyboard_alone(newcomer: Newcomer) -> None:
    grace, ada = newcomer("Grace Hopper"), newcomer("Ada Lovelace")
    ada.entry(grace).focus()
    ada.page.keyboard.press("Enter")
    box = ada.page.get_by_role("textbox", name="Message to Grace Hopper")
    expect(box).to_be_focused()
    ada.page.keyboard.type("two")
    ada.page.keyboard.press("Shift+Enter")
    ada.page.keyboard.type("lines")
    ada.page.keyboard.press("Enter")
    ada.sees("two\nlines")
    expect(box).to_be_focused()


def test_a_reader_who_scrolled_up_stays_there(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    for number in range(1, 61):
        ada.say(f"line {number}")
    ada.sees_state("line 60", "Delivered")
    grace.open(ada)
    expect(grace.bubbles.last).to_have_text("line 60")
    grace.log.evaluate("box => box.scrollTo(0, 0)")
    expect(grace.bubbles.first).to_have_text("line 1")
    grace.log.evaluate("box => box.scrollTo(0, 600)")
    before = grace.log.evaluate("box => box.scrollTop")
    ada.say("one more")
    grace.page.get_by_role("button", name="1 new").wait_for()
    assert abs(grace.log.evaluate("box => box.scrollTop") - before) <= 2
    grace.page.get_by_role("button", name="1 new").click()
    expect(grace.bubbles.last).to_have_text("one more")
    expect(grace.page.get_by_role("button", name="1 new")).to_have_count(0)


def test_the_screenshot_of_the_readme(newcomer: Newcomer, tmp_path: Path) -> None:
    """Made in every run, so that it can be; DUOLOGUE_SCREENSHOT=1 keeps it for the README."""
    view = {"viewport": {"width": 1180, "height": 720}, "device_scale_factor": 1.5, "color_scheme": "light"}
    ada, grace = newcomer("Ada Lovelace", **view), newcomer("Grace Hopper")
    alan, mary = newcomer("Alan Turing"), newcomer("Mary Somerville")
    newcomer("Hedy Lamarr")
    alan.open(ada)
    alan.say("The machine stopped last night. Or did it?")
    alan.say("I shall know by Thursday.")
    mary.open(ada)
    mary.say("Tea on Sunday? I have the new tables.")
    ada.open(mary)
    ada.say("With pleasure, at four.")
    ada.sees_state("With pleasure, at four.", "Read")
    grace.open(ada)
    ada.open(grace)
    talk = [
        (grace, "Did the note about the Bernoulli numbers get through? I pulled the plug halfway."),
        (ada, "Every line of it, in order 😊"),
        (ada, "I was on the train, it was all there when I came out of the tunnel."),
        (grace, "And I killed the server twice in between."),
        (ada, "Then it is a patient one. I only saw two ticks turn blue."),
        (grace, "The tables are on https://example.org/engine/notes, have a look at the last one."),
        (ada, "Reading them now. Number seven is the one I meant!"),
    ]
    for count, (person, text) in enumerate(talk, 1):
        person.say(text)
        other = ada if person is grace else grace
        expect(other.bubbles).to_have_count(count)
    ada.sees_state(talk[-1][1], "Read")
    ada.page.get_by_role("button", name="Refresh people").click()
    ada.entry(mary).wait_for()
    ada.page.get_by_text("Hedy Lamarr").wait_for()
    folder = ROOT / "docs" / "images" if os.environ.get("DUOLOGUE_SCREENSHOT") else tmp_path
    ada.page.mouse.move(0, 0)
    ada.page.screenshot(path=folder / "screenshot.png", animations="disabled")
