"""axe-core finds no violation of WCAG 2.2 A and AA, in light and dark, on a desk and on a phone."""

from __future__ import annotations

from typing import Any, Final

import pytest
from playwright.sync_api import Page

import hatch_build
from tests.browser.conftest import Newcomer

AXE: Final = hatch_build.SOURCES / "node_modules" / "axe-core" / "axe.min.js"
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCREENS: Final = {"desk": {"width": 1180, "height": 720}, "phone": {"width": 320, "height": 568}}


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        hatch_build.install()
    return AXE.read_text()


@pytest.mark.parametrize(("scheme", "screen"), [("light", "desk"), ("dark", "phone")])
def test_every_view_is_accessible(newcomer: Newcomer, axe: str, scheme: str, screen: str) -> None:
    options: dict[str, Any] = {"viewport": SCREENS[screen], "color_scheme": scheme}
    ada, grace = newcomer(**options), newcomer("Grace Hopper")
    has_no_violation(ada.page, axe)
    ada.enter("Ada Lovelace")
    has_no_violation(ada.page, axe)
    ada.open(grace)
    grace.open(ada)
    grace.say("See https://example.test/")
    ada.say("I do")
    ada.sees_state("I do", "Read")
    ada.page.get_by_role("textbox", name="Message to Grace Hopper").fill("more")
    has_no_violation(ada.page, axe)
    ada.page.goto(ada.page.url.split("#")[0])
    grace.say("Unread")
    ada.sees_unread(grace, 1)
    ada.page.get_by_role("button", name="Leave").click()
    has_no_violation(ada.page, axe)


def has_no_violation(page: Page, axe: str) -> None:
    page.evaluate(f"() => {{ {axe} }}")
    found = page.evaluate(
        """async (tags) => {
          const { violations } = await axe.run(document, { runOnly: tags })
          return violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html + n.failureSummary).join(' | ')}`)
        }""",
        RULES,
    )
    assert not found, "\n".join(found)
