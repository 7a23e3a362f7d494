"""The GPU benchmark's arithmetic, which needs no GPU."""

from __future__ import annotations

import torch
from torch import nn

from instaseg_ros.benchmarks.gpu import network_bytes
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet


def test_bytes_of_the_network_are_those_of_its_convolutions() -> None:
    network = ERFNet(make_method("spatial_embedding", 5, 2).heads).eval()
    seen = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(
                lambda layer, inputs, output: seen.append(
                    inputs[0].nbytes + output.nbytes + sum(p.nbytes for p in layer.parameters())
                )
            )
    with torch.inference_mode():
        network(torch.rand(2, 3, 64, 96))
    expected = sum(seen)
    assert network_bytes(network, (2, 64, 96, 3), "fp32") == expected
    assert network_bytes(network, (2, 64, 96, 3), "fp16") * 2 == expected


def test_bytes_at_full_size_are_what_the_layers_add_up_to() -> None:
    """About 2.4 GB in half precision at 1024 x 2048, counted by hand."""
    network = ERFNet(make_method("spatial_embedding", 1, 1).heads)
    assert 2.2e9 < network_bytes(network, (1, 1024, 2048, 3), "fp16") < 2.6e9
