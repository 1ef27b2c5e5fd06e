"""Servers of tiny models and headless Chromium."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from knet.client import KNetClient
from service.server import background
from service.settings import Settings
from tests.service.page.driving import KEY, file_of

WAIT_MS = 60_000  # on processors that are busy with other work
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def kinds(tiny, tmp_path_factory) -> Iterator[str]:
    """URL of a server with a model of each kind."""
    folder = tmp_path_factory.mktemp("page")
    tiny.write_artifact(folder, version="2")
    tiny.write_artifact(folder, version="10", stride=2)
    tiny.write_artifact(folder, kind="instance", name="things")
    tiny.write_artifact(folder, kind="semantic", name="classes")
    with background(Settings(repository=folder, port=0)) as url:
        with KNetClient(url) as client:
            client.wait_ready(120)
        yield url


@pytest.fixture(scope="module")
def locked(tiny, tmp_path_factory) -> Iterator[str]:
    """URL of a server that wants a key."""
    folder = tmp_path_factory.mktemp("locked")
    tiny.write_artifact(folder)
    with background(Settings(repository=folder, port=0, api_keys=(KEY,))) as url:
        with KNetClient(url, api_key=KEY) as client:
            client.wait_ready(120)
        yield url


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # No sandbox, as test machines often have no unprivileged user namespaces; the page is our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Opens a URL; fails at the end if a page complained, broke its policy, or asked another server for anything."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(url: str, *, expected: str = "never", **options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type in ("error", "warning") and not re.search(expected, message.text)
                else None
            ),
        )
        origin = "/".join(url.split("/")[:3])
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((origin, "blob:", "data:")) else complaints.append(request.url)
            ),
        )
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def photo(scene, png) -> dict[str, Any]:
    return file_of("scene.png", png(scene))
