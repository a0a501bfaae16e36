"""What an unknown ONNX file takes and gives: its tensors, their values, and possible masks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.config import ChannelOrder, Layout, Normalization, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.reporting.image_grid import draw_grid
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.network_format import (
    ImageInput,
    MaskOutput,
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
_SMALLEST = 8  # pixels of a mask's shorter side
_EVEN = 0.05  # standard deviation of a mask in which nothing stands out
_ROUNDING = 1e-2  # by which float16 and resizing may leave [0, 1]
_CELL = 200  # pixels of the longer side of a picture
_NAME = 14  # characters of a title
_MOST_CELLS = 32  # in a row of the sheet

Images = Sequence[UInt8[np.ndarray, "h w 3"]]


class Tensor(NamedTuple):
    """An output, for a batch of one image."""

    name: str
    shape: tuple[int, ...]
    layout: OutputLayout | None
    """Its axes, where it can be a mask."""
    is_integer: bool


class Reading(NamedTuple):
    """An output's values under one normalisation."""

    tensor: Tensor
    normalization: Normalization
    kind: OutputKind | None
    """What it seems to hold; None where it cannot be a mask."""
    low: float
    high: float
    mean: float
    maps: list[Float[np.ndarray, "h w c"]]
    """Its values for each image, where it can be a mask."""


class Inspection(NamedTuple):
    """What was found."""

    path: Path
    inputs: list[str]
    """In words."""
    outputs: list[str]
    image: ImageInput
    size: Size
    """Height and width of the input that was tried."""
    channel_order: ChannelOrder
    images: list[UInt8[np.ndarray, "h w 3"]]
    """The images at that size."""
    readings: list[Reading]
    """Of each output under each normalisation."""

    def candidates(self) -> Iterator[Reading]:
        """Yields the outputs that can be masks, those with certain and compact masks first."""
        found = [each for each in self.readings if each.kind is not None]
        yield from sorted(found, key=likelihood, reverse=True)

    def sheet(self) -> Image.Image:
        """Returns a picture: each image and its masks, a row for each normalisation.

        A mask is drawn as the probability of each of its channels: white is 1.
        """
        found = [each for each in self.readings if each.kind is not None]
        columns = list(
            dict.fromkeys(
                (each.tensor.name, channel) for each in found for channel in _largest_classes(each)
            )
        )[:_MOST_CELLS]
        rows = []
        for normalization in dict.fromkeys(each.normalization for each in self.readings):
            by_name = {
                each.tensor.name: each for each in found if each.normalization == normalization
            }
            for index, image in enumerate(self.images):
                shown = normalization if isinstance(normalization, str) else "as given"
                rows.append([_captioned(image, shown)])
                for name, channel in columns:
                    picture = np.full((*self.size, 1), 0.5)  # where it is no mask with this input
                    if name in by_name:
                        picture = _picture(by_name[name], index, channel, self.size)
                    rows[-1].append(picture)
        titles = [f"{name[-_NAME:]}: {channel}" for name, channel in columns]
        return draw_grid(["image", *titles], rows, _CELL)


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
    resized = [image_ops.resize_image(each, size) for each in images or [_noise(size)]]
    tried = (normalization,) if normalization else NORMALIZATIONS
    readings = []
    for each in ("bytes",) if image.dtype == "uint8" else tried:
        pixels = PixelFormat.of(each, channel_order)
        values = [_run(graph.path, session, image, pixels, one, size) for one in resized]
        for name, of_images in zip(names, zip(*values, strict=True), strict=True):
            is_integer = types[name] not in FLOATS
            readings.append(_read(name, of_images, is_integer, each, image, size))
    inputs, outputs = graph.described()
    return Inspection(graph.path, inputs, outputs, image, size, channel_order, resized, readings)


def configuration(inspection: Inspection, reading: Reading) -> dict[str, Any]:
    """Returns the keys of a `teacher` section for one reading.

    Args:
      inspection: What was found.
      reading: The mask, and the normalisation of the input that gave it.
    """
    image, tensor = inspection.image, reading.tensor
    first = inspection.readings[0].tensor.name
    keys: dict[str, Any] = {"onnx": str(inspection.path)}
    if tensor.name != first:
        keys["tensor"] = tensor.name
    keys |= {"output": reading.kind, "normalization": reading.normalization}
    channels = 1 if tensor.layout is None else as_hwc(tensor.shape, tensor.layout)[2]
    if channels > 1 or reading.kind == "class_indices":
        keys["channel"] = likely_channel(reading)
    if inspection.channel_order != "rgb":
        keys["channel_order"] = inspection.channel_order
    if image.layout == "nhwc":
        keys["layout"] = image.layout
    if image.height is None or image.width is None:
        keys["size"] = list(inspection.size)
    return keys


def likely_channel(reading: Reading) -> int:
    """Returns the class other than 0, usually the background, that covers most of the images."""
    shares = _shares(reading)
    return max((c for c in shares if c != 0), key=lambda c: shares[c], default=0)


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


def _noise(size: Size) -> UInt8[np.ndarray, "h w 3"]:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def _run(
    path: Path,
    session: Any,
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
            results: list[np.ndarray] = session.run(None, given, options)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise cannot_run(path, size, error) from None
    return results


def _read(
    name: str,
    values: Sequence[np.ndarray],
    is_integer: bool,
    normalization: Normalization,
    image: ImageInput,
    size: Size,
) -> Reading:
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
        return Reading(tensor, normalization, None, low, high, mean, [])
    maps = [to_nhwc(each[:1], layout)[0].astype(np.float32) for each in values]
    return Reading(tensor, normalization, _kind(maps, is_integer), low, high, mean, maps)


def _kind(maps: Sequence[Float[np.ndarray, "h w c"]], is_integer: bool) -> OutputKind:
    """Returns what values look like."""
    several = maps[0].shape[-1] > 1
    low, high = min(each.min() for each in maps), max(each.max() for each in maps)
    whole = all((each == np.rint(each)).all() for each in maps)
    if not several and (is_integer or (whole and high > 1 and low >= 0)):
        return "class_indices"
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        return "softmax_logits" if several else "logits"
    return "probabilities"


def _probability(reading: Reading, index: int, channel: int) -> Float[np.ndarray, "h w 1"]:
    assert reading.kind is not None
    mask = MaskOutput(reading.tensor.name, reading.kind, (channel,))
    values = np.asarray(mask.reduce(reading.maps[index][None]))[0]
    return values if mask.margin is not None else 0.5 * (1 + np.tanh(0.5 * values))


def _classes(reading: Reading) -> list[int]:
    if reading.kind == "class_indices":
        return sorted({int(c) for each in reading.maps for c in np.unique(each) if c >= 0})
    return list(range(reading.maps[0].shape[-1]))


def _shares(reading: Reading) -> dict[int, float]:
    """Returns the mean probability of each class."""
    return {
        channel: float(
            np.mean([_probability(reading, i, channel).mean() for i in range(len(reading.maps))])
        )
        for channel in _classes(reading)
    }


def likelihood(reading: Reading) -> float:
    """Returns how certain and how compact masks are, from 0 to 1; empty and full ones have 0.

    With a wrong normalisation a network is uncertain, or finds scattered pixels, which a blur
    removes.

    Args:
      reading: An output that can be a mask.
    """
    channel = likely_channel(reading)
    found = []
    for index in range(len(reading.maps)):
        values = np.asarray(_probability(reading, index, channel)[..., 0], np.float32)
        side = max(3, max(values.shape) // 16)
        spread, blurred = values.std(), cv2.blur(values, (side, side)).std()
        certainty = np.abs(2 * values - 1).mean()
        found.append(certainty * blurred / spread if spread > _EVEN else 0.0)
    return float(np.mean(found))


def _largest_classes(reading: Reading) -> list[int]:
    """Returns the classes that are drawn: in order, those that cover most."""
    shares = _shares(reading)
    return sorted(sorted(shares, key=lambda c: -shares[c])[:_MOST_CELLS])


def _picture(reading: Reading, index: int, channel: int, size: Size) -> np.ndarray:
    values = _probability(reading, index, channel)
    return np.asarray(image_ops.resize(jnp.asarray(values)[None], size))[0]


def _captioned(image: UInt8[np.ndarray, "h w 3"], text: str) -> Float[np.ndarray, "h w 3"]:
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(12, image.shape[0] // 12))
    pen.text((4, 2), text, fill="white", stroke_fill="black", stroke_width=2, font=font)
    return np.asarray(drawn, np.float32) / 255
