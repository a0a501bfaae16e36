"""The model card: what someone who has only the ONNX file must know to use it rightly."""

import json
from typing import Any

import flax
import jax
import numpy as np
import onnx
import onnxruntime
from onnx import ValueInfoProto

import jaxdistill
from jaxdistill.checkpoint.manager import Best
from jaxdistill.exporters.onnx_graph import Form, Input

_RANGES: dict[Input, str] = {
    "normalized": "(pixels in [0, 1] - mean) / std, per channel",
    "unit": "pixels in [0, 1]",
    "uint8": "pixels in 0 ... 255",
}
# Asked themselves, not by the name they are installed under: onnxruntime has one more for GPUs.
_LIBRARIES = (jaxdistill, jax, flax, onnx, onnxruntime)


def card(
    model: onnx.ModelProto, form: Form, best: Best, fingerprints: dict[str, str | None]
) -> dict[str, Any]:
    """What all precisions have in common; plain values, ready for JSON.

    Args:
      model: the float32 graph.
      fingerprints: of the `training_data` and the `teacher`; None where they are no longer there.
    """
    epoch = best.record["progress"]["epoch"]
    student = best.settings.student
    return {
        "task": "human segmentation: a person where the output is above "
        + ("0.5" if form.sigmoid else "0"),
        "input": {
            **_describe(model.graph.input[0]),
            "layout": "NHWC" if form.input == "uint8" else "NCHW",
            "channels": "RGB",
            "range": _RANGES[form.input],
            "height and width": "fixed" if form.size else "any multiples of 32",
            "image_size": best.settings.data.image_size,
        },
        "output": {
            **_describe(model.graph.output[0]),
            "layout": "NCHW",
            "range": "probabilities in [0, 1]" if form.sigmoid else "logits",
        },
        "normalization": {
            **best.student.normalization._asdict(),
            "done by": "the caller" if form.input == "normalized" else "the graph",
        },
        "student": {
            "encoder": student.encoder,
            "decoder_channels": student.decoder_channels,
            "weights": sum(
                int(np.prod(tensor.dims))
                for tensor in model.graph.initializer
                if tensor.name.endswith((".weight", ".bias"))
            ),
        },
        "training": {
            "run": str(best.settings.run),
            "epoch": epoch,
            "step": best.step,
            "validation": best.record.get("validation"),
            "fingerprints": fingerprints,
        },
        "versions": {library.__name__: library.__version__ for library in _LIBRARIES},
    }


def stamp(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    """Writes into the file itself what one cannot do without if its card gets lost."""
    model.producer_name, model.producer_version = "jaxdistill", jaxdistill.__version__
    model.doc_string = about["task"]
    helpful = {name: about[name] for name in ("input", "output", "normalization", "student")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: json.dumps(v) for name, v in helpful.items()})


def _describe(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name,
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
    }
