"""Students: encoders and decoders by name, and everything that is built on them.

model = models.create("unet", encoder="tf_efficientnet_lite0", weights="lite0.safetensors")
"""

from collections.abc import Sequence
from pathlib import Path

from jaxdistill import config
from jaxdistill.models import decoders as decoders
from jaxdistill.models import encoders as encoders
from jaxdistill.models import restored_norm as restored_norm
from jaxdistill.models import weights as _weights
from jaxdistill.models.decoders.skips import SkipDecoder
from jaxdistill.models.feature_info import FeatureInfo, check_image_size
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import param_group
from jaxdistill.models.registry import DECODERS, ENCODERS, Decoder, Encoder
from jaxdistill.models.student import (
    Student,
    build,
    feature_info,
    from_weights,
    save_weights,
    with_projectors,
    without_projectors,
)
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.paths import expanded as _expanded

__all__ = [
    "DECODERS",
    "ENCODERS",
    "Decoder",
    "Encoder",
    "FeatureInfo",
    "Pair",
    "SkipDecoder",
    "Student",
    "build",
    "check_image_size",
    "create",
    "feature_info",
    "from_weights",
    "save_weights",
    "with_projectors",
    "without_projectors",
]


def create(
    decoder: str = "unet",
    *,
    encoder: str,
    weights: str | Path | None = None,
    encoder_weights: str | Path | None = None,
    encoder_depth: int | None = None,
    decoder_channels: Sequence[int] | None = None,
    upsampling: config.Upsampling | None = None,
    normalization: config.Normalization | None = None,
    frozen: Sequence[str] = ("encoder",),
    unfreeze: config.Unfreezing | None = None,
    seed: int = 0,
    precision: config.Precision = "float32",
) -> Student:
    """Creates a student.

    Args:
      decoder: Name of the decoder, one of `DECODERS`.
      encoder: Name of the encoder, one of `ENCODERS`.
      weights: Weights file of a whole student, or of an encoder alone. None: random values.
      encoder_weights: Weights file of which only the encoder is used.
      encoder_depth: Number of the encoder's feature maps that are used, finest first. None: all.
      decoder_channels: Channels of the decoder's feature maps, coarsest first. None: the decoder's
        default.
      upsampling: How logits reach the image's size where the decoder ends at a larger stride than
        1, `bilinear` or `learned`. None: the decoder's default.
      normalization: Normalisation that the encoder expects of pixels in [0, 1]. None: that of the
        weights file, else `imagenet`.
      frozen: Parameter paths that are not trained; each includes everything below it.
      unfreeze: Trains the encoder stage by stage from a given epoch on. None: never.
      seed: Determines the random values.
      precision: Number format of the feature maps, `float32` or `bfloat16`.

    Returns:
      The student.

    Raises:
      ConfigError: A name is unknown, or the arguments do not fit together.
      WeightsError: The weights file cannot be read, or belongs to another network.
    """
    if weights is not None and encoder_weights is None:
        arrays, _ = _weights.load(_expanded(weights))
        if all(param_group(name) == "encoder" for name in arrays):
            weights, encoder_weights = None, weights
    try:
        settings = config.Student(
            encoder=encoder,
            decoder=decoder,
            weights=None if weights is None else Path(weights),
            encoder_weights=None if encoder_weights is None else Path(encoder_weights),
            encoder_depth=encoder_depth,
            upsampling=upsampling,
            decoder_channels=None if decoder_channels is None else tuple(decoder_channels),
            normalization=normalization,
            frozen=tuple(frozen),
            unfreeze=unfreeze,
        )
    except ValueError as error:  # pydantic's
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise ConfigError(f"models.create: {reason}", code="invalid-argument") from None
    return build(settings, seed=seed, dtype=precision)
