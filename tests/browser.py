"""Pages in a real browser, headless Chromium: what they show, what they say on the console, and whom they ask.

One browser serves all tests of a session; each gets a fresh page. Its fixture is there for every test.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DEADLINE_S = 30
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--window-size=1400,1000",
]


class Browser:
    """A browser with one page open at a time."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, dark: bool = False, until: str = "return document.readyState === 'complete'") -> None:
        """Open a page of this machine, on light or dark ground, and wait until a script says that it is drawn."""
        self.driver.get("about:blank")
        self.problems(), self.requests()  # of the page before
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())
        self.wait_for(lambda: self.run(until))

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds; the pause only spares the processor."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.problems()
            time.sleep(0.01)

    def run(self, script: str, *arguments: Any) -> Any:
        """Give what a script returns that is run in the page."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Give the text that is seen of an element."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def click(self, selector: str) -> None:
        """Click an element, as a user does with the mouse."""
        self.driver.find_element("css selector", selector).click()

    def click_at(self, selector: str, x: float, y: float) -> None:
        """Click a point of an element, from its upper left corner."""
        from selenium.webdriver import ActionChains

        element = self.driver.find_element("css selector", selector)
        size = element.size
        ActionChains(self.driver, duration=0).move_to_element_with_offset(
            element, x - size["width"] / 2, y - size["height"] / 2
        ).click().perform()

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self.driver.find_element("css selector", selector).send_keys(text)

    def problems(self) -> list[str]:
        """Give the errors and warnings on the console since it was asked last, also of what was forbidden."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Give the addresses that were asked since it was asked last, other than files of this machine."""
        told = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))]

    def picture(self) -> bytes:
        """Give what is seen, as a PNG."""
        return bytes(self.driver.get_screenshot_as_png())


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give the browser that the session shares."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("there is no chromium to open the page with (Debian's packages chromium and chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
