"""The students that `runtimes.py` compares, and their files."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from jaxdistill import config, exporters
from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.interpolation import interpolated
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.registry import Precision
from jaxdistill.exporters.verify import flax_outputs
from jaxdistill.models import (
    Student,
    build,
    check_image_size,
    from_weights,
    without_projectors,
)
from jaxdistill.models.parameters import flat_variables, is_frozen, merge
from jaxdistill.runtime.errors import ConfigError, UserError

FORM = Form("unit", sigmoid=True)
"""Input and output of all files: images in [0, 1], and probabilities."""
FILES = (".onnx", ".tflite")
_RANDOM = ("student.weights=null", "training.interpolate=null")


class Contestant(NamedTuple):
    """A student to compare."""

    name: str
    files: Mapping[str, Path | str]
    """The file by its ending, or why there is none."""
    expected: np.ndarray | None
    """Flax's probabilities in float32 (N, H, W); None for a file, whose student is not known."""


def contestants(
    argument: str,
    images: UInt8[np.ndarray, "n h w 3"],
    folder: Path,
    endings: set[str],
    precisions: Sequence[Precision] = ("float32",),
) -> Iterator[Contestant]:
    """Exports a student, and yields it once for each number format.

    Args:
      argument: A run folder, a `.safetensors` file, a file exported with `--input unit --sigmoid`,
        or a configuration, with overrides after spaces, whose student is made with random weights
        except for those of its encoder's file.
      images: What it is compared on.
      folder: Where the files are written.
      endings: The files that are needed.
      precisions: Number formats of the files; int8 needs the images of a run.

    Raises:
      UserError: There is no such student, or it cannot take images of this size.
    """
    path = Path(argument)
    if path.suffix in FILES:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", code="no-such-file")
        yield Contestant(path.name, {path.suffix: path}, None)
        return
    source, size = load(argument, images), images.shape[1:3]
    made = source.student if isinstance(source, Best) else source
    expected = flax_outputs(made, images, FORM)[..., 0]
    for precision in precisions:
        files: dict[str, Path | str] = {}
        for ending in sorted(endings):
            file = folder / f"{len(list(folder.iterdir()))}{ending}"
            try:
                exporters.export(
                    source, file, input="unit", sigmoid=True, size=size, precision=precision
                )
                files[ending] = file
            except UserError as error:
                files[ending] = str(error)
        name = f"{made.settings.encoder}, {made.settings.decoder}, {precision}"
        yield Contestant(name, files, expected)


def load(argument: str, images: UInt8[np.ndarray, "n h w 3"]) -> Student | Best:
    """Returns what to export.

    Args:
      argument: A run folder, a `.safetensors` file, or a configuration; see `contestants`.
      images: What the student has to take.

    Raises:
      UserError: There is no such student, or it cannot take images of this size.
    """
    source, kept = _source(argument)
    made = source.student if isinstance(source, Best) else source
    check_image_size(made, images.shape[1:3], "--size")
    return source if kept is None else with_random_values(made, images[:8], kept)


def _source(argument: str) -> tuple[Student | Best, tuple[str, ...] | None]:
    """Returns what to export; of a configuration, also the paths of variables of a file."""
    path = Path(argument)
    if path.suffix == ".safetensors" and "=" not in argument:
        return from_weights(path), None
    if path.is_dir():
        return interpolated(best_of(path), None), None
    name, *overrides = shlex.split(argument)
    settings = config.load(name, [*overrides, *_RANDOM]).student
    file = settings.encoder_weights
    if file is not None and not file.is_file():
        settings = settings.model_copy(update={"encoder_weights": None})
    made = without_projectors(build(settings))
    return made, ("encoder",) if settings.encoder_weights else ()


def with_random_values(
    made: Student, images: UInt8[np.ndarray, "n h w 3"], kept: tuple[str, ...] = ()
) -> Student:
    """Returns a student with random weights whose decision differs from pixel to pixel.

    No variable keeps its initial value where that is 0 or 1, and the logits have a median of 0 and
    a standard deviation of 1, so that half of the pixels are a person. With the initial values
    nearly all probabilities would be equal, and so would those of a runtime that computes something
    else.

    Args:
      made: The student.
      images: A batch.
      kept: Paths whose variables keep their values.
    """
    random, graphdef = np.random.default_rng(0), nnx.graphdef(made)
    variables = flat_variables(made)
    for path, value in variables.items():
        if is_frozen(path, kept):
            continue
        match path.rpartition(".")[2]:
            case "scale" | "var":
                variables[path] = jnp.asarray(random.uniform(0.6, 1.5, value.shape), "float32")
            case "bias" | "mean":
                variables[path] = jnp.asarray(random.normal(0, 0.2, value.shape), "float32")
    logits = flax_outputs(merge(graphdef, variables), images, Form())
    head = "head.conv" if "head.conv.kernel" in variables else "head"
    kernel, bias = f"{head}.kernel", f"{head}.bias"
    factor = 1 / logits.std()
    variables[kernel] = variables[kernel] * factor
    variables[bias] = (variables[bias] - np.median(logits)) * factor
    return merge(graphdef, variables)
