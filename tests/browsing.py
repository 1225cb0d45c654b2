"""A person in front of the dashboard: a server as a user starts it, a browser, and what both saw go wrong."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def serving(*stores) -> Iterator[str]:
    """`attlas dashboard` over the stores; gives its address."""
    command = [Path(sys.executable).parent / "attlas", "dashboard", *stores, "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.search(r"http://localhost:\d+", server.stdout.readline()).group()
        finally:
            server.terminate()


@contextmanager
def browsing():
    """Debian's chromium, driven by playwright."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing; install the system's chromium, this test does not skip"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@contextmanager
def visiting(browser, url):
    """One page; at its end nothing was asked of the network and no script failed."""
    page = browser.new_page(viewport={"width": 1400, "height": 1150})
    made = Visit(page, url)
    yield made
    page.close()
    assert made.foreign == []
    assert made.errors == []


class Visit:
    """A page with what went wrong on it, and the actions of a person."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.foreign, self.errors = [], []
        page.on("request", self._requested)
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))

    def _requested(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "localhost":
            self.foreign.append(request.url)

    def open(self, address=""):
        self.page.goto(f"{self.url}/{address}")
        expect(self.readout).to_contain_text("brightest", timeout=30_000)

    @property
    def readout(self):
        return self.page.locator(".attlas-readout")

    def click_patch(self, side, row, column, grid):
        """Click the middle of a patch: the pane is the picture, without a margin."""
        pane = self.page.locator(f".attlas-{side}")
        box = pane.bounding_box()
        cell = box["width"] / grid, box["height"] / grid
        pane.click(position={"x": (column + 0.5) * cell[0], "y": (row + 0.5) * cell[1]})
