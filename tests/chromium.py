"""Drives the Chromium of this machine over its debugging pipe (https://chromedevtools.github.io/devtools-protocol/), headless."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_ANSWER_S = 60.0


def program() -> str | None:
    """Chromium's path, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# Between the look at where an element is and the click, the page may move it or draw it anew. A click that would reach something
# else reaches nothing, and `aimed.done()` says whether it reached the element.
AIM = """(element) => {
    let hit = false;
    const kinds = ["pointerdown", "mousedown", "pointerup", "mouseup", "click"];
    const guard = (event) => {
        if (hit) return;
        if (!element.contains(event.target)) { event.preventDefault(); event.stopImmediatePropagation(); }
        else if (event.type === "click") hit = true;
    };
    kinds.forEach((kind) => window.addEventListener(kind, guard, true));
    window.aimed = { done: () => { kinds.forEach((kind) => window.removeEventListener(kind, guard, true)); return hit; } };
}"""


class Tab:
    """One tab; what it logs as an error is in `errors`, what it asks for in `requests`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method of the protocol returns."""
        return self._browser.call(method, parameters, self._session)

    def open(self, url: str) -> None:
        """Go to an address; returns once it has loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def reload(self) -> None:
        """Load the page again."""
        self.evaluate("window.before = true")
        self.call("Page.reload")
        self.until("!window.before && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression, awaited if it is a promise."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            raise AssertionError(f"{expression}: {json.dumps(done['exceptionDetails'])[:2000]}")
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 90) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := self.evaluate(expression):
                    return found
            except AssertionError:  # what it asks about is not there yet
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, f"never true: {expression}\n{self.text()[-3000:]}\n{self.errors}"
            time.sleep(0.1)

    def text(self) -> str:
        """What the page says."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first visible element of a selector (that contains a text), with a mouse, where it is."""
        find = (
            f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.checkVisibility() && "
            f"e.textContent.includes({json.dumps(text)}))"
        )
        place = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({find}.getBoundingClientRect())"
        for _ in range(20):
            self.until(f"{find} && !{find}.disabled")
            try:
                self.evaluate(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
                box = self.evaluate(place)
                while (now := self.evaluate(place)) != box:  # what comes in above it moves it
                    box = now
                self.evaluate(f"({AIM})({find})")
            except AssertionError:  # the page drew it anew meanwhile
                continue
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
            if self.evaluate("!window.aimed || window.aimed.done()"):  # a page that was left has none
                return
        raise AssertionError(f"no click reaches it: {selector} {text!r}\n{self.text()[-3000:]}")

    def type(self, selector: str, text: str) -> None:
        """Write into a field, in the place of what is there."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.until(f"!!{find}")
        self.evaluate(f"({find}.focus(), {find}.select())")
        self.call("Input.insertText", text=text)

    def files(self, selector: str, *paths: Path) -> None:
        """Choose files in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)

    def size(self, width: int, height: int = 900, *, theme: str = "light", motion: bool = True) -> None:
        """Show the page in a window of this size, in a theme, with or without motion."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "no-preference" if motion else "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG file, `whole` or what fits the window."""
        shot = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole, **({"clip": self._whole()} if whole else {})
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def heard(self, method: str, parameters: dict[str, Any]) -> None:
        """Note an event of the tab."""
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:1000])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(json.dumps(parameters["args"])[:1000])


class Browser:
    """A running Chromium, spoken to over two pipes."""

    def __init__(self, process: subprocess.Popen[bytes], reads: int, writes: int) -> None:
        self._process, self._reads, self._writes = process, reads, writes
        self._numbers = itertools.count(1)
        self._pending = b""
        self._tabs: dict[str, Tab] = {}

    def tab(self) -> Tab:
        """A new tab, with nothing kept from any other."""
        context = self.call("Target.createBrowserContext", {})["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        return tab

    def call(self, method: str, parameters: dict[str, Any], session: str = "") -> dict[str, Any]:
        """What a method returns; events that come meanwhile go to their tabs."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            told = self._message()
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            if "method" in told and (tab := self._tabs.get(told.get("sessionId", ""))) is not None:
                tab.heard(told["method"], told["params"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._reads], [], [], _ANSWER_S)
            assert ready, "Chromium does not answer"
            data = os.read(self._reads, 1 << 20)
            assert data, "Chromium has ended"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile in `folder`, ended with the block."""
    path = program()
    assert path is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [
        "bash",  # a plain sh takes no descriptor above 9
        "-c",
        f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
        "bash",
        path,
        *_FLAGS,
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(process, ours_in, ours_out)
    try:
        yield browser
    finally:
        os.close(ours_out)  # its end of the pipe: Chromium then ends by itself
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)
        os.close(ours_in)
