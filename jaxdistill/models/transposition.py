"""Students for a camera that is mounted on its side.

A convolutional network whose kernels are transposed computes from a transposed image the transposed
mask. An image that is turned by 90 degrees counterclockwise, with its top at the left, is the
transposed of a mirrored upright one, and a network that knows people knows them mirrored. So a
student that was trained on upright images becomes one for turned images without any training.

This holds for no other turn: a convolution of stride 2 starts at the first row and column of its
map, and with a flipped kernel it would have to start at the last.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdistill import config
from jaxdistill.models import weights
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.student import Student, build, from_weights, save_weights
from jaxdistill.runtime import xla
from jaxdistill.runtime.errors import WeightsError

TOLERANCE = 1e-4
"""Largest difference of the logits, as a share of the largest absolute value."""


def transposed(student: Student) -> Student:
    """Returns a student that computes the transposed logits of transposed images.

    Args:
      student: A student without projectors.

    Returns:
      A student of the same architecture, whose kernels (height, width, inputs, outputs) have their
      first two axes exchanged.
    """
    return merge(nnx.graphdef(student), _transpose(flat_variables(student)))


def transpose(source: Student | Path, output: Path) -> float:
    """Writes the weights of the transposed student, or of a transposed encoder.

    Args:
      source: A student without projectors, or the weights file of a student or an encoder.
      output: The safetensors file; where `source` is a file, its metadata are kept, but for height
        and width of the images, which are exchanged.

    Returns:
      The largest difference of the logits, see `check_transposed`.

    Raises:
      WeightsError: The file cannot be read, its metadata do not name the encoder
        (`weights-metadata`), or the logits differ (`conversion-differs`).
      ConfigError: There is no such encoder or decoder.
      OSError: The output cannot be written.
    """
    if isinstance(source, Student):
        made = transposed(source)
        difference = check_transposed(source, made)
        save_weights(made, output)
        return difference
    arrays, metadata = weights.load(source)
    if "encoder" in metadata and "decoder" not in metadata:
        student = build(config.Student(encoder=metadata["encoder"], encoder_weights=source))
    else:
        student = from_weights(source)
    difference = check_transposed(student, transposed(student))
    if size := weights.parse_image_size(metadata.get("image_size"), source):
        metadata["image_size"] = json.dumps(size[::-1])
    weights.save(output, _transpose(arrays), metadata)
    return difference


def check_transposed(student: Student, other: Student) -> float:
    """Compares the logits of a student and of its transposed on noise.

    Args:
      student: The student.
      other: `transposed(student)`.

    Returns:
      The largest difference of the logits, as a share of the largest absolute value.

    Raises:
      WeightsError: It is larger than `TOLERANCE`, because a layer depends on the order of the axes
        (`conversion-differs`).
    """
    side = 2 * max(feature.stride for feature in student.feature_info)
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    graphdef = nnx.graphdef(student)
    logits_of = jax.jit(lambda variables, x: merge(graphdef, variables)(x, train=False).logits)
    with xla.exact_products():
        logits = logits_of(flat_variables(student), images)
        found = logits_of(flat_variables(other), images.swapaxes(1, 2)).swapaxes(1, 2)
    difference = float(jnp.abs(found - logits).max() / jnp.abs(logits).max())
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"the logits of the transposed {student.settings.encoder!r} differ by "
            f"{difference:.1e} of the largest value (at most {TOLERANCE:.0e} is accepted), so one "
            f"of its layers treats rows and columns differently: nothing is written",
            code="conversion-differs",
        )
    return difference


def _transpose(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.swapaxes(0, 1) if value.ndim == 4 else value
        for name, value in variables.items()
    }
