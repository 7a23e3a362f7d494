"""How a soak accounts and judges. test/ros/test_every_fault.py runs one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
HOUR_S = 3600.0
QUIET_S, ROUND_S, CONFIGURED_S = 8, 30, 300


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "soak"]:
        del sys.modules[name]


def counts(**given: int) -> dict[str, int]:
    from soak.ledger import COUNTED

    named = {name.partition(" ")[0]: name for name in COUNTED}
    return dict.fromkeys(COUNTED, 0) | {named[name]: n for name, n in given.items()}


def account(**said: int) -> Any:
    """After a roll call with nothing to say."""
    from soak.ledger import Account

    account = Account("front")
    assert not list(account.diagnosed(counts()))
    assert not list(account.roll_call())
    return account


def test_an_account_adds_up() -> None:
    one = account()
    one.published, one.bad, one.labels = 10, 2, 5
    assert not list(one.diagnosed(counts(received=9, labelled=5, dropped=1, refused=1, ignored=1)))
    assert not one.complete()
    assert not list(
        one.diagnosed(counts(received=9, labelled=5, dropped=2, refused=1, ignored=1, lost=1))
    )
    assert one.complete()
    assert not list(one.roll_call())
    assert (one.roll_calls, one.exact) == (2, 2)


@pytest.mark.parametrize(
    ("published", "bad", "labels", "said", "finding"),
    [
        (10, 0, 9, {"received": 9, "labelled": 9}, "-1 came"),
        (10, 0, 11, {"received": 11, "labelled": 11}, "+1 came"),
        (10, 0, 9, {"received": 10, "labelled": 9}, "1 images have no fate"),
        (10, 0, 9, {"received": 10, "labelled": 10}, "-1 labels came"),
        (10, 0, 11, {"received": 10, "labelled": 10}, "+1 labels came"),
        (10, 1, 10, {"received": 10, "labelled": 10}, "bad images are not refused"),
        (10, 0, 9, {"received": 10, "labelled": 9, "refused": 1}, "good images are refused"),
        (10, 0, 9, {"received": 10, "labelled": 9, "failed": 1}, "images failed"),
    ],
)
def test_what_does_not_add_up_is_said(
    published: int, bad: int, labels: int, said: dict[str, int], finding: str
) -> None:
    one = account()
    list(one.diagnosed(counts(**said)))
    one.published, one.bad, one.labels = published, bad, labels
    (found,) = one.roll_call()
    assert finding in found
    assert "front, since the last roll call: " in found


def test_more_images_in_work_than_there_are_places_are_found_at_once() -> None:
    one = account()
    assert not list(one.diagnosed(counts(received=3)))
    assert "4 images are in work" in next(one.diagnosed(counts(received=4)))
    assert "-1 images are in work" in next(one.diagnosed(counts(received=4, labelled=5)))


def test_while_publishers_change_images_may_be_unseen_but_none_without_a_fate() -> None:
    one = account()
    one.published, one.disturbed = 10, True
    list(one.diagnosed(counts(received=7, labelled=7)))
    assert one.complete()
    assert not list(one.roll_call())
    assert (one.roll_calls, one.exact) == (2, 1)
    list(one.diagnosed(counts(received=9, labelled=8)))
    one.disturbed = True
    (found,) = one.roll_call()
    assert "1 images have no fate" in found


def test_counts_of_all_activations_are_added() -> None:
    one = account()
    list(one.diagnosed(counts(received=7, labelled=6, dropped=1)))
    one.activated()
    assert one.disturbed
    list(one.diagnosed(counts(received=2, labelled=2)))
    assert (one.totals["received"], one.totals["labelled"]) == (9, 8)


def test_counts_are_read_from_diagnostics() -> None:
    from soak.ledger import counts_of

    from instaseg_ros.ros.diagnostics import _counted
    from instaseg_ros.ros.statistics import Counts

    values = _counted(Counts(7, 1, 2, 3, 4, 5, 6))
    assert counts_of(values) == counts(
        received=7, labelled=1, dropped=2, ignored=3, lost=4, refused=5, failed=6
    )
    assert counts_of({"lifecycle state": "inactive"}) is None


def test_a_line_is_fitted_through_readings_whatever_a_few_of_them_say() -> None:
    from soak.verdict import fit

    time_s = np.arange(0, HOUR_S, 30)
    values = 700 + 5 * time_s / HOUR_S + np.random.default_rng(0).normal(0, 0.3, len(time_s))
    values[::10] += 80
    found = fit(time_s.tolist(), values.tolist())
    assert found is not None
    assert found.low < 5 < found.high
    assert abs(found.per_hour - 5) < 0.5
    assert fit([0.0, 1.0], [1.0, 2.0]) is None


def write_run(
    folder: Path,
    kind: str = "soak",
    growth: float = 0.0,
    slower: float = 1.0,
    unfair: int = 0,
    kept_back: float = 0.0,
) -> None:
    """A journal of an hour with three cameras: memory that grows by MB an hour, and keeps so many
    of each configuration, and latency that is multiplied in its second half."""
    from soak.ledger import NOTHING

    dice = np.random.default_rng(0)
    about = {
        "kind": kind,
        "distribution": "jazzy",
        "began": "2026-01-01 00:00:00",
        "machine": "x86_64, 2 processors",
        "cameras": 3,
        "size": "128 x 256",
        "rate_hz": 10.0,
        "seconds": HOUR_S,
        "seed": 1,
        "weights": "street-synthetic-lite",
        "complete": True,
    }
    (folder / "about.json").write_text(json.dumps(about))
    levels = dice.uniform(-8, 8, 12) + kept_back * np.arange(12)
    with (folder / "samples.jsonl").open("w") as file:
        for second in range(0, int(HOUR_S), 2):
            factor = slower if second > HOUR_S / 2 else 1.0
            labelled = {**NOTHING, "received": 20 * second, "labelled": 20 * second}
            own = {"published": 20 * second, "bad": 0, "labels": 20 * second}
            one = {**own, "roll_calls": second // 30, "exact": second // 30, **labelled}
            last = {
                **one,
                "labelled": (20 - unfair) * second,
                "dropped while busy": unfair * second,
            }
            sample = {
                "time_s": second,
                "quiet": kind == "overload" or second % ROUND_S < QUIET_S,
                "load": 1.0,
                "waiting": 0.1,
                "rss_mb": 900.0 + growth * second / HOUR_S,
                "own_mb": 700
                + levels[second // CONFIGURED_S]
                + growth * second / HOUR_S
                + dice.normal(0, 0.1),
                "pss_mb": 500.0,
                "threads": 25,
                "descriptors": 23,
                "shm_files": 12,
                "processor_s": second / 2,
                "latency_ms": {n: (factor * dice.uniform(20, 40, 20)).tolist() for n in "abc"},
                "accounts": {"a": one, "b": one, "c": last},
            }
            file.write(json.dumps(sample) + "\n")
    events: list[dict[str, Any]] = [{"time_s": 3.0, "name": "bad images", "what": "a <b>"}]
    for second in range(CONFIGURED_S, int(HOUR_S), CONFIGURED_S):
        events.append({"time_s": second, "name": "configured anew", "what": ""})
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))


def judged(folder: Path) -> dict[str, bool | None]:
    """By the first word of each promise."""
    from soak import verdict

    return {p.name.partition(" ")[0]: p.kept for p in verdict.judge(verdict.load(folder))}


def test_promises_that_are_kept(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert set(judged(tmp_path).values()) == {True}


@pytest.mark.parametrize(
    ("how", "broken"),
    [
        ({"growth": 5.0}, "Memory"),
        ({"slower": 1.3}, "p99"),
        ({"kept_back": 5.0}, "Configuring"),
    ],
    ids=["memory", "latency", "configuring"],
)
def test_promises_that_are_broken(tmp_path: Path, how: dict[str, float], broken: str) -> None:
    write_run(tmp_path, **how)  # type: ignore[arg-type]
    assert [name for name, kept in judged(tmp_path).items() if not kept] == [broken]


@pytest.mark.parametrize(
    ("how", "broken"),
    [
        ({}, []),
        ({"unfair": 3}, ["Cameras"]),
        ({"slower": 8.0}, ["Latency"]),
        ({"growth": 60.0}, ["Memory"]),
    ],
)
def test_promises_under_overload(tmp_path: Path, how: dict[str, Any], broken: list[str]) -> None:
    write_run(tmp_path, "overload", **how)
    assert [name for name, kept in judged(tmp_path).items() if not kept] == broken


def test_a_short_or_killed_run_is_not_called_good_or_bad(tmp_path: Path) -> None:
    write_run(tmp_path, growth=50.0)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    (tmp_path / "samples.jsonl").write_text("\n".join(lines[:200]) + "\n" + lines[200][:30])
    found = judged(tmp_path)
    assert found["Memory"] is None
    assert found["p99"] is None


def test_the_page_is_whole_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from soak import page

    write_run(tmp_path)
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path)])
    assert page.main() == 0
    html = (tmp_path / "soak.html").read_text()
    assert html.count("<svg") == 6
    assert "a <b>" not in html
    assert not [line for line in html.splitlines() if "src=" in line or 'href="http' in line]
    with (tmp_path / "events.jsonl").open("a") as events:
        events.write('{"time_s": 4.0, "name": "broken promise", "what": "a <b> failed"}\n')
    assert page.main() == 1
    assert "a &lt;b&gt; failed" in (tmp_path / "soak.html").read_text()
    assert json.loads((tmp_path / "soak.json").read_text())["broken"][0]["time_s"] == 4.0


def test_the_page_of_an_overload_shows_each_cameras_share(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from soak import page

    write_run(tmp_path, "overload", unfair=3)
    page.write_page(tmp_path)
    html = (tmp_path / "soak.html").read_text()
    assert "Labels of each camera" in html
    assert "Cameras get the same share" in html


def test_the_share_of_waiting_is_read_from_diagnostics() -> None:
    from soak.journal import waiting

    assert waiting({"": {}, "front": {"waiting for a processor": "37%"}}) == 0.37
    assert waiting({}) == 0.0


def test_a_run_without_a_sample_has_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from soak import page

    write_run(tmp_path)
    (tmp_path / "samples.jsonl").write_text("")
    (tmp_path / "events.jsonl").write_text(
        '{"time_s": 1.0, "name": "broken promise", "what": "no"}\n'
    )
    assert [p.kept for p in page.write_page(tmp_path)][:2] == [True, False]
    assert "Soak of instaseg_node" in (tmp_path / "soak.html").read_text()


def test_readings_of_a_process() -> None:
    from soak.readings import read

    reading = read(os.getpid())
    assert reading.rss_mb > reading.own_mb > 1
    assert reading.rss_mb > reading.pss_mb > 1
    assert reading.threads >= 1
    assert reading.descriptors == len(os.listdir("/proc/self/fd"))
    assert reading.processor_s > 0
