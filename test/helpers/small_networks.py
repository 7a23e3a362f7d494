"""Networks with random weights; the small ones are for tests that convert them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet, Profile

# Every kind of layer: a conversion takes a tenth of a second for each one. Weights kept in
# test/compatibility are of `small`.
SMALL = {
    "small": Profile(blocks=1, dilations=(2,), decoders=((1, 1),)),
    "small_lite": Profile(blocks=0, dilations=(1,), decoders=((1, 1),), lite=True),
}
# Of `lite.STAGES`, one block of each kernel and stride.
SMALL_STAGES = (
    (1, 3, 1, 1, 16),
    (1, 3, 2, 6, 24),
    (1, 5, 2, 6, 40),
    (1, 3, 2, 6, 112),
    (2, 5, 2, 6, 320),
)
SMALL_TAPPED = (1, 2, 3, 4)


def untrained_checkpoint(
    profile: str = "published",
    class_names: tuple[str, ...] = ("car", "bus"),
    seed: int = 0,
    dense_names: tuple[str, ...] = (),
) -> Checkpoint:
    """The spatial embedding's network, whose weights are chance.

    profile: of the package; where the fixture `small_profiles` is used, of SMALL too.
    """
    torch.manual_seed(seed)
    checkpoint = Checkpoint({}, class_names, profile=profile, dense_names=dense_names)
    return replace(checkpoint, tensors=checkpoint.fresh_network().state_dict())


def checkpoint_with_memory(class_names: tuple[str, ...] = ("car", "bus")) -> Checkpoint:
    """A small network whose memory has something to say: fresh, it is the identity."""
    torch.manual_seed(0)
    method = make_method("spatio_temporal", len(class_names))
    network = ERFNet(method.heads, "small", method.temporal)
    assert network.temporal is not None
    torch.nn.init.normal_(network.temporal.expand.weight, std=0.3)
    return Checkpoint(network.state_dict(), class_names, method.name, profile="small")


def randomize_batchnorms(network: nn.Module) -> None:
    """BatchNorms as training could leave them, negative scales included."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            n, mean, variance = module.num_features, module.running_mean, module.running_var
            assert mean is not None and variance is not None
            with torch.no_grad():
                module.weight.copy_(torch.randn(n, generator=generator))
                module.bias.copy_(torch.randn(n, generator=generator) * 0.2)
                mean.copy_(torch.randn(n, generator=generator) * 0.2)
                variance.copy_(torch.rand(n, generator=generator) + 0.5)
