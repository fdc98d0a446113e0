"""The browser in which the dashboard is measured and tested: a Chromium that is installed on this machine."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

VARIABLE = "HEADRACE_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


class ChromiumMissing(RuntimeError):
    """There is no Chromium, or nothing that drives it."""


def find_chromium(variables: Mapping[str, str] = os.environ) -> str:
    """Return the path of the browser that HEADRACE_CHROMIUM names, or that is found by its name. Raises ChromiumMissing."""
    given = variables.get(VARIABLE, "").strip()
    found = next((path for name in ((given,) if given else NAMES) if (path := shutil.which(name))), None)
    if found is None:
        said = f"{VARIABLE} names {given!r}, which is no program" if given else f"none of {', '.join(NAMES)} is installed"
        raise ChromiumMissing(f"{said}; install Debian's package chromium, or set {VARIABLE} to the path of a Chromium")
    return found


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Give a headless browser of playwright's. Raises ChromiumMissing."""
    path = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise ChromiumMissing(f"{error}; install headrace[dev]") from None
    # Chromium has no sandbox for root, as whom containers and continuous integration run.
    rooted = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[*rooted, *flags])
        try:
            yield browser
        finally:
            browser.close()
