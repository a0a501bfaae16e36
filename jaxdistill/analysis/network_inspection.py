"""What an unknown ONNX file takes and gives: its tensors, and their values on images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdistill.analysis.mask_candidates import (
    MaskCandidate,
    Tensor,
    kind_of,
    likelihood,
    likely_channel,
)
from jaxdistill.config import ChannelOrder, Layout, Normalization, Size
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.network_format import (
    ImageInput,
    OutputLayout,
    PixelFormat,
    as_hwc,
    output_layout,
    to_nhwc,
)
from jaxdistill.teachers.onnx_device import FLOATS
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_runtime import PATIENCE, cannot_run, open_session, within
from jaxdistill.teachers.onnx_session import input_size

DEFAULT_SIZE = (320, 320)
"""Height and width of the input where the file leaves them free."""
NORMALIZATIONS: tuple[Normalization, ...] = ("imagenet", "unit", "half", "bytes")
"""Those that are tried."""
MOST_CHANNELS = 64
"""A map with more channels is taken for features."""
_ALIKE = 0.02  # difference of likelihoods below which the order in the file decides
_SMALLEST = 8  # pixels of a mask's shorter side

Images = Sequence[UInt8[np.ndarray, "h w 3"]]


class Inspection(NamedTuple):
    """What was found."""

    path: Path
    inputs: list[str]
    """In words."""
    outputs: list[str]
    default: str
    """Name of the file's first output, which is the mask unless another tensor is named."""
    image: ImageInput
    size: Size
    """Height and width of the input that was tried."""
    channel_order: ChannelOrder
    images: list[UInt8[np.ndarray, "h w 3"]]
    """The images at that size."""
    tried: list[MaskCandidate]
    """Each output under each normalisation."""

    def candidates(self) -> Iterator[MaskCandidate]:
        """Yields the outputs that can be masks, those with certain and compact masks first.

        Networks with deep supervision have several outputs of nearly the same likelihood. Of those,
        the file's first output comes first.
        """
        scored = [(likelihood(each), each) for each in self.tried if each.kind is not None]
        scored.sort(key=lambda pair: pair[0], reverse=True)
        found = [each for _, each in scored]
        count = sum(score > scored[0][0] - _ALIKE for score, _ in scored)
        names = [each.tensor.name for each in self.tried]
        yield from sorted(found[:count], key=lambda each: names.index(each.tensor.name))
        yield from found[count:]


def inspect(
    path: Path,
    images: Images,
    *,
    normalization: Normalization | None = None,
    channel_order: ChannelOrder = "rgb",
    layout: Layout | None = None,
    size: Size | None = None,
) -> Inspection:
    """Runs all outputs of a file that depend on its image alone on a few images.

    Args:
      path: The file.
      images: RGB images of any size; none runs noise, whose masks mean nothing.
      normalization: What the network expects of pixels; None tries several ones.
      channel_order: Order of the input's channels.
      layout: The input's axes; None finds them from the file's shape.
      size: Height and width of the input, where the file leaves them free.

    Returns:
      What was found.

    Raises:
      NetworkError: The file cannot be read or run, or takes no image.
    """
    graph = OnnxGraph(path, layout)
    names = _usable_outputs(graph)
    model, image = graph.cut(names)
    size = input_size(graph.path, image, size, DEFAULT_SIZE)
    session = open_session(graph.path, model)
    types = {output.name: output.type for output in session.get_outputs()}
    names = _tensors_of_numbers(graph.path, types)
    resized = [image_ops.resize_image(each, size) for each in images or [_noise(size)]]
    normalizations = (normalization,) if normalization else NORMALIZATIONS
    tried = []
    for each in ("bytes",) if image.dtype == "uint8" else normalizations:
        pixels = PixelFormat.of(each, channel_order)
        values = [_run(graph.path, session, names, image, pixels, one, size) for one in resized]
        for name, of_images in zip(names, zip(*values, strict=True), strict=True):
            is_integer = types[name] not in FLOATS
            tried.append(_candidate(name, of_images, is_integer, each, image, size))
    about = (*graph.described(), graph.outputs[0])
    return Inspection(graph.path, *about, image, size, channel_order, resized, tried)


def configuration(inspection: Inspection, candidate: MaskCandidate) -> dict[str, Any]:
    """Returns the keys of a `teacher` section for one candidate.

    Args:
      inspection: What was found.
      candidate: The mask, and the normalisation of the input that gave it.
    """
    image, tensor = inspection.image, candidate.tensor
    keys: dict[str, Any] = {"onnx": str(inspection.path)}
    if tensor.name != inspection.default:
        keys["tensor"] = tensor.name
    keys |= {"output": candidate.kind, "normalization": candidate.normalization}
    channels = 1 if tensor.layout is None else as_hwc(tensor.shape, tensor.layout)[2]
    if channels > 1 or candidate.kind == "class_indices":
        keys["channel"] = likely_channel(candidate)
    if inspection.channel_order != "rgb":
        keys["channel_order"] = inspection.channel_order
    if image.layout == "nhwc":
        keys["layout"] = image.layout
    if image.height is None or image.width is None:
        keys["size"] = list(inspection.size)
    return keys


def _usable_outputs(graph: OnnxGraph) -> list[str]:
    """Returns the outputs that depend on one image alone."""
    names, refused = [], None
    for name in graph.outputs:
        try:
            graph.cut([name])
            names.append(name)
        except NetworkError as error:
            refused = error
    if not names and refused:
        raise refused
    return names


def _tensors_of_numbers(path: Path, types: dict[str, str]) -> list[str]:
    """Returns the outputs that are neither sequences or maps nor text, from onnxruntime's types."""
    names = [
        name
        for name, kind in types.items()
        if kind.startswith("tensor(") and kind != "tensor(string)"
    ]
    if not names:
        raise NetworkError(
            f"{path}: expected an output that is a tensor of numbers, but they are "
            f"{', '.join(types.values())}; export the file with the mask as an output",
            code="onnx-tensor-type",
        )
    return names


def _noise(size: Size) -> UInt8[np.ndarray, "h w 3"]:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def _run(
    path: Path,
    session: Any,
    names: Sequence[str],
    image: ImageInput,
    pixels: PixelFormat,
    one: UInt8[np.ndarray, "h w 3"],
    size: Size,
) -> list[np.ndarray]:
    prepared = pixels.apply(one.astype(np.float32) / 255)
    batch = np.repeat(prepared[None], image.batch or 1, 0)
    try:
        with within(PATIENCE) as options:
            given = {image.name: np.ascontiguousarray(image.arrange(batch))}
            results: list[np.ndarray] = session.run(names, given, options)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise cannot_run(path, size, error) from None
    return results


def _candidate(
    name: str,
    values: Sequence[np.ndarray],
    is_integer: bool,
    normalization: Normalization,
    image: ImageInput,
    size: Size,
) -> MaskCandidate:
    shape = values[0].shape
    layout: OutputLayout | None = None
    if len(shape) in (3, 4) and shape[0] == (image.batch or 1) and 0 not in shape:
        layout = output_layout(shape, size, image.layout)
        height, width, channels = as_hwc(shape, layout)
        if min(height, width) < _SMALLEST or channels > MOST_CHANNELS:
            layout = None
    tensor = Tensor(name, (1, *shape[1:]), layout, is_integer)
    every = np.concatenate([each[:1].ravel() for each in values]).astype(np.float64)
    low, high, mean = (float(f(every)) if len(every) else 0.0 for f in (np.min, np.max, np.mean))
    if layout is None or not np.isfinite(every).all():
        return MaskCandidate(tensor, normalization, None, low, high, mean, [])
    maps = [to_nhwc(each[:1], layout)[0].astype(np.float32) for each in values]
    return MaskCandidate(tensor, normalization, kind_of(maps, is_integer), low, high, mean, maps)
