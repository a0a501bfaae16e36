"""An ONNX network without its weights, which travels easily and costs the same to compute.

The weights are drawn anew, with the mean and the deviation that each had.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_KEY = "random_weights"
_LEAST = 4096  # elements; smaller arrays may be axes or sizes, and are kept


def strip(source: Path, target: Path) -> None:
    """Writes a network without its large arrays of floats.

    Args:
      source: The ONNX file.
      target: The file to write; only `fill` can read it.
    """
    model = onnx.load(source)
    statistics = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and math.prod(tensor.dims) >= _LEAST:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            statistics[tensor.name] = [float(values.mean()), float(values.std())]
            for field in ("raw_data", "float_data", "int32_data", "double_data"):
                tensor.ClearField(field)
    onnx.helper.set_model_props(model, {_KEY: json.dumps(statistics)})
    target.write_bytes(model.SerializeToString())


def fill(source: Path, target: Path) -> None:
    """Writes a network with random weights.

    Args:
      source: A file that `strip` wrote.
      target: The ONNX file to write.
    """
    model = onnx.ModelProto.FromString(source.read_bytes())
    [statistics] = [json.loads(p.value) for p in model.metadata_props if p.key == _KEY]
    for tensor in model.graph.initializer:
        if tensor.name in statistics:
            mean, deviation = statistics[tensor.name]
            random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            values = random.standard_normal(tuple(tensor.dims), np.float32) * deviation + mean
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.raw_data = values.astype(dtype).tobytes()
    target.write_bytes(model.SerializeToString())


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
