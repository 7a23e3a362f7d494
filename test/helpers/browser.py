"""Drives a headless Chromium through its DevTools protocol, with real mouse and key events."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
MODIFIERS = {"Alt": 1, "Control": 2, "Shift": 8}
CODES = {"Enter": 13, "Escape": 27, "Delete": 46, "PageDown": 34, "PageUp": 33, " ": 32}
TEXTS = {"Enter": "\r"}


class Browser:
    """One page. The protocol is spoken through pipes, so that it needs no port and no package."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1200, 800)) -> None:
        assert BROWSER is not None
        to_browser, from_us = os.pipe()
        to_us, from_browser = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        options += ["--remote-debugging-pipe", "--window-size={},{}".format(*size)]
        # What the wheels of ROS 2 set for Python's own libraries is not for a browser.
        environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        # The protocol is on the descriptors 3 and 4.
        words = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", words, str(to_browser), str(from_browser), BROWSER, *options],
            env=environment,
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._out, self._in = os.fdopen(from_us, "wb", 0), os.fdopen(to_us, "rb")
        self._number = 0
        self._session: str | None = None
        self.said: list[str] = []  # errors on the page's console
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        self._out.write(json.dumps(asked).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(answer["params"]))
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> bytes:
        content = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        return bytes(content)

    def open(self, address: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript; a promise is awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Until JavaScript is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.said)
            time.sleep(0.05)
        return value

    def mouse(self, kind: str, x: float, y: float, *held: str, **more: Any) -> None:
        modifiers = sum(MODIFIERS[key] for key in held)
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, modifiers=modifiers, **more)

    def click(self, x: float, y: float, *held: str) -> None:
        self.drag([(x, y)], *held)

    def drag(self, points: list[tuple[float, float]], *held: str, button: str = "left") -> None:
        """Press at the first point, move to the others, release at the last."""
        self.mouse("mouseMoved", *points[0], *held)
        self.mouse("mousePressed", *points[0], *held, button=button, clickCount=1)
        for point in points[1:]:
            self.mouse("mouseMoved", *point, *held, button=button)
        self.mouse("mouseReleased", *points[-1], *held, button=button, clickCount=1)

    def wheel(self, x: float, y: float, turns: float, *held: str) -> None:
        self.mouse("mouseWheel", x, y, *held, deltaX=0, deltaY=100 * turns)

    def press(self, key: str, *held: str) -> None:
        modifiers = sum(MODIFIERS[one] for one in held)
        code = CODES.get(key) or (ord(key.upper()) if len(key) == 1 else 0)
        facts: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = TEXTS.get(key, key if len(key) == 1 and not modifiers & 3 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def type(self, text: str) -> None:
        for letter in text:
            self.press(letter)

    def screenshot(self, path: Path) -> None:
        content = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(content))

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Be a window of this size, with a light or a dark scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._in.close()
