"""The page of a run: what is on it, how large it may be, and that it can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("duckdb")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from browser import BROWSER, Browser
from fleet_runs import SECOND_NS, without, write_said
from written_recordings import (
    CLASS_NAMES,
    StandInPipeline,
    stamp_ns,
    two_instances,
    write_street_bag,
)

from instaseg_ros import cli
from instaseg_ros.errors import InputError
from instaseg_ros.fleet import comparison
from instaseg_ros.fleet.evaluation import Alone, evaluate_recordings, numbers_of
from instaseg_ros.fleet.folder import RunFolder, file_of
from instaseg_ros.fleet.pictures import Picture
from instaseg_ros.fleet.report import drive
from instaseg_ros.fleet.report.build import About, page
from instaseg_ros.fleet.report.drive import Seen
from instaseg_ros.fleet.source import Source
from instaseg_ros.frames import Instances

FRAMES = 24


def renamed(instances: Instances, old: int, new: int) -> Instances:
    """The instances, one of them under another id."""
    labels = np.where(instances.labels == old, np.uint16(new), instances.labels)
    return replace(instances, labels=labels, ids=np.where(instances.ids == old, new, instances.ids))


def said(number: int) -> dict[int, Instances]:
    """What a robot said: frame 3 and 20 were dropped; the person was missed in frame 5 of the first
    recording; the car's id switches at frame 8."""
    results = {}
    for k in range(FRAMES):
        one = two_instances(k)
        if k == 5 and number == 0:
            one = without(one, 7)
        if k not in (3, 20):
            results[stamp_ns(k)] = renamed(one, 300, 301) if k >= 8 else one
    return results


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The page of two recordings, and the command's exit code."""
    root = tmp_path_factory.mktemp("reported")
    bags = [write_street_bag(root / f"{name}.mcap", FRAMES) for name in ("alpha", "beta")]
    robots = [
        write_said(root / f"robot{n}.mcap", said(n), CLASS_NAMES, latency_ms=30.0 + n)
        for n in range(2)
    ]
    words = ["evaluate", *map(str, bags), "--predictions", *map(str, robots), "--tracking"]
    words += ["--report", str(root / "run"), "--fail-under", "ap50=0.2,dropped=3"]
    code = cli.main(words)
    return root / "run" / "report.html", code


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_says_what_was_found(reported: tuple[Path, int]) -> None:
    path, code = reported
    assert code == 3  # four were dropped
    assert {one.name for one in path.parent.iterdir()} == {
        *("report.html", "evaluation.json", "alpha.parquet", "beta.parquet")
    }
    text = path.read_text(encoding="utf-8")
    numbers = json.loads((path.parent / "evaluation.json").read_text())
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!#)""", text)
    found = re.findall(r'<div class="tile"><b>(.*?)</b>(.*?)</div>', text)
    tiles = {name: value for value, name in found}
    assert tiles["id switches"] == "2" == str(numbers["tracking"]["id_switches"])
    assert (tiles["dropped"], tiles["recordings"], tiles["ms, p50"]) == ("4", "2", "30")
    assert f"<b>{numbers['ap50']:.3f}</b>AP50" in text
    assert "dropped 4, expected at most 3" in text
    assert f"This page is {path.stat().st_size / 1e6:.1f} MB." in text
    data = data_of(text)
    alpha, beta = data["recordings"]
    assert (alpha["name"], beta["name"]) == ("alpha", "beta")  # more errors first
    assert alpha["frame"] == list(range(FRAMES)) and alpha["each"] == 1
    assert [k for k, n in enumerate(alpha["missed"]) if n] == [3, 5, 20]
    assert [k for k, n in enumerate(alpha["dropped"]) if n] == [3, 20]
    assert [k for k, n in enumerate(alpha["switches"]) if n] == [8]
    assert alpha["ms"][0] == pytest.approx(30.0) and alpha["ms"][3] is None
    (strip,) = alpha["strips"]
    assert strip["name"] == "car 300"
    assert strip["runs"] == [
        *([0, 2, 300], [3, 3, 0], [4, 7, 300]),
        *([8, 19, 301], [20, 20, 0], [21, 23, 301]),
    ]
    assert len(alpha["pictures"]) == FRAMES  # so short that all are kept
    truth = alpha["pictures"]["5"]["truth"]
    assert {(one["class"], one["verdict"]) for one in truth} == {
        ("car", "found"),
        ("person", "missed"),
    }
    # The worst frame of each second: in the first second nothing is worse than 3.
    worst = [(one["recording"], one["number"], one["missed"]) for one in data["worst"]]
    assert worst == [("alpha", 3, 2), ("alpha", 20, 2), ("beta", 3, 2), ("beta", 20, 2)]


def test_a_page_of_rows_that_were_there_is_the_same(
    reported: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = reported
    root, run = path.parents[1], path.parent
    words = ["evaluate", *(str(root / f"{one}.mcap") for one in ("alpha", "beta")), "--tracking"]
    words += ["--predictions", *(str(root / f"robot{n}.mcap") for n in range(2))]
    assert cli.main([*words, "-o", str(run), "--report", str(root / "elsewhere")]) == 0
    assert "done before, not again: alpha, beta" in capsys.readouterr().out
    again = (root / "elsewhere" / "report.html").read_text(encoding="utf-8")
    assert data_of(again) == data_of(path.read_text(encoding="utf-8"))


class Pipeline(StandInPipeline):
    def reset(self) -> None:
        """Nothing is remembered."""


def test_names_are_only_text(tmp_path: Path) -> None:
    name = "a</script><img src=x onerror=alert(1)>{{ 1 }}"
    source = Source(name[:30].replace("/", "_"), write_street_bag(tmp_path / "a.mcap", 2))
    folder = RunFolder(tmp_path / "run", {}, [source])
    outcome = evaluate_recordings([source], Alone(Pipeline()), folder)
    numbers = numbers_of(outcome.frames, outcome.classes.names, False)
    numbers |= {"remarks": [name], "recordings": outcome.facts, "p50_ms": None, "p99_ms": None}
    numbers["broken"] = {name: name}
    files = {source.name: file_of(tmp_path / "run", source.name)}
    about = About(name, name, name)
    text = page(outcome.frames, outcome.classes.names, numbers, files, about)
    assert "<img" not in text and "<script><" not in text and text.count("</script>") == 2
    assert data_of(text)["recordings"][0]["name"] == source.name
    assert name in unescape(text)


def seen(count: int, name: str = "drive") -> list[Seen]:
    rng = np.random.default_rng(0)
    return [
        Seen(name, k, k * SECOND_NS // 10, k / 10, 9, int(rng.integers(9)), k % 3, k % 7 == 0,
             None if k % 7 == 0 else float(k % 50), {(0, 5): k // 40 % 2 + 1, (1, 6): 3})
        for k in range(count)
    ]  # fmt: skip


def test_a_long_timeline_is_thinned_and_loses_no_worst_frame() -> None:
    frames = seen(5000)
    found = drive.drive(frames, CLASS_NAMES, True)
    assert found["each"] == 9 and found["frames"] == 5000 and len(found["frame"]) == 556
    assert sum(found["dropped"]) == sum(one.dropped for one in frames)
    assert max(a + b for a, b in zip(found["missed"], found["wrong"], strict=True)) == max(
        one.errors for one in frames
    )
    for k, (number, missed, wrong) in enumerate(
        zip(found["frame"], found["missed"], found["wrong"], strict=True)
    ):
        group = frames[9 * k : 9 * k + 9]
        assert number // 9 == k and missed + wrong == max(one.errors for one in group)
        assert found["ms"][k] == max(one.ms for one in group if one.ms is not None)
    assert sum(found["switches"]) == 124  # every 40 frames
    (strip,) = found["strips"]
    assert strip["switches"] == 124 and len(strip["runs"]) == drive.RUNS
    assert found["runs_left_out"] == 125 - drive.RUNS


def test_what_recordings_have_together_is_bounded() -> None:
    for bounds in (drive.MARKS, drive.STRIPS):
        most, least, together = bounds
        for recordings in (1, 2, 50, drive.RECORDINGS):
            assert least <= drive.share(bounds, recordings) <= most
            assert drive.share(bounds, recordings) * recordings <= together


def test_pictures_of_a_page_are_bounded(reported: tuple[Path, int]) -> None:
    files = {name: reported[0].parent / f"{name}.parquet" for name in ("alpha", "beta")}
    sizes = drive.picture_sizes(files["alpha"])
    first = [one for one in seen(FRAMES, "beta") if one.number in (20, 3)]
    room = 6 * max(sizes.values())
    found = drive.chosen_pictures(files, first, room)
    numbers = {name: sorted(own) for name, own in found.by_recording.items()}
    assert {3, 20} <= set(numbers["beta"])  # those that are asked for come first
    kept = sum(map(len, numbers.values()))
    assert 6 <= kept < 2 * FRAMES and found.left_out == 2 * FRAMES - kept
    assert max(numbers["alpha"]) - min(numbers["alpha"]) > FRAMES // 3  # spread
    assert drive.chosen_pictures(files, first).left_out == 0


@pytest.mark.parametrize("outlines", ["", "[]", "{}", "[" * 100_000, '{"size": 1}'])
def test_a_damaged_picture_is_named(tmp_path: Path, outlines: str) -> None:
    def damaged(*_: object) -> dict[int, Picture]:
        return {7: Picture(b"", outlines)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "read_pictures", damaged)
        with pytest.raises(InputError, match=r"a\.parquet: the picture of frame 7"):
            drive.shown(tmp_path / "a.parquet", [7])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


SAID = "document.querySelector('#viewer p').textContent"
SELECTED = "[...document.querySelectorAll('#worst button')].map((b) => b.ariaPressed)"


def test_a_browser_shows_what_is_clicked(reported: tuple[Path, int], browser: Browser) -> None:
    browser.open(reported[0])
    assert browser.value(SELECTED) == ["true", "false", "false", "false"]
    assert browser.value(SAID).startswith("alpha, frame 3,") and "dropped" in browser.value(SAID)
    assert browser.value("document.querySelectorAll('#viewer image').length") == 2

    browser.click("#worst button:nth-child(4)")
    assert browser.value(SELECTED) == ["false", "false", "false", "true"]
    assert browser.value(SAID).startswith("beta, frame 20,")
    assert browser.value("document.querySelector('#recording').value") == "1"

    browser.click("[data-recording='0']")
    browser.click("#timeline", across=5.5 / FRAMES)
    assert browser.value(SAID).startswith("alpha, frame 5, 0.3 s; 2 objects, 1 missed, 0 wrong")
    side = "#viewer .side:nth-child({})"
    browser.click(f"{side.format(1)} path.found", 0.5, 0.5)
    captions = "[...document.querySelectorAll('#viewer figcaption')].map((one) => one.textContent)"
    assert browser.value(captions) == [
        "Truth: car, found, id 300, matched with id 300, IoU 1.00",
        "Prediction: car 0.90, right, id 300, matched with id 300, IoU 1.00",
    ]
    assert browser.value("document.querySelectorAll('#viewer path.told').length") == 2

    browser.click("#strips svg", across=8.5 / FRAMES)
    assert browser.value(SAID).startswith("alpha, frame 8,") and "1 id switches" in (
        browser.value(SAID)
    )
    assert browser.value("document.querySelectorAll('#strips rect.id').length") == 4
    assert browser.errors == []


def test_a_browser_is_enough_with_keys_alone(reported: tuple[Path, int], browser: Browser) -> None:
    browser.open(reported[0])
    browser.value("document.getElementById('timeline').focus()")
    now = "document.getElementById('timeline').ariaValueNow"
    for key, mark in (
        ("Home", 0),
        ("ArrowRight", 1),
        ("PageUp", 11),
        ("End", 23),
        ("ArrowLeft", 22),
    ):
        browser.press(key)
        assert browser.value(now) == str(mark)
    browser.press("n")
    browser.press("n")
    assert browser.value(SELECTED)[2] == "true"
    browser.press("p")
    assert browser.value(SELECTED)[1] == "true"
    display = "getComputedStyle(document.querySelector('#viewer path')).display"
    assert browser.value(display) == "inline"
    browser.press("o")
    assert browser.value(display) == "none"
    assert browser.errors == []


def test_a_browser_shows_two_runs(
    reported: tuple[Path, int], browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 20)
    root, run = reported[0].parents[1], reported[0].parent
    words = ["evaluate", str(root / "alpha.mcap"), "--tracking", "-o", str(tmp_path / "b")]
    assert cli.main([*words, "--predictions", str(root / "robot1.mcap")]) == 0
    assert cli.main(["compare", str(run), str(tmp_path / "b"), "--report", str(tmp_path)]) == 0
    browser.open(tmp_path / "compare.html", 390, 844)
    headings = "[...document.querySelectorAll('.difference h3')].map((one) => one.textContent)"
    assert browser.value(headings) == ["alpha, frame 5, 0.2 s"]  # where one missed the person
    browser.click(".side:nth-child(3) path.right")
    captions = "[...document.querySelectorAll('figcaption')].map((one) => one.textContent)"
    truth, _, b = browser.value(captions)
    assert truth.startswith("Truth, as found by A: person, missed")
    assert b.startswith("B: person 0.50, right")
    assert browser.value("document.documentElement.scrollWidth") == 390
    assert browser.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_fits_it_on_a_phone(
    reported: tuple[Path, int], browser: Browser, dark: bool
) -> None:
    browser.open(reported[0], 390, 844, dark)
    assert browser.value("document.documentElement.scrollWidth") == 390
    tops = "[...document.querySelectorAll('#viewer .side')].map((one) => one.offsetTop)"
    first, second = browser.value(tops)
    assert second > first  # below each other
    back = "getComputedStyle(document.body).backgroundColor"
    assert (sum(map(int, re.findall(r"\d+", browser.value(back)))) < 150) == dark
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert browser.errors == []
