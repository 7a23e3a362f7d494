"""A headless Chromium that is told what to do through a pipe, by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_S = 60.0
MODIFIERS = {"Alt": 1, "Control": 2, "Shift": 8}


class Browser:
    """`with Browser(tmp_path) as browser: browser.open(page)`. errors: what the page complained
    of."""

    def __init__(self, scratch: Path) -> None:
        assert BROWSER is not None
        ours, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        self._to, self._from = ours[1], theirs[0]
        # What the wheels of ROS 2 set for Python's own libraries is not for a browser.
        environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={scratch / 'browser'}", "about:blank"]
        # The protocol's descriptors are 3 and 4.
        command = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, *options],
            env=environment,
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._buffer, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        (page,) = (t for t in self._tell("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attach = {"targetId": page["targetId"], "flatten": True}
        self._session = self._tell("Target.attachToTarget", attach)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._tell(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(
        self, page: Path | str, width: int = 1280, height: int = 800, dark: bool = False
    ) -> None:
        """Load a file or an address, as on a screen of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._tell("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", {"features": [scheme]})
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self._tell("Page.navigate", {"url": url})
        self.wait("document.readyState === 'complete' && location.protocol !== 'about:'")

    def wait(self, script: str, patience_s: float = PATIENCE_S) -> None:
        """Until an expression of JavaScript is true."""
        end = time.monotonic() + patience_s
        while not self.value(script):
            assert time.monotonic() < end, (script, self.errors)
            time.sleep(0.05)

    def value(self, script: str) -> Any:
        """What an expression of JavaScript gives, or its promise."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self._tell("Runtime.evaluate", asked)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Press the mouse over an element, at a share of its width and height."""
        script = f"""(() => {{ const one = document.querySelector({json.dumps(selector)});
            one.scrollIntoView({{block: "center", inline: "center"}});
            const box = one.getBoundingClientRect();
            return [box.left + box.width * {across}, box.top + box.height * {down}]; }})()"""
        x, y = self.value(script)
        for kind in ("mousePressed", "mouseReleased"):
            event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self._tell("Input.dispatchMouseEvent", event)

    def drag(self, points: Sequence[tuple[float, float]], *held: str, button: str = "left") -> None:
        """Press the mouse at the first point of the window, move to the others, and release it;
        held: keys, such as `Shift`."""
        moved = [("mouseMoved", point) for point in points[1:]]
        events = [("mousePressed", points[0]), *moved, ("mouseReleased", points[-1])]
        modifiers = sum(MODIFIERS[key] for key in held)
        for kind, (x, y) in events:
            event = {"type": kind, "x": x, "y": y, "button": button, "clickCount": 1}
            self._tell("Input.dispatchMouseEvent", {**event, "modifiers": modifiers})

    def wheel(self, point: tuple[float, float], turns: float, *held: str) -> None:
        """Turn the mouse wheel at a point of the window; positive: towards the hand."""
        event = {"type": "mouseWheel", "x": point[0], "y": point[1], "deltaX": 0}
        modifiers = sum(MODIFIERS[key] for key in held)
        turned = {**event, "deltaY": 100 * turns, "modifiers": modifiers}
        self._tell("Input.dispatchMouseEvent", turned)

    def press(self, key: str, *held: str) -> None:
        """A key by its name in JavaScript, `n` or `ArrowRight`; held: others, such as `Shift`."""
        event: dict[str, Any] = {"key": key, "modifiers": sum(MODIFIERS[one] for one in held)}
        letter = {"Enter": "\r"}.get(key, key if len(key) == 1 and "Control" not in held else "")
        text = {"text": letter} if letter else {}
        self._tell("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
        self._tell("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def picture(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, or of what the screen shows."""
        asked = {"format": "png", "captureBeyondViewport": whole}
        path.write_bytes(base64.b64decode(self._tell("Page.captureScreenshot", asked)["data"]))

    def _tell(self, method: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(answer["params"]))

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], end - time.monotonic())
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        first, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(first)
        return answer
