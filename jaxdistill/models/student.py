"""The student: encoder, decoder, head, and the projectors that only training needs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import weights
from jaxdistill.models.feature_info import FeatureInfo, find_tap
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.heads import build_head
from jaxdistill.models.parameters import flat_variables, is_frozen, merge, param_group
from jaxdistill.models.projector import Projector
from jaxdistill.models.registry import DECODERS, ENCODERS, build_decoder, build_encoder
from jaxdistill.models.seeds import make_rngs
from jaxdistill.runtime.errors import WeightsError
from jaxdistill.runtime.paths import expanded
from jaxdistill.types import FeatureScale, ModelOutputs

EncoderFeatures = tuple[Float[Array, "b _ _ _"], ...]


class Student(nnx.Module):
    """Computes mask logits from images in [0, 1], and projected features for feature pairs.

    Args:
      settings: The architecture.
      normalization: Mean and deviation that the encoder expects.
      pairs: The feature pairs to build projectors for.
      dtype: Number format of the feature maps and of the outputs.
      seed: Determines the initial values.

    Raises:
      ConfigError: See `registry.build_encoder` and `registry.build_decoder`.
    """

    def __init__(
        self,
        settings: config.Student,
        normalization: image_ops.Normalization,
        pairs: Sequence[Pair] = (),
        *,
        dtype: config.Precision = "float32",
        seed: int = 0,
    ) -> None:
        self.settings, self.seed = settings, seed
        self.normalization, self.dtype = normalization, dtype
        rngs = make_rngs(seed)
        self.encoder = build_encoder(settings.encoder, settings.encoder_depth, rngs=rngs)
        self.decoder = build_decoder(
            settings.decoder, self.encoder.feature_info, settings.decoder_channels, rngs=rngs
        )
        upsampling = settings.upsampling or self.decoder.upsampling
        self.head = build_head(self.decoder.feature_info[-1], upsampling, rngs=rngs)
        self.pairs = tuple(pairs)
        self.projectors = nnx.List(
            [
                Projector(
                    find_tap(pair.tap, self.feature_info).channels,
                    pair.channels,
                    pair.hidden,
                    masked_share=pair.masked_share,
                    standardized=pair.standardized,
                    balanced=pair.balanced,
                    rngs=rngs,
                )
                for pair in pairs
            ]
        )

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The feature maps that can be tapped: the encoder's, then the decoder's."""
        return (*self.encoder.feature_info, *self.decoder.feature_info)

    @property
    def float32_layers(self) -> tuple[str, ...]:
        """Paths of the layers that int8 export leaves in float32."""
        return (
            *(f"encoder.{path}" for path in self.encoder.float32_layers),
            *(f"decoder.{path}" for path in self.decoder.float32_layers),
            "head",
        )

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        train: bool,
        encoder_features: EncoderFeatures | None = None,
        key: Key[Array, ""] | None = None,
    ) -> ModelOutputs:
        """Computes the mask logits, and what the losses of the feature pairs need.

        Args:
          images: RGB images in [0, 1].
          train: Whether BatchNorms that are not frozen use the statistics of the batch.
          encoder_features: Result of `encode` for these images; None: it is computed.
          key: Draws the positions that the pairs mask; None masks nothing.

        Returns:
          Logits, projected features, scales and balance.
        """
        taps = self.taps(images, train=train, encoder_features=encoder_features)
        projected = tuple(
            self._project(index, taps, train=train, key=key) for index in range(len(self.pairs))
        )
        statistics = [projector.statistics for projector in self.projectors]
        balance = [p.balance[...] for p in self.projectors if p.balance is not None]
        return ModelOutputs(
            self.head(taps[self.decoder.feature_info[-1].name]),
            projected,
            tuple(FeatureScale(s.mean[...], s.factor[...]) if s else None for s in statistics),
            jnp.stack(balance) if balance else None,
        )

    def taps(
        self,
        images: Float[Array, "b h w 3"],
        *,
        train: bool,
        encoder_features: EncoderFeatures | None = None,
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes all feature maps.

        Args:
          images: RGB images in [0, 1].
          train: Whether BatchNorms that are not frozen use the statistics of the batch.
          encoder_features: Result of `encode` for these images; None: it is computed.

        Returns:
          The maps by the names in `feature_info`.
        """
        if encoder_features is None:
            encoder_features = self.encode(images, train=train)
        encoded = tuple(feature.astype(self._dtype) for feature in encoder_features)
        decoded = self.decoder(encoded, train=train)
        names = [feature.name for feature in self.feature_info]
        return dict(zip(names, (*encoded, *decoded), strict=True))

    def encode(self, images: Float[Array, "b h w 3"], *, train: bool) -> EncoderFeatures:
        """Computes the encoder's feature maps.

        Args:
          images: RGB images in [0, 1].
          train: Whether BatchNorms that are not frozen use the statistics of the batch.

        Returns:
          The maps, finest first.
        """
        normalised = image_ops.normalize(images, self.normalization)
        return self.encoder(normalised.astype(self._dtype), train=train)

    @property
    def _dtype(self) -> Any:
        return getattr(jnp, self.dtype)

    def _project(
        self, index: int, taps: dict[str, Array], *, train: bool, key: Key[Array, ""] | None
    ) -> Float[Array, "b _ _ _"]:
        pair = self.pairs[index]
        tap = taps[pair.tap]
        if pair.size:
            # The tap is resized before it is projected, because it has fewer channels.
            tap = image_ops.resize(tap, pair.size, antialias=True)
        own = None if key is None else jax.random.fold_in(key, index)
        return self.projectors[index](tap, train=train, key=own)


def build(
    settings: config.Student,
    pairs: Sequence[Pair] = (),
    *,
    seed: int = 0,
    dtype: config.Precision = "float32",
) -> Student:
    """Builds a student before training: from a weights file where there is one, else random.

    Args:
      settings: Architecture, weights files and normalisation.
      pairs: The feature pairs to build projectors for.
      seed: Determines the random values.
      dtype: Number format of the feature maps and of the outputs.

    Returns:
      The student.

    Raises:
      ConfigError: The architecture is not known; see `Student`.
      WeightsError: The weights file cannot be read, or belongs to another network.
    """
    # Unknown names first: a misspelt name is the likelier reason why a file does not fit.
    _, _ = ENCODERS[settings.encoder], DECODERS[settings.decoder]
    path = settings.weights or settings.encoder_weights
    loaded, of_file = weights.load_for(settings.encoder, path) if path else ({}, None)
    normalization = of_file or image_ops.resolve("imagenet")
    if settings.normalization is not None:
        normalization = image_ops.resolve(settings.normalization)
    student = Student(settings, normalization, pairs, dtype=dtype, seed=seed)
    if path is None:
        return student
    groups = ("encoder", "decoder", "head") if settings.weights else ("encoder",)
    own = flat_variables(student)
    expected = {name: own[name] for name in own if param_group(name) in groups}
    removed = [f"encoder.{part}" for part in student.encoder.removed]
    read = {
        name: loaded[name]
        for name in loaded
        if param_group(name) in groups and not is_frozen(name, removed)
    }
    filled = weights.fill(expected, read, path)
    return merge(nnx.graphdef(student), {**own, **jax.device_put(filled)})


_ARCHITECTURE = ("decoder_channels", "encoder_depth", "upsampling")
"""Keys of a student's settings, besides the names, that its variables depend on."""


def save_weights(
    student: Student,
    path: str | Path,
    *,
    image_size: config.Size | None = None,
    source: str | None = None,
) -> None:
    """Writes a student's variables, without projectors, as a file for `student.weights`.

    Args:
      student: The student.
      path: The safetensors file. Its metadata hold the architecture and the normalisation, so that
        `from_weights` builds the student from the file alone.
      image_size: Height and width of the images that it was trained on, which an export of the file
        takes for those to expect. None: unknown.
      source: Where the variables come from, for people. None: unknown.

    Raises:
      OSError: The file cannot be written.
    """
    arrays = {
        name: np.asarray(value)
        for name, value in flat_variables(student).items()
        if param_group(name) != "projectors"
    }
    metadata = {
        "encoder": student.settings.encoder,
        "decoder": student.settings.decoder,
        "normalization": weights.format_normalization(student.normalization),
        "architecture": json.dumps(student.settings.model_dump(include=set(_ARCHITECTURE))),
    }
    if image_size is not None:
        metadata["image_size"] = json.dumps(image_size)
    if source is not None:
        metadata["source"] = source
    weights.save(expanded(path), arrays, metadata)


def from_weights(path: str | Path) -> Student:
    """Builds the student of a weights file, such as `convert-weights from-mediapipe` writes.

    Args:
      path: A safetensors file whose metadata name `encoder` and `decoder`.

    Returns:
      The student. What else its architecture depends on is in a file of `save_weights`, and is the
      default for others.

    Raises:
      WeightsError: The metadata do not name them (`weights-metadata`), the weights are of another
        shape, or the file cannot be read.
      ConfigError: There is no such encoder or decoder.
    """
    path = expanded(path)
    _, metadata = weights.load(path)
    if not {"encoder", "decoder"} <= metadata.keys():
        raise WeightsError(
            f"{path}: the metadata do not name encoder and decoder; build the student by "
            f"models.create(DECODER, encoder=ENCODER, weights=FILE)",
            code="weights-metadata",
        )
    names = {"encoder": metadata["encoder"], "decoder": metadata["decoder"]}
    try:
        more = json.loads(metadata.get("architecture", "{}"))
        known = {key: more[key] for key in _ARCHITECTURE if key in more}
        settings = config.Student(**names, **known, weights=path, frozen=())
    except (TypeError, ValueError):  # pydantic's error is one
        raise WeightsError(
            f"{path}: metadata 'architecture' is not what `save_weights` writes",
            code="weights-metadata",
        ) from None
    return build(settings)


def with_projectors(student: Student, pairs: Sequence[Pair]) -> Student:
    """Returns a student with projectors for feature pairs.

    Args:
      student: A student; its own projectors, if it has any, are not kept.
      pairs: The feature pairs.

    Returns:
      A student with the same variables. The projectors have the values with which
      `build(settings, pairs, seed=student.seed)` begins.
    """
    built = Student(
        student.settings, student.normalization, pairs, dtype=student.dtype, seed=student.seed
    )
    return _with_variables(built, student)


def without_projectors(student: Student) -> Student:
    """Returns a student with the same variables, but without projectors."""
    return with_projectors(student, ())


def feature_info(settings: config.Student) -> tuple[FeatureInfo, ...]:
    """Returns the feature maps that a student has, without reading its weights.

    Args:
      settings: The architecture.

    Returns:
      The encoder's descriptions, then the decoder's.
    """
    return Student(settings, image_ops.resolve("imagenet")).feature_info


def _with_variables(built: Student, source: Student) -> Student:
    variables = {
        name: value
        for name, value in flat_variables(source).items()
        if param_group(name) != "projectors"
    }
    return merge(nnx.graphdef(built), {**flat_variables(built), **variables})
