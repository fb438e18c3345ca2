"""Rows 29 and 35: what the page's files are served with, and what stranger requests for them get."""

from __future__ import annotations

import re
import urllib.parse

import pytest

from tests.attacks.conftest import shared_on_both
from tests.support.process import ROOT, ServerProcess
from tests.support.raw_http import HOST, Response, exchange

pytestmark = [pytest.mark.asyncio, shared_on_both]

BROWSER = b"Accept-Encoding: gzip, deflate, br\r\n"


async def get(server: ServerProcess, target: bytes, *headers: bytes, method: bytes = b"GET") -> Response:
    request = method + b" " + target + b" HTTP/1.1\r\n" + HOST + b"".join(headers) + b"\r\n"
    return await exchange(server.url, request, head=method == b"HEAD")


def assert_guarded(response: Response) -> None:
    """The headers that every answer of the page has, errors included."""
    policy = dict(
        directive.strip().split(" ", 1) for directive in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def assert_says_nothing(response: Response) -> None:
    """No word of what the server is made of, no path of its disk."""
    shown = " ".join([*response.headers, *response.headers.values(), response.body.decode()]).lower()
    for word in (
        "uvicorn",
        "starlette",
        "python",
        "picows",
        "duologue/",
        "site-packages",
        "traceback",
        str(ROOT).lower(),
    ):
        assert word not in shown, shown
    assert "server" not in response.headers


async def test_the_page_is_revalidated_and_its_assets_are_kept(chat_server: ServerProcess) -> None:
    page = await get(chat_server, b"/", BROWSER)
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-type"].startswith("text/html")
    assert_guarded(page)
    plain = await get(chat_server, b"/")
    assets = re.findall(rb'(?:src|href)="(/assets/[^"]+)"', plain.body)
    assert assets
    for asset in assets:
        answer = await get(chat_server, asset, BROWSER)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert_guarded(answer)


async def test_the_page_carries_no_remote_script(chat_server: ServerProcess) -> None:
    """Row 38: nothing in the page is fetched from elsewhere."""
    page = (await get(chat_server, b"/")).body.decode()
    addresses = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']+)""", page)
    assert addresses
    assert not [address for address in addresses if urllib.parse.urlsplit(address).netloc]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "an inline script, which the policy would have to allow"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"GET", b"/assets/nothing.js", 404),
        (b"GET", b"/nothing.txt", 404),
        (b"DELETE", b"/", 405),
        (b"POST", b"/", 405),
        (b"PUT", b"/assets/nothing.js", 405),
        (b"TRACE", b"/", 405),
        (b"OPTIONS", b"*", 404),
        (b"POST", b"/health", 405),
    ],
)
async def test_an_error_of_the_page_is_guarded_and_says_nothing(
    chat_server: ServerProcess, method: bytes, target: bytes, status: int
) -> None:
    answer = await get(chat_server, target, method=method)
    assert answer.status == status
    assert_guarded(answer)
    assert_says_nothing(answer)


async def test_head_is_get_without_a_body(chat_server: ServerProcess) -> None:
    for target in (b"/", b"/health", b"/assets/nothing.js", b"/socket.io/?EIO=4&transport=polling"):
        answer = await get(chat_server, target, method=b"HEAD")
        assert answer.status in (200, 400, 404)


ODD_PATHS = {
    "NUL": b"/a%00b",
    "NUL of an asset": b"/assets/x%00.js",
    "a long name": b"/" + b"a" * 300,
    "a long asset": b"/assets/" + b"a" * 5_000 + b".js",
    "many folders": b"/" + b"a/" * 2_000,
    "not UTF-8": b"/%ff%fe",
    "not UTF-8, an asset": b"/assets/%ff.js",
    "backslashes": b"/..%5c..%5cetc%5cpasswd",
    "a name inside a file": b"/index.html/x.js",
    "a lone surrogate": b"/%ed%a0%80.js",
}


@pytest.mark.parametrize("target", ODD_PATHS.values(), ids=ODD_PATHS)
async def test_an_odd_path_is_no_file_and_no_failure(chat_server: ServerProcess, target: bytes) -> None:
    for headers in (b"", BROWSER):
        answer = await get(chat_server, target, headers)
        assert answer.status in (200, 404)
        assert_guarded(answer)


SECRETS = ("__init__.py", "settings.py", "etc/passwd", "server/app.py")
ESCAPES = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "%252e%252e%252f", "..%5c", "....//", "..%c0%af", "..;/")


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("start", ["/", "/assets/", "//", "/assets//"])
async def test_no_path_leads_out_of_the_page(chat_server: ServerProcess, start: str, escape: str) -> None:
    page = (await get(chat_server, b"/")).body
    for depth in (1, 2, 3, 12):
        for secret in SECRETS:
            answer = await get(chat_server, (start + escape * depth + secret).encode())
            assert answer.status == 404 or answer.body == page
    answer = await get(chat_server, b"/" + str(ROOT / "pyproject.toml").encode())
    assert answer.status == 404


async def test_health_says_that_the_process_answers_and_no_more(chat_server: ServerProcess) -> None:
    answer = await get(chat_server, b"/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    assert answer.headers["cache-control"] == "no-store"
    assert_says_nothing(answer)


@pytest.mark.parametrize(
    "target", [b"/metrics", b"/admin", b"/debug", b"/docs", b"/openapi.json", b"/.env", b"/.git/HEAD"]
)
async def test_there_is_nothing_to_administer(chat_server: ServerProcess, target: bytes) -> None:
    page = (await get(chat_server, b"/")).body
    answer = await get(chat_server, target)
    assert answer.status == 404 or answer.body == page


@pytest.mark.parametrize(
    "host", [b"evil.example", b"evil.example:80@x", b"a b", b"", b"\xff\xfe", b"[::1", b"x" * 9_000]
)
async def test_cve_2026_48710_an_odd_host_is_never_repeated(chat_server: ServerProcess, host: bytes) -> None:
    """What a Host header says must not lead anybody anywhere: no redirect, no address made of it."""
    for target in (b"/", b"//evil.example/", b"/assets", b"/health/", b"/socket.io", b"/socket.io/", b"/nothing.txt"):
        request = b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        answer = await exchange(chat_server.url, request)
        assert answer.status not in range(300, 400)
        assert "location" not in answer.headers
        assert b"evil.example" not in answer.body
        if target == b"/socket.io/":
            assert answer.status in (400, 403)
