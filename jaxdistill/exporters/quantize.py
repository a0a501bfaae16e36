"""A float32 graph to eight bits, by onnxruntime's static quantisation (QDQ)."""

import copy
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Shaped
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

# At full resolution the layers have few channels, and eight bits make them slower, not faster; the
# first and the last layer are also where rounding shows most.
KEPT_IN_FLOAT = ("encoder/conv_stem", "decoder/blocks.4", "head")

# The ranges span the extremes: more pictures only widen them, and the rounding grows with them.
CALIBRATION_PICTURES = 32


def to_int8(
    model: onnx.ModelProto, pictures: Iterable[Shaped[np.ndarray, "1 ..."]]
) -> onnx.ModelProto:
    """Weights in int8, per output channel, and activations in uint8; `KEPT_IN_FLOAT` stays float32.

    Args:
      model: as `student_graph` writes it.
      pictures: what the graph will meet in use; the activations' ranges are measured on them. They
        are laid out as its input is.
    """
    model = copy.deepcopy(model)  # onnxruntime would move the weights out of it
    # Folded as it is, the graph has nothing left for quantisation's pre-processing to do.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(
            model,
            path,
            _Reader(model.graph.input[0].name, iter(pictures)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name for node in model.graph.node if node.name.startswith(KEPT_IN_FLOAT)
            ],
            per_channel=True,
            # Seven bits of eight: on an x86 without VNNI sums of eight-bit products saturate.
            reduce_range=True,
        )
        return onnx.load(path)


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, pictures: Iterator[np.ndarray]) -> None:
        self._name, self._pictures = name, pictures

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {self._name: picture}
