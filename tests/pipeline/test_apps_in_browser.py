"""The apps of the template planner, used as people use them: in Chromium, served as previews, in their sandbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette

from pipeline import preview
from pipeline.builders.static import static_builder
from pipeline.deployers.local import LocalDeployer
from pipeline.planner import Brief
from pipeline.planners.template import TemplatePlanner
from pipeline.workspace import Workspace
from tests.browser.conftest import browser as browser  # the fixture
from tests.pipeline.test_routes import serve

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.browser

Make = Callable[..., Awaitable["Page"]]


async def silent(type_: str, data: Any) -> None:
    pass


@pytest.fixture
async def make(browser: Browser, tmp_path: Path) -> AsyncIterator[Make]:
    """`await make("todo app")` -> the page of what this prompt becomes; an error in any of them fails the test."""
    troubles: list[str] = []
    planner, builder, deployer = TemplatePlanner(), static_builder(), LocalDeployer(tmp_path, "http://x")
    context = await browser.new_context(viewport={"width": 1100, "height": 900})

    async with serve(Starlette(routes=preview.routes(tmp_path))) as url:

        async def make(prompt: str, name: str = "27") -> Page:
            room, brief = Workspace(tmp_path / "workspaces" / name), Brief(name, prompt)
            for task in (await planner.plan(brief, silent)).tasks:
                await planner.carry_out(task, brief, room, silent)
            await deployer(name, await builder(room, silent), silent)
            page = await context.new_page()
            page.set_default_timeout(5000)
            page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(f"a dialogue: {dialog.message}"))
            page.on("requestfailed", lambda request: troubles.append(f"not loaded: {request.url}"))
            await page.goto(f"{url}/preview/{name}/")
            return page

        yield make
        await context.close()
    assert troubles == []


async def until(page: Page, condition: str) -> None:
    """Wait for a JavaScript condition (Playwright's own way needs `eval`, which the sandbox forbids)."""
    end = time.monotonic() + 10
    while not await page.evaluate(condition):
        assert time.monotonic() < end, condition
        await asyncio.sleep(0.02)


async def theme(page: Page) -> str:
    return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))


async def turns_dark_and_light(page: Page) -> None:
    before = await theme(page)
    await page.click("#theme")
    after = await theme(page)
    await page.click("#theme")
    assert before != after
    assert await theme(page) == before


async def test_a_preview_has_an_origin_of_its_own(make: Make) -> None:
    """Its styles and its script load all the same."""
    page = await make("todo app")
    assert await page.evaluate("self.origin") == "null"
    for code in ("document.cookie", "localStorage", "parent.localStorage", "indexedDB.open('x').constructor"):
        assert await page.evaluate(
            f"(() => {{ try {{ {code}; return 'open' }} catch (e) {{ return e.name }} }})()"
        ) in {
            "SecurityError",
            "open" if code.startswith("indexedDB") else "",
        }
    assert await page.evaluate("document.styleSheets.length") == 1
    assert await page.evaluate("getComputedStyle(document.querySelector('.add')).display") == "flex"


async def test_a_todo_list_can_be_kept(make: Make) -> None:
    page = await make("To-do list with dark mode, search, due dates and priorities")
    rows = page.locator("#list li")
    assert await rows.count() == 3
    await page.fill("#text", "<b>Buy milk</b>")
    await page.fill("#due", "2020-01-02")
    await page.select_option("#priority", "3")
    await page.press("#text", "Enter")
    assert await rows.count() == 4
    assert await page.locator("#list label").nth(1).inner_text() == "<b>Buy milk</b>"
    assert await page.locator("#list .tag.late").inner_text() == "2020-01-02"
    assert await page.inner_text("#count") == "3 tasks left"
    await page.click("#list li:first-child input")
    assert await page.inner_text("#count") == "2 tasks left"
    await page.click("[data-show=open]")
    assert await rows.count() == 2
    await page.click("[data-show=done]")
    assert await rows.count() == 2
    await page.click("[data-show=all]")
    await page.fill("#search", "milk")
    assert await rows.count() == 1
    await page.fill("#search", "no such thing")
    assert await page.is_visible("#empty")
    await page.fill("#search", "")
    await page.click("#list li:first-child .remove")
    assert await rows.count() == 3
    await page.click("#clear")
    assert await page.locator("#list .done").count() == 0
    await turns_dark_and_light(page)


async def test_a_plain_todo_list_has_nothing_it_was_not_asked_for(make: Make) -> None:
    page = await make("todo app")
    for part in ("#theme", "#search", "#due", "#priority"):
        assert await page.locator(part).count() == 0
    await page.fill("#text", "One more")
    await page.click("text=Add")
    assert await page.locator("#list li").count() == 4


async def test_a_landing_page_can_be_read_and_answered(make: Make) -> None:
    page = await make("Landing page for a coffee shop with pricing, faq, reviews, a contact form and dark mode")
    assert await page.inner_text("h1") == "Coffee Shop"
    before = await page.inner_text("#quote")
    await page.click("#next")
    assert await page.inner_text("#quote") != before
    await page.click("#billing")
    assert await page.locator("[data-month]").all_inner_texts() == ["0", "120", "390"]
    await page.click("summary >> nth=0")
    assert await page.is_visible("details p >> nth=0")
    await page.fill("#email", "nobody")
    await page.click("#join button")
    assert "such as you@example.com" in await page.inner_text("#answer")
    await page.fill("#email", "ada@example.com")
    await page.click("#join button")
    assert "ada@example.com" in await page.inner_text("#answer")
    await turns_dark_and_light(page)


async def test_a_blog_can_be_searched_and_read(make: Make) -> None:
    page = await make("A blog about sourdough bread with search and dark mode")
    assert await page.locator(".teaser").count() == 5
    await page.fill("#search", "twenty minutes")
    assert await page.locator(".teaser").count() == 1
    await page.click(".teaser")
    assert await page.inner_text("#post h1") == "Twenty minutes a day"
    assert "sourdough bread" in await page.inner_text("#post")
    await page.click("text=All articles")
    await page.fill("#search", "")
    await page.click("#tags >> text=Basics")
    assert await page.locator(".teaser").count() == 2
    await turns_dark_and_light(page)


async def test_a_dashboard_shows_sorts_and_searches(make: Make) -> None:
    page = await make("Analytics dashboard with search, CSV export and dark mode")
    assert await page.locator("#numbers article").count() == 4
    assert await page.locator("#line circle").count() == 14
    await page.select_option("#range", "30")
    assert await page.locator("#line circle").count() == 30
    await page.locator("#line circle").last.hover()
    assert "today" in await page.inner_text("#hover")
    await page.click("[data-sort=customer]")
    assert await page.inner_text("#rows tr:first-child td:nth-child(2)") == "Ada"
    await page.click("[data-sort=customer]")
    assert await page.inner_text("#rows tr:first-child td:nth-child(2)") == "Luz"
    await page.fill("#search", "ada")
    assert await page.locator("#rows tr").count() == 1
    await page.click("#export")
    assert (await page.input_value("#csv")).count("\n") == 1
    await turns_dark_and_light(page)


async def test_snake_can_be_played(make: Make) -> None:
    """It eats where it is led, and dies at the wall."""
    page = await make("make a snake game")
    await page.click("#play")
    assert await page.is_hidden("#cover")
    await page.evaluate("apple = { x: snake[0].x + 2, y: snake[0].y }")
    await until(page, "document.querySelector('#score').textContent === '1'")
    await page.keyboard.press("ArrowUp")
    await until(page, "document.querySelector('#word').textContent.startsWith('Game over')")
    assert await page.is_visible("#play")
    assert int(await page.inner_text("#best")) >= 1


async def test_memory_can_be_won(make: Make) -> None:
    page = await make("a memory card game with dark mode")
    faces = await page.evaluate("cards.map((card) => card.face)")
    assert sorted(faces) == sorted([*set(faces)] * 2)
    wrong = next(n for n in range(1, 16) if faces[n] != faces[0])
    await page.click("#table button >> nth=0")
    await page.click(f"#table button >> nth={wrong}")
    await until(page, "document.querySelectorAll('#table .open').length === 0")
    for face in dict.fromkeys(faces):
        for number in [n for n, other in enumerate(faces) if other == face]:
            await page.click(f"#table button >> nth={number}")
    assert await page.inner_text("#word") == "All pairs in 9 tries!"
    await turns_dark_and_light(page)


async def test_a_hostile_prompt_runs_nothing(make: Make) -> None:
    for number, prompt in enumerate(["<script>alert(1)</script>", "blog about </script><img src=x onerror=alert(1)>"]):
        page = await make(prompt, str(number))
        assert "alert" in await page.inner_text("h1")
        assert await page.locator("img").count() == 0
