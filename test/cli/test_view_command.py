"""`instaseg view`: pictures, videos, the table, and what is refused before the network is made."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from instaseg_ros import cli
from instaseg_ros.synthetic_street import held_out_street
from instaseg_ros.synthetic_street.export import write_bag

WORDS = ("--weights", "street-synthetic-lite", "--set", "runtime.name=torch")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    write_bag(held_out_street(3, (96, 192), 3), path)
    return path


def test_a_picture_and_its_table(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "view.png"
    words = ["view", str(recording), "-o", str(out), "--frame", "2", *WORDS]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "phi" in said and f"-> {out}" in said
    picture = cv2.imread(str(out))
    assert picture.shape[1] == 2 * 648
    assert cli.main(words) == 2 and "exists" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite", "--region", "0", "0", "40", "40"]) == 0
    assert cv2.imread(str(out)).shape[1] == 3 * 648
    assert [path.name for path in tmp_path.iterdir()] == ["view.png"]


def test_a_video(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "view.mp4"
    assert cli.main(["view", str(recording), "-o", str(out), "--limit", "2", *WORDS]) == 0
    assert f"2 frames -> {out}, 0 skipped" in capsys.readouterr().out
    video = cv2.VideoCapture(str(out))
    ok, picture = video.read()
    assert ok and picture.shape[1] == 2 * 648


def test_a_recording_for_rerun(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="the extra `view` is not installed")
    out = tmp_path / "view.rrd"
    assert cli.main(["view", str(recording), "-o", str(out), "--limit", "2", *WORDS]) == 0
    assert f"2 frames -> {out}, 0 skipped" in capsys.readouterr().out
    rows = [one for one in chunk.RrdReader(out).stream() if one.entity_path == "/camera/boxes"]
    assert sum(one.num_rows for one in rows) == 2


def test_the_input_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), held_out_street(1, (96, 192))[0].frame.image)
    before = image.read_bytes()
    assert cli.main(["view", str(image), "-o", str(image), "--overwrite", *WORDS]) == 2
    assert "is the input" in capsys.readouterr().err and image.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "view.gif"], "expected a name that ends in .png"),
        (["-o", "view.rrd", "--frame", "1"], "--frame: expected"),
        (["-o", "view.rrd", "--region", "0", "0", "9", "9"], "--region: Rerun magnifies"),
        (["-o", "view.mp4", "--frame", "1"], "--frame: expected"),
        (["--limit", "1"], "--limit: expected"),
        (["--frame", "-1"], "--frame: expected"),
        (["--frame", "3"], "has only 3 frames"),
        (["--region", "0", "0", "400", "40"], "inside the image of 192 x 96 pixels"),
        (["--topic", "/none"], "/none"),
    ],
)
def test_what_is_wrong_is_told(
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["view", str(recording), *words, *WORDS]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
