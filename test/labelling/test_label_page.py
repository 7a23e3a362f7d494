"""The page in a real browser: from a folder of images to a saved dataset, with mouse and keys."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from browser import BROWSER, Browser
from disc_images import QUICK, set_options
from label_sessions import CLASSES, DISCS, disc_labels, wait_for, write_frames

from instaseg_ros.checkpoint import describe
from instaseg_ros.cli import main
from instaseg_ros.datasets import open_dataset

for package in ("starlette", "uvicorn", "pycocotools"):
    pytest.importorskip(package, reason="the extra `label` is not installed")

# What it does with Ctrl-C at a terminal; and where a script has put it into the background.
AT_TERMINAL = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
IN_BACKGROUND = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
# The command as it is; and with the discs' network in the place of the real one.
REAL = "import sys\nfrom instaseg_ros.cli import main\nsys.exit(main(['label', *sys.argv[1:]]))\n"
DISCS_KNOWN = """
import sys
import label_sessions
from instaseg_ros.cli import main
from instaseg_ros.labelling import network
network.Network = lambda *_: label_sessions.DiscNetwork()
sys.exit(main(["label", *sys.argv[1:]]))
"""


# A trial has the lowest priority: beside other work even its start takes minutes.
TRIAL_S = 600.0


class Label:
    """`instaseg label` in a process of its own."""

    def __init__(self, *words: str, command: str = DISCS_KNOWN, start: str = AT_TERMINAL) -> None:
        asked = [sys.executable, "-c", start + command, *words, "--no-browser"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.address = re.findall(r"http\S+", self.process.stdout.readline())[0]

    def __enter__(self) -> Label:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


def at(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the image is in the window."""
    found = browser.value(
        "(() => { const b = canvas.getBoundingClientRect();"
        f"return [b.left + view.x + view.scale * {x}, b.top + view.y + view.scale * {y}] }})()"
    )
    return float(found[0]), float(found[1])


def idle(browser: Browser) -> None:
    browser.value("queue")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_from_a_folder_to_a_dataset(tmp_path: Path) -> None:
    frames, mine = write_frames(tmp_path / "frames", 6), tmp_path / "mine"
    words = (str(frames), "-o", str(mine), "--weights", "street-synthetic")
    new = Label(*words, "--classes", ",".join(CLASSES))
    with new as label, Browser(tmp_path) as browser:
        browser.open(label.address)
        browser.wait("frame && frame.objects.size === 2")
        assert "token" not in browser.value("location.href")
        _first_frame(browser)
        browser.press("Enter")  # accepts, and goes on
        browser.wait("frame.number === 1 && frame.objects.size >= 3")
        for number in range(1, 6):
            browser.press("Enter")
            browser.wait(f"frame.number > {number} || (frame.number === 5 && frame.kept)")
        wait_for(lambda: len([*mine.glob("images/*")]) == 6)
        browser.wait("document.getElementById('saved').textContent === 'saved'")
        assert not browser.errors
        label.process.kill()  # and go on after it
        label.process.wait()
        assert main(["info", str(mine), "--check"]) == 0
        with Label(*words) as again:
            browser.open(again.address)
            browser.wait("frame && frame.kept && dataset.labelled.length === 6")
            assert again.end() == 0
    dataset = open_dataset(mine, "all")
    assert len(dataset) == 6 and dataset.class_names == (*CLASSES, "cone")
    last = dataset[5]
    truth = disc_labels(5)
    assert sum((last.labels[truth == n] > 0).mean() > 0.8 for n in (1, 2, 3)) == 3


def _first_frame(browser: Browser) -> None:
    """Every gesture once; it ends with the three discs, the last one a cone."""
    x, y, _ = DISCS[2]
    browser.drag([at(browser, x + 0.5, y + 0.5)])
    browser.wait("frame.active === 3 && frame.live")
    assert browser.value("frame.objects.get(3)[1]") == "click"
    browser.wheel(at(browser, x, y), 1)  # narrower, in the same step
    browser.wait("clickWidth < 1")
    idle(browser)
    browser.press("z", "Control")
    browser.wait("frame.objects.size === 2")
    browser.press("Z", "Control", "Shift")
    browser.wait("frame.objects.size === 3")
    # The brush, without an active mask, makes a new one; the eraser takes from it; it is removed.
    browser.press("Escape")
    browser.press("b")
    browser.drag([at(browser, 5, 5), at(browser, 15, 5)])
    browser.wait("frame.objects.size === 4 && frame.objects.get(frame.active)[1] === 'brush'")
    before = browser.value("frame.labels.filter((id) => id === frame.active).length")
    browser.press("e")
    browser.drag([at(browser, 5, 2), at(browser, 5, 9)])
    count = "frame.labels.filter((id) => id === frame.active).length"
    browser.wait(f"{count} < {before}")
    browser.press("Delete")
    browser.wait("frame.objects.size === 3")
    # Cut the second disc in two and join it again.
    browser.press("s")
    left, top, r = DISCS[1]
    browser.drag([at(browser, left, top - r - 4), at(browser, left, top + r + 4)])
    browser.wait("frame.objects.size === 4")
    browser.drag([at(browser, left - 5, top + 1), at(browser, left + 5, top + 1)])
    browser.wait("frame.objects.size === 3")
    # A polygon is ignored.
    browser.press("i")
    for point in ((70, 2), (78, 2), (78, 8)):
        browser.drag([at(browser, *point)])
    browser.press("Enter")
    browser.wait("frame.ignore.some((one) => one)")
    # By keyboard alone: select, zoom, move the cursor, a new class by name.
    browser.press("c")
    browser.press("Escape")
    for _ in range(3):  # which number the joined disc has depends on where it was cut
        if browser.value("frame.active !== 3"):
            browser.press(",")
    browser.wait("frame.active === 3")
    browser.press("n")
    for letter in "cone":
        browser.press(letter)
    browser.press("Enter")
    browser.wait("dataset.class_names.length === 3 && frame.objects.get(3)[0] === 2")
    scale = browser.value("view.scale")
    browser.press("+")
    browser.wheel(at(browser, x, y), -1, "Control")
    assert browser.value("view.scale") > scale
    place = browser.value("view.x")
    browser.drag([(400, 300), (440, 320)], button="right")
    assert browser.value("view.x") == pytest.approx(place + 40)
    browser.press("f")
    assert browser.value("view.scale") == pytest.approx(scale)
    browser.press("0")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_it_learns_while_frames_are_labelled(tmp_path: Path) -> None:
    """From an empty folder to trained weights, by the command as it is, which is killed between."""
    frames, mine = write_frames(tmp_path / "frames", 6), tmp_path / "mine"
    words = [str(frames), "-o", str(mine), "--weights", "street-synthetic-fast"]
    words += [
        "--classes",
        "disc",
        "--learn",
        "--learn-minutes",
        "0.2",
        "--set",
        "runtime.name=torch",
    ]
    line = "document.getElementById('learning').textContent"
    with Label(*words, command=REAL) as label, Browser(tmp_path) as browser:
        browser.open(label.address)
        browser.wait("frame && document.getElementById('network').textContent.includes('clicked')")
        browser.wait(f"{line}.includes('waiting for 5 more frames')")
        for number, (x, y, r) in enumerate(DISCS, 1):
            browser.press("Escape")
            browser.press("p")
            for turn in range(8):
                angle = turn * math.pi / 4
                corner = x + 0.5 + r * math.cos(angle), y + 0.5 + r * math.sin(angle)
                browser.drag([at(browser, *corner)])
            browser.press("Enter")
            browser.wait(f"frame.objects.size === {number}")
        for number in range(1, 6):  # the discs follow from frame to frame
            browser.press("Enter")
            browser.wait(f"frame.number === {number} && frame.objects.size === 3")
        # Where a start takes long, the time of the trial may be over before it is seen to train.
        browser.wait(f"/training on 4 frames|from 4 frames/.test({line})", TRIAL_S)
        browser.press("Enter")
        browser.wait("frame.kept")
        wait_for(lambda: len([*mine.glob("images/*")]) == 6)
        assert not browser.errors
        label.process.kill()  # and go on after it, as does the training
        label.process.wait()
        with Label(*words, command=REAL) as again:
            browser.open(again.address)
            # How many steps there was time for decides which it is.
            ended = f"/new weights from 4 frames|from 4 frames and kept/.test({line})"
            browser.wait(ended, TRIAL_S)
            won = "new weights" in browser.value(line)
            assert again.end() == 0
    learned = mine / ".labelling" / "learning" / "learned.safetensors"
    assert learned.is_file() == won
    assert not won or describe(learned).class_names == ("disc",)
    assert main(["info", str(mine), "--check"]) == 0
    words = ["train", "finetune", "--data", str(mine), "--from", "street-synthetic-fast"]
    assert main([*words, "-o", str(tmp_path / "run"), *set_options(QUICK)]) == 0
    assert describe(tmp_path / "run" / "weights.safetensors").class_names == ("disc",)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_narrow_window_shows_the_frame(tmp_path: Path) -> None:
    words = (str(write_frames(tmp_path / "frames", 1)), "-o", str(tmp_path / "mine"))
    with Label(*words, start=IN_BACKGROUND) as label, Browser(tmp_path) as browser:
        browser.open(label.address, 390, 800, dark=True)
        browser.wait("frame && frame.picture && true")
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.value("canvas.getBoundingClientRect().height") > 200
        browser.open(label.address.partition("?")[0])
        browser.value("sessionStorage.clear()")
        browser.open(label.address.partition("?")[0] + "#1")
        browser.open(label.address.partition("?")[0])
        browser.wait("document.getElementById('message').textContent.includes('open the address')")
        assert label.end(signal.SIGTERM) == 0
