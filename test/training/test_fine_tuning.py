"""Training on a few images of one's own: what is read, held out, kept, taken over and refused."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dataset_layouts import street_samples, write_label_images
from disc_images import QUICK, set_options, write_discs

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, load, merge
from instaseg_ros.datasets import open_dataset
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.training import objects
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.source import open_splits
from instaseg_ros.training.state import start_from
from instaseg_ros.training.trainer import train

RECIPES = Path(__file__).parents[2] / "config" / "train"


def test_ten_images_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, by the command that README shows, with fewer and smaller steps."""
    data, run = write_discs(tmp_path / "data", 10), tmp_path / "run"
    few = {**QUICK, "train.steps": 2, "train.validation_frames": 1, "train.class_name": "disc"}
    command = ["train", str(RECIPES / "finetune.yaml"), "--from", "street-synthetic"]
    assert cli.main([*command, "--data", str(data), "-o", str(run), *set_options(few)]) == 0
    assert str(run / "weights.safetensors") in capsys.readouterr().out
    weights = load_checkpoint(run / "best.safetensors")
    assert weights.class_names == ("disc",)
    assert weights.notes["train"]["fixed_batchnorm"] and weights.notes["step"] == 2
    assert weights.notes["train"]["dataset"] == data.name  # where it lay is nobody's business
    assert (weights.input["height"], weights.input["scale"]) == (0, 1)
    assert weights.notes["validation"]["mean"]["objects"] > 0
    # Statistics of BatchNorm are those of the weights that it started from.
    kept, old = (w.tensors for w in (weights, load_checkpoint("street-synthetic")))
    statistics = [name for name in kept if name.endswith("running_var")]
    assert statistics and all(torch.equal(kept[name], old[name]) for name in statistics)


@pytest.mark.parametrize("given", ["", "published"])
def test_the_initial_weights_bring_their_profile(given: str, tmp_path: Path) -> None:
    data, run = write_discs(tmp_path / "data", 3), tmp_path / "run"
    few = {**QUICK, "train.steps": 1, "train.validation_frames": 1}
    if given:
        few["method.profile"] = given
    command = ["train", str(RECIPES / "finetune.yaml"), "--from", "street-synthetic-fast"]
    assert cli.main([*command, "--data", str(data), "-o", str(run), *set_options(few)]) == 0
    assert load_checkpoint(run / "weights.safetensors").profile == (given or "fast")


@pytest.mark.parametrize(("count", "held"), [(25, ["09", "19"]), (10, ["09"]), (3, ["02"])])
def test_every_tenth_image_is_held_out(
    count: int, held: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_discs(tmp_path, count)
    with caplog.at_level(logging.INFO):
        train_part, held_out = open_splits(str(data))
    assert [held_out.files(i)[0].stem for i in range(len(held_out))] == held
    stems = {train_part.files(i)[0].stem for i in range(len(train_part))}
    assert len(stems) == count - len(held) and not stems & set(held)
    assert f"{len(held)} of its {count} images are held out" in caplog.text
    assert (held_out[0].labels == open_dataset(data, "all")[int(held[0])].labels).all()


def test_a_split_of_the_dataset_is_taken_where_there_is_one(tmp_path: Path) -> None:
    data = write_discs(write_discs(tmp_path, 5, "train"), 3, "val")
    assert [len(part) for part in open_splits(str(data))] == [5, 3]
    only_train = write_discs(tmp_path / "other", 12, "train")
    assert [len(part) for part in open_splits(str(only_train))] == [11, 1]
    with pytest.raises(InputError, match="expected at least two images, found 1"):
        open_splits(str(write_discs(tmp_path / "single", 1)))


def test_objects_are_read_anew_only_when_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(write_discs(tmp_path / "data", 3), "all")
    cache = tmp_path / "objects.npz"
    first = objects.object_index(data, cache)
    sample = data[int(first["image"][4])]
    y, x = np.nonzero(sample.labels == 5)
    own = first[(first["image"] == 0) & (first["pixels"] == len(x))]
    assert own["x"] == pytest.approx(x.mean() + 0.5) and own["y"] == pytest.approx(y.mean() + 0.5)

    def unread(dataset: object) -> np.ndarray:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(objects, "_read", unread)
        assert (objects.object_index(data, cache) == first).all()
    cv2.imwrite(str(data.files(1)[1]), np.ones((72, 80), np.uint16))
    assert len(objects.object_index(data, cache)) == (first["image"] != 1).sum() + 1
    cache.write_bytes(cache.read_bytes()[:100])  # as a full disk leaves it
    assert len(objects.object_index(data, cache)) == (first["image"] != 1).sum() + 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_file_is_named_before_training(split: str, tmp_path: Path) -> None:
    data = write_discs(write_discs(tmp_path / "data", 3, "train"), 3, "val")
    broken = data / "labels" / split / "02.png"
    broken.write_bytes(b"not a picture")
    config = merge(Config(), {**QUICK, "train.dataset": str(data)})
    with pytest.raises(InputError, match=f"{split}/02.png"):
        train(config, tmp_path / "run")
    broken.unlink()
    with pytest.raises(InputError, match=rf"{split}/02.png: expected an image, found No such file"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("profile", ["published", "fast"])
def test_classes_are_taken_over_by_name_and_new_ones_start_afresh(
    profile: str, tmp_path: Path
) -> None:
    def network(names: tuple[str, ...]) -> ERFNet:
        return ERFNet(make_method("spatial_embedding", len(names), 2).heads, profile)

    old_names, file = ("car", "bus"), tmp_path / "old.safetensors"
    old = network(old_names)
    save_checkpoint(Checkpoint(old.state_dict(), old_names, profile=profile), file)
    for names in (("van", "car"), ("van", "tram", "car")):
        new = network(names)
        before = [t.clone() for t in new.head_parameters("seed", 0)]
        start_from(new, make_method("spatial_embedding", len(names)), names, str(file))
        for own, want in zip(new.head_parameters("seed", 0), before, strict=True):
            assert torch.equal(own, want), "a class of another name, though as many of them"
        bare = network(names)
        heads = {name: bare.head_parameters(name)[0].clone() for name in ("seed", "offset")}
        start_from(bare, make_method("spatial_embedding", len(names)), names, str(file), True)
        assert all(torch.equal(bare.head_parameters(n)[0], heads[n]) for n in heads)
        pairs = [("seed", names.index("car"), 0), ("offset", None, None), ("bandwidth", 1, 1)]
        for head, here, there in pairs:
            sides = new.head_parameters(head, here), old.head_parameters(head, there)
            assert all(torch.equal(*pair) for pair in zip(*sides, strict=True)), head
        ours, theirs = (
            {k: v for k, v in n.encoder.state_dict().items() if not k.startswith("output_conv")}
            for n in (new, old)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"objekt": 2}, "unknown class 'objekt'; did you mean 'object'? The dataset has object"),
        ({"object": "much"}, "expected a number from 0 for 'object', got 'much'"),
        ({"object": -1}, "expected a number from 0 for 'object', got -1"),
        ("often", "expected equal, log_frequency, or weights by class name, got 'often'"),
    ],
)
def test_class_weights_that_mean_nothing_are_refused(
    wanted: object, message: str, tmp_path: Path
) -> None:
    data = str(write_discs(tmp_path / "data", 2))
    config = merge(Config(), {**QUICK, "train": {"dataset": data, "class_weights": wanted}})
    with pytest.raises(ConfigError) as caught:
        train(config, tmp_path / "run")
    assert message in str(caught.value)


def test_class_weights_by_name_and_by_frequency() -> None:
    names = ("car", "rider", "train")
    by_name = objects.class_weights({"rider": 2, "train": 4.5}, names, None)
    assert by_name.tolist() == [1, 2, 4.5]
    assert objects.class_weights("equal", names, None).tolist() == [1, 1, 1]
    seen = np.zeros(100, objects.KINDS)
    seen["class_id"][90:] = 1
    rule = objects.class_weights("log_frequency", names, seen)
    assert (rule[:2] @ torch.tensor([0.9, 0.1])).item() == pytest.approx(1)
    assert (rule[1] / rule[0]).item() == pytest.approx(np.log(2.0) / np.log(1.2))  # 1.1 + share
    with pytest.raises(ConfigError, match="log_frequency needs a recorded dataset"):
        objects.class_weights("log_frequency", names, None)


def test_one_name_is_refused_for_several_classes(tmp_path: Path) -> None:
    write_label_images(tmp_path / "street", street_samples(2))
    config = merge(load(RECIPES / "street.yaml"), {"train.dataset": str(tmp_path / "street")})
    with pytest.raises(
        ConfigError, match=r"train.class_name: 'car' is for .* has 8: person, rider"
    ):
        train(merge(config, {"train.class_name": "car"}), tmp_path / "run")


def test_a_recipe_without_data_says_how_to_give_it(tmp_path: Path) -> None:
    for path in (*sorted(RECIPES.glob("street*.yaml")), RECIPES / "finetune.yaml"):
        config = load(path)
        with pytest.raises(ConfigError, match="give it with --data DIR"):
            train(config, tmp_path / "run")


def test_a_view_of_the_published_recipe_is_a_window_centred_on_its_object(tmp_path: Path) -> None:
    recipe = load(RECIPES / "street_published.yaml").train.augment
    sample = open_dataset(write_discs(tmp_path, 1), "train")[0]
    rng = np.random.default_rng(0)
    for center, corner in (((41.3, 36.4), (9, 4)), ((3.0, 70.0), (0, 8))):  # inside; at the border
        view = random_view(sample, center, (64, 64), recipe, rng)
        x, y = corner
        for whole, part in (
            (sample.frame.image, view.frame.image),
            (sample.labels, view.labels),
        ):
            assert (whole[y : y + 64, x : x + 64] == part).all()
        assert view.ignore is not None and not view.ignore.any()


def test_dense_classes_are_taken_over_by_name(with_dense: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "old.safetensors"
    save_checkpoint(with_dense, file)
    method, names = with_dense.method(), ("car", "fence", "road")
    old = with_dense.network().dense
    assert old is not None
    for new_heads in (False, True):
        new = ERFNet(method.heads, with_dense.profile, n_dense=3)
        assert new.dense is not None
        before = new.dense.weight.clone()
        start_from(new, method, with_dense.class_names, str(file), new_heads, names)
        for channel, source in ((0, 1), (2, 0)):
            expected = before[channel] if new_heads else old.weight[source]
            assert torch.equal(new.dense.weight[channel], expected)
            assert torch.equal(new.dense.bias[channel], old.bias[source]) != new_heads
        assert torch.equal(new.dense.weight[1], before[1])
