"""With tokens on: a page without a good one says so and tells nothing else; a page with one works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streaming.token import Signer
from tests.browser.conftest import OpenPage
from tests.serving import SECRET, serving_memory

pytestmark = pytest.mark.browser


@pytest.mark.req("S2-07")
async def test_a_page_shows_what_its_token_allows_and_nothing_else(open_page: OpenPage) -> None:
    signer = Signer([SECRET])
    now = datetime.now(UTC)
    token = signer.mint("build-27", ["read"], now, "one")
    expired = signer.mint("build-27", ["read"], now - timedelta(hours=2), "two")
    async with serving_memory(signer=signer) as served:
        await served.append("27", "plan_started")
        allowed = await open_page(f"{served.url}/ui/runs/27?token={token}")
        await allowed.wait_for_selector(".chip[data-phase=live]")
        await allowed.wait_for_selector("#tab-events .count:text-is('1/1')")
        for address in ("27", f"27?token={expired}", f"28?token={token}"):
            refused = await open_page(f"{served.url}/ui/runs/{address}")
            await refused.wait_for_selector("h1:text-is('This link has expired. Ask for a new one.')")
            assert await refused.locator(".events li, .summary:visible").count() == 0
            assert await refused.text_content(".chip") == "no access"
            await refused.close()
        await served.append("27", "run_completed")
        await allowed.wait_for_selector(".chip[data-phase=closed]")
        await allowed.close()
