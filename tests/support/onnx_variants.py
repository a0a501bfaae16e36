"""One small network in many forms: the ways in which ONNX files take images and give masks.

The network is a convolution, a ReLU and a projection to `score`, the logits of people. A form
undoes at its input what it demands of images, so that all forms have the same logits.
"""

from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import parse

from jaxdistill import config

_NET = """net ({image}) => ({mask})
<int64[3] swapped = {{2, 1, 0}}, int64[1] channels = {{1}}>
{{
    {head}
    low = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, low_weight)
    inner = Relu (low)
    score = Conv <kernel_shape = [1, 1]> (inner, score_weight)
    {tail}
}}"""
_WEIGHTS = {"low_weight": (4, 3, 3, 3), "score_weight": (1, 4, 1, 1)}
_NCHW = "float[N, 3, H, W] image"
_MASK = "float[N, 1, H, W] mask"
_AS_IT_IS, _LOGITS = "x = Identity (image)", "mask = Identity (score)"
_FROM_NHWC = "x = Transpose <perm = [0, 3, 1, 2]> (image)"
_FROM_BYTES = "f = Cast <to = 1> (image)  x = Div (f, full)"
_BOTH = "zero = Sub (score, score)  both = Concat <axis = 1> (zero, score)"
_PEOPLE = (3, 15, 16)
_BACKGROUND = 20 - len(_PEOPLE)
# Three classes of people with a third of the odds each, and seventeen others.
_TWENTY = (
    "person = Sub (score, third)  zero = Sub (score, score)  other = Sub (zero, rest) "
    "many = Concat <axis = 1> ("
    + ", ".join("person" if index in _PEOPLE else "other" for index in range(20))
    + ")"
)
_STD, _MEAN = (50.0, 60.0, 70.0), (120.0, 110.0, 100.0)
_UNDONE = "scaled = Mul (image, std)  shifted = Add (scaled, mean)  x = Div (shifted, full)"


class Variant(NamedTuple):
    """A form of the network."""

    model: ModelProto
    options: dict[str, Any]
    """How `Onnx` is told to read it, where `normalization: unit` and logits are not enough."""
    described: tuple[str, ...] = ()
    """What its description says of it."""
    tolerance: float = 1e-4
    hard: bool = False
    """Whether it tells only on which side of 0 the logits are."""


def _net(
    image: str = _NCHW, head: str = _AS_IT_IS, tail: str = _LOGITS, mask: str = _MASK, **more: Any
) -> ModelProto:
    dtype = "f2" if more.pop("half", False) else "f4"
    model = parse(_NET.format(image=image, head=head, tail=tail, mask=mask))
    random = np.random.default_rng(0)
    more |= {name: random.normal(size=shape) for name, shape in _WEIGHTS.items()}
    more |= {"third": np.log(len(_PEOPLE)), "rest": np.log(_BACKGROUND)}
    more |= {"one": 1, "two": 2, "full": 255}
    for name, values in more.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return model


def _declared(model: ModelProto, axes: Any) -> ModelProto:
    """Declares other axes of the image input; None writes no shape."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, axes)
    model.graph.input[0].CopyFrom(image)
    return model


def _with_default() -> ModelProto:
    model = _net(tail="mask = Mul (score, gain)", gain=[1.0])
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]))
    return model


def variants() -> dict[str, Variant]:
    """Returns all forms by name; `plain` is the one that the others are compared with."""
    softmax = {"output": "softmax_logits"}
    soft = {"output": "probabilities"}
    classes = {"output": "class_indices", "channel": 1}
    people = {"channel": list(_PEOPLE)}
    channelwise = {"std": np.reshape(_STD, (3, 1, 1)), "mean": np.reshape(_MEAN, (3, 1, 1))}
    reversed_ = {name: values[::-1] for name, values in channelwise.items()}
    statistics = config.MeanStd(mean=_MEAN, std=_STD, scale=255)
    n20, indices = "float[N, 20, H, W] mask", "int64[N, H, W] mask"
    twice = (
        "s = Softplus (score)  half = Div (s, two)  n = Neg (half)  q = Exp (n) "
        "p = Sub (one, q)  odds = Div (p, q)  z = Log (odds)  mask = Concat <axis = 1> (z, z)"
    )
    return {
        "plain": Variant(_net(), {}, ("float32 NCHW RGB", "as logits")),
        "NHWC in": Variant(_net("float[N, H, W, 3] image", _FROM_NHWC), {}, ("float32 NHWC",)),
        "NHWC out": Variant(
            _net(
                tail="mask = Transpose <perm = [0, 2, 3, 1]> (score)", mask="float[N, H, W, 1] mask"
            ),
            {},
            ("in NHWC",),
        ),
        "NHWC in and out": Variant(
            _net(
                "float[N, H, W, 3] image",
                _FROM_NHWC,
                _TWENTY + " mask = Transpose <perm = [0, 2, 3, 1]> (many)",
                "float[N, H, W, 20] mask",
            ),
            {**softmax, **people},
            ("in NHWC", "float32 NHWC", "channel 3, 15, 16"),
        ),
        "(N, H, W)": Variant(
            _net(tail="mask = Squeeze (score, channels)", mask="float[N, H, W] mask"), {}, ("NHW",)
        ),
        "uint8": Variant(
            _net("uint8[N, 3, H, W] image", _FROM_BYTES),
            {"normalization": "bytes"},
            ("uint8 NCHW", "bytes"),
        ),
        "uint8 NHWC": Variant(
            _net(
                "uint8[N, H, W, 3] image",
                _FROM_BYTES.replace("x =", "y =") + " " + _FROM_NHWC.replace("image", "y"),
            ),
            {"normalization": config.MeanStd(mean=(0, 0, 0), std=(1, 1, 1), scale=255)},
            ("uint8 NHWC",),
        ),
        "bytes as floats": Variant(
            _net(head="x = Div (image, full)"), {"normalization": "bytes"}, ("float32", "bytes")
        ),
        "mean and std of bytes": Variant(
            _net(head=_UNDONE, **channelwise), {"normalization": statistics}, ("120", "scale 255")
        ),
        "BGR": Variant(
            _net(head="x = Gather <axis = 1> (image, swapped)"), {"channel_order": "bgr"}, ("BGR",)
        ),
        "BGR with mean and std": Variant(
            _net(
                head=_UNDONE.replace("x =", "y =") + " x = Gather <axis = 1> (y, swapped)",
                **reversed_,
            ),
            {"channel_order": "bgr", "normalization": statistics},
            ("BGR", "scale 255"),
        ),
        "softmax logits of two": Variant(
            _net(tail=_BOTH + " mask = Identity (both)", mask="float[N, 2, H, W] mask"),
            {**softmax, "channel": 1},
            ("softmax_logits, channel 1",),
        ),
        "softmax of two": Variant(
            _net(tail=_BOTH + " mask = Softmax <axis = 1> (both)", mask="float[N, 2, H, W] mask"),
            {**soft, "channel": 1},
            ("probabilities, channel 1",),
        ),
        "softmax logits of twenty": Variant(
            _net(tail=_TWENTY + " mask = Identity (many)", mask=n20), {**softmax, **people}
        ),
        "softmax of twenty": Variant(
            _net(tail=_TWENTY + " mask = Softmax <axis = 1> (many)", mask=n20), {**soft, **people}
        ),
        "any of two": Variant(_net(tail=twice, mask="float[N, 2, H, W] mask"), {"channel": [0, 1]}),
        "one of two logits": Variant(
            _net(
                tail="n = Neg (score)  mask = Concat <axis = 1> (n, score)",
                mask="float[N, 2, H, W] mask",
            ),
            {"channel": 1},
        ),
        "argmax": Variant(
            _net(tail=_BOTH + " mask = ArgMax <axis = 1, keepdims = 0> (both)", mask=indices),
            classes,
            ("class_indices, channel 1", "NHW"),
            hard=True,
        ),
        "argmax with an axis": Variant(
            _net(tail=_BOTH + " mask = ArgMax <axis = 1> (both)", mask="int64[N, 1, H, W] mask"),
            classes,
            hard=True,
        ),
        "argmax as uint8": Variant(
            _net(
                tail=_BOTH
                + " i = ArgMax <axis = 1, keepdims = 0> (both)  mask = Cast <to = 2> (i)",
                mask="uint8[N, H, W] mask",
            ),
            classes,
            hard=True,
        ),
        "argmax of twenty": Variant(
            _net(tail=_TWENTY + " i = ArgMax <axis = 1> (many)  mask = Cast <to = 1> (i)"),
            {"output": "class_indices", "channel": (0, 1, 3)},
            ("class_indices, channel 0, 1, 3",),
            tolerance=np.inf,  # the largest of equals is not the sign of the sum
            hard=True,
        ),
        "named axes": Variant(_declared(_net(), ["batch", "channels", "height", "width"]), {}),
        "no shape": Variant(_declared(_net(), None), {}, ("NCHW",)),
        "named axes, NHWC": Variant(
            _declared(_net("float[N, H, W, 3] image", _FROM_NHWC), ["batch", "h", "w", "c"]),
            {"layout": "nhwc"},
            ("float32 NHWC",),
        ),
        "batch of 1": Variant(_net("float[1, 3, H, W] image"), {}, ("in batches of 1",)),
        "batch of 4, NHWC": Variant(
            _net("float[4, H, W, 3] image", _FROM_NHWC), {}, ("in batches of 4",)
        ),
        "an input with a default": Variant(_with_default(), {}),
        "float16": Variant(
            _net("float16[N, 3, H, W] image", mask="float16[N, 1, H, W] mask", half=True),
            {},
            ("float16 NCHW",),
            tolerance=0.05,
        ),
    }


def half_resolution() -> Variant:
    """Returns the form whose mask has half the size of the image."""
    pool = "mask = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (score)"
    return Variant(_net(tail=pool, mask="float[N, 1, h, w] mask"), {})


def disc() -> np.ndarray:
    """Returns an image for the network: a bright disc on dark ground."""
    rows, columns = np.ogrid[:48, :64]
    inside = (rows - 24) ** 2 + (columns - 30) ** 2 < 15**2
    return np.where(inside[..., None], (250, 200, 160), (20, 30, 40)).astype(np.uint8)
