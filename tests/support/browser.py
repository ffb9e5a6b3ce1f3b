"""Debian's chromium, driven by Playwright."""

import contextlib
import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Error, Page, Request, expect, sync_playwright

from tests.support.flows_lab import Lab

OPTIONS = ("--no-sandbox", "--blink-settings=primaryHoverType=1,availableHoverTypes=1")
"""Without a mouse, whatever the machine has: Prefect's page then uses the browser's own drop-downs."""


def chromium_or_skip() -> str:
    """Path of the program; skips a test, or what a module's tests share, where it is not installed."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium: apt-get install chromium")
    return program


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """An open page; its actions wait up to a minute. Skips where chromium is not installed."""
    program = chromium_or_skip()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=[*OPTIONS])
        page = chromium.new_page(viewport={"width": 1200, "height": 1250})
        page.set_default_timeout(60_000)
        page.on("requestfinished", _print_refusal)  # pytest shows it where a test fails.
        page.on("requestfailed", lambda request: print(f"{request.method} {request.url}: {request.failure}"))
        page.on("console", lambda message: print(f"console: {message.text}") if message.type == "error" else None)
        try:
            yield page
        finally:
            with contextlib.suppress(Error):
                print(f"{page.url} shows:\n{page.locator('body').inner_text(timeout=5_000)}")
            chromium.close()


def _print_refusal(request: Request) -> None:
    response = request.response()
    if response and response.status >= 400:
        print(f"{request.method} {request.url}: {response.status}")


def log_in(page: Page, lab: Lab) -> None:
    """Give Prefect's page the secret, which it asks for once."""
    page.goto(f"http://127.0.0.1:{lab.port}/")
    page.locator("input[type=password]").fill((lab.folder / ".prefect" / "secret").read_text().strip())
    page.get_by_role("button", name="Login", exact=True).click()
    expect(page).not_to_have_url(re.compile("/login"))
