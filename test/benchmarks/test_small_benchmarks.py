"""Benchmarks that are run by hand, with little to do: each prints its whole table."""

from __future__ import annotations

import sys

import pytest

from instaseg_ros.benchmarks import compressed_labels, mining, tracking

LITE = "street-synthetic-lite"


def test_tracking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tracking, "SEQUENCES", 1)
    monkeypatch.setattr(tracking, "FRAMES", 6)
    monkeypatch.setattr(sys, "argv", ["tracking", LITE])
    tracking.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["frames", "HOTA", "AssA"]
    masks = {line[:14].strip(): int(line.split()[-2]) for line in lines[1:4]}
    assert masks["10 Hz"] == masks["10 Hz, 2 s"] > masks["3 Hz with gaps"] > 0
    assert [line.split(" camera_motion")[0] for line in lines[4:]] == [
        "30 objects, with",
        "30 objects, without",
    ]


def test_compressed_labels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compressed_labels, "SIZE", (128, 256))
    monkeypatch.setattr(compressed_labels, "ROUNDS", 2)
    compressed_labels.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    raw = [line for line in lines if " raw " in line]
    assert [line.split()[-3:] for line in raw] == [["66", "-", "-"]] * 3
    encoded = [line for line in lines[1:] if line not in raw]
    assert all(0 < float(line.split()[-3]) < 66 for line in encoded)


def test_mining(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(mining, "SEQUENCES", 2)
    monkeypatch.setattr(mining, "FRAMES", 6)
    monkeypatch.setattr(mining, "DRAWS", 2)
    monkeypatch.setattr(sys, "argv", ["mining", LITE])
    mining.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["frames", "rank", "correlation", "PQ", "AP"]
    assert len(lines) == 4 + 2 * 3
    assert 0 < float(lines[1].split()[-2]) < 1
