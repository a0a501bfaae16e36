"""An image of the masks that the outputs of a network may be."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.analysis.mask_candidates import MaskCandidate, probability, shares
from jaxdistill.analysis.network_inspection import Inspection
from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.reporting.image_grid import draw_grid

_CELL = 200  # pixels of the longer side of an image
_NAME = 14  # characters of a title
_MOST_CELLS = 32  # in a row of the sheet


def draw(inspection: Inspection) -> Image.Image:
    """Returns the sheet: each image and its masks, a row for each normalisation.

    A mask is drawn as the probability of each of its channels: white is 1.

    Args:
      inspection: What was found.
    """
    found = [each for each in inspection.tried if each.kind is not None]
    columns = list(
        dict.fromkeys(
            (each.tensor.name, channel) for each in found for channel in _largest_classes(each)
        )
    )[:_MOST_CELLS]
    rows = []
    for normalization in dict.fromkeys(each.normalization for each in inspection.tried):
        by_name = {each.tensor.name: each for each in found if each.normalization == normalization}
        for index, image in enumerate(inspection.images):
            shown = normalization if isinstance(normalization, str) else "as given"
            rows.append([_captioned(image, shown)])
            for name, channel in columns:
                mask = np.full((*inspection.size, 1), 0.5)  # where it is no mask with this input
                if name in by_name:
                    mask = _mask(by_name[name], index, channel, inspection.size)
                rows[-1].append(mask)
    titles = [f"{name[-_NAME:]}: {channel}" for name, channel in columns]
    return draw_grid(["image", *titles], rows, _CELL)


def _largest_classes(candidate: MaskCandidate) -> list[int]:
    """Returns the classes that are drawn: in order, those that cover most."""
    found = shares(candidate)
    return sorted(sorted(found, key=lambda c: -found[c])[:_MOST_CELLS])


def _mask(candidate: MaskCandidate, index: int, channel: int, size: Size) -> np.ndarray:
    values = probability(candidate, index, channel)
    return np.asarray(image_ops.resize(jnp.asarray(values)[None], size))[0]


def _captioned(image: UInt8[np.ndarray, "h w 3"], text: str) -> Float[np.ndarray, "h w 3"]:
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(12, image.shape[0] // 12))
    pen.text((4, 2), text, fill="white", stroke_fill="black", stroke_width=2, font=font)
    return np.asarray(drawn, np.float32) / 255
