"""Cuts, kills, reloads and tabs: each message arrives once and in order."""

from __future__ import annotations

import re

from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import WAIT, Newcomer
from tests.support.process import ServerProcess


def test_a_killed_server_loses_and_repeats_nothing(newcomer: Newcomer, server: ServerProcess) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    grace.open(ada)
    ada.say("before")
    grace.sees("before")
    with ada.outage(), grace.outage():
        server.kill()
        expect(ada.page.get_by_text("Offline – messages are kept and sent later")).to_be_visible(timeout=WAIT)
        ada.say("during one")
        ada.say("during two")
        grace.say("grace too")
        ada.sees_state("during two", "Waiting to be sent")
        server.start()
    ada.say("after")
    for person in (ada, grace):
        expect(person.bubbles).to_have_count(5, timeout=WAIT)
        texts = person.bubbles.all_text_contents()
        assert [text for text in texts if text != "grace too"] == ["before", "during one", "during two", "after"]
    assert ada.bubbles.all_text_contents() == grace.bubbles.all_text_contents()
    ada.sees_state("after", "Read")


def test_a_server_killed_in_mid_stream(newcomer: Newcomer, server: ServerProcess) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    grace.open(ada)
    texts = [f"number {number}" for number in range(1, 31)]
    for text in texts[:10]:
        ada.say(text)
    # No waiting for acks: some of these are on their way, on disk or not yet sent when the server dies.
    with ada.outage(), grace.outage():
        server.kill()
        for text in texts[10:20]:
            ada.say(text)
        server.start()
    for text in texts[20:]:
        ada.say(text)
    ada.sees(*texts)
    grace.sees(*texts)


def test_the_outbox_survives_a_cut_and_a_reload(newcomer: Newcomer, server: ServerProcess) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    texts = ["one", "two", "three"]
    with ada.outage(), grace.outage():
        # The page itself has to come from a server, so the reload happens with only the sockets cut.
        ada.page.route("**/socket.io/**", lambda route: route.abort("connectionrefused"))
        ada.page.route_web_socket("**/socket.io/**", lambda socket: socket.close())
        ada.page.reload()
        for text in texts:
            ada.say(text)
        ada.sees_state("three", "Waiting to be sent")
        ada.page.reload()
        ada.sees(*texts)
        ada.sees_state("one", "Waiting to be sent")
        page = ada.page
        ada.page = ada.new_tab()
        page.close()
    ada.open(grace)
    ada.sees(*texts)
    ada.sees_state("three", "Delivered")
    grace.open(ada)
    grace.sees(*texts)


def test_the_browser_goes_offline_and_comes_back(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    grace.open(ada)
    with ada.outage():
        ada.context.set_offline(True)
        expect(ada.page.get_by_text("Offline – messages are kept and sent later")).to_be_visible(timeout=WAIT)
        ada.say("from the tunnel")
        grace.say("are you there?")
        ada.context.set_offline(False)
    for person in (ada, grace):
        expect(person.bubbles).to_have_count(2, timeout=WAIT)
    assert ada.bubbles.all_text_contents() == grace.bubbles.all_text_contents()


def test_two_tabs_send_once_and_see_the_same(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    first = ada.page
    ada.say("from the first tab")
    ada.page = second = ada.new_tab()
    ada.open(grace)
    ada.say("from the second tab")
    grace.open(ada)
    grace.sees("from the first tab", "from the second tab")
    ada.sees("from the first tab", "from the second tab")
    ada.page = first
    ada.sees("from the first tab", "from the second tab")
    # The leading tab goes away; the other one takes the outbox over.
    first.close()
    ada.page = second
    ada.say("and on")
    grace.sees("from the first tab", "from the second tab", "and on")


def test_a_server_that_lost_its_data_says_so(newcomer: Newcomer, server: ServerProcess) -> None:
    ada = newcomer("Ada Lovelace")
    ada.page.evaluate(
        """() => {
          const held = JSON.parse(localStorage.getItem('duologue:identity'))
          localStorage.setItem('duologue:identity', JSON.stringify({ ...held, sessionID: '0'.repeat(64) }))
        }"""
    )
    ada.page.reload()
    expect(ada.page.get_by_role("alert")).to_contain_text("does not know Ada Lovelace any more")
    ada.page.get_by_role("button", name="Start anew").click()
    expect(ada.page.get_by_label("Your name")).to_be_visible()


def test_a_lost_ack_does_not_double_the_message(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    lost: list[str] = []

    def lose_first_ack(page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            if isinstance(frame, str) and is_message_ack(frame) and not lost:
                lost.append(frame)
                page_side.close()
                server_side.close()
            else:
                page_side.send(frame)

        server_side.on_message(pass_on)

    ada.page.route_web_socket("**/socket.io/**", lose_first_ack)
    ada.page.reload()
    ada.wait_online()
    ada.open(grace)
    with ada.outage():
        ada.say("only once")
        ada.sees_state("only once", "Delivered")
    assert lost
    grace.open(ada)
    for person in (ada, grace):
        person.sees("only once")


def test_a_refused_message_can_be_tried_again_or_removed(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    refusing = True

    def refuse(page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            message = re.match(r'42(\d+)\["private message"', frame) if isinstance(frame, str) else None
            if refusing and message:
                page_side.send(f'43{message[1]}[{{"error":"unknown user","message":"There is nobody of that id."}}]')
            else:
                server_side.send(frame)

        page_side.on_message(pass_on)

    ada.page.route_web_socket("**/socket.io/**", refuse)
    ada.page.reload()
    ada.wait_online()
    ada.open(grace)
    ada.say("try me again")
    ada.sees_state("try me again", "Not sent")
    expect(ada.log.get_by_text("There is nobody of that id.")).to_be_visible()
    ada.page.reload()
    ada.sees_state("try me again", "Not sent")
    refusing = False
    ada.log.get_by_role("button", name="Try again").click()
    ada.sees_state("try me again", "Delivered")
    grace.open(ada)
    for person in (ada, grace):
        person.sees("try me again")


def test_leaving_removes_everything_from_the_browser(newcomer: Newcomer) -> None:
    ada, grace = newcomer("Ada Lovelace"), newcomer("Grace Hopper")
    ada.open(grace)
    ada.say("goodbye")
    ada.sees_state("goodbye", "Delivered")
    ada.page.get_by_role("textbox", name="Message to Grace Hopper").fill("a draft")
    ada.page.get_by_role("button", name="Leave").click()
    ada.page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    expect(ada.page.get_by_label("Your name")).to_be_visible()
    ada.page.wait_for_function("async () => (await indexedDB.databases()).length === 0")
    assert ada.page.evaluate("() => localStorage.length") == 0


def test_leaving_signs_the_other_devices_out(newcomer: Newcomer) -> None:
    ada = newcomer("Ada Lovelace")
    held = ada.page.evaluate("() => Object.entries(localStorage)")
    laptop = newcomer("Ada's laptop")
    laptop.page.evaluate(
        "(held) => { localStorage.clear(); held.forEach((each) => localStorage.setItem(...each)) }", held
    )
    laptop.page.reload()
    expect(laptop.page.get_by_text("Ada Lovelace").first).to_be_visible()
    ada.page.get_by_role("button", name="Leave").click()
    ada.page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    expect(laptop.page.get_by_role("heading", name="We could not sign you in")).to_be_visible()
    expect(laptop.page.get_by_role("alert")).to_contain_text("Perhaps you left on another device")
    laptop.page.get_by_role("button", name="Start anew").click()
    expect(laptop.page.get_by_label("Your name")).to_be_visible()


def is_message_ack(frame: str) -> re.Match[str] | None:
    """An ack that says where a message was stored; its first group is the ack's number."""
    return re.match(r'43(\d+)\[\{.*"seq":', frame)
