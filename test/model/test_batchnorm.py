"""The network with BatchNorm folded away gives what it gave before."""

from __future__ import annotations

import pytest
import torch
from small_networks import randomize_batchnorms
from torch import nn

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.model.batchnorm import FoldedDownsampler, fold
from instaseg_ros.model.erfnet import PROFILES, Downsampler, ERFNet


@pytest.mark.parametrize("channels", [(3, 16), (16, 64)])
def test_downsampler_keeps_the_norm_of_its_pooled_half(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = Downsampler(*channels).eval()
    randomize_batchnorms(block)
    assert (block.bn.weight[-channels[0] :] < 0).any()
    x = torch.rand(2, channels[0], 16, 24) - 0.5
    with torch.inference_mode():
        torch.testing.assert_close(FoldedDownsampler(block)(x), block(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("profile", PROFILES)
def test_folded_network_equals_the_network(profile: str) -> None:
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 3, 2).heads, profile).eval()
    randomize_batchnorms(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected, got = network(x), folded(x)
    for head, output in expected.items():
        # Random weights make outputs of any size: 1e-5 of that size.
        size = output.abs().max().item()
        torch.testing.assert_close(got[head], output, atol=1e-5 * size, rtol=0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"folding changed {name} of the network itself"


def test_folded_shipped_weights() -> None:
    network = load_checkpoint("street-synthetic").network().eval()
    x = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = network(x), fold(network)(x)
    for head, output in expected.items():
        torch.testing.assert_close(got[head], output, atol=1e-5, rtol=1e-5)


def test_folded_network_stays_channels_last() -> None:
    network = fold(ERFNet(make_method("spatial_embedding", 1, 1).heads))
    network.to(memory_format=torch.channels_last)
    x = torch.rand(2, 16, 24, 3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert network.encoder(x).deep.is_contiguous(memory_format=torch.channels_last)
