"""Masks from logits, and images that show them."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxdistill.config import Size

RgbImage = UInt8[np.ndarray, "h w 3"]
GreyMask = UInt8[np.ndarray, "h w"]
"""Grey levels; 255 is a person."""

_TINT, _OUTLINE = (0, 140, 255), (255, 255, 255)
_OPACITY = 0.45


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


DRAWINGS = {"masks": draw_mask, "overlays": draw_overlay, "cutouts": draw_cutout}
"""Functions that draw an image and its mask, by name."""


def _resized(logits: Float[np.ndarray, "h w"], size: Size) -> Float[np.ndarray, "{*size}"]:
    return cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR)
