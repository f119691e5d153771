"""A headless Chromium for pages that are files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from required import miss
from waiting import LIMIT_SECONDS

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--force-prefers-reduced-motion",  # smooth scrolling would move what is about to be clicked
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1280, 900), (375, 812)


def require_browser() -> tuple[str, str]:
    """Paths of Chromium and its driver; the test is skipped without them, unless BANDLENS_REQUIRE names `browser`."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    try:
        import selenium  # noqa: F401
    except ImportError:
        driver = None
    if not browser or not driver:
        miss("browser", "no browser: install chromium, chromium-driver (apt-get) and selenium (pip)")
    return browser, driver


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver whose profile is a fresh folder and whose console and requests are logged."""
    browser, driver = require_browser()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser_driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser_driver
    finally:
        browser_driver.quit()


def await_page(driver: Any, event: Callable[[], object], message: str = "") -> Any:
    """Ask for an event of the page again and again until the answer is true; gives the answer."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, LIMIT_SECONDS, poll_frequency=0.05).until(lambda _: event(), message)


def resize(driver: Any, size: tuple[int, int]) -> None:
    """Make the page, not the window, this large: a window has a least width."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_drawn(driver: Any, file: Path, size: tuple[int, int] = DESKTOP) -> None:
    """Open a report, and wait until all of its charts are drawn but those that wait to be asked for."""
    resize(driver, size)
    driver.get(file.as_uri())
    question = "return document.documentElement.dataset.drawn === 'all'"
    await_page(driver, lambda: driver.execute_script(question))
