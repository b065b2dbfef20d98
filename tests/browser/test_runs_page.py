"""The list of runs, and the form that starts one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.browser.conftest import OpenPage, Post
from tests.serving import F27

pytestmark = pytest.mark.browser


@pytest.mark.req("S2-01", "S2-11")
async def test_a_build_from_the_form_reaches_its_preview(open_page: OpenPage) -> None:
    page = await open_page("/ui/")
    await page.fill("#prompt", "A todo app with dark mode")
    await page.click("text=Build it")
    await page.wait_for_url("**/ui/runs/*")
    await page.wait_for_selector(".badge[data-status=completed]", timeout=45_000)
    assert await page.locator(".preview a.button").is_visible()
    assert await page.locator(".steps li[data-status=completed]").count() > 0
    async with page.context.expect_page() as opened:
        await page.click(".preview a.button")
    preview = await opened.value
    await preview.wait_for_selector("body *")
    assert "/preview/" in preview.url


async def test_runs_are_listed_newest_first_and_stay_fresh(open_page: OpenPage, post: Post) -> None:
    older, newer = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    await post(older, *F27)
    page = await open_page("/ui/")
    await page.wait_for_selector(f".runs a[href='/ui/runs/{older}']")
    await post(newer, {"type": "build_queued", "data": {"prompt": "A shop"}}, *F27[:3])
    await page.wait_for_selector(f".runs a[href='/ui/runs/{newer}']")
    links = [await link.get_attribute("href") for link in await page.locator(".runs a").all()]
    assert links.index(f"/ui/runs/{newer}") < links.index(f"/ui/runs/{older}")
    row = page.locator(".runs li", has=page.locator(f"a[href='/ui/runs/{newer}']"))
    assert await row.locator(".name").text_content() == "A shop"
    await post(newer, *F27[3:])
    await row.locator(".word", has_text="Finished").wait_for()
    await row.locator("a").click()
    await page.wait_for_selector("#tab-events .count:text('13/13')")
    await page.go_back()
    await page.wait_for_selector(".runs li")


async def test_an_empty_prompt_is_not_sent(open_page: OpenPage) -> None:
    page = await open_page("/ui/")
    await page.click("text=Build it")
    assert await page.evaluate("document.querySelector('#prompt').validity.valueMissing")
    assert page.url.endswith("/ui/")


async def test_a_refusal_says_why_and_what_to_do(open_page: OpenPage, troubles: list[str]) -> None:
    page = await open_page("/ui/")
    await page.evaluate("document.querySelector('#prompt').removeAttribute('maxlength')")
    await page.fill("#prompt", "x" * 4001)
    await page.click("text=Build it")
    fault = page.locator(".build .fault:not(:empty)")
    await fault.wait_for()
    assert "4,000 characters" in (await fault.text_content() or "")
    assert await page.locator("text=Build it").is_enabled()
    assert all("422" in trouble for trouble in troubles)
    troubles.clear()
