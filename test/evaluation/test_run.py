"""`instaseg evaluate`: from a dataset to numbers and a page."""

from __future__ import annotations

import json
import logging
import re
import sys
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest
from disc_images import write_discs
from metric_scenes import metric_scene, predictions

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, merge
from instaseg_ros.datasets import Sample, open_dataset
from instaseg_ros.errors import ConfigError, MissingExtraError
from instaseg_ros.evaluation.matching import judge, rank
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.coco import CocoFrames
from instaseg_ros.evaluation.overlaps import of_class
from instaseg_ros.evaluation.report import build, plots
from instaseg_ros.evaluation.report.build import EXCUSED, verdicts
from instaseg_ros.evaluation.run import evaluate, labelled, match_classes
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.pipeline import Inferred, Pipeline

PLAIN = ["--set", "runtime.name=torch", "--set", "decode.seed_threshold=0.5"]


class Echo:
    """Labels each frame with the truth that was put into it, in its own order of classes."""

    def __init__(self, class_names: tuple[str, ...], found: dict[int, Instances]) -> None:
        self.class_names, self.found = class_names, found

    def process(self, frames: list[Frame]) -> list[Result]:
        return [Result(self.found[frame.stamp_ns], {"network": 1.0}) for frame in frames]

    def reset(self) -> None:
        """It remembers nothing."""


class Scenes:
    """Random scenes as a dataset."""

    class_names = ("car", "bus", "tram")

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.scenes = [metric_scene(rng, 3) for _ in range(4)]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        one = self.scenes[index]
        image = np.zeros((*one.labels.shape, 3), np.uint8)
        frame = Frame(image, stamp_ns=index)
        return Sample(frame, one.labels, one.ids, one.class_ids, one.ignore, crowd=one.crowd)


def test_classes_are_matched_by_name_and_metrics_are_as_on_equal_ones() -> None:
    data = Scenes()
    expected = average_precision([scene.counts() for scene in data.scenes], data.class_names)
    renamed = {}
    for k, scene in enumerate(data.scenes):
        theirs = np.array([3, 0, 1])[scene.predicted.class_ids]  # their tram is a dog
        renamed[k] = predictions(scene.predicted.labels, theirs, scene.predicted.scores)
    found = evaluate(Echo(("bus", "dog", "person", "car"), renamed), data, min_pixels=100)
    assert found.classes.names == ("car", "bus")
    unknown, unlabelled = found.classes.remarks
    assert "tram" in unknown
    assert "dog, person" in unlabelled
    table = average_precision(found.counts, found.classes.names)
    assert table["car"] == expected["car"]
    assert table["bus"] == expected["bus"]
    assert 0.05 < table["mean"].ap < 0.95


def test_a_single_class_of_another_name_is_taken_with_a_remark() -> None:
    match = match_classes(("nucleus",), ("cell",))
    assert match.names == ("nucleus",)
    assert "'nucleus' is matched with the weights' 'cell'" in match.remarks[0]
    with pytest.raises(ConfigError, match="dataset has nucleus, the weights know car, bus"):
        match_classes(("nucleus",), ("car", "bus"))


def test_the_least_object_scales_with_each_frame() -> None:
    scenes = Scenes()
    silent = Echo(("car",), {k: Instances.empty(96, 128) for k in range(4)})
    found = evaluate(silent, scenes, indices=[2])
    assert found.counts[0].min_pixels == pytest.approx(100 * 96 * 128 / 1024 / 2048)
    assert len(found.counts) == 1


def test_predictors_take_turns_and_begin_anew_with_each_sequence() -> None:
    said: list[str] = []

    class Noting(Echo):
        def __init__(self, name: str) -> None:
            super().__init__(("car",), {k: Instances.empty(96, 128) for k in range(4)})
            self.name = name

        def process(self, frames: list[Frame]) -> list[Result]:
            said.append(f"{self.name}{frames[0].stamp_ns}")
            return super().process(frames)

        def reset(self) -> None:
            said.append(f"{self.name} anew")

    class Drives(Scenes):
        def files(self, index: int) -> tuple[Path, ...]:
            return ()

        def sequence(self, index: int) -> str:
            return "first" if index < 2 else "second"

    frames = labelled([Noting("a"), Noting("b")], Drives(), [0, 1, 3])
    assert [index for index, *_ in frames] == [0, 1, 3]
    anew = ["a anew", "b anew"]
    assert said == [*anew, "a0", "b0", "a1", "b1", *anew, "a3", "b3"]


def test_what_the_network_says_is_seen_before_it_is_decoded(weights: str, cells: Path) -> None:
    """Its memory is given back then: another frame may go in."""
    pipeline = Pipeline(merge(Config(), {"weights": weights, "runtime.name": "torch"}))
    shapes = []

    def look(sample: Sample, inferred: Inferred) -> None:
        shapes.append((sample.labels.shape, inferred.outputs["seed"].shape))

    results = [one for *_, (one,) in labelled([pipeline], open_dataset(cells, "val"), look=look)]
    assert shapes == [((64, 96), (1, 1, 64, 96))] * 3 and len(results) == 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network of one class."""
    network = ERFNet(make_method("spatial_embedding", 1, 2).heads, "fast")
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), ("car",), profile="fast"), path)
    return str(path)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Three images of bright discs beside their label images."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "cells" / folder / "val").mkdir(parents=True)
    for k in range(3):
        labels = np.zeros((64, 96), np.uint16)
        for label in range(1, 5):
            cv2.circle(labels, rng.integers(8, 56, 2).tolist(), 7, label, -1)
        for folder, image in (("images", (labels > 0).astype(np.uint8) * 200), ("labels", labels)):
            cv2.imwrite(str(tmp_path / "cells" / folder / "val" / f"cell_{k}.png"), image)
    return tmp_path / "cells"


def test_a_folder_of_label_images(
    tmp_path: Path, cells: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers_file, report = tmp_path / "numbers.json", tmp_path / "report"
    options = ["--json", numbers_file, "--report", report, "--worst", 2, "--frames", 3]
    words = ["evaluate", cells, "--weights", weights, *PLAIN, *options]
    assert cli.main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^object +[\d.]+", printed, re.MULTILINE)
    numbers = json.loads(numbers_file.read_text())
    assert numbers["images"] == 3
    assert numbers["objects"] == numbers["per_class"]["object"]["objects"] > 6
    assert 0 <= numbers["ap"] <= numbers["ap50"] <= 1
    assert {"pq", "ap_dsb", "sbd", "dic", "apr_volume"} <= numbers.keys()
    assert numbers["ms_per_frame"] > 0
    assert numbers["config"]["decode"]["seed_threshold"] == 0.5
    assert len(numbers["weights_hash"]) == 16
    assert "is matched with the weights' 'car'" in numbers["remarks"][0]
    assert numbers["min_pixels"] == [1]  # Cityscapes' least size is for streets
    assert not list(tmp_path.glob("*.part*"))

    text = (report / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert text.count("<svg") == 7
    assert text.count("data:image/jpeg;base64,") == 3
    for name in ("cell_0", "cell_1", "cell_2"):
        assert name in text
    worst = sorted(file.name for file in (report / "worst").iterdir())
    assert [name[:8] for name in worst] == ["01_cell_", "02_cell_"]
    assert cv2.imread(str(report / "worst" / worst[0])).shape == (64, 96 + 8 + 96, 3)


def test_the_synthetic_street_with_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    file, report = tmp_path / "numbers.json", tmp_path / "report"
    words = ["evaluate", "synthetic", "--size", "96x192", "--frames", "2", "--min-pixels", "20"]
    words += ["--report", str(report), "--worst", "1"]
    assert cli.main([*words, "--coco", "--json", str(file), *PLAIN]) == 0
    assert "0000_frame_0000" in (report / "report.html").read_text(encoding="utf-8")
    assert len(list((report / "worst").glob("01_0000_frame_0000?.jpg"))) == 1
    numbers = json.loads(file.read_text())
    assert list(numbers["per_class"]) == ["person", "rider", "car", "truck", "bus"]
    assert numbers["min_pixels"] == [20]
    assert set(numbers["coco"]) == {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"}


def test_a_report_shows_what_was_scored(
    tmp_path: Path, cells: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run, out of order, of a network that remembers would see something else."""
    runs = []
    process = Pipeline.process

    def counted(self: Pipeline, frames: list[Frame]) -> list[Result]:
        runs.append(len(frames))
        return process(self, frames)

    monkeypatch.setattr(Pipeline, "process", counted)
    words = ["evaluate", str(cells), "--weights", weights, "--report", str(tmp_path / "report")]
    assert cli.main([*words, *PLAIN]) == 0
    assert runs == [1] * 3


def test_a_report_that_fails_leaves_nothing(
    tmp_path: Path, cells: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_page", torn)
    words = ["evaluate", str(cells), "--weights", weights, "--report", str(tmp_path / "report")]
    assert cli.main([*words, "--worst", "1", *PLAIN]) == 1
    assert list(tmp_path.glob("report*")) == []


def test_what_was_found_is_kept_as_it_was() -> None:
    scenes = Scenes()
    found = {k: scene.predicted for k, scene in enumerate(scenes.scenes)}
    kept = evaluate(Echo(scenes.class_names, found), scenes, indices=[3, 1], keep=True).seen
    assert kept is not None
    for seen, k in zip(kept, (3, 1), strict=True):
        assert seen.labels.dtype == np.uint16
        assert (seen.labels == found[k].labels).all() and (seen.scores == found[k].scores).all()


def test_verdicts_are_those_of_the_metrics() -> None:
    for scene in Scenes().scenes:
        frame = scene.counts()
        verdict = verdicts(frame)
        judged = [judge(of_class(frame, c)) for c in range(3)]
        assert verdict.found == sum(int(one.match.sum()) for one in judged)
        assert verdict.wrong == sum(int(one.wrong.sum()) for one in judged)
        assert verdict.missed == frame.counted.sum() - verdict.found
        excused = (verdict.predicted == EXCUSED).all(1).sum()
        assert verdict.found + verdict.wrong + excused == len(frame.predicted_px)


@pytest.mark.parametrize("name", [r"$\foo{$", "_hidden", "a</text><script>", "n" * 500])
def test_any_name_of_a_class_can_be_drawn(name: str) -> None:
    ranked = rank([Scenes().scenes[0].counts()], 0)
    drawn = [
        plots.precision_recall_plot({name: ranked}),
        plots.overlap_plot({name: ranked}),
        plots.confusion_plot(np.ones((2, 2), np.int64), [name]),
    ]
    for svg in drawn:
        assert escape(plots.label(name), quote=False) in svg and "<script" not in svg


def test_data_without_splits_is_measured_on_what_training_holds_out(
    tmp_path: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, file = write_discs(tmp_path / "data", 12), tmp_path / "numbers.json"
    words = ["evaluate", str(data), "--weights", weights, "--json", str(file), *PLAIN]
    for more, images in (([], 1), (["--split", "all"], 12)):
        with caplog.at_level(logging.INFO):
            assert cli.main([*words, *more]) == 0
        assert json.loads(file.read_text())["images"] == images
    assert "1 of its 12 images are held out for validation (`all`: all)" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["DATA"], "no class in common: the dataset has object, the weights know person"),
        (["DATA", "--worst", "3"], "--worst: choose a folder"),
        (["DATA", "--tracking"], "expected a dataset of sequences in which ids last"),
        (["DATA", "--size", "64x64"], "--size is for synthetic frames"),
        (["synthetic", "--split", "train"], "only val"),
        (["synthetic", "--frames", "0"], "--frames: expected at least 1"),
        (["absent"], "no such file"),
        (["DATA", "--split", "vla"], "expected a split of val, got 'vla'; did you mean 'val'?"),
        (["DATA", "--report", "TAKEN"], "a folder with report.html"),
    ],
)
def test_unusable_options_stop_before_anything_starts(
    tmp_path: Path,
    cells: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    paths = {"DATA": str(cells), "TAKEN": str(cells)}
    given = [paths.get(word, word) for word in words]
    assert cli.main(["evaluate", *given, "--set", "runtime.name=torch"]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [cells]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(MissingExtraError, match=r"'\.\[coco\]'"):
        CocoFrames(["car"])
