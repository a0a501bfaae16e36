"""Converts weights from and to PyTorch, and compares both networks before anything is written.

Every tensor of the source must have a counterpart. Both networks are then run on the same random
images, and a file is written only if their outputs agree.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.interpolation import interpolated
from jaxdistill.data.image_ops import Normalization
from jaxdistill.models import weights
from jaxdistill.models.encoders import mobilenet
from jaxdistill.models.parameters import flat_variables, param_group
from jaxdistill.runtime import xla
from jaxdistill.runtime.errors import WeightsError, unwritable
from jaxdistill.runtime.files import write_atomic
from jaxdistill.torch_interop import (
    checkpoints,
    encoder_sources,
    flax_networks,
    parameter_names,
    smp_networks,
)

TOLERANCE = 1e-4
"""Largest difference of the outputs, as a share of the largest absolute value."""
_BLOCKS = 5
_IMAGE_SHAPES = ((2, 64, 64, 3), (1, 64, 96, 3))


class Pretrained(NamedTuple):
    """Weights of an encoder or of a whole student."""

    encoder: str
    """Name of the encoder."""
    normalization: Normalization
    """Normalisation that they were trained with."""
    variables: parameter_names.Arrays
    """Arrays by path."""
    origin: str
    """Where they come from."""


class Conversion(NamedTuple):
    """What was converted, and how well both networks agree."""

    pretrained: Pretrained
    """The weights."""
    difference: float
    """Largest difference of the outputs, as a share of the largest absolute value."""

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's blocks; empty for an encoder."""
        return _decoder_channels(self.pretrained.variables)


def convert_encoder(
    source: str,
    output: Path,
    encoder: str | None = None,
    normalization: Normalization | None = None,
) -> Conversion:
    """Converts an encoder of timm's or SMP's to a file for `student.encoder_weights`.

    Args:
      source: See `encoder_sources.find`.
      output: The safetensors file.
      encoder: Name of our encoder, for a file whose metadata do not hold it.
      normalization: Normalisation that the weights were trained with; None takes the source's.

    Raises:
      WeightsError: The source cannot be read or does not fit, or the feature maps differ
        (`conversion-differs`).
      OutputError: The file cannot be written (`output-unwritable`).
    """
    found = encoder_sources.find(source, encoder)
    network = flax_networks.encoder(found.encoder)
    tensors = checkpoints.arrays_of(found.network.state_dict())
    variables = parameter_names.from_torch(tensors, network.variables, found.origin)
    difference = _compare(
        "feature maps",
        lambda images: network.run(variables, images),
        lambda images: smp_networks.feature_maps(found.network, network.stages, images),
    )
    arrays = {f"encoder.{path}": array for path, array in variables.items()}
    pretrained = Pretrained(
        found.encoder, normalization or found.normalization, arrays, found.origin
    )
    _save(output, pretrained)
    return Conversion(pretrained, difference)


def convert_from_smp(
    checkpoint: Path,
    output: Path,
    encoder: str | None = None,
    normalization: Normalization | None = None,
) -> Conversion:
    """Converts a UNet of SMP's to a file for `student.weights`.

    Args:
      checkpoint: A `.pth` or `.safetensors` file.
      output: The safetensors file.
      encoder: Name of our encoder, for a file whose metadata do not hold it.
      normalization: Normalisation that the weights were trained with; None takes that of the file's
        metadata, or the default of the encoder's family.

    Raises:
      WeightsError: The checkpoint cannot be read or does not fit, or the logits differ
        (`conversion-differs`).
      OutputError: The file cannot be written (`output-unwritable`).
    """
    tensors, channels = smp_networks.read_unet(checkpoint)
    name = encoder_sources.encoder_name(checkpoint, encoder)
    _check_in_smp(name, channels, checkpoint)
    expected = flax_networks.student(name, channels).variables
    arrays = checkpoints.arrays_of(tensors)
    variables = parameter_names.from_torch(arrays, expected, str(checkpoint))
    normalization = normalization or encoder_sources.normalization_of(checkpoint, name)
    pretrained = Pretrained(name, normalization, variables, checkpoint.name)
    difference = _compare_students(pretrained, tensors)
    architecture = json.dumps({"decoder_channels": channels})
    _save(output, pretrained, {"decoder": "unet", "architecture": architecture})
    return Conversion(pretrained, difference)


def convert_to_smp(source: Path, output: Path, encoder: str | None = None) -> Conversion:
    """Converts a student to the state dict of a UNet of SMP's.

    Args:
      source: A run's folder, whose best checkpoint is taken, or a safetensors file.
      output: A `.pth` or `.safetensors` file.
      encoder: Name of our encoder, for a file whose metadata do not hold it.

    Raises:
      WeightsError: The source cannot be read, has another decoder (`not-an-smp-unet`) or none
        (`no-decoder`), or the logits differ (`conversion-differs`).
      RunError: The run has no checkpoint.
      OutputError: The file cannot be written (`output-unwritable`).
    """
    pretrained = _read_student(source, encoder)
    _check_in_smp(pretrained.encoder, _decoder_channels(pretrained.variables), source)
    tensors = checkpoints.tensors_of(parameter_names.to_torch(pretrained.variables))
    difference = _compare_students(pretrained, tensors)
    metadata = _metadata(pretrained)
    if output.suffix == ".safetensors":
        _write(output, safetensors.torch.save(dict(tensors), metadata))
    else:
        file = io.BytesIO()
        torch.save(dict(tensors), file)
        _write(output, file.getvalue())
    return Conversion(pretrained, difference)


def _read_student(source: Path, encoder: str | None) -> Pretrained:
    if source.is_dir():
        best = interpolated(best_of(source), None)
        settings = best.settings.student
        arrays = {path: np.asarray(array) for path, array in flat_variables(best.student).items()}
        if settings.decoder != "unet":
            raise _not_a_unet(source, settings.decoder)
        name = encoder_sources.convertible(settings.encoder)
        origin = f"{source.name}, step {best.step}"
        return Pretrained(name, best.student.normalization, arrays, origin)
    arrays, metadata = weights.load(source)
    decoder = metadata.get("decoder", "unet")
    if decoder != "unet":
        raise _not_a_unet(source, decoder)
    arrays = {path: array for path, array in arrays.items() if param_group(path) != "projectors"}
    channels = _decoder_channels(arrays)
    if not channels:
        raise WeightsError(
            f"{source}: the file holds no decoder; expected the weights of a whole student",
            code="no-decoder",
        )
    name = encoder_sources.encoder_name(source, encoder)
    weights.fill(flax_networks.student(name, channels).variables, arrays, source)
    normalization = encoder_sources.normalization_of(source, name)
    return Pretrained(name, normalization, arrays, source.name)


def _not_a_unet(source: Path, decoder: str) -> WeightsError:
    return WeightsError(
        f"{source}: the decoder {decoder!r} has no counterpart in SMP; expected 'unet'",
        code="not-an-smp-unet",
    )


def _check_in_smp(encoder: str, channels: Sequence[int], source: Path) -> None:
    """Checks that a student has a counterpart among SMP's UNets that can be converted."""
    if encoder in mobilenet.VARIANTS:
        raise WeightsError(
            f"{source}: SMP has no UNet with our encoder {encoder!r}; a student with it can be "
            f"exported to ONNX",
            code="encoder-not-convertible",
        )
    if len(channels) != _BLOCKS:
        raise WeightsError(
            f"{source}: a UNet of {len(channels)} blocks; only those of {_BLOCKS}, SMP's default, "
            f"can be converted",
            code="not-an-smp-unet",
        )


def _decoder_channels(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    channels: list[int] = []
    while (name := f"decoder.blocks.{len(channels)}.conv1.norm.scale") in arrays:
        channels.append(len(arrays[name]))
    return tuple(channels)


def _compare_students(pretrained: Pretrained, tensors: Mapping[str, Tensor]) -> float:
    channels = _decoder_channels(pretrained.variables)
    student = flax_networks.student(pretrained.encoder, channels)
    network = smp_networks.unet(pretrained.encoder, channels)
    smp_networks.load(network, tensors, pretrained.origin)
    return _compare(
        "logits",
        lambda images: [student.run(pretrained.variables, images).logits],
        lambda images: [network(images)],
    )


@torch.inference_mode()
def _compare(
    what: str,
    run_flax: Callable[[np.ndarray], Sequence[np.ndarray]],
    run_torch: Callable[[Tensor], Sequence[Tensor]],
) -> float:
    """Returns the largest relative difference, and raises if it exceeds the tolerance."""
    worst = 0.0
    generator = np.random.default_rng(0)
    for shape in _IMAGE_SHAPES:
        images = generator.normal(size=shape).astype(np.float32)
        expected = run_torch(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        with xla.exact_products():
            outputs = [np.asarray(own) for own in run_flax(images)]
        for own, other in zip(outputs, expected, strict=True):
            difference = _relative_difference(own, other.numpy().transpose(0, 2, 3, 1))
            worst = float(np.maximum(worst, difference))  # `max` would pass over NaN
    if not worst <= TOLERANCE:
        raise WeightsError(
            f"the {what} differ from PyTorch's by {worst:.1e} of the largest value, more than "
            f"{TOLERANCE:.0e}: nothing is written; check --encoder",
            code="conversion-differs",
        )
    return worst


def _relative_difference(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(own - other).max() / np.abs(other).max())


def _save(path: Path, pretrained: Pretrained, more: Mapping[str, str] | None = None) -> None:
    try:
        weights.save(path, pretrained.variables, {**_metadata(pretrained), **(more or {})})
    except OSError as error:
        raise unwritable(path, error) from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise unwritable(path, error) from None


def _metadata(pretrained: Pretrained) -> dict[str, str]:
    return {
        "encoder": pretrained.encoder,
        "normalization": weights.format_normalization(pretrained.normalization),
        "source": pretrained.origin,
    }
