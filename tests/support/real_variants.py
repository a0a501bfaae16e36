"""A real network of normalised floats (N, 3, H, W) that gives probabilities, in other forms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rewired(
    path: Any,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    image: tuple[int, Sequence[Any]] | None = None,
    mask: tuple[int, Sequence[Any]] | None = None,
) -> ModelProto:
    """Puts nodes before and behind a network.

    Args:
      path: The file.
      before: Nodes from `image` to `prepared`, (operator, inputs, outputs, attributes).
      after: Nodes from `p`, the probabilities, to `mask`.
      image: Element type and shape of the new input.
      mask: Those of the new output.
    """
    model = onnx.load(path)
    graph = model.graph
    first, out = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names, old, new in ((node.input, first, "prepared"), (node.output, out, "p")):
            names[:] = [new if name == old else name for name in names]
        node.input[:] = ["p" if name == out else name for name in node.input]
    nodes = [*graph.node]
    made = [
        helper.make_node(op, i, o, **more)
        for op, i, o, more in before or [_same("image", "prepared")]
    ]
    made += nodes
    made += [helper.make_node(op, i, o, **more) for op, i, o, more in after or [_same("p", "mask")]]
    del graph.node[:]
    graph.node.extend(made)
    old = graph.input[0].type.tensor_type
    shape = [dim.dim_value or dim.dim_param for dim in old.shape.dim]
    elem, sides = image or (old.elem_type, shape)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", elem, sides))
    elem, sides = mask or (TensorProto.FLOAT, ["n", 1, "h", "w"])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("mask", elem, sides))
    del graph.value_info[:]
    read = {name for node in graph.node for name in node.input}
    for name in _CONSTANTS.keys() & read:
        graph.initializer.append(numpy_helper.from_array(_CONSTANTS[name], name))
    return model


def _same(one: str, other: str) -> Any:
    return ("Identity", [one], [other], {})


_CONSTANTS = {
    "c_one": np.float32(1),
    "c_full": np.float32(255),
    "c_mean": np.asarray(MEAN, np.float32),
    "c_std": np.asarray(STD, np.float32),
    "c_swapped": np.asarray([2, 1, 0]),
}
_TO_NCHW = ("Transpose", ["nhwc"], ["prepared"], {"perm": [0, 3, 1, 2]})
_BOTH = [
    ("Sub", ["c_one", "p"], ["q"], {}),
    ("Concat", ["q", "p"], ["both"], {"axis": 1}),
]


def forms(path: Any, size: int) -> dict[str, tuple[ModelProto, dict[str, Any], dict[str, Any]]]:
    """Returns forms of the network: the model, its teacher's keys, and how NumPy is to feed it."""
    nhwc = [1, size, size, 3]
    float_, byte, index = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
    soft = {"output": "probabilities"}
    return {
        "two softmax channels": (
            rewired(path, after=[*_BOTH, _same("both", "mask")], mask=(float_, ["n", 2, "h", "w"])),
            {**soft, "channel": 1},
            {"mask": lambda mask: mask[0, 1]},
        ),
        "argmax": (
            rewired(
                path,
                after=[*_BOTH, ("ArgMax", ["both"], ["mask"], {"axis": 1, "keepdims": 0})],
                mask=(index, ["n", "h", "w"]),
            ),
            {"output": "class_indices", "channel": 1},
            {"mask": lambda mask: mask[0].astype(np.float32)},
        ),
        "NHWC in and out": (
            rewired(
                path,
                [("Transpose", ["image"], ["prepared"], {"perm": [0, 3, 1, 2]})],
                [("Transpose", ["p"], ["mask"], {"perm": [0, 2, 3, 1]})],
                (float_, nhwc),
                (float_, ["n", "h", "w", 1]),
            ),
            soft,
            {"layout": "nhwc", "mask": lambda mask: mask[0, ..., 0]},
        ),
        "uint8 NHWC": (
            rewired(
                path,
                [
                    ("Cast", ["image"], ["f"], {"to": 1}),
                    ("Div", ["f", "c_full"], ["unit"], {}),
                    ("Sub", ["unit", "c_mean"], ["centred"], {}),
                    ("Div", ["centred", "c_std"], ["nhwc"], {}),
                    _TO_NCHW,
                ],
                image=(byte, nhwc),
            ),
            {**soft, "normalization": "bytes"},
            {"layout": "nhwc", "bytes": True},
        ),
        "BGR": (
            rewired(path, [("Gather", ["image", "c_swapped"], ["prepared"], {"axis": 1})]),
            {**soft, "channel_order": "bgr"},
            {"order": [2, 1, 0]},
        ),
        "all axes named": (
            rewired(path, image=(float_, ["batch", "channels", "height", "width"])),
            {**soft, "size": [size, size]},
            {},
        ),
    }
