"""ERFNet: the published sizes, names and parameter counts."""

from __future__ import annotations

import pytest
import torch

from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet


@pytest.mark.parametrize(
    ("n_classes", "n_sigma", "parameters"), [(1, 1, 2_252_644), (8, 2, 2_254_196)]
)
def test_parameter_counts_are_the_published_ones(
    n_classes: int, n_sigma: int, parameters: int
) -> None:
    network = ERFNet(make_method("spatial_embedding", n_classes, n_sigma).heads)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_heads_come_out_by_name_at_input_size() -> None:
    method = make_method("spatial_embedding", 3, 2)
    network = ERFNet(method.heads).eval()
    with torch.inference_mode():
        outputs = network(torch.rand(2, 3, 24, 40))
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {
        "offset": (2, 2, 24, 40),
        "bandwidth": (2, 2, 24, 40),
        "seed": (2, 3, 24, 40),
    }


def test_a_fresh_network_predicts_no_offset_and_a_six_pixel_bandwidth() -> None:
    method = make_method("spatial_embedding", 3, 2)
    network = ERFNet(method.heads).eval()
    method.initialise(network)
    with torch.inference_mode():
        outputs = network(torch.rand(1, 3, 16, 16))
    assert torch.equal(outputs["offset"], torch.zeros_like(outputs["offset"]))
    assert torch.equal(outputs["bandwidth"], torch.ones_like(outputs["bandwidth"]))
    assert outputs["seed"].std() > 0
