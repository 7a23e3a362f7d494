"""`instaseg mine`: what it writes is a dataset, and a run that ends early leaves nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from instaseg_ros import cli
from instaseg_ros.datasets import open_dataset
from instaseg_ros.evaluation import disagreement
from instaseg_ros.synthetic_street import held_out_street
from instaseg_ros.synthetic_street.export import write_bag

WORDS = ("--weights", "street-synthetic-lite", "--set", "runtime.name=torch")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    write_bag(held_out_street(6, (96, 192), 6), path)
    return path


def rows_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "frames.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_chosen_frames_are_a_dataset_to_label(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hard"
    words = ["mine", str(recording), "-o", str(folder), "--frames", "2", *WORDS]
    words += ["--against", "street-synthetic-lite", "--set", "decode.min_score=0"]
    assert cli.main(words) == 0
    assert f"6 frames compared, 0 skipped; 2 written -> {folder}" in capsys.readouterr().out
    rows = rows_in(folder)
    assert [int(row["stamp_ns"]) for row in rows] == [n * 100_000_000 for n in range(6)]
    assert all(float(row["weights"]) > 0 for row in rows)  # those have another `min_score`
    for row in rows:
        parts = [float(row[name]) for name in ("mirror", "time", "weights")]
        assert float(row["disagreement"]) == pytest.approx(sum(parts) / 3, abs=1e-5)
    chosen = [row for row in rows if row["file"]]
    worst = max(rows, key=lambda row: float(row["disagreement"]))
    assert len(chosen) == 2 and worst in chosen
    images = json.loads((folder / "frames.json").read_text())["images"]
    for row, image in zip(chosen, images, strict=True):
        assert image["file_name"] == row["file"] == f"{int(row['frame']):06d}.jpg"
        assert image["stamp_ns"] == int(row["stamp_ns"]) and image["topic"] == row["topic"] != ""
    dataset = open_dataset(folder / "frames.json", "all")
    assert len(dataset) == 2 and len(dataset[0].ids) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["hard"]

    before = (folder / "frames.csv").read_bytes(), (folder / "frames.json").read_bytes()
    assert cli.main(words) == 2 and "exists" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0
    assert before == ((folder / "frames.csv").read_bytes(), (folder / "frames.json").read_bytes())


def test_a_run_that_ends_early_leaves_nothing(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(disagreement.Picked, "write", full)
    words = ["mine", str(recording), "-o", str(tmp_path / "hard"), "--by", "time", *WORDS]
    assert cli.main(words) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frames", "0"], "--frames: expected at least 1, got 0"),
        (["--apart", "-1"], "--apart: expected at least 1, got -1"),
        (["--by", "weights"], "expected both or neither"),
        (["--by", "time", "--against", "street"], "expected both or neither"),
        (["--against", "nowhere"], "weights 'nowhere'"),
        (["--set", "input.mirror=true"], "input.mirror averages"),
        (["--topic", "/none"], "/none"),
    ],
)
def test_what_is_wrong_is_told(
    recording: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["mine", str(recording), "-o", str(tmp_path / "hard"), *WORDS, *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
