"""The pipeline in two halves: what may overlap, and what must not."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_networks import checkpoint_with_memory

from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, RuntimeConfig, merge
from instaseg_ros.errors import ConfigError, ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.methods import METHODS, make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.model.mirror import mean_of_both, with_mirror_images
from instaseg_ros.pipeline import WARM_UP_SIZE, Pipeline
from instaseg_ros.runtimes.tensorrt_runtime import TensorRTRuntime
from instaseg_ros.runtimes.torch_runtime import LiveRuntime, TorchRuntime


@pytest.fixture
def pipeline() -> Pipeline:
    """Of weights that serve any number of rows."""
    options = {"weights": "street-synthetic", "runtime.name": "torch", "decode.seed_threshold": 0.1}
    return Pipeline(merge(Config(), options))


def frame(seed: int) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (64, 128, 3)).astype(np.uint8))


def test_a_frame_is_finished_in_another_thread_while_the_next_is_in_the_network(
    pipeline: Pipeline,
) -> None:
    alone = [pipeline.process([frame(k)])[0].instances for k in range(3)]
    with ThreadPoolExecutor(1) as other:
        waiting = [other.submit(pipeline.finish, pipeline.infer([frame(k)])) for k in range(3)]
        results = [one.result(30)[0] for one in waiting]
    for result, expected in zip(results, alone, strict=True):
        np.testing.assert_array_equal(result.instances.labels, expected.labels)
        np.testing.assert_array_equal(result.instances.scores, expected.scores)


def test_nothing_is_found_in_the_padding(pipeline: Pipeline) -> None:
    """Of a camera whose sides are no multiples of the network's stride."""
    seen = Frame(frame(0).image[:61, :125])
    inferred = pipeline.infer([seen])
    assert {output.shape[-2:] for output in inferred.outputs.values()} == {(61, 125)}
    assert inferred.instances[0].labels.shape == (61, 125)
    outputs = {name: output.clone() for name, output in inferred.outputs.items()}
    padded = np.zeros((1, 64, 128, 3), np.uint8)
    padded[0, :61, :125] = seen.image
    whole = {name: o[..., :61, :125] for name, o in pipeline.runtime(padded).items()}
    torch.testing.assert_close(outputs, whole, rtol=0, atol=1e-4)


def test_live_parameters_are_taken_whole_or_not_at_all(pipeline: Pipeline) -> None:
    live = merge(pipeline.config, {"decode.min_pixels": 7, "tracking.enabled": True})
    pipeline.reconfigure(live)
    assert pipeline.config is live
    with pytest.raises(ConfigError, match=r"runtime.threads: expected to stay"):
        pipeline.reconfigure(merge(live, {"decode.min_pixels": 9, "runtime.threads": 1}))
    with pytest.raises(ConfigError, match=r"method.name.*: expected to stay"):
        pipeline.reconfigure(live.for_method("discriminative"))
    assert pipeline.config is live


def test_the_scale_changes_while_the_network_runs(pipeline: Pipeline) -> None:
    whole = pipeline.infer([frame(0)])
    pipeline.reconfigure(merge(pipeline.config, {"input.scale": 0.5}))
    half = pipeline.infer([frame(0)])
    assert (whole.geometry.scaled, half.geometry.scaled) == ((64, 128), (32, 64))
    assert half.instances[0].labels.shape == (32, 64)
    assert pipeline.finish(half)[0].instances.labels.shape == (64, 128)
    fresh = Pipeline(pipeline.config).infer([frame(0)]).instances[0]
    np.testing.assert_array_equal(half.instances[0].labels, fresh.labels)
    pipeline.reconfigure(merge(pipeline.config, {"input.scale": 1.0}))
    assert pipeline.infer([frame(0)]).geometry == whole.geometry


def test_a_scale_without_effect_is_refused() -> None:
    config = merge(Config(), {"runtime.name": "torch", "input.width": 64})
    pipeline = Pipeline(config)
    with pytest.raises(ConfigError, match=r"input.scale: .* 1, as input.width is set .* got 0.5"):
        pipeline.check(merge(pipeline.config, {"input.scale": 0.5}))


def test_a_scale_that_takes_minutes_is_refused(pipeline: Pipeline) -> None:
    pipeline.runtime = object.__new__(TensorRTRuntime)
    with pytest.raises(ConfigError, match=r"input.scale: .* while tensorrt runs, which builds for"):
        pipeline.reconfigure(merge(pipeline.config, {"input.scale": 0.5}))
    assert pipeline.config.input.scale == 1
    pipeline.reconfigure(merge(pipeline.config, {"decode.min_pixels": 7}))  # others are free


def votes(checkpoint: Checkpoint, **more: object) -> Pipeline:
    """A pipeline in which the pixels vote, and any pixel may be an object."""
    options = {"class_vote": True, "seed_threshold": 0.1, "min_pixels": 0} | more
    config = merge(Config(), {"decode": options})
    runtime = TorchRuntime(RuntimeConfig(device="cpu", precision="fp32"), checkpoint)
    return Pipeline(config, checkpoint, runtime)


def test_the_vote_is_on_classes_by_name(with_dense: Checkpoint) -> None:
    """In the padding, too, stand cells; and whoever looks gets all the dense classes."""
    pipeline = votes(with_dense)
    for name in with_dense.class_names:
        bias = torch.zeros(5)
        bias[with_dense.dense_names.index(name)] = 1e4
        bias[with_dense.dense_names.index("road")] = 1e6  # no class of objects
        tensors = {**with_dense.tensors, "dense.bias": bias}
        pipeline = votes(dataclasses.replace(with_dense, tensors=tensors))
        inferred = pipeline.infer([Frame(frame(0).image[:61, :125])])
        (found,) = inferred.instances
        assert len(found)
        assert {pipeline.class_names[k] for k in found.class_ids} == {name}
        assert inferred.outputs["dense"].shape == (1, 5, 8, 16)
        assert inferred.outputs["seed"].shape == (1, 3, 61, 125)


def test_a_vote_needs_a_dense_head_that_knows_the_classes(
    with_dense: Checkpoint, small: Checkpoint, pipeline: Pipeline
) -> None:
    live = merge(pipeline.config, {"decode.class_vote": True})
    said = r"decode.class_vote: expected a dense head that knows person, .*, got weights without"
    with pytest.raises(ConfigError, match=said):
        pipeline.reconfigure(live)
    assert not pipeline.config.decode.class_vote
    with pytest.raises(ConfigError, match=said):
        votes(small)
    of_others = dataclasses.replace(with_dense, class_names=("person", "rider", "tram"))
    with pytest.raises(ConfigError, match=r"knows person, rider, tram, got one for road, car, sky"):
        votes(of_others)
    plain = votes(of_others, class_vote=False)
    assert plain.infer([frame(0)]).outputs["dense"].shape == (1, 5, 8, 16)


def test_a_dense_head_has_a_mirror_image_too(with_dense: Checkpoint) -> None:
    pipeline = votes(with_dense)
    pipeline.config = merge(pipeline.config, {"input.mirror": True})
    turned = Frame(np.ascontiguousarray(frame(0).image[:, ::-1]))
    here, there = (pipeline.infer([f]).outputs["dense"].clone() for f in (frame(0), turned))
    torch.testing.assert_close(here, there.flip(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temporal", [False, True])
def test_a_network_in_training_is_run_as_it_stands(temporal: bool, small: Checkpoint) -> None:
    checkpoint = checkpoint_with_memory() if temporal else small
    network = checkpoint.network().eval()
    live = Pipeline(Config(), dataclasses.replace(checkpoint, tensors={}), LiveRuntime(network))
    settings = RuntimeConfig(device="cpu", precision="fp32")
    kept = Pipeline(Config(), checkpoint, TorchRuntime(settings, checkpoint))
    with torch.no_grad():
        network.head_parameters(head := network.heads[-1].name)[1].add_(3)  # it learns
    for k in range(2):
        one = dataclasses.replace(frame(k), stamp_ns=k)
        seen, before = (dict(pipeline.infer([one]).outputs) for pipeline in (live, kept))
        assert seen.keys() == before.keys() and "next_state" not in seen
        before[head] = before[head] + 3
        torch.testing.assert_close(seen, before, rtol=0, atol=1e-4)


def test_a_frame_that_fails_does_not_block_the_next(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("too large")

    with pytest.raises(ImageError):
        pipeline.process([Frame(np.zeros((64, 64), np.uint8))])
    for part in ("runtime", "method"):
        with monkeypatch.context() as patch:
            if part == "runtime":
                patch.setattr(pipeline, "runtime", fail)
            else:
                patch.setattr(pipeline.method, "decode", fail)
            with pytest.raises(MemoryError):
                pipeline.process([frame(0)])
    assert len(pipeline.process([frame(0)])) == 1


def test_mirror_images_are_made_where_the_network_runs(pipeline: Pipeline) -> None:
    class StandInDevice:
        """Not a GPU: mirrors what it is given, and runs the CPU's network."""

        name, precision, run = "stand-in", "fp32", pipeline.runtime
        seen: ClassVar[list[tuple[int, ...]]] = []

        def upload(self, images: np.ndarray, mirrored: bool) -> np.ndarray:
            self.seen.append(images.shape)
            return with_mirror_images(images) if mirrored else images

        def __call__(self, images: np.ndarray) -> dict[str, torch.Tensor]:
            return self.run(images)

    def outputs() -> dict[str, torch.Tensor]:
        inferred = pipeline.infer([frame(0)])
        return {head: output.clone() for head, output in inferred.outputs.items()}

    pipeline.config = merge(pipeline.config, {"input.mirror": True})
    expected = outputs()
    pipeline.runtime = StandInDevice()
    for head, output in outputs().items():
        assert torch.equal(output, expected[head]), head
    assert [shape[0] for shape in StandInDevice.seen] == [1]


def with_input(pipeline: Pipeline, height: int, width: int) -> Pipeline:
    pipeline.config = merge(pipeline.config, {"input.height": height, "input.width": width})
    return pipeline


def test_warming_up_is_for_the_configured_size(pipeline: Pipeline) -> None:
    seen, runtime = [], pipeline.runtime

    def noting(images: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(images.shape[1:3])
        return runtime(images)

    pipeline.runtime = noting
    assert pipeline.warm_up()
    assert with_input(pipeline, 60, 128).warm_up()
    assert seen == [WARM_UP_SIZE, (64, 128)]


@pytest.mark.parametrize(
    ("limit", "rows"), [(131072, 0), (131071, 0), (1000, 0), (1, 0), (400_000, 480), (4800, 480)]
)
def test_warming_up_keeps_to_the_limit_of_pixels(pipeline: Pipeline, limit: int, rows: int) -> None:
    """Else a node with a limit below the usual size of a warm-up could not be configured."""
    seen, runtime = [], pipeline.runtime

    def noting(images: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(images.shape[1] * images.shape[2])
        return runtime(images)

    pipeline.runtime = noting
    pipeline.config = merge(pipeline.config, {"input.max_pixels": limit, "input.min_height": rows})
    assert pipeline.warm_up()
    assert seen[0] <= max(limit, 8 * max(8, rows))  # padded to the network's stride


def test_a_warm_up_calls_the_network_with_every_number_of_frames(pipeline: Pipeline) -> None:
    seen, runtime = [], pipeline.runtime

    def noting(images: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(len(images))
        return runtime(images)

    pipeline.runtime = noting
    assert with_input(pipeline, 32, 64).warm_up((2, 1))
    assert seen == [2, 1]


def test_frames_of_a_batch_can_be_finished_one_by_one(pipeline: Pipeline) -> None:
    pipeline.reconfigure(merge(pipeline.config, {"tracking.enabled": True}))
    frames = [dataclasses.replace(frame(seed), camera=str(seed)) for seed in range(3)]
    together = pipeline.process(frames)
    pipeline.reset()
    for one, alone in zip(together, pipeline.infer(frames).apart(), strict=True):
        (result,) = pipeline.finish(alone)
        np.testing.assert_array_equal(result.instances.labels, one.instances.labels)
        assert result.stage_ms.keys() == one.stage_ms.keys()


@pytest.mark.parametrize(("height", "width"), [(0, 0), (64, 0)])
def test_no_engine_is_built_for_a_size_that_nobody_named(
    pipeline: Pipeline, height: int, width: int
) -> None:
    pipeline.runtime = object.__new__(TensorRTRuntime)  # there is no GPU: to call it is an error
    assert not with_input(pipeline, height, width).warm_up()
    with pytest.raises(AttributeError):
        with_input(pipeline, 64, 128).warm_up()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "spatio_temporal"])
def test_with_its_mirror_image_a_frame_and_its_mirror_image_are_one(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    weights = Checkpoint(ERFNet(make_method(name, 2).heads).state_dict(), ("car", "bus"), name)
    save_checkpoint(weights, path)
    config = merge(Config(), {"weights": str(path), "runtime.name": "torch", "input.mirror": True})
    pipeline, straight = Pipeline(config), frame(0)
    turned = Frame(np.ascontiguousarray(straight.image[:, ::-1]))
    outputs = []
    for one in (straight, turned):
        inferred = pipeline.infer([one])
        outputs.append({head: output.clone() for head, output in inferred.outputs.items()})
    for head, here in outputs[0].items():
        there = outputs[1][head].flip(3)
        for channel in pipeline.method.mirror_turns.get(head, ()):
            there[:, channel] *= -1
        torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


def test_a_constant_in_all_offsets_changes_nothing_in_the_mean_with_the_mirror_image() -> None:
    """A network with a learned centre may add one, as it moves pixels and centre alike."""
    rng = torch.Generator().manual_seed(0)
    moved = 0.2 * torch.randn(1, 2, 4, 6, generator=rng)  # tanh of the offset
    mirrored = moved.flip(3) * torch.tensor([-1.0, 1.0])[:, None, None]
    method = make_method("spatial_embedding", 1)
    means = []
    for constant in (0.0, 0.3):
        shift = torch.tensor([constant, 0.0])[:, None, None]
        offset = torch.atanh(torch.cat([moved, mirrored]) + shift)
        both = mean_of_both({"offset": offset}, method.mirror_turns, method.through_tanh)
        means.append(both["offset"].tanh())
    torch.testing.assert_close(means[0], moved)
    torch.testing.assert_close(means[1], moved)


def test_what_remembers_has_no_mirror_image(tmp_path: Path) -> None:
    method = make_method("spatio_temporal", 1)
    path = tmp_path / "w.safetensors"
    network = ERFNet(method.heads, temporal=True)
    save_checkpoint(Checkpoint(network.state_dict(), ("car",), method.name), path)
    config = merge(Config(), {"weights": str(path), "runtime.name": "torch", "input.mirror": True})
    with pytest.raises(ConfigError, match=r"input.mirror: spatio_temporal has a memory"):
        Pipeline(config)
