"""Registries of encoders and decoders, and the interfaces that their entries implement."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flax import nnx

from jaxdistill.config import Upsampling
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.registry import Registry


class Encoder(nnx.Module):
    """Base class of encoders: a network from normalised images to feature maps.

    A subclass takes `rngs` and sets `feature_info`. Its `__call__(images, *, train)` takes images
    (B, H, W, 3) as its weights expect them, and returns a tuple with one map (B, H / stride,
    W / stride, channels) for each entry of `feature_info`. The other attributes are optional.
    """

    feature_info: tuple[FeatureInfo, ...]
    """The feature maps, finest first, named `encoder.1`, `encoder.2`, ..."""
    stages: tuple[tuple[str, ...], ...] = ()
    """Parameter paths below the encoder, deepest stage first: progressive unfreezing adds the
    stages to the training in this order."""
    unused: tuple[str, ...] = ()
    """Parameter paths that do not influence the feature maps. They are never trained."""
    float32_layers: tuple[str, ...] = ()
    """Paths of the layers that int8 export leaves in float32."""
    removed: tuple[str, ...] = ()
    """Parameter paths that `cut` has removed."""

    def cut(self, depth: int) -> None:
        """Removes the stages that only coarser maps need, and what is unused.

        Args:
          depth: Number of maps that are kept, finest first.

        Raises:
          ConfigError: There are not as many maps, or their descriptions do not say which stages
            they need (`encoder-depth`).
        """
        needed = self.feature_info[depth - 1].stages if depth <= len(self.feature_info) else None
        if needed is None or needed > len(self.stages):
            raise ConfigError(
                f"student.encoder_depth: expected 1 to {len(self.feature_info)}, the number of the "
                f"encoder's feature maps, of an encoder that names the stages of each; got {depth}",
                code="encoder-depth",
            )
        left_out, kept = self.stages[:-needed], self.stages[-needed:]
        self.removed = (*(path for stage in left_out for path in stage), *self.unused)
        for path in self.removed:
            _remove(self, path)
        self.feature_info = self.feature_info[:depth]
        self.stages, self.unused = kept, ()


def _remove(module: Any, path: str) -> None:
    """Removes a module at a path; of a list the last one, as paths come deepest first."""
    *parents, last = path.split(".")
    for part in parents:
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    if last.isdigit():
        del module[int(last)]
    else:
        delattr(module, last)


class Decoder(nnx.Module):
    """Base class of decoders: a network from an encoder's feature maps to finer ones.

    A subclass takes the encoder's `feature_info`, the channels of its own maps (None selects
    its default) and `rngs`. Its `__call__(features, *, train)` takes the encoder's maps, finest
    first, and returns a tuple with one map for each entry of its own `feature_info`. The head
    computes the logits from the last one, and enlarges them if its stride is not 1.
    """

    feature_info: tuple[FeatureInfo, ...]
    """The feature maps, coarsest first, named `decoder.0`, `decoder.1`, ..."""
    upsampling: Upsampling = "bilinear"
    """How logits reach the image's size if the last map has a larger stride than 1, unless
    `student.upsampling` says it."""
    float32_layers: tuple[str, ...] = ()
    """Paths of the layers that int8 export leaves in float32."""


class DecoderFactory(Protocol):
    """Builds a decoder; the class itself, as a rule."""

    def __call__(
        self, encoder: Sequence[FeatureInfo], channels: Sequence[int] | None, *, rngs: nnx.Rngs
    ) -> Any:
        """Builds a decoder for an encoder with these feature maps."""
        ...


ENCODERS: Registry[Callable[..., Any]] = Registry("encoder", "student.encoder")
"""Encoder factories: each is called with `rngs` and returns an `Encoder`."""

DECODERS: Registry[DecoderFactory] = Registry("decoder", "student.decoder")
"""Decoder factories: each is called as `DecoderFactory` and returns a `Decoder`."""


def build_encoder(name: str, depth: int | None = None, *, rngs: nnx.Rngs) -> Any:
    """Builds a registered encoder and checks its description.

    Args:
      name: Name in `ENCODERS`.
      depth: Number of feature maps that are used, finest first; None: all.
      rngs: Source of the initial values.

    Returns:
      The encoder.

    Raises:
      ConfigError: No encoder has this name (`unknown-encoder`), or it does not describe its feature
        maps as `Encoder` requires (`invalid-encoder`), or has not `depth` maps (`encoder-depth`).
    """
    encoder = ENCODERS[name](rngs=rngs)
    features = tuple(getattr(encoder, "feature_info", ()))
    names = [f"encoder.{number}" for number in range(1, len(features) + 1)]
    if not features or [feature.name for feature in features] != names:
        raise ConfigError(
            f"student.encoder: {name!r} must set feature_info to descriptions named encoder.1, "
            f"encoder.2, ..., finest first; got {[feature.name for feature in features]}",
            code="invalid-encoder",
        )
    if depth is not None:
        encoder.cut(depth)
    return encoder


def build_decoder(
    name: str,
    encoder: Sequence[FeatureInfo],
    channels: Sequence[int] | None = None,
    *,
    rngs: nnx.Rngs,
) -> Any:
    """Builds a registered decoder and checks its description.

    Args:
      name: Name in `DECODERS`.
      encoder: The encoder's feature maps, finest first.
      channels: Channels of the decoder's feature maps, coarsest first; None selects the decoder's
        default.
      rngs: Source of the initial values.

    Returns:
      The decoder.

    Raises:
      ConfigError: No decoder has this name (`unknown-decoder`), it does not fit the encoder or the
        channels, or it does not describe its feature maps as `Decoder` requires
        (`invalid-decoder`).
    """
    decoder = DECODERS[name](encoder, channels, rngs=rngs)
    features = tuple(getattr(decoder, "feature_info", ()))
    names = [f"decoder.{number}" for number in range(len(features))]
    if not features or [feature.name for feature in features] != names:
        raise ConfigError(
            f"student.decoder: {name!r} must set feature_info to descriptions named decoder.0, "
            f"decoder.1, ..., coarsest first; got {list(features)}",
            code="invalid-decoder",
        )
    return decoder
