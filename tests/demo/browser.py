"""A real browser for tests of pages: Chromium without a window, told what to do over two pipes (DevTools protocol)."""

from __future__ import annotations

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
PATIENCE = 60.0
"""Seconds for one answer; a busy machine takes a few."""


class Browser:
    """One page in Chromium. errors: what its scripts raised or logged as an error."""

    def __init__(self, told: int, heard: int) -> None:
        self.told, self.heard = told, heard
        self.calls, self.rest, self.session = 0, b"", ""
        self.errors: list[str] = []

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.heard], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self.heard, 1 << 16) if ready else b""
            if not more:
                raise TimeoutError("the browser does not answer")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its answer. Raises RuntimeError when it is refused, TimeoutError."""
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params}
        os.write(
            self.told, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while (answer := self._next()).get("id") != self.calls:
            event, told = answer.get("method"), answer.get("params", {})
            if event == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"]))
            elif event == "Runtime.consoleAPICalled" and told["type"] == "error":
                self.errors.append(json.dumps(told["args"]))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path | str, width: int = 1200) -> None:
        """A new page of a file, or of an address."""
        url = page if isinstance(page, str) else page.as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Runtime.enable")
        self.call("Page.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=url)
        scheme = url.partition(":")[0]
        self.until(f"document.readyState === 'complete' && document.URL.startsWith('{scheme}:')")

    def until(self, condition: str) -> None:
        """Wait until an expression holds, also across a page that is just being left. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self.run(condition):
                    return
            except RuntimeError:  # the page was left meanwhile
                pass
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}")
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of an expression, of a promise when it is kept; as if the listener had just clicked."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, userGesture=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{script}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """A click of the left mouse button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """A key; code: its Windows virtual key code, by which the browser acts."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@contextmanager
def browser(profile: Path) -> Iterator[Browser | None]:
    """A browser with an empty profile, None where there is none that starts."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None or shutil.which("bash") is None:
        yield None
        return
    there, told = os.pipe()
    heard, back = os.pipe()
    options = (
        f"--headless --no-sandbox --disable-gpu --mute-audio --remote-debugging-pipe --user-data-dir={profile}".split()
    )
    # the protocol's pipes are 3 and 4; bash puts them there (other shells know no numbers over 9)
    command = ["bash", "-c", f'exec "$@" 3<&{there} 4>&{back}', "bash", program, *options]
    with subprocess.Popen(
        command, pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(there)
        os.close(back)
        found: Browser | None = Browser(told, heard)
        try:
            assert found is not None
            try:
                found.call("Browser.getVersion")
            except (OSError, TimeoutError):
                found = None
            yield found
            if found:
                found.session = ""
                found.call("Browser.close")
        finally:
            os.close(told)
            os.close(heard)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
