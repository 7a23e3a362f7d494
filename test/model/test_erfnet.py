"""ERFNet: the published sizes, names and parameter counts."""

from __future__ import annotations

import pytest
import torch

from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import PROFILES, ERFNet, Profile


@pytest.mark.parametrize(
    ("n_classes", "n_sigma", "parameters"), [(1, 1, 2_252_644), (8, 2, 2_254_196)]
)
def test_parameter_counts_are_the_published_ones(
    n_classes: int, n_sigma: int, parameters: int
) -> None:
    network = ERFNet(make_method("spatial_embedding", n_classes, n_sigma).heads)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("profile", PROFILES)
def test_heads_come_out_by_name_at_input_size(profile: str) -> None:
    method = make_method("spatial_embedding", 3, 2)
    network = ERFNet(method.heads, profile).eval()
    with torch.inference_mode():
        outputs = network(torch.rand(2, 3, 32, 64))
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {
        "offset": (2, 2, 32, 64),
        "bandwidth": (2, 2, 32, 64),
        "seed": (2, 3, 32, 64),
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_a_fresh_network_predicts_no_offset_and_a_six_pixel_bandwidth(profile: str) -> None:
    method = make_method("spatial_embedding", 3, 2)
    network = ERFNet(method.heads, profile).eval()
    method.initialise(network)
    with torch.inference_mode():
        outputs = network(torch.rand(1, 3, 32, 32))
    assert torch.equal(outputs["offset"], torch.zeros_like(outputs["offset"]))
    assert torch.equal(outputs["bandwidth"], torch.ones_like(outputs["bandwidth"]))
    assert outputs["seed"].std() > 0


def multiplications(profile: str) -> int:
    """Of the convolutions, for one image of 64 x 64."""
    network = ERFNet(make_method("spatial_embedding", 5, 2).heads, profile).eval()
    total = 0

    def count(conv: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        transposed = isinstance(conv, torch.nn.ConvTranspose2d)
        positions = inputs[0][0, 0].numel() if transposed else output[0, 0].numel()
        total += positions * conv.weight.numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64))
    return total


def test_the_fast_profile_does_half_of_the_work() -> None:
    assert multiplications("fast") < 0.5 * multiplications("published")


def test_a_fast_network_starts_from_a_published_ones_blocks() -> None:
    heads = make_method("spatial_embedding", 2, 2).heads
    published, fast = ERFNet(heads), ERFNet(heads, "fast")
    for parameter in published.parameters():
        torch.nn.init.normal_(parameter)
    fast.start_from(published)
    theirs, own = published.state_dict(), fast.state_dict()
    from_where = {
        "encoder.initial_block": "encoder.initial_block",
        "encoder.layers.2": "encoder.layers.2",
        "encoder.layers.3": "encoder.layers.6",  # the downsampler
        "encoder.layers.4": "encoder.layers.7",
        "encoder.layers.5": "encoder.layers.9",  # dilation 8
        "encoder.layers.6": "encoder.layers.11",  # the second of dilation 2
        "encoder.layers.7": "encoder.layers.8",
        "encoder.output_conv": "encoder.output_conv",
        "decoders.0.layers.1": "decoders.0.layers.1",
        "decoders.0.layers.2": "decoders.0.layers.3",  # the upsampler
        "decoders.0.layers.4": "decoders.0.layers.5",
        "decoders.1.layers.1": "decoders.1.layers.3",
        "decoders.1.layers.2": "decoders.1.layers.4",
        "decoders.1.output_conv": "decoders.1.output_conv",
    }
    for mine, of in from_where.items():
        names = [name for name in own if name.startswith(f"{mine}.")]
        assert names
        for name in names:
            assert torch.equal(own[name], theirs[of + name.removeprefix(mine)]), name


def test_dilated_blocks_start_from_the_next_of_their_dilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROFILES, "shallow", Profile(0, (2, 4, 2, 4), ((0, 0),)))
    heads = make_method("spatial_embedding", 2, 2).heads
    published, shallow = ERFNet(heads), ERFNet(heads, "shallow")
    at_first = published.encoder.layers[9].conv3x1_1.weight.clone()
    published.start_from(shallow)
    layers, theirs = published.encoder.layers, shallow.encoder.layers
    assert torch.equal(layers[9].conv3x1_1.weight, at_first)  # the other has none of dilation 8
    for place, of in ((7, 2), (8, 3), (11, 4), (12, 5)):
        assert torch.equal(layers[place].conv3x1_1.weight, theirs[of].conv3x1_1.weight), place


@pytest.mark.parametrize("profile", PROFILES)
def test_a_network_starts_from_all_of_its_own_kind(profile: str) -> None:
    heads = make_method("spatial_embedding", 2, 2).heads
    source, target = ERFNet(heads, profile), ERFNet(heads, profile)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    target.start_from(source)
    theirs = source.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in target.state_dict().items())


@pytest.mark.parametrize("temporal", [False, True])
def test_a_dense_head_reads_the_encoders_features(temporal: bool) -> None:
    torch.manual_seed(0)
    heads = make_method("spatial_embedding", 2, 2).heads
    network = ERFNet(heads, "fast", temporal, n_dense=7).eval()
    images = torch.rand(2, 3, 32, 48)
    with torch.inference_mode():
        outputs = network(images)
        expected = network.dense(network.encoder(images).deep)
        state = {"next_state": (2, 64, 4, 6)} if temporal else {}
        assert {name: tuple(output.shape) for name, output in outputs.items()} == {
            "offset": (2, 2, 32, 48),
            "bandwidth": (2, 2, 32, 48),
            "seed": (2, 2, 32, 48),
            "dense": (2, 7, 4, 6),
            **state,
        }
    assert torch.equal(outputs["dense"], expected)
