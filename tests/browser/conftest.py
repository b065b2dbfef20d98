"""A browser for the tests of the page: one Chromium for the session, a fresh context for each page.

Every page is watched: an error in its console (a policy violation is one), an uncaught exception or a dialogue fails
the test that opened it. The server is the fixture `service` of tests/conftest.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from httpx2 import AsyncClient

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

OpenPage = Callable[..., Awaitable["Page"]]
Post = Callable[..., Awaitable[None]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, headless."""
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        pytest.fail("playwright is missing: run `make browser`, which installs it", pytrace=False)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("Chromium is missing: install it, on Debian with `apt-get install chromium`", pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest.fixture
def troubles() -> list[str]:
    """What went wrong in the pages of a test. One that cuts the network on purpose clears it."""
    return []


@pytest.fixture
async def open_page(browser: Browser, service: Any, troubles: list[str]) -> AsyncIterator[OpenPage]:
    """`await open_page("/ui/", prepare=None, **options of the context)` -> a page of the service, watched."""
    contexts = []

    async def open_page(path: str, prepare: Callable[[Page], Awaitable[None]] | None = None, **options: Any) -> Page:
        context = await browser.new_context(base_url=service.url, **options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(f"a dialogue: {dialog.message}"))
        if prepare is not None:
            await prepare(page)
        await page.goto(path)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert troubles == []


@pytest.fixture
async def post(service: Any) -> AsyncIterator[Post]:
    """`await post("27", *events)` appends them over HTTP, one request each."""
    async with AsyncClient(base_url=service.url) as client:

        async def post(build: str, *events: Any) -> None:
            for event in events:
                answer = await client.post(f"/api/builds/{build}/events", json=event)
                assert answer.status_code == 201, answer.text

        yield post


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots are left to be looked at."""
    return Path(tempfile.mkdtemp(prefix="foldstream-shots-"))
