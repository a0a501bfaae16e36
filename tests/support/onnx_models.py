"""Small ONNX networks for tests, and their expected values by ONNX's reference evaluator."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

SEGMENTER = """
<ir_version: {ir_version}, opset_import: ["" : 17]>
segmenter ({dtype}[{batch}, 3, {height}, {width}] image) => ({dtype}[n, 1, h, w] mask)
{{
    low = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, low_weight)
    inner = Relu (low)
    deep = Conv <kernel_shape = [1, 1], strides = [2, 2]> (inner, deep_weight)
    score = Conv <kernel_shape = [1, 1]> (inner, score_weight)
    mask = Sigmoid (score)
}}
"""
WEIGHTS = {"low_weight": (4, 3, 3, 3), "deep_weight": (6, 4, 1, 1), "score_weight": (1, 4, 1, 1)}


def segmenter(
    batch: int | str = "N",
    height: int | str = "H",
    width: int | str = "W",
    dtype: str = "float",
    ir_version: int = 8,
) -> ModelProto:
    """Returns a network of random weights.

    Its tensors are `inner` (4 channels, stride 2), `deep` (6, stride 4), and `score` and `mask`
    (1 channel, stride 2).
    """
    text = SEGMENTER.format(
        batch=batch, height=height, width=width, dtype=dtype, ir_version=ir_version
    )
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = random.normal(size=shape).astype({"float": "f4", "float16": "f2"}[dtype])
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def parse(text: str, opset: int = 17) -> ModelProto:
    """Returns a network written in ONNX's text form, without its header."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "f" : 1]>{text}')


def save(model: ModelProto, folder: Path, name: str = "network.onnx") -> Path:
    """Writes a network into a folder and returns its path."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def expected(model: ModelProto, images: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
    """Returns tensors of the uncut graph for NCHW images, by the reference of ONNX."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    for tensor in tensors:
        exposed.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return ReferenceEvaluator(exposed).run(None, {exposed.graph.input[0].name: images})


def noise_images(batch: int, height: int, width: int) -> np.ndarray:
    """Returns noise in [0, 1], NHWC."""
    return np.random.default_rng(1).random((batch, height, width, 3), np.float32)
