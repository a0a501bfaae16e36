"""Shared by tests of conversions: the command in this process, and networks of PyTorch."""

# ruff: noqa: E402

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from jaxdistill.commands.convert_weights import main
from jaxdistill.runtime.errors import command
from jaxdistill.torch_interop import convert_weights

ENCODER = "tf_efficientnet_lite0"  # the quickest to compile
CHANNELS = (16, 16, 8, 8, 8)

Convert = Callable[..., int]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Runs the command, and compares small images of one size, since each size is compiled."""
    monkeypatch.setattr(convert_weights, "_IMAGE_SHAPES", ((2, 32, 64, 3),))
    return lambda *arguments: command(lambda: main([str(each) for each in arguments]))


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives BatchNorms random values, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()
