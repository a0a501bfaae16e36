"""The persons' own colours where the edge of a mask is soft.

A pixel on the edge mixes the colours of a person and of what is behind. On another background the
old one shines through as a halo, unless the person's share is told apart.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.data.image_ops import RgbImage
from jaxdistill.evaluation import masks
from jaxdistill.evaluation.masks import Drawing, GreyMask
from jaxdistill.runtime.errors import ConfigError

_ONE_AT_A_TIME = threading.Lock()  # Numba's own threads are not safe in several of ours


def drawings(kinds: Sequence[str], foreground: bool) -> dict[str, Drawing]:
    """Returns the functions that draw an image and its mask; see `masks.drawings`.

    Args:
      kinds: See `masks.drawings`.
      foreground: Whether cutouts and other backgrounds show the persons' own colours.

    Raises:
      ConfigError: See `masks.drawings`; or the package PyMatting is not installed
        (`extra-missing`).
      DataError: See `masks.drawings`.
    """
    return masks.drawings(kinds, on_own_colours) if foreground else masks.drawings(kinds)


def on_own_colours(draw: Drawing) -> Drawing:
    """Returns a drawing that sees the persons' own colours instead of the image.

    Args:
      draw: A drawing that blends the image into something else, such as `masks.draw_cutout`.

    Raises:
      ConfigError: The package PyMatting is not installed (`extra-missing`).
    """
    _import()
    return lambda image, mask: draw(own_colours(image, mask), mask)


def own_colours(image: RgbImage, mask: GreyMask) -> RgbImage:
    """Returns an image in which mixed pixels have the colours of the persons alone.

    Source: Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020, as in PyMatting.

    Args:
      image: RGB.
      mask: Grey levels of the same size, used as alpha. Where it is 255, nothing changes.

    Raises:
      ConfigError: The package PyMatting is not installed (`extra-missing`).
    """
    mixed = (mask > 0) & (mask < 255)
    if not mixed.any() or mask.size == 1:
        return image
    with _ONE_AT_A_TIME:
        found = _import().estimate_foreground_ml(
            image.astype(np.float32) / 255, mask.astype(np.float32) / 255
        )
    return np.where(mixed[..., None], np.rint(255 * found).astype(np.uint8), image)


def _import() -> Any:
    try:
        import pymatting
    except ImportError:
        raise ConfigError(
            "--foreground needs PyMatting: pip install 'jaxdistill[matting]'", code="extra-missing"
        ) from None
    return pymatting
