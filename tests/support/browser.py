"""Debian's chromium, driven through its own debugging protocol: what a page shows, and what happens when it is used."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect


class Page:
    """One page."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)

    def call(self, method: str, **params: Any) -> Any:
        """A call of the protocol."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.connection.recv(timeout=60))).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str, ready: str) -> None:
        """Open an address and wait until the expression `ready` is true there."""
        self.call("Page.navigate", url=address)
        self.until(ready)

    def value(self, expression: str) -> Any:
        """Value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true; returns its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.value(expression):
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {expression}\n{self.text()}")

    def text(self) -> str:
        """What the page says."""
        return str(self.value("document.body.innerText"))

    def click(self, selector: str, number: int = 0) -> None:
        """Click one of the elements that a selector finds, as a mouse does."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})][{number}]"
        box = self.until(
            f"{found} && ({found}.scrollIntoView({{block: 'center'}}), {found}.getBoundingClientRect().toJSON())"
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, words: str) -> None:
        """Click the button with these words."""
        found = f"[...document.querySelectorAll('button')].findIndex(button => button.innerText == {json.dumps(words)})"
        self.until(f"{found} >= 0")
        self.click("button", self.value(found))

    def choose(self, number: int, value: str) -> None:
        """Choose from one of the page's drop-downs, which must offer the value."""
        found = f"[...document.querySelectorAll('select:not(:empty)')][{number}]"
        offered = self.value(f"[...{found}.options].map(option => option.value)")
        assert value in offered, offered
        self.value(
            f"{found}.value = {json.dumps(value)}, {found}.dispatchEvent(new Event('change', {{bubbles: true}}))"
        )

    def type(self, text: str) -> None:
        """Type where the cursor is."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, width: int, height: int) -> None:
        """What shows, as a PNG file."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(1.0)  # The page draws itself anew.
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """An open page of a chromium with its profile in `folder`. Skips where there is none."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium: apt-get install chromium")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        "--window-size=1200,1250",
    ]
    process = subprocess.Popen(
        [program, *options, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (told.exists() and len(told.read_text().splitlines()) == 2):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        port = told.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            [page] = [row for row in json.load(answer) if row["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=2**26) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(30)
