"""docs/protocol.md and the code name the same errors, events and settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from duologue import settings
from duologue.domain.errors import Code
from duologue.server import requests

ROOT: Final = Path(__file__).resolve().parent.parent
PROTOCOL: Final = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SERVER: Final = ROOT / "src" / "duologue" / "server"

EMITTERS: Final = {"encode_event": 0, "_emit": 1}
"""Functions of the server that take an event's name, and its place among their arguments."""


def rows(section: str) -> Iterator[list[str]]:
    """The cells of each table row in a section of the page, without the heads."""
    text = PROTOCOL.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for line in text.splitlines():
        if line.startswith("| ") and "`" in line:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def first_code(cell: str) -> str:
    """What stands in the first pair of backquotes, up to its arguments: `read {with, seq}` is `read`."""
    found = re.match(r"`([^`{]+)", cell)
    assert found, cell
    return found[1].strip()


# -- errors ---------------------------------------------------------------------------------------------------------


def test_every_error_code_is_told_with_whether_to_retry() -> None:
    told = {first_code(code): retry == "yes" for code, retry, _ in rows("Errors")}
    assert told == {code.value: code.retry for code in Code}


@pytest.mark.parametrize("code", Code)
def test_every_error_has_a_sentence(code: Code) -> None:
    assert code.sentence.endswith(".")
    assert "\n" not in code.sentence


# -- events ---------------------------------------------------------------------------------------------------------


def handled() -> set[str]:
    """The names that the gateway has a handler for: the keys of its table, and those of the requests."""
    tree = ast.parse((SERVER / "gateway.py").read_text(encoding="utf-8"))
    tables = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and "_handlers" in ast.unparse(node).split("=")[0]
    ]
    names = {
        key.value
        for table in tables
        if isinstance(table, ast.Dict)
        for key in table.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    assert names, "the gateway's table of handlers was not found"
    return names | requests.REQUESTS.keys()


def emitted() -> set[str]:
    """The names of events that the server floor sends: texts given to what encodes an event."""
    names = set()
    for path in SERVER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                place = EMITTERS.get(called)
                if place is not None and len(node.args) > place:
                    names |= texts(node.args[place])
    return names


def texts(node: ast.expr) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def test_every_event_to_the_server_is_told() -> None:
    guide = {first_code(event) for direction, event, _ in rows("The guide's part") if direction == "to server"}
    additions = {first_code(event) for event, _ in rows("Sync")}
    assert guide | additions == handled()


def test_every_event_to_the_client_is_told() -> None:
    guide = {first_code(event) for direction, event, _ in rows("The guide's part") if direction == "to client"}
    sent = emitted()
    assert guide <= sent
    for name in sent:
        assert re.search(rf"`{re.escape(name)}[` {{]|^    {re.escape(name)} {{$", PROTOCOL, re.MULTILINE), name


def test_the_events_of_the_additions_are_sent() -> None:
    sent = emitted()
    for name in ("sync", "receipt", "typing", "refused"):
        assert name in sent


# -- settings -------------------------------------------------------------------------------------------------------


def test_every_setting_that_the_page_names_exists() -> None:
    known = {field.name for field in settings.fields()}
    named = set(re.findall(r"settings? ((?:`\w+`(?:, | and )?)+)", PROTOCOL))
    assert named
    for group in named:
        assert set(re.findall(r"`(\w+)`", group)) <= known


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "docs/protocol.md", "docs/settings.md"])
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
