# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A headless browser that opens the Space and records all its requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP, PHONE = (1360, 950), (390, 844)
OWN = ("http://127.0.0.1", "http://localhost", "data:", "blob:")


class Visit:
    """One open page.

    Attributes:
        page: of Playwright.
        foreign: requests to another address than the server's.
        troubles: errors of the page's scripts.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.foreign: list[str] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self._seen(request.url))
        page.on("console", lambda message: self._logged(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _seen(self, url: str) -> None:
        if not url.startswith(OWN):
            self.foreign.append(url)

    def _logged(self, words: str) -> None:
        """Record a request that the page's policy blocks: it is never made, but logged."""
        if "Content Security Policy" in words:
            self.foreign.append(words)

    def example(self, name: str) -> None:
        """Pick an example and wait for its boxes."""
        self.page.click(f"[data-example={name}]")
        self.boxes()

    def upload(self, file: Path) -> None:
        """Choose a file and wait until the page has looked at it."""
        self.page.set_input_files("#mg-upload input[type=file]", str(file))
        self.page.wait_for_selector(f"#mg-status :text('{file.name}')", timeout=60_000)

    def ask(self, prompt: str) -> None:
        """Ground the prompt and wait for the new table."""
        self.page.evaluate("document.querySelectorAll('.mg-table').forEach((table) => table.classList.add('old'))")
        self.page.fill("#mg-prompt textarea", prompt)
        self.page.click("#mg-find")
        self.boxes()

    def boxes(self) -> None:
        """Wait for an answer."""
        self.page.wait_for_selector("#mg-result .mg-table:not(.old)", timeout=120_000)

    def threshold(self, value: float) -> None:
        """Set the threshold."""
        self.page.fill("#mg-threshold input[type=number]", str(value))
        self.page.keyboard.press("Enter")
        self.page.wait_for_timeout(100)

    def shown(self) -> int:
        """Frames in sight."""
        return int(self.page.locator(".mg-box:visible").count())


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


def visit(started: Any, address: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Visit:
    """Open the page in a fresh profile."""
    width, height = size
    context = started.new_context(viewport={"width": width, "height": height}, **options)
    opened = Visit(context.new_page())
    opened.page.goto(address)
    opened.page.wait_for_selector("#mg-upload input[type=file]", state="attached", timeout=60_000)
    opened.page.wait_for_timeout(500)
    return opened
