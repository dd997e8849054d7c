"""Headless Chromium for tests, driven over a pipe by its own DevTools protocol: no driver and no library between.

In: addresses, clicks, keys, JavaScript. Out: what the page then is, what it complained of, and what it fetched.
"""

from __future__ import annotations

import base64
import fcntl
import io
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

from PIL import Image

LIMIT_SEC = 90.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    "--hide-scrollbars",  # which a picture beyond what is seen leaves out
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server", "--window-size=1200,900"),
)
HASTE = "{ const later = setTimeout; window.setTimeout = (what, ms) => later(what, ms / 10); }"
"""In each page, before its own scripts: what it does every so often it does ten times as often."""
KEYS = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowDown": 40, "End": 35}


def find() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """A running browser."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._to = _pipe()
        self._from, theirs_out = _pipe()
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where the protocol says that they are
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", program, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            process_group=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._calls = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Asks for something and waits for the answer; what happens meanwhile goes to `events`."""
        self._calls += 1
        asked = {"id": self._calls, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        left = json.dumps(asked).encode() + b"\0"
        while left:
            left = left[os.write(self._to, left) :]
        while True:
            found = self._read()
            if found.get("id") == asked["id"]:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_SEC
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], deadline - time.monotonic())[0], "Chromium says nothing"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        yield Page(self, session)
        self.call("Target.closeTarget", targetId=target)


class Page:
    """A tab. `js` and all that is built on it see the page as its own scripts do."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session
        self._call("Page.addScriptToEvaluateOnNewDocument", source=HASTE)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Opens a page and waits until it is there."""
        told = self._call("Page.navigate", url=url)
        assert not told.get("errorText"), told
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression, or of what it promises."""
        told = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str, limit_sec: float = LIMIT_SEC) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + limit_sec
        while not self.js(expression):
            assert time.monotonic() < deadline, f"never: {expression}; {self.problems}"
            time.sleep(0.05)

    def seek(self, video: str, share: float) -> None:
        """Moves a video, which may play meanwhile, to that share of its length, and waits until it is there."""
        move = f"video.addEventListener('seeked', done); video.currentTime = video.duration * {share}"
        self.js(f"new Promise(done => {{ const video = {video}; {move}; }})")

    def click(self, selector: str) -> None:
        """A press of the mouse's button on the middle of an element."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{where}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.js(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({where}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, for what has the focus."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        what = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **what)
        self._call("Input.dispatchKeyEvent", type="keyUp", **what)

    def prefer(self, **features: str) -> None:
        """What the person prefers, such as `color_scheme="dark"`."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", features=told)

    def screenshot(self, path: Path, *selectors: str) -> None:
        """What is seen now, as a PNG of 256 colours; with selectors all of the page from the first of these elements to
        the last."""
        clip = {}
        if selectors:
            boxes = self.js(
                f"{json.dumps(selectors)}.map(one => document.querySelector(one).getBoundingClientRect())"
                ".map(({x, y, right, bottom}) => [x + scrollX, y + scrollY, right + scrollX, bottom + scrollY])"
            )
            left, top = (min(box[side] for box in boxes) - 8 for side in (0, 1))
            right, bottom = (max(box[side] for box in boxes) + 8 for side in (2, 3))
            box = {"x": left, "y": top, "width": right - left, "height": bottom - top, "scale": 1}
            clip = {"clip": box, "captureBeyondViewport": True}
        told = self._call("Page.captureScreenshot", format="png", **clip)
        seen = Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("RGB")
        # By coverage, so that the colour of a thin line stays.
        seen.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(path, optimize=True)

    @property
    def problems(self) -> list[str]:
        """Errors and warnings of the page's scripts, and of the browser about the page."""
        self.js("0")  # what was on its way is here then
        found = []
        for event in self._browser.events:
            told = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"].get("exception", told)))
            if event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(str(told["args"]))
            if event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        return found

    def forget(self) -> None:
        """Drops what happened so far."""
        self.js("0")
        self._browser.events.clear()

    @property
    def fetched(self) -> list[str]:
        """The addresses of all that was asked for, but for what the page itself holds."""
        sent = [event["params"] for event in self._browser.events if event["method"] == "Network.requestWillBeSent"]
        return [told["request"]["url"] for told in sent if not told["request"]["url"].startswith("data:")]


def _pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers that no redirection needs."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
