"""Masks from logits, and images that show them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxdistill.config import Size
from jaxdistill.data import decode, image_ops
from jaxdistill.data.image_ops import RgbImage
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.runtime.paths import expanded

GreyMask = UInt8[np.ndarray, "h w"]
"""Grey levels; 255 is a person."""
Drawing = Callable[[RgbImage, GreyMask], Image.Image]
"""Draws an image and its mask."""

_TINT, _OUTLINE = (0, 140, 255), (255, 255, 255)
_OPACITY = 0.45
_BLUR = 50  # the larger side, divided by the standard deviation of the blur


def probabilities(logits: Float[np.ndarray, "h w"], size: Size) -> Float[np.ndarray, "{*size}"]:
    """Returns the probability of a person at each pixel of an image.

    The logits are resized, not the probabilities: their zero is the outline, which stays smooth.

    Args:
      logits: Logits at the size of the model.
      size: Height and width of the image.
    """
    return 0.5 * (1 + np.tanh(0.5 * _resized(logits, size)))


def binary_mask(
    logits: Float[np.ndarray, "h w"], size: Size, threshold: float
) -> Bool[np.ndarray, "{*size}"]:
    """Returns where the probability of a person is above a threshold.

    Args:
      logits: Logits at the size of the model.
      size: Height and width of the image.
      threshold: Probability, above 0 and below 1.
    """
    return _resized(logits, size) > np.log(threshold / (1 - threshold))


def grey_mask(mask: Bool[np.ndarray, "h w"] | Float[np.ndarray, "h w"]) -> GreyMask:
    """Returns a mask or probabilities as grey levels.

    Args:
      mask: A boolean mask, or probabilities in [0, 1].
    """
    if mask.dtype == bool:
        return np.where(mask, 255, 0).astype(np.uint8)
    return np.rint(255 * mask).astype(np.uint8)


def draw_mask(image: RgbImage, mask: GreyMask) -> Image.Image:
    """Returns the mask as a grey image.

    Args:
      image: Not used; all drawing functions have the same arguments.
      mask: Grey levels of the same size.
    """
    del image
    return Image.fromarray(mask)


def draw_overlay(image: RgbImage, mask: GreyMask) -> Image.Image:
    """Returns the image with its persons tinted and outlined.

    Args:
      image: RGB.
      mask: Grey levels of the same size.
    """
    tint = np.full_like(image, _TINT)
    share = (mask.astype(np.float32) * (_OPACITY / 255))[..., None]
    drawn = (image * (1 - share) + tint * share).astype(np.uint8)
    outlines, _ = cv2.findContours(
        (mask > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    width = max(1, round(max(mask.shape) / 400))
    cv2.drawContours(drawn, outlines, -1, _OUTLINE, width, cv2.LINE_AA)
    return Image.fromarray(drawn)


def draw_cutout(image: RgbImage, mask: GreyMask) -> Image.Image:
    """Returns the persons of the image on a transparent ground, as RGBA.

    Transparent pixels are black, so that the background is absent from viewers without alpha, too.

    Args:
      image: RGB.
      mask: Grey levels of the same size, used as alpha.
    """
    visible = np.where(mask[..., None] > 0, image, 0)
    return Image.fromarray(np.dstack([visible, mask]))


def draw_blur(image: RgbImage, mask: GreyMask) -> Image.Image:
    """Returns the image with its background out of focus.

    The persons are left out of the blurred background, so that they cast no halo.

    Args:
      image: RGB.
      mask: Grey levels of the same size.
    """
    sigma = max(1.0, max(mask.shape) / _BLUR)
    # Blurring a quarter of the pixels looks the same and takes a tenth of the time.
    small = tuple(max(1, side // 2) for side in mask.shape[::-1])
    rest = cv2.resize(255 - mask, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    colours = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    weighted = cv2.GaussianBlur(colours * rest[..., None], (0, 0), sigma / 2)
    weight = cv2.GaussianBlur(rest, (0, 0), sigma / 2)[..., None]
    blurred = cv2.resize(weighted / np.maximum(weight, 1e-3), mask.shape[::-1])
    return _composed(image, mask, blurred)


def draw_on_background(image: RgbImage, mask: GreyMask, background: RgbImage) -> Image.Image:
    """Returns the persons of the image before another background.

    Args:
      image: RGB.
      mask: Grey levels of the same size.
      background: RGB, of any size; its middle is scaled to cover the image.
    """
    return _composed(image, mask, _cover(background, mask.shape))


DRAWINGS: dict[str, Drawing] = {
    "masks": draw_mask,
    "overlays": draw_overlay,
    "cutouts": draw_cutout,
    "blur": draw_blur,
}
"""Functions that draw an image and its mask, by name."""
BACKGROUND = "background="
"""Beginning of the name of a drawing on another background; the path of an image follows."""
BLENDED = ("cutouts", BACKGROUND.rstrip("="))
"""Names of the drawings that show the persons without what is behind them."""


def drawings(
    kinds: Sequence[str], blend: Callable[[Drawing], Drawing] = lambda draw: draw
) -> dict[str, Drawing]:
    """Returns the functions that draw an image and its mask, by the names of their folders.

    Args:
      kinds: Names in `DRAWINGS`, or `background=IMAGE`, whose folder is `background`.
      blend: Changes those that are `BLENDED`, such as `foreground.on_own_colours`.

    Raises:
      ConfigError: There is no such drawing, or `background` is there twice (`unknown-drawing`).
      DataError: The image cannot be read (`background-unreadable`).
    """
    found: dict[str, Drawing] = {}
    for kind in dict.fromkeys(kinds):
        name, _, path = kind.partition("=")
        if name in found or (kind not in DRAWINGS and not kind.startswith(BACKGROUND)):
            raise ConfigError(
                f"{kind}: expected {', '.join(DRAWINGS)}, and at most one {BACKGROUND}IMAGE",
                code="unknown-drawing",
            )
        draw = DRAWINGS[kind] if kind in DRAWINGS else _on_background(Path(path))
        found[name] = blend(draw) if name in BLENDED else draw
    return found


def _on_background(path: Path) -> Drawing:
    path = expanded(path)
    try:
        background = decode.decode(files.read(path, decode.MAX_FILE_BYTES), upright=True)
    except (OSError, decode.ImageError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read as an image: {reason}", code="background-unreadable"
        ) from None
    return partial(draw_on_background, background=background)


def _cover(background: RgbImage, size: Size) -> RgbImage:
    """Returns the middle of an image, scaled to a size."""
    height, width = background.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    rows, columns = (
        min(a, max(1, round(b / scale))) for a, b in zip((height, width), size, strict=True)
    )
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(background[top : top + rows, left : left + columns])
    return image_ops.resize_image(middle, size)


def _composed(
    image: RgbImage, mask: GreyMask, background: Float[np.ndarray, "h w 3"] | RgbImage
) -> Image.Image:
    share = (mask.astype(np.float32) / 255)[..., None]
    return Image.fromarray(np.rint(image * share + background * (1 - share)).astype(np.uint8))


def _resized(logits: Float[np.ndarray, "h w"], size: Size) -> Float[np.ndarray, "{*size}"]:
    return cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR)
