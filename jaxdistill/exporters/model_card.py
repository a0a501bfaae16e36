"""The model card: how to use an exported file, where it comes from, how it was measured."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import onnx
import onnxruntime
from onnx import ValueInfoProto

from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.interpolation import INTERPOLATED
from jaxdistill.config import Size
from jaxdistill.data.splits import open_split
from jaxdistill.exporters.mean_graph import Member
from jaxdistill.exporters.onnx_graph import Form, caller_normalization
from jaxdistill.exporters.registry import Input, Precision, Source
from jaxdistill.models.feature_info import size_multiple
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.version import __version__

MEAN_OF = "mean of"
"""Key of a card's `student` that lists the networks of a mean."""
_RANGES: dict[Input, str] = {
    "normalized": "(pixels in [0, 1] - mean) / std, per channel",
    "imagenet": "(pixels in [0, 1] - mean) / std, per channel",
    "unit": "pixels in [0, 1]",
    "uint8": "pixels in 0 ... 255",
}
# Versions come from the modules: onnxruntime has another distribution name for GPUs.
_LIBRARIES = (jax, flax, onnx, onnxruntime)


class Interface(NamedTuple):
    """What a file describes itself as."""

    image: dict[str, Any]
    """Name, number format, shape and layout of the input."""
    output: dict[str, Any]
    """Those of the output."""
    weights: int
    """Number of the weights' values."""


def describe(model: onnx.ModelProto, form: Form) -> Interface:
    """Describes an ONNX graph.

    Args:
      model: The float32 graph.
      form: Input and output of the graph.
    """
    return Interface(
        {**_tensor(model.graph.input[0]), "layout": "NHWC" if form.input == "uint8" else "NCHW"},
        {**_tensor(model.graph.output[0]), "layout": "NCHW"},
        sum(
            int(np.prod(tensor.dims))
            for tensor in model.graph.initializer
            if tensor.name.removesuffix("_quantized").endswith((".weight", ".bias"))
        ),
    )


def make_card(interface: Interface, form: Form, source: Source, size: Size) -> dict[str, Any]:
    """Returns the part of the model card that all precisions have in common.

    Args:
      interface: The float32 file.
      form: Input and output of the file.
      source: The student.
      size: Height and width of the images that the file was measured on.

    Returns:
      Plain values, ready for JSON.
    """
    student, best = source.student, source.best
    multiple = size_multiple(student)
    by_caller = caller_normalization(form.input, student.normalization)
    return {
        "task": "human segmentation: a person where the output is above "
        + ("0.5" if form.sigmoid else "0"),
        "input": {
            **interface.image,
            "channels": "RGB",
            "range": _RANGES[form.input],
            "height and width": "fixed" if form.size else f"any multiples of {multiple}",
            "image_size": best.settings.data.image_size if best else size,
        },
        "output": {
            **interface.output,
            "range": "probabilities in [0, 1]" if form.sigmoid else "logits",
        },
        "normalization": {
            **(by_caller or student.normalization)._asdict(),
            "done by": "the graph" if by_caller is None else "the caller",
        },
        "student": {
            "encoder": student.settings.encoder,
            "decoder": student.settings.decoder,
            "decoder_channels": [feature.channels for feature in student.decoder.feature_info],
            "weights": interface.weights,
        },
        "training": None if best is None else _training(best),
        "versions": _versions(),
    }


def mean_card(
    model: onnx.ModelProto, members: Sequence[Member], size: Size, form: Input
) -> dict[str, Any]:
    """Returns the model card of a mean of networks; see `exporters.mean`.

    Args:
      model: Its graph.
      members: The networks.
      size: Height and width of its input.
      form: `unit` or `uint8`.

    Returns:
      Plain values, ready for JSON.
    """
    interface = describe(model, Form(form, True, size))
    return {
        "task": "human segmentation: a person where the output is above 0.5",
        "input": {
            **interface.image,
            "channels": "RGB",
            "range": _RANGES[form],
            "height and width": "fixed",
            "image_size": size,
        },
        "output": {**interface.output, "range": "probabilities in [0, 1]"},
        "normalization": {"mean": [0.0] * 3, "std": [1.0] * 3, "done by": "the graph"},
        "student": {
            MEAN_OF: [
                {
                    "file": member.path.name,
                    "sha256": hashlib.sha256(member.path.read_bytes()).hexdigest(),
                    "size": member.size or size,
                    "mirrored": member.mirrored,
                }
                for member in members
            ],
            "weights": interface.weights,
        },
        "training": None,
        "versions": _versions(),
    }


def precision_of(model: onnx.ModelProto) -> Precision:
    """Returns the number format of a graph's weights: `int8`, `float16` or `float32`.

    Args:
      model: The graph.
    """
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if onnx.TensorProto.INT8 in kinds:
        return "int8"
    return "float16" if onnx.TensorProto.FLOAT16 in kinds else "float32"


def _versions() -> dict[str, str]:
    return {
        "jaxdistill": __version__,
        **{library.__name__: library.__version__ for library in _LIBRARIES},
    }


def stamp(model: onnx.ModelProto, card: dict[str, Any]) -> None:
    """Writes the entries that are needed to use a graph into the graph itself.

    Args:
      model: The graph, which is changed.
      card: From `make_card`.
    """
    model.producer_name, model.producer_version = "jaxdistill", __version__
    model.doc_string = card["task"]
    entries = {name: card[name] for name in ("input", "output", "normalization", "student")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: json.dumps(v) for name, v in entries.items()})


def _training(best: Best) -> dict[str, Any]:
    share = best.metadata.get(INTERPOLATED)
    return {
        "run": str(best.settings.run),
        "epoch": best.metadata["progress"]["epoch"],
        "step": best.step,
        INTERPOLATED: share,
        # It measured the trained weights.
        "validation": None if share not in (None, 1) else best.metadata.get("validation"),
        "fingerprints": _fingerprints(best),
    }


def _fingerprints(best: Best) -> dict[str, str | None]:
    """Returns fingerprints of training data and teacher; None where they no longer exist."""
    found: dict[str, str | None] = {"training_data": None, "teacher": None}
    with contextlib.suppress(UserError):
        found["training_data"] = open_split(best.settings.data, "train").fingerprint
    for role, teacher in best.settings.teacher_roles.items():
        with contextlib.suppress(UserError):
            found[role] = OnnxGraph(teacher.onnx).fingerprint
    return found


def _tensor(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name,
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
    }
