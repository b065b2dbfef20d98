"""How the page looks: contrast in both schemes, 360 px without a sideways scroll bar, and pictures for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.browser.conftest import OpenPage, Post
from tests.serving import F27

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser

LOW_CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
WIDE: dict[str, Any] = {"viewport": {"width": 1200, "height": 820}}
NARROW: dict[str, Any] = {"viewport": {"width": 360, "height": 740}}
LOOKS = [
    pytest.param({"color_scheme": "light", **WIDE}, id="light"),
    pytest.param({"color_scheme": "dark", **WIDE}, id="dark"),
    pytest.param({"color_scheme": "light", **NARROW}, id="360px"),
    pytest.param({"color_scheme": "dark", **NARROW}, id="360px-dark"),
]
FAILURE = [
    {"type": "build_queued", "data": {"prompt": "A shop with a name that is too long for one line of a small screen"}},
    {"type": "plan_generated", "data": {"plan": {"tasks": [{"id": name, "name": name} for name in ("Read", "Index")]}}},
    {"type": "task_started", "data": {"taskId": "Read"}},
    {"type": "build_progress", "data": {"logs": ["reading", "x" * 400]}},
    {"type": "task_failed", "data": {"taskId": "Read", "error": "the disk is full", "suggestedAction": "Free some."}},
]


async def looked_at(page: Page, path: Path) -> None:
    """A picture, and no text on this page that is hard to read, and no sideways scrolling."""
    await page.evaluate("document.fonts.ready")
    await page.wait_for_timeout(600)  # fades and the bar's movement end; what is measured is the resting page
    await page.screenshot(path=path, full_page=True)
    assert await page.evaluate(LOW_CONTRAST) == []
    width = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


@pytest.mark.parametrize("look", LOOKS)
async def test_every_state_is_readable(
    open_page: OpenPage, post: Post, shots: Path, look: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    live, done, failed = (f"t{uuid4().hex[:12]}" for _ in range(3))
    unknown = await open_page(f"/ui/runs/{live}", **look)
    await unknown.wait_for_selector(".run[data-state=unknown]")
    await looked_at(unknown, shots / f"unknown-{name}.png")
    await post(live, *F27[:7])
    await post(done, *F27)
    await post(failed, *FAILURE)
    for build, wanted in ((live, "executing"), (done, "completed"), (failed, "failed")):
        page = await open_page(f"/ui/runs/{build}", **look)
        await page.wait_for_selector(f".badge[data-status={wanted}]")
        await page.wait_for_selector(".events li")
        await looked_at(page, shots / f"{wanted}-{name}.png")
    runs = await open_page("/ui/", **look)
    await runs.wait_for_selector(".runs li")
    await looked_at(runs, shots / f"runs-{name}.png")


async def test_nothing_moves_for_whoever_asked_for_that(open_page: OpenPage, post: Post) -> None:
    build = f"t{uuid4().hex[:12]}"
    await post(build, *F27[:7])
    page = await open_page(f"/ui/runs/{build}", reduced_motion="reduce")
    await page.wait_for_selector(".badge[data-status=executing]")
    assert await page.evaluate("document.getAnimations().length") == 0
