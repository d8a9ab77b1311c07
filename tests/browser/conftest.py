"""A real Chromium for the tests of the page, driven by Playwright."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

NO_BROWSER = "NO CHROMIUM, the page was not tried in a browser: install Debian's chromium, or let CHROMIUM_BIN name one"
# No promise of the page: for what is waited for, on a machine that other tests share. Playwright's own are 5 s.
expect.set_options(timeout=30_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for a file, on the loop that its tests share; each test has pages of its own."""
    path = os.environ.get("CHROMIUM_BIN") or shutil.which("chromium")
    if path is None:
        pytest.skip(NO_BROWSER)
    async with async_playwright() as play:
        # Without its sandbox: in a container, root has none, and it opens our own pages alone.
        started = await play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            await started.close()
