"""Masks whose edges follow the image: upsampling with the image as the guide."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jaxdistill.runtime.registry import Registry

Refinement = Callable[
    [Float[np.ndarray, "h w"], UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "H W"]
]
"""Takes logits at the size of the model, (h, w), and the RGB image, (H, W, 3) of type uint8, and
returns the probabilities of a person in [0, 1] at the size of the image, (H, W)."""

REFINEMENTS: Registry[Refinement] = Registry("refinement", "--refine")
"""Ways to refine a mask, by name."""

# The best for MediaPipe's selfie network among radii 1 to 16 and variances 1e-2 to 1e-5; see
# docs/how_to/prediction.md.
_RADIUS = 1  # of the windows, in pixels of the model
_EPSILON = 1e-4 * 255**2  # variance of the image below which a window counts as flat


@REFINEMENTS.register("guided")
def guided(
    logits: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "H W 3"]
) -> Float[np.ndarray, "H W"]:
    """Returns probabilities at the size of the image, whose edges follow its colours.

    In each window of the model's pixels the probability is fitted as a linear function of the
    colours; the functions are then applied to the image itself. Source: He and Sun, "Fast Guided
    Filter", arXiv:1505.00996, 2015, with a guide in colour (He et al., "Guided Image Filtering",
    ECCV 2010, equation 19).

    Args:
      logits: Logits at the size of the model, (h, w).
      image: RGB, uint8, (H, W, 3).

    Returns:
      Probabilities in [0, 1], float32, (H, W).
    """
    height, width = image.shape[:2]
    guide = cv2.resize(image, logits.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    probability = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float32)))
    mean, average = _window(guide), _window(probability)
    covariance = _window(guide * probability[..., None]) - mean * average[..., None]
    slope = _solve(_variances(guide, mean), covariance)
    offset = average - (slope * mean).sum(-1)
    result = cv2.resize(_window(offset), (width, height), interpolation=cv2.INTER_LINEAR)
    for colour, factor in zip(cv2.split(image), cv2.split(_window(slope)), strict=True):
        factor = cv2.resize(factor, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.accumulateProduct(factor, colour.astype(np.float32), result)
    return np.clip(result, 0, 1, out=result)


def _window(values: Float[np.ndarray, "h w *c"]) -> Float[np.ndarray, "h w *c"]:
    """Returns the mean of the window around each pixel."""
    return cv2.blur(np.ascontiguousarray(values), (2 * _RADIUS + 1, 2 * _RADIUS + 1))


def _variances(
    guide: Float[np.ndarray, "h w 3"], mean: Float[np.ndarray, "h w 3"]
) -> tuple[np.ndarray, ...]:
    """Returns the colours' covariance in each window: rr, gg, bb (with epsilon), rg, gb, br."""
    own = _window(guide * guide) - mean * mean + _EPSILON
    mixed = _window(guide * np.roll(guide, -1, 2)) - mean * np.roll(mean, -1, 2)
    return (*cv2.split(own), *cv2.split(mixed))


def _solve(
    variances: tuple[np.ndarray, ...], right: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    """Solves the symmetric system of three equations of each pixel, by Cramer's rule."""
    rr, gg, bb, rg, gb, br = variances
    red, green, blue = cv2.split(right)
    # The adjugate matrix; `numpy.linalg.solve` takes ten times as long.
    a, b, c = gg * bb - gb * gb, br * gb - rg * bb, rg * gb - br * gg
    d, e, f = rr * bb - br * br, rg * br - rr * gb, rr * gg - rg * rg
    solved = cv2.merge(
        [
            a * red + b * green + c * blue,
            b * red + d * green + e * blue,
            c * red + e * green + f * blue,
        ]
    )
    return solved / (rr * a + rg * b + br * c)[..., None]
