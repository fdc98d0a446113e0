"""A real gateway with its page, before real Kafka and Redis, and a real Chromium to look at it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_gateway import TOKEN, Gateway
from playwright.sync_api import Browser, Page

from headrace.deploy.bench.chromium import ChromiumMissing, chromium
from headrace.streams.gateway import create_app
from headrace.streams.kafka import ensure_topics
from headrace.streams.model_access import ModelAccess


@pytest.fixture(scope="module")
def gateway(kafka: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    ensure_topics(kafka)
    token: Path = tmp_path_factory.mktemp("admin") / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    running = Gateway(kafka, create_app(kafka, redis_server, "cpu", access=ModelAccess(admin_token_file=token)))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; tests that need one are skipped where there is none, and fail where continuous integration should have one.

    Its driver keeps an event loop running in this thread, in which tests of other modules want one of their own.
    """
    try:
        with chromium() as found:
            yield found
    except ChromiumMissing as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the page is not tested: {error}")


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """The page, loaded and live, in a desktop's width and light; it fails the test by what goes wrong in it."""
    with browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light") as context:
        opened = context.new_page()
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
        opened.goto(gateway.url)
        opened.locator("#link[data-link=live]").wait_for(timeout=10_000)
        yield opened
        assert wrong == []
