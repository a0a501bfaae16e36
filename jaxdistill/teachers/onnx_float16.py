"""Copies of frozen networks in float16, made once, with their error against float32.

At TF32 a large teacher and detector cost a GPU about as much as the student. onnxruntime's own
converter makes the copy; operators that float16 cannot serve stay in float32.
"""

import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from jaxtyping import Float
from onnx import ModelProto

from jaxdistill.config import Size
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import NetworkError, first_line
from jaxdistill.teachers.network_format import ImageInput
from jaxdistill.teachers.onnx_graph import Cut, OnnxGraph
from jaxdistill.teachers.onnx_runtime import PATIENCE, open_session, within

log = logging.getLogger(__name__)

FOLDER = Path("~/.cache/jaxdistill/float16")
"""Where the copies are kept."""
MAX_ERROR = 0.02
"""Largest error of a tensor with which a copy is used."""
_ERROR = "jaxdistill.float16_error"  # key in a copy's metadata
_VERSION = 1  # of a copy; increase it when copies are made or measured in another way


class HalfCopy(NamedTuple):
    """A network in float16."""

    cut: Cut
    """The network; its input is float16."""
    error: float
    """Largest error of its tensors: the root mean square of the difference from float32, over that
    of the tensor itself, or as it is for probabilities."""


def half_copy(
    graph: OnnxGraph, tensors: Sequence[str], probabilities: Collection[str], size: Size
) -> HalfCopy:
    """Returns a float16 copy of a network, made at the first time.

    Args:
      graph: The file.
      tensors: Names of the tensors that the copy computes.
      probabilities: Those of them that hold probabilities.
      size: Height and width of the images on which the error is measured.

    Raises:
      NetworkError: The copy cannot be made or run, or its error is larger than `MAX_ERROR`
        (`onnx-float16`).
    """
    cut = graph.cut(tensors)
    about = repr((_VERSION, graph.fingerprint, tuple(tensors), sorted(probabilities), size))
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    path = FOLDER.expanduser() / f"{graph.path.stem}-{digest}.onnx"
    try:
        kept = _read(path)
        if kept is None:
            kept = _convert(graph, cut)
            measured = _error(graph, cut, kept, tensors, probabilities, size)
            kept.metadata_props.add(key=_ERROR, value=repr(measured))
            _keep(path, kept)
    except Exception as error:  # the converter and onnxruntime raise nearly anything
        raise NetworkError(
            f"{graph.path}: no float16 copy can be made: {first_line(error)}; set "
            f"onnxruntime.precision to float32",
            code="onnx-float16",
        ) from None
    [measured] = [float(entry.value) for entry in kept.metadata_props if entry.key == _ERROR]
    if not measured <= MAX_ERROR:  # nor if it is not a number
        raise NetworkError(
            f"{graph.path}: in float16 its tensors differ by {measured:.2g} from float32, expected "
            f"at most {MAX_ERROR}; set onnxruntime.precision to float32",
            code="onnx-float16",
        )
    return HalfCopy(Cut(kept.SerializeToString(), _half(cut.input)), measured)


def _half(image: ImageInput) -> ImageInput:
    """Returns the input of a copy."""
    return image if image.dtype == "uint8" else image._replace(dtype="float16")


def _read(path: Path) -> ModelProto | None:
    try:
        model = onnx.load(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # a copy is only a copy: it is made again
        log.warning("%s: cannot be read and is made again: %s", path, first_line(error))
        return None
    return model if any(entry.key == _ERROR for entry in model.metadata_props) else None


def _keep(path: Path, model: ModelProto) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, model.SerializeToString())
    except OSError as error:
        log.warning("%s: the copy cannot be kept: %s", path, error.strerror)


def _convert(graph: OnnxGraph, cut: Cut) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16  # slow to import

    model = onnx.load_model_from_string(cut.model)
    onnx.external_data_helper.load_external_data_for_model(model, str(graph.path.parent))
    return convert_float_to_float16(model)


def _error(
    graph: OnnxGraph,
    cut: Cut,
    half: ModelProto,
    tensors: Sequence[str],
    probabilities: Collection[str],
    size: Size,
) -> float:
    """Runs both on an image, float32 on the CPU."""
    images = _images(cut.input.batch or 1, size)
    if cut.input.dtype == "uint8":
        images *= 255
    values = []
    for model, image, on_cpu in (
        (cut.model, cut.input, True),
        (half.SerializeToString(), _half(cut.input), False),
    ):
        session = open_session(graph.path, model, on_cpu=on_cpu)
        given = np.ascontiguousarray(image.arrange(images))
        with within(PATIENCE) as options:
            values.append(session.run(None, {image.name: given}, options))
    errors = []
    for name, *pair in zip(tensors, *values, strict=True):
        exact, rounded = (value.astype(np.float64) for value in pair)
        scale = 1.0 if name in probabilities else np.sqrt(np.square(exact).mean())
        errors.append(np.sqrt(np.square(rounded - exact).mean()) / scale)
    return float(np.max(errors))  # not a number if one is


def _images(batch: int, size: Size) -> Float[np.ndarray, "b h w 3"]:
    """Returns images in [0, 1] of noise at several scales, which have edges and even areas."""
    random = np.random.default_rng(0)
    height, width = size
    image = np.zeros((batch, 3, height, width), np.float32)
    for cell in (1, 4, 16, 64):
        rows, columns = np.arange(height) // cell, np.arange(width) // cell
        noise = random.random((batch, 3, rows[-1] + 1, columns[-1] + 1), np.float32)
        image += noise[:, :, rows][..., columns] / 4
    return image.transpose(0, 2, 3, 1)
