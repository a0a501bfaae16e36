"""What goes into a network and what comes out of it: the one description of image input and mask.

Teachers, detectors, `evaluate`, `predict` and `inspect` read networks by it. Images and maps are
NHWC everywhere else; they are brought into the file's own form here.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdistill import config
from jaxdistill.config import ChannelOrder, Layout, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.base import Shape

PROBABILITY_MARGIN = 1e-4
"""Distance from 0 and 1 at which a probability is clipped before it becomes a logit.

A float32 sigmoid reaches 0 and 1 exactly, whose logits are infinite. Beyond +-9.2, the squared
distance between logits would be dominated by pixels on which all networks agree.
"""
CHANNEL_AXIS: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
OutputLayout = Layout | Literal["nhw"]
"""Axes of a tensor; `nhw` has no channels."""
_TINY = np.finfo(np.float32).tiny
AnyArray = TypeVar("AnyArray", bound=Any)


class ImageInput(NamedTuple):
    """The image input of a file; None where the file leaves a dimension free.

    A free channel axis is 3: some exporters leave every axis free, or write no shape at all.
    """

    name: str
    dtype: str
    """`float32`, `float16` or `uint8`."""
    batch: int | None
    height: int | None
    width: int | None
    layout: Layout = "nchw"

    def shape(self, count: int, size: Size) -> tuple[int, ...]:
        """Returns the shape of a batch.

        Args:
          count: Number of images.
          size: Their height and width.
        """
        return (count, 3, *size) if self.layout == "nchw" else (count, *size, 3)

    def arrange(self, images: AnyArray) -> AnyArray:
        """Returns prepared images (N, H, W, 3) in the layout and number format of the input.

        Args:
          images: An array of NumPy or JAX.
        """
        if self.dtype == "uint8":
            images = images.round().clip(0, 255)
        if self.layout == "nchw":
            images = images.transpose(0, 3, 1, 2)
        return images.astype(self.dtype)


class PixelFormat(NamedTuple):
    """What a network expects of the values of pixels."""

    normalization: image_ops.Normalization
    channel_order: ChannelOrder = "rgb"

    @classmethod
    def of(cls, normalization: config.Normalization, channel_order: ChannelOrder) -> "PixelFormat":
        """Returns the format that a configuration names."""
        return cls(image_ops.resolve(normalization), channel_order)

    @property
    def is_bytes(self) -> bool:
        """Whether the network gets pixels in [0, 255] as they are decoded."""
        return self.normalization == image_ops.resolve("bytes")

    def apply(self, images: Any) -> Any:
        """Returns RGB images in [0, 1] as the network expects them.

        Args:
          images: An array of NumPy or JAX (B, H, W, 3).
        """
        images = image_ops.normalize(images, self.normalization)
        return images[..., ::-1] if self.channel_order == "bgr" else images


class MaskOutput(NamedTuple):
    """The mask tensor of a network, and how it becomes logits of people."""

    tensor: str
    """Its name in the file."""
    kind: OutputKind = "logits"
    """What it holds."""
    channels: tuple[int, ...] | None = None
    """The classes that are people together; None for a mask of one channel."""
    layout: Layout | None = None
    """Its axes where they were said; None finds them from the shape."""

    @property
    def margin(self) -> float | None:
        """`PROBABILITY_MARGIN` where probabilities are clipped by it, else None."""
        return PROBABILITY_MARGIN if self.kind in ("probabilities", "class_indices") else None

    def check(self, channels: int, path: Path) -> None:
        """Checks that a tensor with so many channels can be used as this mask.

        Args:
          channels: C of the tensor (N, C, h, w), (N, h, w, C) or, where it is 1, (N, h, w).
          path: The network's file, for the message.

        Raises:
          NetworkError: It cannot (`teacher-channels`); the message says what to set.
        """
        chosen = self.channels or ()
        wrong = ""
        if len({*chosen}) < len(chosen) or min(chosen, default=0) < 0:
            wrong = f"channel {list(chosen)} should name each class once, counted from 0"
        elif self.kind == "class_indices":
            if channels != 1:
                wrong = "class indices have one: set output to probabilities or softmax_logits"
            elif not chosen:
                wrong = "class indices need the one of people: set channel, such as 1"
        elif not chosen:
            if channels != 1:
                wrong = "set channel to the class of people, or name another tensor"
            elif self.kind == "softmax_logits":
                wrong = "a softmax makes that 1 everywhere: set output to logits"
        elif max(chosen) >= channels:
            wrong = f"there is no channel {max(chosen)}: they are counted from 0"
        elif self.kind == "softmax_logits" and len(chosen) == channels:
            wrong = "all of them are people: leave those of the background out of channel"
        if wrong:
            raise NetworkError(
                f"{path}: the mask tensor {self.tensor!r} has {channels} "
                f"{'channel' if channels == 1 else 'channels'}; {wrong}",
                code="teacher-channels",
            )

    def is_person(self, maps: Float[np.ndarray, "b h w c"]) -> Bool[np.ndarray, "b h w 1"]:
        """Returns where people are, at the size of the tensor.

        Args:
          maps: The tensor's values, NHWC.
        """
        values = self.reduce(maps)
        return np.asarray(values > (0 if self.margin is None else 0.5))

    def reduce(self, maps: Any) -> Any:
        """Returns the logits of people, or their probabilities where there is a margin.

        Args:
          maps: The tensor's values (B, h, w, C), an array of NumPy or JAX.
        """
        if self.kind == "class_indices":
            return jnp.isin(maps, jnp.asarray(self.channels)).astype(jnp.float32)
        if self.kind == "softmax_logits":
            chosen = list(self.channels or ())
            rest = [index for index in range(maps.shape[-1]) if index not in chosen]
            logsumexp = functools.partial(jax.nn.logsumexp, axis=-1, keepdims=True)
            return logsumexp(maps[..., chosen]) - logsumexp(maps[..., rest])
        if self.channels is None or len(self.channels) == 1:
            first = self.channels[0] if self.channels else 0
            return maps if maps.shape[-1] == 1 else maps[..., first : first + 1]
        chosen = maps[..., list(self.channels)]
        if self.kind == "probabilities":
            return chosen.sum(-1, keepdims=True)
        # Any of independent classes: 1 - P = prod(1 - sigmoid(z)) = exp(-sum(softplus(z))).
        total = jnp.maximum(jax.nn.softplus(chosen).sum(-1, keepdims=True), _TINY)
        return total + jnp.log(-jnp.expm1(-total))


@functools.partial(jax.jit, static_argnums=(1, 2))
def prepare(
    images: Float[Array, "b h w 3"], pixels: PixelFormat, size: Size
) -> Float[Array, "b {*size} 3"]:
    """Resizes images in [0, 1] and brings their values into the form that a network expects.

    Args:
      images: RGB images in [0, 1].
      pixels: What the network expects.
      size: Height and width of the network's input.
    """
    return pixels.apply(image_ops.resize(images, size))


@functools.partial(jax.jit, static_argnums=(1, 2))
def to_logits(
    maps: Float[Array, "b h w c"], mask: MaskOutput, size: Size
) -> Float[Array, "b {*size} 1"]:
    """Converts a mask tensor into logits of people, of another size.

    Several classes `S` of a softmax have the log-odds of their sum against the rest,
    `logsumexp(z_S) - logsumexp(z_rest)`; their probabilities are added up. Classes with logits of
    their own are taken for independent: a person is where any of them is. A class index counts as a
    probability of 0 or 1. Probabilities become `log(p / (1 - p))` after resizing, with p clipped to
    `PROBABILITY_MARGIN` from 0 and 1.

    Args:
      maps: The mask tensor as the network gives it, NHWC.
      mask: What it holds.
      size: Height and width of the result.
    """
    values = image_ops.resize(mask.reduce(maps), size)
    if mask.margin is None:
        return values
    return jax.scipy.special.logit(jnp.clip(values, mask.margin, 1 - mask.margin))


def output_layout(shape: Sequence[int], input_size: Size, preferred: Layout) -> OutputLayout:
    """Finds out how a tensor's axes are ordered.

    Args:
      shape: Its shape (N, C, h, w), (N, h, w, C) or (N, h, w).
      input_size: Height and width of the network's input, whose aspect ratio the map shares.
      preferred: The layout where both are equally plausible.
    """
    if len(shape) == 3:
        return "nhw"
    if (shape[1] == 1) != (shape[3] == 1):
        return "nchw" if shape[1] == 1 else "nhwc"

    def implausibility(layout: Layout) -> tuple[float, int, bool]:
        height, width, channels = as_hwc(shape, layout)
        skew = math.log((input_size[0] / height) / (input_size[1] / width))
        return round(abs(skew), 2), channels, layout != preferred

    layouts: tuple[Layout, ...] = ("nchw", "nhwc")
    return min(layouts, key=implausibility)


def as_hwc(shape: Sequence[int], layout: OutputLayout) -> Shape:
    """Returns (h, w, C) of a tensor's shape."""
    if layout == "nhw":
        return shape[1], shape[2], 1
    if layout == "nhwc":
        return shape[1], shape[2], shape[3]
    return shape[2], shape[3], shape[1]


def to_nhwc(maps: AnyArray, layout: OutputLayout) -> AnyArray:
    """Returns a tensor with its axes in the order N, h, w, C.

    Args:
      maps: An array of NumPy or JAX.
      layout: Its axes.
    """
    if layout == "nhw":
        return maps[..., None]
    return maps.transpose(0, 2, 3, 1) if layout == "nchw" else maps
