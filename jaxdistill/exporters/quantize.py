"""Conversion of a float32 graph to int8, by onnxruntime's static quantisation (QDQ)."""

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Shaped
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from jaxdistill.exporters.bias_correction import correct_biases
from jaxdistill.models.symbolic import node_name
from jaxdistill.runtime.errors import first_line

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 32
"""Number of images on which the ranges of the activations are measured."""
PERCENTILE = 99.99
"""Share of a tensor's values, in percent, that its range spans from below and from above. The few
beyond are clipped: a range up to the extreme values would be far wider, and the rounding coarser.
"""


def to_int8(
    model: onnx.ModelProto,
    images: Sequence[Shaped[np.ndarray, "1 ..."]],
    float32_layers: Iterable[str] = (),
) -> onnx.ModelProto:
    """Quantises a graph: weights to int8 per output channel, activations to uint8.

    What rounding the weights moves the means of channels by is taken back; see `bias_correction`.

    Args:
      model: A graph from `student_graph`, in float32.
      images: Inputs of the graph, on which the ranges of the activations are measured.
      float32_layers: Dotted paths of modules that stay in float32, see `Student.float32_layers`.

    Returns:
      The quantised graph.
    """
    kept = [node_name(path) for path in float32_layers]
    try:
        quantised = _quantised(model, images, kept, CalibrationMethod.Percentile)
    except (ValueError, MemoryError) as error:
        # onnxruntime makes no histogram of a tensor that is nearly constant, as in a student that
        # was hardly trained; and one of a size that grows with the ratio of two images' ranges.
        log.warning(
            "int8: the percentiles of the activations cannot be measured (%s), as where a tensor "
            "is nearly constant; their extreme values are the ranges instead, which round more "
            "coarsely",
            f"{type(error).__name__}: {first_line(error)}",
        )
        quantised = _quantised(model, images, kept, CalibrationMethod.MinMax)
    correct_biases(model, quantised, images)
    return quantised


def _quantised(
    model: onnx.ModelProto,
    images: Sequence[np.ndarray],
    kept: Sequence[str],
    method: CalibrationMethod,
) -> onnx.ModelProto:
    given = copy.deepcopy(model)  # onnxruntime moves the weights out of the model that it is given
    # BatchNorms are folded already, so the pre-processing of the quantisation has nothing to do.
    onnx.helper.set_model_props(given, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),  # onnxruntime prints what it does
    ):
        path = Path(folder, "int8.onnx")
        quantize_static(
            given,
            path,
            _Reader(model.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            calibrate_method=method,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name
                for node in model.graph.node
                if any(node.name == name or node.name.startswith(f"{name}/") for name in kept)
            ],
            per_channel=True,
            # Seven of the eight bits: sums of 8-bit products saturate on an x86 without VNNI.
            reduce_range=True,
            # Ranges are updated image by image: all activations of all images at once would take
            # gigabytes.
            extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
        )
        return onnx.load(path)


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._name, self._all, self._images = name, images, iter(images)

    def __len__(self) -> int:
        return len(self._all)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._images = iter(self._all[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image}
