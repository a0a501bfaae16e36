"""The PyTorch counterparts of our networks: SMP's UNet, and the encoders of timm and SMP.

SMP's own encoder is the counterpart of `timm-efficientnet-*`; MobileNets are timm's. The
`tf_efficientnet_*` encoders need TensorFlow's padding and eps 1e-3, which SMP's encoder of the same
shape does not have; `unet` replaces its layers by timm's (`give_layers`). To load such a student
elsewhere, do the same.
"""

import difflib
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from jaxdistill.models import weights
from jaxdistill.models.encoders import mobilenet
from jaxdistill.models.encoders.efficientnet import VARIANTS
from jaxdistill.runtime.errors import WeightsError
from jaxdistill.torch_interop import checkpoints, state_dicts

log = logging.getLogger(__name__)

_TENSORFLOW = "tf_efficientnet_"
_CLASSIFIER = "classification_head."
_COUNTER = ".num_batches_tracked"


def unet(encoder: str, decoder_channels: Sequence[int]) -> smp.Unet:
    """Builds SMP's UNet with random weights, in eval mode; it equals our student of that encoder.

    Args:
      encoder: The name of one of our encoders or, for a teacher, any name of SMP's.
      decoder_channels: Channels of the decoder's blocks, coarsest first.

    Raises:
      WeightsError: SMP has no such encoder, or not for this number of blocks
        (`unknown-smp-encoder`).
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
        raise WeightsError(
            f"segmentation_models_pytorch has no encoder {encoder!r} for {len(decoder_channels)} "
            f"decoder blocks" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            code="unknown-smp-encoder",
        ) from None
    if ours and encoder.startswith(_TENSORFLOW):
        give_layers(network, timm.create_model(encoder))
    return network.eval()


def give_layers(network: smp.Unet, source: nn.Module) -> None:
    """Replaces a UNet's encoder layers by those of a timm EfficientNet of the same shape.

    Args:
      network: The UNet, which is changed.
      source: The EfficientNet.
    """
    for name in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"):
        setattr(network.encoder, name, getattr(source, name))


def encoder(name: str) -> nn.Module:
    """Builds the PyTorch network that one of our encoders equals: random weights, eval mode.

    Args:
      name: Name of our encoder.
    """
    if name.startswith(_TENSORFLOW) or name in mobilenet.VARIANTS:
        return timm.create_model(name, num_classes=0).eval()
    with quiet():
        return smp.encoders.get_encoder(name, weights=None).eval()


def read_unet(path: Path) -> tuple[state_dicts.Tensors, tuple[int, ...]]:
    """Reads the weights of a UNet, without those of a classifier that was trained beside it.

    Args:
      path: A `.pth` or `.safetensors` file.

    Returns:
      The state dict, and the channels of the decoder's blocks.

    Raises:
      WeightsError: The file cannot be read, or holds no UNet that can be used (`not-an-smp-unet`).
    """
    tensors = checkpoints.read(path)
    own = {name: each for name, each in tensors.items() if not name.startswith(_CLASSIFIER)}
    if left := len(tensors) - len(own):
        log.warning("%s: %d tensors of a classifier (%s*) are left over", path, left, _CLASSIFIER)
    return own, decoder_channels(own, path)


def decoder_channels(tensors: Mapping[str, Tensor], source: Path) -> tuple[int, ...]:
    """Returns the channels of a UNet's decoder blocks, read from the shapes of its weights.

    Args:
      tensors: The UNet's state dict.
      source: The file, for messages.

    Raises:
      WeightsError: These are not the weights of a UNet (`not-an-smp-unet`).
    """
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"decoder\.blocks\.(\d+)\.", name))}
    first = [f"decoder.blocks.{block}.conv1.0.weight" for block in sorted(blocks)]
    if not first or not all(name in tensors for name in first):
        raise WeightsError(
            f"{source}: not a UNet of segmentation_models_pytorch: expected a tensor "
            f"'decoder.blocks.0.conv1.0.weight'; the first ones are {', '.join(list(tensors)[:3])}",
            code="not-an-smp-unet",
        )
    if scse := [name for name in tensors if ".attention1.attention." in name]:
        raise WeightsError(
            f"{source}: a UNet with SCSE attention (decoder_attention_type='scse'), of which "
            f"{scse[0]!r} is a part; only UNets without it can be used",
            code="not-an-smp-unet",
        )
    head = tensors.get("segmentation_head.0.weight")
    if head is not None and len(head) != 1:
        raise WeightsError(
            f"{source}: a UNet of {len(head)} classes; expected one, a person, as with classes=1",
            code="not-an-smp-unet",
        )
    return tuple(len(tensors[name]) for name in first)


def load(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads a state dict, of which every tensor must fit.

    Args:
      network: The network, which is changed.
      tensors: The state dict.
      source: Where the tensors come from, for messages.

    Raises:
      WeightsError: Tensors are missing, left over, or of another shape (`weights-mismatch`); the
        message names the first of each.
    """
    own = network.state_dict()
    # Counters of steps, which have no influence, and which a moving average may leave out.
    counters = {name: own[name] for name in own if name.endswith(_COUNTER)}
    tensors = {**counters, **tensors}
    weights.fill(checkpoints.arrays_of(own), checkpoints.arrays_of(tensors), source)
    network.load_state_dict(tensors)


@torch.inference_mode()
def feature_maps(encoder: nn.Module, stages: Sequence[int], images: Tensor) -> list[Tensor]:
    """Computes the feature maps of an EfficientNet or a MobileNet of timm's or SMP's.

    Args:
      encoder: The network.
      stages: After how many stages each map is taken, the first convolution included; see
        `FeatureInfo.stages`.
      images: Normalised images (N, 3, H, W).

    Returns:
      Maps (N, C, h, w), finest first.
    """
    layers: Any = encoder
    maps = [layers.bn1(layers.conv_stem(images))]
    for stage in layers.blocks:
        maps.append(stage(maps[-1]))
    return [maps[count - 1] for count in stages]


def _smp_name(encoder: str) -> str:
    if encoder == "tf_efficientnet_lite0":
        return "timm-tf_efficientnet_lite0"
    return encoder.replace(_TENSORFLOW, "timm-efficientnet-")


class quiet(warnings.catch_warnings):
    """Suppresses warnings about SMP's older encoder names, and about retries of downloads."""

    def __enter__(self) -> None:
        """Starts suppressing them."""
        super().__enter__()
        warnings.simplefilter("ignore")
        self._hub = logging.getLogger("huggingface_hub")
        self._level = self._hub.level
        self._hub.setLevel(logging.ERROR)

    def __exit__(self, *raised: Any) -> None:
        """Restores the earlier settings."""
        self._hub.setLevel(self._level)
        super().__exit__(*raised)
