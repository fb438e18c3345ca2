"""The web client in headless Chromium: scrolling through a long history, an hour of traffic, a key press and its echo.

Run as a process of its own by `long_history` and `traffic`, once a round, against a server that they start. The people on the
other side are sockets in the same process (bench/people.py). The page is looked at by bench/probes.js.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from playwright.async_api import CDPSession, Page, ViewportSize, async_playwright

from bench import chromium
from bench.peers.launch import ROOT, running
from bench.people import Person, converse, enter, texts

ROUND_TIMEOUT: Final = 900.0
"""Seconds, beside four times those that the traffic should take."""

PATIENCE_MS: Final = 30_000.0
"""For whatever the page has to show."""

VIEWPORT: Final[ViewportSize] = {"width": 1280, "height": 800}
FRAME_MS: Final = 1_000 / 60
LATE: Final = 1.5
"""Frames that take longer than so many were missed by the eye."""

WHEEL: Final = 240
"""Pixels of one event of the wheel: two notches at once."""

WHEELS: Final = 30
"""Events of the wheel a second: somebody who looks for something far back."""

SCROLL_TIMEOUT: Final = 600.0
REST: Final = 2.0
"""Seconds for which the page's frames are counted while nobody touches it, to know the machine by."""

ANSWERED: Final = 10
"""One message of so many is answered, in the page's composer."""

SWITCHED: Final = 60
"""After so many messages the page's user opens another conversation."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    rounds: int
    messages: int
    """Of the long history."""
    echoes: int
    traffic: int
    """Messages of the traffic."""
    rate: float
    """At which they come, a second."""
    talks: int
    """Conversations among which the traffic goes on. Each has to get more than the 50 messages that the page keeps of one that
    isn't open, before the middle of the traffic; else the heap has to grow after it."""


def long_history(node: str, size: Size) -> Iterator[Result]:
    for turn in range(size.rounds):
        flags = ("--messages", str(size.messages), "--echoes", str(size.echoes))
        yield _round(node, f"web, {size.messages:,} messages", turn, ROUND_TIMEOUT, "history", *flags)


def traffic(node: str, size: Size) -> Iterator[Result]:
    for turn in range(size.rounds):
        flags = ("--messages", str(size.traffic), "--rate", str(size.rate), "--talks", str(size.talks))
        timeout = ROUND_TIMEOUT + 4 * size.traffic / size.rate
        yield _round(node, f"web, traffic of {size.traffic:,} messages", turn, timeout, "traffic", *flags)


def _round(node: str, scenario: str, turn: int, timeout: float, what: str, *flags: str) -> Result:
    """The server has its own core, as ever; Chromium, with its processes, may use what is there, as at people's homes."""
    with running("duologue", node) as peer:
        command = [sys.executable, "-m", "bench.web", what, "--port", str(peer.port), *flags]
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout, check=False)
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        except subprocess.TimeoutExpired:
            found = {"valid": False, "refusal": f"the round took more than {timeout:g} s"}
    found = found or {"valid": False, "refusal": f"the round ended with exit code {done.returncode}"}
    return {"peer": "duologue", "scenario": scenario, "round": turn, **found}


def executable() -> str:
    found = chromium.path()
    if found is None:
        raise RuntimeError(chromium.MISSING)
    return found


@asynccontextmanager
async def page_of(port: int, person: Person) -> AsyncIterator[Page]:
    """The page, in which somebody is signed in who has no other socket any more."""
    identity = {"sessionID": person.session_id, "userID": person.user_id, "username": person.name}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=list(chromium.FLAGS))
        context = await browser.new_context(viewport=VIEWPORT, locale="en-GB")
        await context.add_init_script(path=Path(__file__).with_name("probes.js"))
        await context.add_init_script(f"localStorage['duologue:identity'] ??= {json.dumps(json.dumps(identity))}")
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        await page.goto(f"http://127.0.0.1:{port}")
        await page.get_by_text("Connected", exact=True).wait_for(state="attached")
        yield page
        await browser.close()


def version_of(page: Page) -> str:
    browser = page.context.browser
    return browser.version if browser else ""


async def open_talk(page: Page, person: Person) -> None:
    await page.click(f'nav a[href="#/c/{person.user_id}"]')
    await page.get_by_role("heading", name=person.name, level=1, exact=True).wait_for()
    await page.locator("[role=log] .line").first.wait_for()


async def close_talk(page: Page) -> None:
    await page.evaluate("location.hash = '#/'")
    await page.locator("[role=log]").wait_for(state="detached")


class Heap:
    """What of the page is still alive after its garbage was collected."""

    def __init__(self, session: CDPSession) -> None:
        self._session = session

    @classmethod
    async def of(cls, page: Page) -> Heap:
        session = await page.context.new_cdp_session(page)
        await session.send("HeapProfiler.enable")
        await session.send("Performance.enable")
        return cls(session)

    async def measure(self) -> tuple[float, float]:
        """Megabytes of the JavaScript heap, and DOM nodes, detached ones included."""
        for _ in range(3):  # what a first round finalises only the next can free
            await self._session.send("HeapProfiler.collectGarbage")
            await asyncio.sleep(0.1)
        used = (await self._session.send("Runtime.getHeapUsage"))["usedSize"]
        metrics = (await self._session.send("Performance.getMetrics"))["metrics"]
        return used / 1e6, next(each["value"] for each in metrics if each["name"] == "Nodes")


async def _history(options: argparse.Namespace) -> Result:
    """Scrolling back to the first of many messages; then, at the end again, writing."""
    url = socket_url(options.port)
    ada, ben = await enter(url, username="Ada"), await enter(url, username="Ben")
    await converse(ada, ben, options.messages)
    ada.leave()
    async with page_of(options.port, ada) as page:
        heap = await Heap.of(page)
        await open_talk(page, ben)
        before, _ = await heap.measure()
        await page.evaluate("probes.start()")
        await asyncio.sleep(REST)
        at_rest = await page.evaluate("probes.stop()")
        scrolled = await _scroll(page)
        after, _ = await heap.measure()
        await page.click(".to-end")
        await page.locator(".to-end").wait_for(state="detached")
        echoes = await _write(page, options.echoes)
        await ben.answered()
        browser = version_of(page)
    return {
        "chromium": browser,
        "valid": ben.read >= options.echoes,
        "late_frames_at_rest": late(at_rest["frames"]),
        "late_frames": late(scrolled["frames"]),
        "longest_frame_ms": max(scrolled["frames"]),
        "long_tasks": len(scrolled["tasks"]),
        "longest_task_ms": max(scrolled["tasks"], default=0),
        "scroll_s": scrolled["seconds"],
        "heap_before_mb": before,
        "heap_of_history_mb": after,
        **spread("echo", [each["echo"] for each in echoes]),
        **spread("sent", [each["sent"] for each in echoes]),
    }


async def _scroll(page: Page) -> Result:
    """Turns the wheel until the first message is there."""
    await page.mouse.move(VIEWPORT["width"] * 0.7, VIEWPORT["height"] / 2)
    await page.evaluate("probes.start()")
    began = due = time.monotonic()
    while not await page.evaluate("probes.atBeginning()"):
        if time.monotonic() - began > SCROLL_TIMEOUT:
            raise RuntimeError(f"the first message was not reached within {SCROLL_TIMEOUT:g} s")
        for _ in range(WHEELS):
            await page.mouse.wheel(0, -WHEEL)
            due = max(due + 1 / WHEELS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
    found: Result = await page.evaluate("probes.stop()")
    return {**found, "seconds": time.monotonic() - began}


async def _write(page: Page, count: int) -> list[dict[str, float]]:
    """Types messages and presses Enter, each when the one before has been acknowledged."""
    box = page.get_by_role("textbox", name="Message to ")
    await box.click()
    found = []
    for number in range(count):
        text = f"message {number} of my own"
        await page.evaluate("text => probes.expect(text)", text)
        await page.keyboard.type(text)
        await page.keyboard.press("Enter")
        found.append(await page.evaluate("echoed"))
    return found


async def _traffic(options: argparse.Namespace) -> Result:
    """Messages from many, some of them answered. The heap before, in the middle and at the end, with no conversation open: each
    message written in an open one leaves two DOM nodes, which go when it is closed."""
    url = socket_url(options.port)
    ada = await enter(url, username="Ada")
    others = [await enter(url, username=f"Person {number:02d}") for number in range(options.talks)]
    for person in others:
        person.say(ada.user_id, "hello")
        await person.answered()
    ada.leave()
    async with page_of(options.port, ada) as page:
        heap = await Heap.of(page)
        await open_talk(page, others[0])
        await close_talk(page)
        heaps, seconds = [await heap.measure()], 0.0
        for part in range(2):
            began = time.monotonic()
            await open_talk(page, others[0])
            await _talk(page, ada, others, options.messages // 2, options.rate, part)
            await close_talk(page)
            seconds += time.monotonic() - began
            heaps.append(await heap.measure())
        for person in others:
            await person.answered()
        browser = version_of(page)
    (start, _), (middle, middle_nodes), (end, end_nodes) = heaps
    return {
        "chromium": browser,
        "valid": sum(person.read for person in others) == options.messages // 2 // ANSWERED * 2,
        "traffic_per_second": options.messages / seconds,
        "heap_start_mb": start,
        "heap_middle_mb": middle,
        "heap_end_mb": end,
        "nodes_middle": middle_nodes,
        "nodes_end": end_nodes,
    }


async def _talk(page: Page, ada: Person, others: Sequence[Person], count: int, rate: float, seed: int) -> None:
    content, due, current = texts(seed), time.monotonic(), 0
    box = page.get_by_role("textbox", name="Message to ")
    for number in range(count):
        writer = others[number % len(others)]
        writer.type(ada.user_id)
        writer.say(ada.user_id, next(content))
        if number % ANSWERED == ANSWERED - 1:
            await box.fill(next(content))
            await box.press("Enter")
        if number % SWITCHED == SWITCHED - 1:
            current = (current + 1) % len(others)
            await open_talk(page, others[current])
        due = max(due + 1 / rate, time.monotonic() - 1)
        await asyncio.sleep(max(0, due - time.monotonic()))
    await page.locator("[role=log] .line:is([data-state=queued], [data-state=sending])").first.wait_for(
        state="detached"
    )


def late(frames: Sequence[float]) -> float:
    return sum(each > LATE * FRAME_MS for each in frames) / max(1, len(frames))


def spread(name: str, times: Sequence[float]) -> dict[str, float]:
    """Median and p99 (nearest rank), in milliseconds."""
    ordered = sorted(times)
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p99_ms": ordered[int(len(ordered) * 0.99)]}


def socket_url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("history", "traffic"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--echoes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--talks", type=int, default=20)
    options = parser.parse_args()
    result = asyncio.run({"history": _history, "traffic": _traffic}[options.what](options))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
