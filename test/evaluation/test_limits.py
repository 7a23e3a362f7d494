"""Limits of `--fail-under`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fleet_runs import write_said
from written_recordings import CLASS_NAMES, stamp_ns, two_instances, write_street_bag

from instaseg_ros import cli
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.limits import NAMES, Limit, check_limits, parse_limits


def test_numbers_are_compared_from_the_right_side() -> None:
    limits = parse_limits("ap50=0.5, HOTA=0.6,p99_ms=150,id_switches=3, dropped = 0", True)
    assert limits[1] == Limit("hota", 0.6)
    numbers = {"ap50": 0.5, "p99_ms": 150.1, "dropped": 0}
    tracking = {"hota": 0.59, "id_switches": 3}
    checked = check_limits(limits, {**numbers, "tracking": tracking})
    assert [one.kept for one in checked] == [True, False, False, True, True]
    assert str(checked[1]) == "hota 0.59, expected at least 0.6"
    assert str(checked[2]) == "p99_ms 150.1, expected at most 150"


@pytest.mark.parametrize("unknown", [None, math.nan, "absent"])
def test_an_unknown_number_keeps_no_limit(unknown: float | str | None) -> None:
    numbers = {} if unknown == "absent" else {"p99_ms": unknown}
    (one,) = check_limits(parse_limits("p99_ms=150", False), numbers)
    assert not one.kept and str(one) == "p99_ms unknown, expected at most 150"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ap5=0.5", "got 'ap5=0.5'; did you mean 'ap50'?"),
        ("switches=3", "did you mean 'id_switches'?"),
        ("colour=1", "known: ap, ap50"),
        ("", "expected NAME=NUMBER, got ''"),
        ("ap=", "expected a number after ap="),
        ("ap", "expected a number after ap="),
        ("ap=nan", "expected a number after ap=, got 'nan'"),
        ("ap=high", "got 'high'"),
        ("ap=0.5,AP=0.6", "expected ap once"),
        ("HOTA=0.6", "HOTA is a number of tracks: give --tracking too"),
        ("x" * 10_000, "known: ap"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^--fail-under: ") as caught:
        parse_limits(text, tracking=False)
    assert said in str(caught.value)


def test_the_command_ends_with_a_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_street_bag(tmp_path / "a.mcap", 4)
    results = {stamp_ns(k): two_instances(k) for k in range(3)}  # the last frame is dropped
    said = write_said(tmp_path / "said.mcap", results, CLASS_NAMES, latency_ms=40.0)
    numbers = tmp_path / "numbers.json"
    words = ["evaluate", str(bag), "--predictions", str(said), "--json", str(numbers)]
    assert cli.main([*words, "--fail-under", "ap50=0.7,dropped=1,p99_ms=41"]) == 0
    assert capsys.readouterr().err.count("--fail-under") == 0
    numbers.unlink()
    assert cli.main([*words, "--fail-under", "ap50=0.8,dropped=0,p50_ms=39"]) == 3
    told = [one for one in capsys.readouterr().err.splitlines() if one.startswith("--fail-under")]
    assert told == [
        "--fail-under: ap50 0.75, expected at least 0.8",
        "--fail-under: dropped 1, expected at most 0",
        "--fail-under: p50_ms 40, expected at most 39",
    ]
    assert json.loads(numbers.read_text())["p99_ms"] == pytest.approx(40.0)  # all is written
    numbers.unlink()
    assert cli.main([*words, "--fail-under", "ap05=1"]) == 2
    assert "did you mean" in capsys.readouterr().err and not numbers.exists()


def test_every_name_is_in_the_json(tmp_path: Path) -> None:
    bag = write_street_bag(tmp_path / "a.mcap", 3)
    results = {stamp_ns(k): two_instances(k) for k in range(3)}
    said = write_said(tmp_path / "said.mcap", results, CLASS_NAMES, latency_ms=40.0)
    words = ["evaluate", str(bag), "--predictions", str(said), "--tracking"]
    assert cli.main([*words, "--json", str(tmp_path / "numbers")]) == 0
    numbers = json.loads((tmp_path / "numbers").read_text())
    limits = [Limit(name, 0.0) for name in NAMES]
    assert not [one.limit.name for one in check_limits(limits, numbers) if math.isnan(one.value)]
