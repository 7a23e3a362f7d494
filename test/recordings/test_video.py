"""Videos: as long as their stamps say, and played by a browser where there is one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import urllib.parse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros.errors import MissingExtraError
from instaseg_ros.recordings.video import Timeline, VideoFile

HEIGHT, WIDTH = 48, 64
TIMES_MS = (5000, 5040, 5240, 5280, 6280)
COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200))
PAGE = """<video muted autoplay src="{name}"></video><script>
const video = document.querySelector("video")
const say = (what) => fetch("/said?" + encodeURIComponent(what))
video.onerror = () => say("error: " + video.error.message)
video.onended = () => {{
  const canvas = document.createElement("canvas")
  canvas.getContext("2d").drawImage(video, 0, 0)
  const color = canvas.getContext("2d").getImageData(9, 9, 1, 1).data
  say([video.duration, video.videoWidth, video.videoHeight, ...color].join(" "))
}}
</script>"""


def pictures() -> list[np.ndarray]:
    return [np.full((HEIGHT, WIDTH, 3), color, np.uint8) for color in COLORS]


def write(path: Path) -> Path:
    video = VideoFile(path)
    for picture, time_ms in zip(pictures(), TIMES_MS, strict=True):
        video.write(picture, time_ms * 1_000_000)
    video.close()
    return path


@pytest.mark.parametrize(
    ("stamps_ms", "expected"),
    [
        ([7000, 7100, 7200], [(0, 100), (100, 200), (200, 300)]),
        ([0, 50, 250, 260], [(0, 100), (50, 100), (250, 450), (260, 270)]),
        ([5], [(0, 100)]),
        ([50, 100, 100, 20, 30], [(0, 100), (50, 100), (100, 150), (150, 200), (160, 170)]),
        # A clock that is set while it runs: nobody waits for 54 years.
        ([0, 1_700_000_000_000], [(0, 100), (10_000, 20_000)]),
        ([-3000, -2900], [(0, 100), (100, 200)]),
    ],
)
def test_pictures_are_shown_at_their_stamps(stamps_ms, expected):
    timeline = Timeline()
    assert [timeline.show(ms * 1_000_000) for ms in stamps_ms] == expected


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_it_is_vp9_with_the_times_of_the_stamps(tmp_path, suffix):
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path = write(tmp_path / f"a{suffix}")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        frames = list(container.decode(stream))
        assert stream.codec_context.name == "vp9"
        assert container.duration == pytest.approx(2_280_000, abs=50_000)  # microseconds
        assert [round(f.time * 1000) for f in frames] == [t - TIMES_MS[0] for t in TIMES_MS]
    for frame, picture in zip(frames, pictures(), strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - picture).max() < 24


@pytest.mark.parametrize(("height", "width"), [(1, 1), (47, 33), (9, 7000)])
def test_odd_sizes_are_kept_and_other_pictures_scaled(tmp_path, height, width):
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    video = VideoFile(tmp_path / "a.mp4")
    video.write(np.zeros((height, width, 3), np.uint8), 0)
    video.write(np.zeros((20, 20, 3), np.uint8), 1)
    video.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        sizes = [(f.height, f.width) for f in container.decode(video=0)]
    assert sizes == [(height, width)] * 2


def test_without_pyav_mp4_warns_once_and_webm_names_the_extra(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "av", None)
    with caplog.at_level(logging.WARNING):
        path = write(tmp_path / "a.mp4")
    (record,) = caplog.records
    assert "a.mp4 will not play in browsers" in record.message and "'av'" in record.message
    capture = cv2.VideoCapture(str(path))
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    assert count / fps == pytest.approx(2.28, abs=0.04)
    seen = []
    while (read := capture.read())[0]:
        seen.append(int(np.abs(np.array(COLORS) - read[1][9, 9, ::-1]).sum(1).argmin()))
    assert seen == sorted(seen) and set(seen) == set(range(5))
    with pytest.raises(MissingExtraError, match="'av'"):
        write(tmp_path / "a.webm")


def test_without_pictures_there_is_no_file(tmp_path):
    VideoFile(tmp_path / "a.mp4").close()
    assert not any(tmp_path.iterdir())


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_browser_plays_it_to_its_end(tmp_path, suffix):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    name = write(tmp_path / f"a{suffix}").name
    (tmp_path / "page.html").write_text(PAGE.format(name=name))
    said: queue.Queue[str] = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urllib.parse.urlsplit(self.path)
            if address.path == "/said":
                said.put(urllib.parse.unquote(address.query))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the browser has what it wants
                super().handle()

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # What the wheels of ROS 2 set for Python's own libraries is not for a browser.
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'x'}"]
    address = f"http://127.0.0.1:{server.server_port}/page.html"
    browser = subprocess.Popen(
        [BROWSER, *options, "--remote-debugging-port=0", address],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer = said.get(timeout=60)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()
    assert not answer.startswith("error"), answer
    duration, width, height, *color, _ = map(float, answer.split())
    assert duration == pytest.approx(2.28, abs=0.05)
    assert (width, height) == (WIDTH, HEIGHT)
    assert np.abs(np.array(color) - COLORS[-1]).max() < 30
