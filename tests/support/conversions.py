"""What tests of conversions share: the command line in this process, networks of torch."""

# ruff: noqa: E402

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from jaxdistill.runtime import errors
from jaxdistill.torch_interop import convert_weights

ENCODER = "tf_efficientnet_lite0"  # the quickest to compile
CHANNELS = (16, 16, 8, 8, 8)

Convert = Callable[..., int]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Convert:
    """The command line, in this process; one small picture, for every size is compiled anew."""
    monkeypatch.setattr(convert_weights, "_PICTURES", ((2, 32, 64, 3),))

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["convert_weights.py", *map(str, arguments)])
        return errors.command(convert_weights.main)

    return run


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """BatchNorms, too, that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()
