"""Real Chromium, the real server as a process, and people who use them.

Every page is watched: a console error, a violated Content-Security-Policy, an uncaught exception or a request off the
server's origin fails the test. While a server is down on purpose, failing connections to it are the only exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect

from bench import chromium
from tests.conftest import StartServer
from tests.support.process import ROOT, ServerProcess

NETWORK_DOWN: Final = re.compile(
    r"net::ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|INTERNET_DISCONNECTED|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED|NETWORK_CHANGED)"
    r"|WebSocket connection to .* failed"
)
WAIT: Final = 15_000
"""Milliseconds within which the page must show what is expected; reconnecting takes up to 5 s of them."""

expect.set_options(timeout=WAIT)

CLIENT: Final = ROOT / "src" / "duologue" / "web" / "index.html"


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    executable = chromium.path()
    if executable is None:
        pytest.fail(chromium.MISSING)
    return {**browser_type_launch_args, "executable_path": executable, "args": list(chromium.FLAGS)}


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    """The real server on a folder of the test's own; `start_server` judges its log afterwards."""
    assert CLIENT.is_file(), "the client was not built: python hatch_build.py"
    return start_server()


class Watch:
    """Collects whatever a page must never do."""

    def __init__(self, page: Page, origin: str) -> None:
        self._origin = origin
        self._problems: list[str] = []
        self._outage = False
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._problems.append(f"uncaught: {error}"))
        page.on("request", self._request)
        page.on("websocket", lambda socket: self._address(socket.url))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The server can't be reached inside; failing connections are expected until the page has reconnected."""
        self._outage = True
        yield
        self._outage = False

    def check(self) -> None:
        assert not self._problems, "\n".join(self._problems)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if self._outage and NETWORK_DOWN.search(message.text):
            return
        self._problems.append(f"console {message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        self._address(request.url)

    def _address(self, url: str) -> None:
        if not url.replace("ws://", "http://", 1).startswith((self._origin + "/", "data:", "blob:")):
            self._problems.append(f"a request off the origin: {url}")


class Person:
    """Somebody at a browser of their own, by what they see and press."""

    def __init__(self, context: BrowserContext, server: ServerProcess) -> None:
        self.context = context
        self.name = ""
        self._server = server
        self._watches: list[Watch] = []
        self.page = self.new_tab()

    def new_tab(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(WAIT)
        self._watches.append(Watch(page, self._server.url))
        page.goto(self._server.url)
        return page

    def enter(self, name: str) -> None:
        self.name = name
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_role("button", name="Start").click()
        self.wait_online()

    def wait_online(self) -> None:
        expect(self.page.get_by_text("Connected", exact=True)).to_be_attached(timeout=WAIT)

    def open(self, other: Person) -> None:
        """Opens the conversation, reading the directory again if the other one came since."""
        entry = self.entry(other)
        if entry.count() == 0:
            self.page.get_by_role("button", name="Refresh people").click()
        entry.click()
        expect(self.page.get_by_role("heading", name=other.name, level=1)).to_be_visible(timeout=WAIT)

    def entry(self, other: Person) -> Locator:
        return self.page.get_by_role("navigation").get_by_role("link").filter(has_text=other.name)

    def say(self, text: str) -> None:
        box = self.page.get_by_role("textbox", name=re.compile("^Message to "))
        box.fill(text)
        box.press("Enter")

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    @property
    def bubbles(self) -> Locator:
        return self.log.locator(".bubble .text")

    def sees(self, *texts: str) -> None:
        """Exactly these messages, in this order, once each."""
        expect(self.bubbles).to_have_text(list(texts), timeout=WAIT)

    def sees_state(self, text: str, state: str) -> None:
        line = self.log.locator(".line").filter(has=self.page.get_by_text(text, exact=True))
        expect(line.locator(".tick")).to_have_text(state, timeout=WAIT)

    def sees_unread(self, other: Person, count: int) -> None:
        badge = self.entry(other).locator(".badge .visually-hidden")
        if count:
            expect(badge).to_have_text(f"{count} unread", timeout=WAIT)
        else:
            expect(badge).to_have_count(0, timeout=WAIT)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Around what cuts this person off, until they are back."""
        managers = [watch.outage() for watch in self._watches]
        for manager in managers:
            manager.__enter__()
        yield
        self.wait_online()
        for manager in managers:
            manager.__exit__(None, None, None)

    def check(self) -> None:
        for watch in self._watches:
            watch.check()


Newcomer = Callable[..., Person]


@pytest.fixture
def newcomer(browser: Browser, server: ServerProcess) -> Iterator[Newcomer]:
    """Makes people. `newcomer("Ada")` has entered by that name; `newcomer()` still looks at the first page. Further
    arguments go to the browser's context (viewport, color_scheme...)."""
    people: list[Person] = []

    def make(name: str | None = None, **options: Any) -> Person:
        person = Person(browser.new_context(locale="en-GB", **options), server)
        people.append(person)
        if name is not None:
            person.enter(name)
        return person

    yield make
    try:
        for person in people:
            person.check()
    finally:
        for person in people:
            person.context.close()
