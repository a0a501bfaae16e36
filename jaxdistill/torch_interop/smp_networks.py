"""The PyTorch counterparts of our networks: SMP's UNet, and the encoders that timm and SMP train.

For `timm-efficientnet-*` SMP's own network is the counterpart. The `tf_efficientnet_*` encoders
want TensorFlow's padding and eps 1e-3, which SMP's network of the same shape lacks; it is given
timm's layers instead. Whoever loads such a student elsewhere does the same (`give_layers`).
"""

import difflib
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from jaxdistill.models import weights
from jaxdistill.models.encoders.efficientnet import VARIANTS
from jaxdistill.runtime.errors import ConfigError, WeightsError
from jaxdistill.torch_interop import checkpoints

_TAPPED_STAGES = (1, 2, 4, 6)
_TENSORFLOW = "tf_efficientnet_"


def unet(encoder: str, decoder_channels: Sequence[int]) -> smp.Unet:
    """SMP's UNet with random weights, in eval mode; equal to our student of that encoder.

    Args:
      encoder: a name of ours or, for a teacher, any name of SMP's.
      decoder_channels: the width of each decoder block, from the deepest up.

    Raises:
      UserError: SMP has no such encoder.
    """
    ours = encoder in VARIANTS
    try:
        with quiet():
            network = smp.Unet(
                _smp_name(encoder) if ours else encoder,
                encoder_weights=None,
                encoder_depth=len(decoder_channels),
                decoder_channels=list(decoder_channels),
                classes=1,
            )
    except (KeyError, RuntimeError, ValueError):
        near = difflib.get_close_matches(encoder, smp.encoders.get_encoder_names(), n=3)
        raise ConfigError(
            f"segmentation_models_pytorch has no encoder {encoder!r} for {len(decoder_channels)} "
            f"decoder blocks" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            code="unknown-smp-encoder",
        ) from None
    if ours and encoder.startswith(_TENSORFLOW):
        give_layers(network, timm.create_model(encoder))
    return network.eval()


def give_layers(network: smp.Unet, source: nn.Module) -> None:
    """Replaces the encoder's layers by those of a timm EfficientNet of the same shape."""
    for name in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"):
        setattr(network.encoder, name, getattr(source, name))


def encoder(name: str) -> nn.Module:
    """The network that this encoder of ours comes from, with random weights, in eval mode."""
    if name.startswith(_TENSORFLOW):
        return timm.create_model(name, num_classes=0).eval()
    with quiet():
        return smp.encoders.get_encoder(name, weights=None).eval()


def decoder_channels(tensors: Mapping[str, Tensor], source: Path) -> tuple[int, ...]:
    """Of the UNet that these are the weights of, read from their shapes.

    Raises:
      UserError: there are no such weights.
    """
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"decoder\.blocks\.(\d+)\.", name))}
    first = [f"decoder.blocks.{block}.conv1.0.weight" for block in sorted(blocks)]
    if not first or not all(name in tensors for name in first):
        raise WeightsError(
            f"{source}: not a UNet of segmentation_models_pytorch: it should hold "
            f"'decoder.blocks.0.conv1.0.weight', but starts with {', '.join(list(tensors)[:3])}",
            code="not-an-smp-unet",
        )
    return tuple(len(tensors[name]) for name in first)


def load(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fills the network; every tensor must fit and be needed.

    Raises:
      UserError: names the first tensors that are missing, left over, or of another shape.
    """
    wanted = checkpoints.arrays_of(network.state_dict())
    weights.fill(wanted, checkpoints.arrays_of(tensors), source)
    network.load_state_dict(dict(tensors))


@torch.inference_mode()
def taps(encoder: nn.Module, pictures: Tensor) -> list[Tensor]:
    """The feature maps at strides 2, 4, 8, 16, 32 of an EfficientNet of timm's or SMP's."""
    x = encoder.bn1(encoder.conv_stem(pictures))
    found = [x]
    for index, stage in enumerate(encoder.blocks):
        x = stage(x)
        if index in _TAPPED_STAGES:
            found.append(x)
    return found


def _smp_name(encoder: str) -> str:
    if encoder == "tf_efficientnet_lite0":
        return "timm-tf_efficientnet_lite0"
    return encoder.replace(_TENSORFLOW, "timm-efficientnet-")


class quiet(warnings.catch_warnings):
    """No warnings about SMP's older encoder names, which are meant here, nor the hub's retries."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
